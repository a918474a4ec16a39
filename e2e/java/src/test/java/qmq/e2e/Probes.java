package qmq.e2e;

import java.time.Duration;
import java.util.Arrays;
import java.util.Set;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;

import qunar.tc.qmq.Message;
import qunar.tc.qmq.MessageSendStateListener;

/**
 * A consumer group exists from its first pull on and starts at the end of the subject: only once a probe has arrived
 * it is certain to be handed what is sent from then on.
 */
final class Probes {
    private static final Duration REACH_MAX = Duration.ofSeconds(120);
    private static final Duration NEXT_PROBE = Duration.ofMillis(500);
    private static final int NUMBER = 1;

    private Probes() {
    }

    /** Sends probes until each of these subscriptions was handed a new one. */
    static void reach(String subject, Subscription... subscriptions) throws InterruptedException {
        reach(subject, Set.of(), subscriptions);
    }

    /** The same with probes that have these tags, for subscriptions that filter. */
    static void reach(String subject, Set<String> tags, Subscription... subscriptions) throws InterruptedException {
        int[] before = Arrays.stream(subscriptions).mapToInt(Subscription::probes).toArray();
        long end = System.nanoTime() + REACH_MAX.toNanos();
        do {
            if (System.nanoTime() - end > 0) {
                throw new AssertionError("no probe of " + subject + " within " + REACH_MAX.toSeconds() + " s: "
                        + Arrays.toString(subscriptions));
            }
            send(subject, tags);
        } while (!Await.within(NEXT_PROBE, () -> allReached(subscriptions, before)));
    }

    private static boolean allReached(Subscription[] subscriptions, int[] before) {
        for (int i = 0; i < subscriptions.length; i++) {
            if (subscriptions[i].probes() <= before[i]) {
                return false;
            }
        }
        return true;
    }

    private static void send(String subject, Set<String> tags) throws InterruptedException {
        Message probe = Clients.producer().generateMessage(subject);
        probe.setProperty(Sender.KIND, Sender.PROBE);
        Content.fill(probe, NUMBER);
        tags.forEach(probe::addTag);
        CountDownLatch answered = new CountDownLatch(1);
        Clients.producer().sendMessage(probe, new MessageSendStateListener() {
            @Override
            public void onSuccess(Message message) {
                answered.countDown();
            }

            @Override
            public void onFailed(Message message) {
                answered.countDown();
            }
        });
        if (!answered.await(REACH_MAX.toSeconds(), TimeUnit.SECONDS)) {
            throw new AssertionError("no answer to a probe within " + REACH_MAX.toSeconds() + " s");
        }
    }
}
