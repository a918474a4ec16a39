package qmq.e2e;

import static org.junit.jupiter.api.Assertions.assertEquals;

import java.time.Duration;
import java.util.List;

import org.junit.jupiter.api.Test;

/** The main job, as an application does it: send, and receive with a listener. */
class SendAndReceiveTest {
    private static final int MESSAGES = 10_000;
    private static final Duration RECEIVE_MAX = Duration.ofSeconds(120);

    @Test
    void everyMessageArrivesWithItsContent() throws Exception {
        String subject = Clients.unique("listener");
        Subscription subscription = new Subscription(new Tally());
        Clients.consumer().addListener(subject, "group", subscription::received, Clients.handlers());
        Probes.reach(subject, subscription);

        Sender sender = new Sender(subject, subscription.tally());
        sender.sendAll(0, MESSAGES);
        assertEquals(0, sender.failed(), "failed sends");
        assertEquals(MESSAGES, sender.confirmed());

        Await.until("every message arrives", RECEIVE_MAX, subscription.tally()::complete, () -> subscription);
        Probes.reach(subject, subscription);
        assertEquals(List.of(), subscription.tally().problemsExactlyOnce());
        assertEquals(MESSAGES, subscription.tally().receivedCount());
    }
}
