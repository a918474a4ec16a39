package qmq.e2e;

import static org.junit.jupiter.api.Assertions.assertEquals;

import java.time.Duration;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.function.Predicate;

import org.junit.jupiter.api.Test;

import qunar.tc.qmq.Message;
import qunar.tc.qmq.SubscribeParam;
import qunar.tc.qmq.TagType;

/** Consumers that ask for tags are handed what has any of them, or all of them, and nothing else. */
@Scenario
class TagsTest {
    private static final int MESSAGES = 800;
    private static final String PAID = "paid";
    private static final String LARGE = "größe";
    private static final String MESSAGE = "消息";
    private static final Duration RECEIVE_MAX = Duration.ofSeconds(120);
    private static final int DELIVERIES = 2;

    @Test
    void everyFilterGetsItsShare() throws Exception {
        String subject = Clients.unique("tags");
        Map<Subscription, Predicate<Message>> all = new LinkedHashMap<>();
        all.put(listen(subject, "any", TagType.OR, PAID, LARGE), tags -> has(tags, PAID) || has(tags, LARGE));
        all.put(listen(subject, "both", TagType.AND, PAID, LARGE), tags -> has(tags, PAID) && has(tags, LARGE));
        all.put(listen(subject, "chinese", TagType.OR, MESSAGE), tags -> has(tags, MESSAGE));
        all.put(listen(subject, "every", TagType.NO_TAG), tags -> true);
        Subscription[] subscriptions = all.keySet().toArray(Subscription[]::new);
        Probes.reach(subject, Set.of(PAID, LARGE, MESSAGE), subscriptions);

        Sender sender = new Sender(subject);
        all.forEach((subscription, wants) -> sender.to(subscription.tally(), wants));
        for (int number = 0; number < MESSAGES; number++) {
            int bits = number % 8;
            sender.send(number, message -> tag(message, bits));
        }
        sender.awaitAnswers();
        assertEquals(MESSAGES, sender.confirmed());
        for (Subscription subscription : subscriptions) {
            Await.until("each group gets its share", RECEIVE_MAX, subscription.tally()::complete, () -> subscription);
        }
        // What should not come would have come before these.
        Probes.reach(subject, Set.of(PAID, LARGE, MESSAGE), subscriptions);
        for (Subscription subscription : subscriptions) {
            assertEquals(List.of(), subscription.tally().problemsExactlyOnce());
        }
        assertEquals(List.of(600, 200, 400, 800), all.keySet().stream().map(Subscription::messages).toList());
    }

    @Test
    void whatFailedComesAgainWithItsTags() throws Exception {
        String subject = Clients.unique("tags-again");
        Attempts attempts = new Attempts();
        Subscription probes = new Subscription(new Tally());
        Clients.consumer().addListener(subject, "group", message -> {
            if (Sender.PROBE.equals(message.getStringProperty(Sender.KIND))) {
                probes.received(message);
                return;
            }
            attempts.received(message.getMessageId(), message.times(), Content.digest(message));
            if (message.times() < DELIVERIES) {
                throw new IllegalStateException("to get it again");
            }
        }, Clients.handlers(), filter(TagType.AND, PAID, MESSAGE));
        Probes.reach(subject, Set.of(PAID, MESSAGE), probes);
        for (int number = 0; number < 10; number++) {
            for (Set<String> tags : List.of(Set.of(PAID, MESSAGE, LARGE), Set.of(PAID, LARGE))) {
                Message message = Clients.producer().generateMessage(subject);
                Content.fill(message, number);
                tags.forEach(message::addTag);
                if (tags.contains(MESSAGE)) {
                    attempts.sent(message.getMessageId(), Content.digest(message));
                }
                assertEquals(1, Answer.to(message).successes());
            }
        }
        Await.until("each comes again", RECEIVE_MAX, () -> attempts.reached(DELIVERIES), () -> attempts);
        Probes.reach(subject, Set.of(PAID, MESSAGE), probes);
        assertEquals(List.of(), attempts.problems(1, DELIVERIES));
    }

    private static Subscription listen(String subject, String group, TagType type, String... tags) {
        Subscription subscription = new Subscription(new Tally());
        Clients.consumer().addListener(subject, group, subscription::received, Clients.handlers(), filter(type, tags));
        return subscription;
    }

    private static SubscribeParam filter(TagType type, String... tags) {
        return new SubscribeParam.SubscribeParamBuilder().setTagType(type).setTags(Set.of(tags)).create();
    }

    private static void tag(Message message, int bits) {
        String[] tags = {PAID, LARGE, MESSAGE};
        for (int bit = 0; bit < tags.length; bit++) {
            if ((bits >> bit & 1) == 1) {
                message.addTag(tags[bit]);
            }
        }
    }

    private static boolean has(Message message, String tag) {
        return message.getTags().contains(tag);
    }
}
