package qmq.e2e;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;

import org.junit.jupiter.api.Test;

import qunar.tc.qmq.Message;
import qunar.tc.qmq.NeedRetryException;

/** A listener says when it wants a message again: it goes through a delay server to its group alone. */
@Delayed
class DelayedRetryTest {
    private static final int MESSAGES = 20;
    private static final int DELIVERIES = 3;
    private static final int AGAIN_MS = 1_500;
    private static final Duration RECEIVE_MAX = Duration.ofSeconds(120);

    @Test
    void whatAListenerWantsLaterComesThenAndToItAlone() throws Exception {
        String subject = Clients.unique("retry-later");
        Attempts attempts = new Attempts();
        Subscription probes = new Subscription(new Tally());
        Subscription other = new Subscription(new Tally());
        Map<String, Long> wantedAt = new ConcurrentHashMap<>();
        AtomicLong earliest = new AtomicLong(Long.MAX_VALUE);
        Clients.consumer().addListener(subject, "group", message -> {
            if (Sender.PROBE.equals(message.getStringProperty(Sender.KIND))) {
                probes.received(message);
                return;
            }
            Long wanted = wantedAt.get(message.getMessageId());
            if (wanted != null) {
                earliest.accumulateAndGet(System.currentTimeMillis() - wanted, Math::min);
            }
            attempts.received(message.getMessageId(), message.times(), Content.digest(message));
            if (message.times() < DELIVERIES) {
                // Noted first: the exception counts from a moment later.
                wantedAt.put(message.getMessageId(), System.currentTimeMillis() + AGAIN_MS);
                throw new NeedRetryException(AGAIN_MS, TimeUnit.MILLISECONDS, "later");
            }
        }, Clients.handlers());
        Clients.consumer().addListener(subject, "other", other::received, Clients.handlers());
        Probes.reach(subject, probes, other);

        for (int number = 0; number < MESSAGES; number++) {
            Message message = Clients.producer().generateMessage(subject);
            message.setProperty(Sender.KIND, Sender.DATA);
            Content.fill(message, number);
            attempts.sent(message.getMessageId(), Content.digest(message));
            assertEquals(1, Answer.to(message).successes());
        }
        Await.until("each comes again and again", RECEIVE_MAX, () -> attempts.reached(DELIVERIES), () -> attempts);
        Probes.reach(subject, probes, other);
        assertEquals(List.of(), attempts.problems(1, DELIVERIES));
        assertTrue(earliest.get() >= 0, "came " + -earliest.get() + " ms before it was wanted");
        assertEquals(MESSAGES, other.messages(), "the other group has nothing to do with it");
    }
}
