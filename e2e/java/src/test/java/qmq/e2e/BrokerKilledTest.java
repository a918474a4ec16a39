package qmq.e2e;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.time.Duration;
import java.util.List;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicReference;
import java.util.concurrent.locks.LockSupport;

import org.junit.jupiter.api.Test;

/** The broker is killed and started again under load: every confirmed send is consumed. */
class BrokerKilledTest {
    private static final int KILLS = 3;
    private static final int CONFIRMED_BETWEEN_KILLS = 1_000;
    private static final Duration PROGRESS_MAX = Duration.ofSeconds(90);
    private static final Duration RECEIVE_MAX = Duration.ofSeconds(120);

    @Test
    void everyConfirmedSendIsConsumed() throws Exception {
        String subject = Clients.unique("killed");
        Subscription subscription = new Subscription(new Tally());
        Clients.consumer().addListener(subject, "group", subscription::received, Clients.handlers());
        Probes.reach(subject, subscription);

        Sender sender = new Sender(subject, subscription.tally());
        AtomicBoolean stop = new AtomicBoolean();
        AtomicReference<Throwable> loadFailed = new AtomicReference<>();
        Thread load = new Thread(() -> {
            try {
                sendUntil(stop, sender);
            } catch (Throwable error) {
                loadFailed.set(error);
            }
        }, "load");
        load.start();
        try {
            for (int kill = 0; kill < KILLS; kill++) {
                awaitProgress(sender);
                Control.killBroker();
                Control.startBroker();
            }
            awaitProgress(sender);
        } finally {
            stop.set(true);
            load.join();
        }
        assertEquals(null, loadFailed.get());
        sender.awaitAnswers();
        assertTrue(sender.confirmed() >= (KILLS + 1) * CONFIRMED_BETWEEN_KILLS, "confirmed " + sender.confirmed());

        Await.until("every confirmed send is consumed", RECEIVE_MAX, subscription.tally()::complete, () -> subscription);
        assertEquals(List.of(), subscription.tally().problemsAtLeastOnce());
    }

    private static void awaitProgress(Sender sender) {
        int target = sender.confirmed() + CONFIRMED_BETWEEN_KILLS;
        Await.until(CONFIRMED_BETWEEN_KILLS + " more confirmed sends", PROGRESS_MAX, () -> sender.confirmed() >= target,
                () -> "confirmed " + sender.confirmed() + ", failed " + sender.failed());
    }

    private static void sendUntil(AtomicBoolean stop, Sender sender) throws InterruptedException {
        int failedBefore = 0;
        for (int number = 0; !stop.get(); number++) {
            sender.send(number);
            // Without a broker the client fails a send within a millisecond: leave it time to connect.
            if (sender.failed() > failedBefore) {
                failedBefore = sender.failed();
                LockSupport.parkNanos(TimeUnit.MILLISECONDS.toNanos(5));
            }
        }
    }
}
