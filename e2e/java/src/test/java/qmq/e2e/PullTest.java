package qmq.e2e;

import static org.junit.jupiter.api.Assertions.assertEquals;

import java.time.Duration;
import java.util.List;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicBoolean;

import org.junit.jupiter.api.Test;

import qunar.tc.qmq.Message;
import qunar.tc.qmq.PullConsumer;

/** The pull API with explicit acks. */
class PullTest {
    private static final int MESSAGES = 2_000;
    private static final int PULL_MAX = 150;
    private static final long PULL_MS = 1_000;
    private static final Duration RECEIVE_MAX = Duration.ofSeconds(120);

    @Test
    void everyMessageIsPulledAndAckedOnce() throws Exception {
        String subject = Clients.unique("pull");
        Subscription subscription = new Subscription(new Tally());
        PullConsumer consumer = Clients.consumer().getOrCreatePullConsumer(subject, "group", false);
        consumer.online();
        AtomicBoolean stop = new AtomicBoolean();
        Thread puller = new Thread(() -> pullAndAck(consumer, subscription, stop), "puller");
        puller.start();
        try {
            Probes.reach(subject, subscription);
            Sender sender = new Sender(subject, subscription.tally());
            sender.sendAll(0, MESSAGES);
            assertEquals(0, sender.failed(), "failed sends");
            Await.until("every message is pulled", RECEIVE_MAX, subscription.tally()::complete, () -> subscription);
            Probes.reach(subject, subscription);
            assertEquals(List.of(), subscription.tally().problemsExactlyOnce());
            assertEquals(MESSAGES, subscription.tally().receivedCount());
        } finally {
            // The client swallows an interrupt, so the thread is asked instead.
            stop.set(true);
            puller.join();
            consumer.close();
        }
    }

    private static void pullAndAck(PullConsumer consumer, Subscription subscription, AtomicBoolean stop) {
        while (!stop.get()) {
            for (Message message : consumer.pull(PULL_MAX, PULL_MS)) {
                subscription.received(message);
                message.ack(0, null);
            }
        }
    }
}
