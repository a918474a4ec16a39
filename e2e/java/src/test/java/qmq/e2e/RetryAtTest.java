package qmq.e2e;

import static org.junit.jupiter.api.Assertions.assertEquals;

import java.time.Duration;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.TimeUnit;

import org.junit.jupiter.api.Test;

import qunar.tc.qmq.Message;
import qunar.tc.qmq.NeedRetryException;

/**
 * A listener says when it wants a message again. At once is the client's own affair. Later needs a delay server, and
 * while no group of those exists the client waits for one, for ever, on the thread of the handler.
 */
@Scenario
class RetryAtTest {
    private static final String GROUP = "group";
    private static final int LOCAL_DELIVERIES = 4;
    private static final int HANDLER_THREADS = 2;
    /** Fewer than the 100 unsent acks at which the client stops to pull. */
    private static final int MESSAGES = 80;
    private static final Duration RECEIVE_MAX = Duration.ofSeconds(120);

    @Test
    void atOnceIsAnotherRunOfTheHandlerAndNoDelivery() throws Exception {
        String subject = Clients.unique("retry-at-once");
        Subscription probes = new Subscription(new Tally());
        Map<String, List<Integer>> runs = new ConcurrentHashMap<>();
        Clients.consumer().addListener(subject, GROUP, message -> {
            if (Sender.PROBE.equals(message.getStringProperty(Sender.KIND))) {
                probes.received(message);
                return;
            }
            assertEquals(1, message.times());
            runs.computeIfAbsent(message.getMessageId(), unused -> new CopyOnWriteArrayList<>())
                    .add(message.localRetries());
            if (message.localRetries() < LOCAL_DELIVERIES - 1) {
                throw new NeedRetryException("at once");
            }
        }, Clients.handlers());
        Probes.reach(subject, probes);
        Message message = Clients.producer().generateMessage(subject);
        assertEquals(1, Answer.to(message).successes());
        Await.until("the last run", RECEIVE_MAX,
                () -> runs.getOrDefault(message.getMessageId(), List.of()).size() >= LOCAL_DELIVERIES, () -> runs);
        Probes.reach(subject, probes);
        assertEquals(Map.of(message.getMessageId(), List.of(0, 1, 2, 3)), runs);
    }

    @Test
    void laterWaitsForADelayServerThatIsNotThere() throws Exception {
        String subject = Clients.unique("retry-later");
        Subscription subscription = new Subscription(new Tally());
        Map<String, Thread> waiting = new ConcurrentHashMap<>();
        Clients.consumer().addListener(subject, GROUP, message -> {
            if ("later".equals(message.getStringProperty(Sender.KIND))) {
                waiting.put(message.getMessageId(), Thread.currentThread());
                throw new NeedRetryException(1, TimeUnit.SECONDS, "later");
            }
            subscription.received(message);
        }, Clients.handlers(HANDLER_THREADS));
        Probes.reach(subject, subscription);

        Message later = Clients.producer().generateMessage(subject);
        later.setProperty(Sender.KIND, "later");
        assertEquals(1, Answer.to(later).successes());
        Await.until("the handler's thread waits for the route to a delay server", RECEIVE_MAX,
                () -> waiting.containsKey(later.getMessageId()) && waitsForRoute(waiting.get(later.getMessageId())),
                () -> waiting);
        // The other thread goes on, until the acks behind the one that is not sent are too many.
        Sender sender = new Sender(subject, subscription.tally());
        sender.sendAll(0, MESSAGES);
        Await.until("the others are handled", RECEIVE_MAX, subscription.tally()::complete, () -> subscription);
        assertEquals(List.of(), subscription.tally().problemsExactlyOnce());
        assertEquals(Set.of(later.getMessageId()), waiting.keySet());
        assertEquals(true, waitsForRoute(waiting.get(later.getMessageId())), "it waits still");
    }

    private static boolean waitsForRoute(Thread thread) {
        return Arrays.stream(thread.getStackTrace())
                .anyMatch(frame -> frame.getMethodName().equals("getClusterBySubject"));
    }
}
