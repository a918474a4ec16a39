package qmq.e2e;

import static org.junit.jupiter.api.Assertions.assertEquals;

import java.time.Duration;
import java.util.Arrays;
import java.util.List;

import org.junit.jupiter.api.Test;

/**
 * The database of the metaserver stops while this client works. Whoever asks for a subject that is known goes on,
 * newcomers too: a consumer that is once told of an error, or of no broker, never pulls again.
 */
class DatabaseDownTest {
    private static final int MESSAGES = 200;
    private static final Duration RECEIVE_MAX = Duration.ofSeconds(120);

    @Test
    void knownSubjectsGoOnAndNewOnesComeBackWithIt() throws Exception {
        String subject = Clients.unique("known");
        Subscription old = subscribe(subject, "old");
        Probes.reach(subject, old);
        Control.stopDatabase();
        try {
            Subscription newcomer = subscribe(subject, "newcomer");
            Probes.reach(subject, newcomer);
            receiveAll(subject, old, newcomer);
        } finally {
            Control.startDatabase();
        }
        String fresh = Clients.unique("fresh");
        Subscription first = subscribe(fresh, "group");
        Probes.reach(fresh, first);
        receiveAll(fresh, first);
    }

    private static Subscription subscribe(String subject, String group) {
        Subscription subscription = new Subscription(new Tally());
        Clients.consumer().addListener(subject, group, subscription::received, Clients.handlers());
        return subscription;
    }

    private static void receiveAll(String subject, Subscription... subscriptions) throws InterruptedException {
        Sender sender = new Sender(subject, Arrays.stream(subscriptions).map(Subscription::tally).toArray(Tally[]::new));
        for (int number = 0; number < MESSAGES; number++) {
            sender.send(number);
        }
        sender.awaitAnswers();
        assertEquals(MESSAGES, sender.confirmed());
        for (Subscription subscription : subscriptions) {
            Await.until("every message arrives", RECEIVE_MAX, subscription.tally()::complete, () -> subscription);
            assertEquals(List.of(), subscription.tally().problemsAtLeastOnce());
        }
    }
}
