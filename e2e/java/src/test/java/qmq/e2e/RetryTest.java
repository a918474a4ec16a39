package qmq.e2e;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.atomic.AtomicLong;

import org.junit.jupiter.api.Test;

import qunar.tc.qmq.Message;

/** What a listener threw at comes again through the retry subject of its group, and in the end to the dead letters. */
@Scenario
class RetryTest {
    private static final int MESSAGES = 20;
    private static final int DELIVERIES = 3;
    private static final String GROUP = "group";
    /** {@code message.retry.delay.seconds} of the broker, less what clocks may differ by. */
    private static final long DELAY_MS_MIN = 950;
    private static final Duration RECEIVE_MAX = Duration.ofSeconds(120);

    @Test
    void whatFailedComesAgainCountedAndLater() throws Exception {
        String subject = Clients.unique("retry");
        Attempts attempts = new Attempts();
        Subscription probes = new Subscription(new Tally());
        Map<String, Long> failedAt = new ConcurrentHashMap<>();
        AtomicLong soonest = new AtomicLong(Long.MAX_VALUE);
        Clients.consumer().addListener(subject, GROUP, message -> {
            if (isProbe(message, probes)) {
                return;
            }
            Long failed = failedAt.get(message.getMessageId());
            if (failed != null) {
                soonest.accumulateAndGet((System.nanoTime() - failed) / 1_000_000, Math::min);
            }
            attempts.received(message.getMessageId(), message.times(), Content.digest(message));
            if (message.times() < DELIVERIES) {
                failedAt.put(message.getMessageId(), System.nanoTime());
                throw new IllegalStateException("to get it again");
            }
        }, Clients.handlers());
        Subscription other = new Subscription(new Tally());
        Clients.consumer().addListener(subject, "other", other::received, Clients.handlers());
        Probes.reach(subject, probes, other);

        send(subject, 0, attempts);
        Await.until("each comes again and again", RECEIVE_MAX, () -> attempts.reached(DELIVERIES), () -> attempts);
        Probes.reach(subject, probes, other);
        assertEquals(List.of(), attempts.problems(1, DELIVERIES));
        assertTrue(soonest.get() >= DELAY_MS_MIN, "came again after " + soonest + " ms");
        assertEquals(MESSAGES, other.messages(), "the other group has nothing to do with it");
    }

    @Test
    void afterTheMaximumItIsADeadLetter() throws Exception {
        String subject = Clients.unique("dead");
        String deadLetters = "%DEAD_RETRY%" + subject + "%" + GROUP;
        Attempts attempts = new Attempts();
        Attempts dead = new Attempts();
        Subscription probes = new Subscription(new Tally());
        Subscription deadProbes = new Subscription(new Tally());
        Clients.consumer().addListener(subject, GROUP, message -> {
            if (!isProbe(message, probes)) {
                attempts.received(message.getMessageId(), message.times(), Content.digest(message));
                throw new IllegalStateException("never");
            }
        }, Clients.handlers());
        // Only a group of the same name is let see them by the client.
        Clients.consumer().addListener(deadLetters, GROUP, message -> {
            if (!isProbe(message, deadProbes)) {
                dead.received(message.getMessageId(), message.times(), Content.digest(message));
            }
        }, Clients.handlers());
        Probes.reach(subject, probes);
        Probes.reach(deadLetters, deadProbes);

        send(subject, DELIVERIES, attempts, dead);
        Await.until("each is a dead letter", RECEIVE_MAX, () -> dead.reached(DELIVERIES + 1),
                () -> "live " + attempts + "; dead " + dead);
        Probes.reach(subject, probes);
        Probes.reach(deadLetters, deadProbes);
        assertEquals(List.of(), attempts.problems(1, DELIVERIES));
        assertEquals(List.of(), dead.problems(DELIVERIES + 1, DELIVERIES + 1));
        assertEquals(MESSAGES, countOfDeadLetters(subject), "by the client's own count");
    }

    /** The client counts a dead letter under the queue from which its last delivery came. */
    private static long countOfDeadLetters(String subject) {
        String metric = "qmq_deadqueue_send_count";
        return Meters.count(metric, subject, GROUP)
                + Meters.count(metric, "%RETRY%" + subject + "%" + GROUP, GROUP);
    }

    /** Sends messages that are delivered so often at most, if not 0. */
    private static void send(String subject, int deliveriesMax, Attempts... accounts) {
        for (int number = 0; number < MESSAGES; number++) {
            Message message = Clients.producer().generateMessage(subject);
            message.setProperty(Sender.KIND, Sender.DATA);
            Content.fill(message, number);
            if (deliveriesMax > 0) {
                message.setMaxRetryNum(deliveriesMax);
            }
            for (Attempts account : accounts) {
                account.sent(message.getMessageId(), Content.digest(message));
            }
            assertEquals(1, Answer.to(message).successes());
        }
    }

    private static boolean isProbe(Message message, Subscription probes) {
        boolean isProbe = Sender.PROBE.equals(message.getStringProperty(Sender.KIND));
        if (isProbe) {
            probes.received(message);
        }
        return isProbe;
    }
}
