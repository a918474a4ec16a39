package qmq.e2e;

import static org.junit.jupiter.api.Assertions.assertEquals;

import java.time.Duration;
import java.util.List;

import org.junit.jupiter.api.Test;

/**
 * Of two metaservers behind one address the one that this client uses is killed under load. What is known goes on at
 * once. What is new waits until the client asks the address again: it does so when it registers its subjects, once a
 * minute, and its last answer is over a minute old by then. That may take two minutes.
 */
@TwoMetaservers
class MetaserverKilledTest {
    private static final int CONFIRMED_BETWEEN = 200;
    private static final Duration PAUSE = Duration.ofMillis(5);
    private static final Duration RECEIVE_MAX = Duration.ofSeconds(120);

    @Test
    void theOtherOneTakesOver() throws Exception {
        String known = Clients.unique("metaserver.killed");
        Subscription old = subscribe(known, "old");
        Probes.reach(known, old);
        Sender sender = new Sender(known, old.tally());
        try (Traffic traffic = new Traffic(sender, PAUSE)) {
            traffic.awaitConfirmed(CONFIRMED_BETWEEN);
            Control.killMetaserver();
            traffic.awaitConfirmed(CONFIRMED_BETWEEN);

            // Only the other metaserver can say where this goes: it is sent once the client has found it. A consumer
            // would wait for ever, because this client repeats the first registration of producers only.
            String fresh = Clients.unique("metaserver.fresh");
            Sender first = new Sender(fresh);
            first.sendAll(0, 1);
            assertEquals(1, first.confirmed(), "sent to a subject that nobody knew");

            Subscription newcomer = subscribe(fresh, "new");
            Probes.reach(fresh, newcomer);
            Sender next = new Sender(fresh, newcomer.tally());
            next.sendAll(0, CONFIRMED_BETWEEN);
            receivedAll(next, newcomer);

            traffic.awaitConfirmed(CONFIRMED_BETWEEN);
            traffic.finish();
        }
        receivedAll(sender, old);
    }

    private static Subscription subscribe(String subject, String group) {
        Subscription subscription = new Subscription(new Tally());
        Clients.consumer().addListener(subject, group, subscription::received, Clients.handlers());
        return subscription;
    }

    /** The brokers were there all the time: nothing failed, and nothing that was confirmed is missing. */
    private static void receivedAll(Sender sender, Subscription subscription) {
        assertEquals(0, sender.failed(), "failed sends");
        Await.until("every message arrives", RECEIVE_MAX, subscription.tally()::complete, () -> subscription);
        assertEquals(List.of(), subscription.tally().problemsAtLeastOnce());
    }
}
