package qmq.e2e;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.time.Duration;
import java.util.List;

import org.junit.jupiter.api.Test;

/** The broker is killed and started again under load: every confirmed send is consumed. */
class BrokerKilledTest {
    private static final int KILLS = 3;
    private static final int CONFIRMED_BETWEEN_KILLS = 1_000;
    private static final Duration RECEIVE_MAX = Duration.ofSeconds(120);

    @Test
    void everyConfirmedSendIsConsumed() throws Exception {
        String subject = Clients.unique("killed");
        Subscription subscription = new Subscription(new Tally());
        Clients.consumer().addListener(subject, "group", subscription::received, Clients.handlers());
        Probes.reach(subject, subscription);

        Sender sender = new Sender(subject, subscription.tally());
        try (Traffic traffic = new Traffic(sender, Duration.ZERO)) {
            for (int kill = 0; kill < KILLS; kill++) {
                traffic.awaitConfirmed(CONFIRMED_BETWEEN_KILLS);
                Control.killBroker();
                Control.startBroker();
            }
            traffic.awaitConfirmed(CONFIRMED_BETWEEN_KILLS);
            traffic.finish();
        }
        assertTrue(sender.confirmed() >= (KILLS + 1) * CONFIRMED_BETWEEN_KILLS, "confirmed " + sender.confirmed());

        Await.until("every confirmed send is consumed", RECEIVE_MAX, subscription.tally()::complete, () -> subscription);
        assertEquals(List.of(), subscription.tally().problemsAtLeastOnce());
    }
}
