package qmq.e2e;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.time.Duration;
import java.util.List;

import org.junit.jupiter.api.Test;

/** Two processes that call themselves the same, by mistake: they disturb each other, but nothing is lost. */
@Scenario
class SameIdTest {
    private static final int MESSAGES = 2_000;
    private static final Duration RECEIVE_MAX = Duration.ofSeconds(120);

    @Test
    void nothingIsLost() throws Exception {
        String subject = Clients.unique("same-id");
        Tally tally = new Tally();
        Subscription one = new Subscription(tally);
        Subscription other = new Subscription(tally);
        try (WorkerProcess first = new WorkerProcess(Worker.LISTEN, subject, "group", "same", one);
                WorkerProcess second = new WorkerProcess(Worker.LISTEN, subject, "group", "same", other)) {
            Probes.reach(subject, one, other);
            Sender sender = new Sender(subject, tally);
            sender.sendAll(0, MESSAGES);
            assertEquals(0, sender.failed(), "failed sends");
            Await.until("the group gets every message", RECEIVE_MAX, tally::complete, () -> one + "; " + other);
            // Both are alive and are handed messages still.
            Probes.reach(subject, one, other);
            first.stop();
            second.stop();
        }
        assertEquals(List.of(), tally.problemsAtLeastOnce());
        assertTrue(one.messages() + other.messages() >= MESSAGES, one + "; " + other);
    }
}
