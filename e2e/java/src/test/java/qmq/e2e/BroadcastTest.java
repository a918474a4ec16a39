package qmq.e2e;

import static org.junit.jupiter.api.Assertions.assertEquals;

import java.time.Duration;
import java.util.List;

import org.junit.jupiter.api.Test;

/** Without a group, every consumer is handed everything. */
@Scenario
class BroadcastTest {
    private static final int MESSAGES = 1_000;
    private static final Duration RECEIVE_MAX = Duration.ofSeconds(120);

    @Test
    void everyConsumerGetsEverythingAndGoesOnWhereItWas() throws Exception {
        String subject = Clients.unique("broadcast");
        Subscription here = new Subscription(new Tally());
        Subscription there = new Subscription(new Tally());
        Subscription again = new Subscription(new Tally());
        Clients.consumer().addListener(subject, "", here::received, Clients.handlers());
        try (WorkerProcess worker = new WorkerProcess(Worker.LISTEN, subject, "", "broadcast", there)) {
            Probes.reach(subject, here, there);
            send(new Sender(subject, here.tally(), there.tally()), here, there);
            worker.stop();
        }
        // What it acked does not come again, and what was sent meanwhile does.
        Sender sender = new Sender(subject, here.tally(), again.tally());
        sender.sendAll(0, MESSAGES);
        try (WorkerProcess worker = new WorkerProcess(Worker.LISTEN, subject, "", "broadcast", again)) {
            send(sender, here, again);
            Probes.reach(subject, here, again);
            worker.stop();
        }
        assertEquals(List.of(), here.tally().problemsExactlyOnce());
        assertEquals(3 * MESSAGES, here.messages());
        assertEquals(List.of(), there.tally().problemsExactlyOnce());
        assertEquals(MESSAGES, there.messages());
        assertEquals(List.of(), again.tally().problemsExactlyOnce());
        assertEquals(2 * MESSAGES, again.messages());
    }

    private static void send(Sender sender, Subscription... subscriptions) throws InterruptedException {
        sender.sendAll(0, MESSAGES);
        assertEquals(0, sender.failed(), "failed sends");
        for (Subscription subscription : subscriptions) {
            Await.until("each gets all", RECEIVE_MAX, subscription.tally()::complete, () -> subscription);
        }
    }
}
