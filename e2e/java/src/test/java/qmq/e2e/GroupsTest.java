package qmq.e2e;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.time.Duration;
import java.util.List;

import org.junit.jupiter.api.Test;

/** Who gets what: consumers of one group share, groups each get all. */
class GroupsTest {
    private static final int MESSAGES = 4_000;
    private static final Duration RECEIVE_MAX = Duration.ofSeconds(120);

    @Test
    void twoConsumersOfAGroupShareWithoutOverlap() throws Exception {
        String subject = Clients.unique("share");
        Tally tally = new Tally();
        Subscription one = new Subscription(tally);
        Subscription other = new Subscription(tally);
        try (WorkerProcess first = new WorkerProcess(Worker.LISTEN, subject, "group", "first", one);
                WorkerProcess second = new WorkerProcess(Worker.LISTEN, subject, "group", "second", other)) {
            Probes.reach(subject, one, other);
            Sender sender = new Sender(subject, tally);
            sender.sendAll(0, MESSAGES);
            assertEquals(0, sender.failed(), "failed sends");
            Await.until("the group gets every message", RECEIVE_MAX, tally::complete, () -> one + "; " + other);
            Probes.reach(subject, one, other);
            first.stop();
            second.stop();
        }
        assertEquals(List.of(), tally.problemsExactlyOnce());
        assertEquals(MESSAGES, one.messages() + other.messages());
        assertTrue(one.messages() > 0 && other.messages() > 0, one + "; " + other);
    }

    @Test
    void twoGroupsEachGetAll() throws Exception {
        String subject = Clients.unique("groups");
        Subscription one = new Subscription(new Tally());
        Subscription other = new Subscription(new Tally());
        Clients.consumer().addListener(subject, "one", one::received, Clients.handlers());
        Clients.consumer().addListener(subject, "other", other::received, Clients.handlers());
        Probes.reach(subject, one, other);

        Sender sender = new Sender(subject, one.tally(), other.tally());
        sender.sendAll(0, MESSAGES);
        assertEquals(0, sender.failed(), "failed sends");
        for (Subscription subscription : List.of(one, other)) {
            Await.until("each group gets all", RECEIVE_MAX, subscription.tally()::complete, () -> subscription);
        }
        Probes.reach(subject, one, other);
        for (Subscription subscription : List.of(one, other)) {
            assertEquals(List.of(), subscription.tally().problemsExactlyOnce());
            assertEquals(MESSAGES, subscription.tally().receivedCount());
        }
    }
}
