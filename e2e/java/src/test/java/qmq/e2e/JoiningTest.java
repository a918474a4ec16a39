package qmq.e2e;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.time.Duration;
import java.util.List;

import org.junit.jupiter.api.Test;

import qunar.tc.qmq.ListenerHolder;

/** From when on a group is handed messages, and what a pause does. */
@Scenario
class JoiningTest {
    private static final String GROUP = "group";
    private static final int MESSAGES = 300;
    /** What a pull that was under way at a stop can still bring. */
    private static final int PULL_MAX = 50;
    /** Together longer than the second after which the client looks whether a listener was stopped. */
    private static final int EMPTY_PULLS = 4;
    private static final Duration PULL_ANSWER_MAX = Duration.ofSeconds(60);
    private static final Duration RECEIVE_MAX = Duration.ofSeconds(120);

    @Test
    void aConsumerThatIsThereBeforeItsSubjectMissesNothing() throws Exception {
        String subject = Clients.unique("early");
        Subscription subscription = new Subscription(new Tally());
        join(subject, GROUP, subscription);
        // The very first message of the subject.
        send(new Sender(subject, subscription.tally()), subscription);
        assertEquals(List.of(), subscription.tally().problemsExactlyOnce());
        assertEquals(MESSAGES, subscription.messages());
    }

    @Test
    void aGroupThatJoinsLateStartsAtTheEnd() throws Exception {
        String subject = Clients.unique("late");
        Subscription first = new Subscription(new Tally());
        Subscription late = new Subscription(new Tally());
        join(subject, GROUP, first);
        send(new Sender(subject, first.tally()).to(late.tally(), message -> false), first);
        join(subject, "late", late);
        send(new Sender(subject, first.tally(), late.tally()), first, late);
        Probes.reach(subject, first, late);
        assertEquals(List.of(), first.tally().problemsExactlyOnce());
        assertEquals(List.of(), late.tally().problemsExactlyOnce());
        assertEquals(2 * MESSAGES, first.messages());
        assertEquals(MESSAGES, late.messages());
    }

    @Test
    void aStoppedListenerGetsTheRestWhenItResumes() throws Exception {
        String subject = Clients.unique("stopped");
        Subscription stopped = new Subscription(new Tally());
        Subscription other = new Subscription(new Tally());
        ListenerHolder holder = join(subject, GROUP, stopped);
        join(subject, "other", other);
        Sender sender = new Sender(subject, stopped.tally(), other.tally());
        send(sender, stopped, other);

        holder.stopListen();
        send(sender, other);
        assertTrue(stopped.messages() <= MESSAGES + PULL_MAX, stopped::toString);
        // A listener that resumes before the client has noticed that it was stopped never pulls again. An empty pull
        // is held for 2.5 s.
        long pulls = Meters.answeredPulls(subject, "other") + EMPTY_PULLS;
        Await.until("empty pulls are answered", PULL_ANSWER_MAX, () -> Meters.answeredPulls(subject, "other") >= pulls,
                () -> Meters.answeredPulls(subject, "other"));
        holder.resumeListen();
        Await.until("the rest arrives", RECEIVE_MAX, stopped.tally()::complete, () -> stopped);
        Probes.reach(subject, stopped, other);
        assertEquals(List.of(), stopped.tally().problemsExactlyOnce());
        assertEquals(2 * MESSAGES, stopped.messages());
    }

    /** Adds a listener; its group exists on return, although no message was sent. */
    private static ListenerHolder join(String subject, String group, Subscription subscription) {
        ListenerHolder holder = Clients.consumer().addListener(subject, group, subscription::received,
                Clients.handlers());
        Await.until("a first pull is answered", PULL_ANSWER_MAX, () -> Meters.answeredPulls(subject, group) > 0,
                () -> subject + " " + group);
        return holder;
    }

    private static void send(Sender sender, Subscription... subscriptions) throws InterruptedException {
        sender.sendAll(0, MESSAGES);
        assertEquals(0, sender.failed(), "failed sends");
        for (Subscription subscription : subscriptions) {
            Await.until("every message arrives", RECEIVE_MAX, subscription.tally()::complete, () -> subscription);
        }
    }
}
