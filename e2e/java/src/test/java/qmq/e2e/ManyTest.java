package qmq.e2e;

import static org.junit.jupiter.api.Assertions.assertEquals;

import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.Executor;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;

import org.junit.jupiter.api.Test;

/** Many subjects and many threads in one process. */
@Scenario
class ManyTest {
    private static final int SUBJECTS = 100;
    private static final int MESSAGES_PER_SUBJECT = 20;
    private static final int THREADS = 8;
    private static final int MESSAGES_PER_THREAD = 500;
    private static final Duration RECEIVE_MAX = Duration.ofSeconds(120);

    @Test
    void aHundredSubjectsEachGetTheirOwn() throws Exception {
        Executor handlers = Clients.handlers();
        List<String> subjects = new ArrayList<>();
        List<Subscription> subscriptions = new ArrayList<>();
        for (int number = 0; number < SUBJECTS; number++) {
            String subject = Clients.unique("many-" + number);
            Subscription subscription = new Subscription(new Tally());
            Clients.consumer().addListener(subject, "group", subscription::received, handlers);
            subjects.add(subject);
            subscriptions.add(subscription);
        }
        List<Sender> senders = new ArrayList<>();
        for (int number = 0; number < SUBJECTS; number++) {
            Probes.reach(subjects.get(number), subscriptions.get(number));
            senders.add(new Sender(subjects.get(number), subscriptions.get(number).tally()));
        }
        for (int number = 0; number < MESSAGES_PER_SUBJECT; number++) {
            for (Sender sender : senders) {
                sender.send(number);
            }
        }
        for (int number = 0; number < SUBJECTS; number++) {
            senders.get(number).awaitAnswers();
            Subscription subscription = subscriptions.get(number);
            Await.until("each subject gets its own", RECEIVE_MAX, subscription.tally()::complete, () -> subscription);
            assertEquals(List.of(), subscription.tally().problemsExactlyOnce());
            assertEquals(MESSAGES_PER_SUBJECT, subscription.messages());
        }
    }

    @Test
    void eightThreadsSendAtOnce() throws Exception {
        String subject = Clients.unique("threads");
        Subscription subscription = new Subscription(new Tally());
        Clients.consumer().addListener(subject, "group", subscription::received, Clients.handlers());
        Probes.reach(subject, subscription);
        Sender sender = new Sender(subject, subscription.tally());
        ExecutorService threads = Executors.newFixedThreadPool(THREADS);
        try {
            List<Future<?>> sent = new ArrayList<>();
            for (int thread = 0; thread < THREADS; thread++) {
                int begin = thread * MESSAGES_PER_THREAD;
                sent.add(threads.submit(() -> {
                    for (int number = begin; number < begin + MESSAGES_PER_THREAD; number++) {
                        sender.send(number);
                    }
                    return null;
                }));
            }
            for (Future<?> one : sent) {
                one.get(RECEIVE_MAX.toSeconds(), TimeUnit.SECONDS);
            }
        } finally {
            threads.shutdown();
        }
        sender.awaitAnswers();
        assertEquals(THREADS * MESSAGES_PER_THREAD, sender.confirmed());
        Await.until("every message arrives", RECEIVE_MAX, subscription.tally()::complete, () -> subscription);
        assertEquals(List.of(), subscription.tally().problemsExactlyOnce());
        assertEquals(THREADS * MESSAGES_PER_THREAD, subscription.messages());
    }
}
