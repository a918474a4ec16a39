package qmq.e2e;

import static org.junit.jupiter.api.Assertions.assertEquals;

import java.time.Duration;
import java.util.ArrayList;
import java.util.Date;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.TimeUnit;

import org.junit.jupiter.api.Test;

import qunar.tc.qmq.Message;

/** Messages for later: by a delay and at a point in time. */
@Delayed
class DelayedTest {
    private static final int MESSAGES = 1_000;
    /** Between two due times: a minute in all. */
    private static final int STEP_MS = 60;
    /** Before the first, so that all are sent by then. */
    private static final int LEAD_MS = 5_000;
    private static final Duration RECEIVE_MAX = Duration.ofSeconds(180);

    @Test
    void aThousandOverAMinuteComeOnceAndNoneEarly() throws Exception {
        String subject = Clients.unique("delayed");
        Subscription subscription = new Subscription(new Tally());
        Map<String, Long> due = new ConcurrentHashMap<>();
        Map<String, Long> came = new ConcurrentHashMap<>();
        Clients.consumer().addListener(subject, "group", message -> {
            came.putIfAbsent(message.getMessageId(), System.currentTimeMillis());
            subscription.received(message);
        }, Clients.handlers());
        Probes.reach(subject, subscription);

        Sender sender = new Sender(subject, subscription.tally());
        long start = System.currentTimeMillis();
        for (int number = 0; number < MESSAGES; number++) {
            long at = start + LEAD_MS + (long) number * STEP_MS;
            boolean isByDelay = number % 2 == 0;
            sender.send(number, message -> {
                if (isByDelay) {
                    message.setDelayTime(at - System.currentTimeMillis(), TimeUnit.MILLISECONDS);
                } else {
                    message.setDelayTime(new Date(at));
                }
                due.put(message.getMessageId(), message.getScheduleReceiveTime().getTime());
            });
        }
        sender.awaitAnswers();
        assertEquals(MESSAGES, sender.confirmed());
        Await.until("every message comes", RECEIVE_MAX, subscription.tally()::complete, () -> subscription);
        // One more round through the broker: what comes twice would have come by now.
        Probes.reach(subject, subscription);
        assertEquals(List.of(), subscription.tally().problemsExactlyOnce());
        List<Long> lateness = new ArrayList<>();
        due.forEach((id, at) -> {
            if (came.containsKey(id)) {
                lateness.add(came.get(id) - at);
            }
        });
        lateness.sort(null);
        assertEquals(MESSAGES, lateness.size());
        System.out.println("lateness of " + MESSAGES + " messages over " + MESSAGES * STEP_MS / 1_000 + " s, ms: min "
                + lateness.get(0) + ", p50 " + lateness.get(MESSAGES / 2) + ", p99 " + lateness.get(MESSAGES * 99 / 100)
                + ", max " + lateness.get(MESSAGES - 1));
        assertEquals(List.of(), lateness.stream().filter(late -> late < 0).toList(), "early");
    }

    @Test
    void aTimeAndPropertiesArriveAsTheyWereSet() throws Exception {
        String subject = Clients.unique("scheduled");
        Subscription subscription = new Subscription(new Tally());
        Map<String, Date> seen = new ConcurrentHashMap<>();
        Clients.consumer().addListener(subject, "group", message -> {
            if (message.getScheduleReceiveTime() != null) {
                seen.put(message.getMessageId(), message.getScheduleReceiveTime());
            }
            subscription.received(message);
        }, Clients.handlers());
        Probes.reach(subject, subscription);
        Date at = new Date(System.currentTimeMillis() + 1_000);
        Sender sender = new Sender(subject, subscription.tally());
        sender.send(0, message -> message.setDelayTime(at));
        sender.send(1);
        sender.awaitAnswers();
        Await.until("both come", RECEIVE_MAX, subscription.tally()::complete, () -> subscription);
        assertEquals(List.of(), subscription.tally().problemsExactlyOnce());
        assertEquals(List.of(at), List.copyOf(seen.values()));
    }
}
