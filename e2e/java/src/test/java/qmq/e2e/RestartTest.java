package qmq.e2e;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.time.Duration;
import java.util.HashSet;
import java.util.List;
import java.util.Set;

import org.junit.jupiter.api.Test;

/** A consumer that comes back under the same client id gets what it was handed and had not acked. */
class RestartTest {
    private static final int MESSAGES = 200;
    private static final int ACKED = 120;
    private static final Duration RECEIVE_MAX = Duration.ofSeconds(120);

    @Test
    void gracefulStopKeepsAcksAndReturnsTheRest() throws Exception {
        String subject = Clients.unique("restart");
        Set<String> unacked = new HashSet<>();
        try (WorkerProcess worker = worker(subject)) {
            unacked.addAll(holdAll(subject, worker));
            // In the order of arrival: the client confirms contiguous ranges only.
            for (String id : worker.subscription().tally().receivedInOrder().subList(0, ACKED)) {
                worker.ack(id);
                unacked.remove(id);
            }
            worker.stop();
        }
        assertEquals(MESSAGES - ACKED, unacked.size());

        try (WorkerProcess again = worker(subject)) {
            Tally tally = again.subscription().tally();
            Await.until("what was not acked comes again", RECEIVE_MAX,
                    () -> tally.receivedIds().containsAll(unacked), again::subscription);
            Probes.reach(subject, again.subscription());
            assertEquals(unacked, tally.receivedIds(), "what comes again");
            for (String id : tally.receivedInOrder()) {
                again.ack(id);
            }
            again.stop();
        }

        try (WorkerProcess last = worker(subject)) {
            Probes.reach(subject, last.subscription());
            assertEquals(Set.of(), last.subscription().tally().receivedIds(), "all is acked");
        }
    }

    @Test
    void crashReturnsWhatWasNotAcked() throws Exception {
        String subject = Clients.unique("crash");
        Set<String> handedOut;
        try (WorkerProcess worker = worker(subject)) {
            handedOut = holdAll(subject, worker);
            worker.kill();
        }
        try (WorkerProcess again = worker(subject)) {
            Tally tally = again.subscription().tally();
            Await.until("what was not acked comes again", RECEIVE_MAX,
                    () -> tally.receivedIds().containsAll(handedOut), again::subscription);
            assertEquals(handedOut, tally.receivedIds());
        }
    }

    private static WorkerProcess worker(String subject) throws Exception {
        return new WorkerProcess(Worker.PULL, subject, "group", "restarted", new Subscription(new Tally()));
    }

    /** Sends, and waits until the worker holds everything. */
    private static Set<String> holdAll(String subject, WorkerProcess worker) throws Exception {
        Subscription subscription = worker.subscription();
        Probes.reach(subject, subscription);
        Sender sender = new Sender(subject, subscription.tally());
        sender.sendAll(0, MESSAGES);
        assertEquals(0, sender.failed(), "failed sends");
        Await.until("the consumer is handed all", RECEIVE_MAX, subscription.tally()::complete, () -> subscription);
        assertEquals(List.of(), subscription.tally().problemsExactlyOnce());
        assertTrue(subscription.tally().receivedCount() == MESSAGES, subscription::toString);
        return subscription.tally().receivedIds();
    }
}
