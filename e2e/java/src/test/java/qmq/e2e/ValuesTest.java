package qmq.e2e;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.Date;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.concurrent.ConcurrentHashMap;

import org.junit.jupiter.api.Test;

import qunar.tc.qmq.Message;

/** Every kind of value comes out as it went in, whatever its size. */
@Scenario
class ValuesTest {
    private static final String CHINESE = "订单.创建·支付_通知";
    private static final int LARGE_CHARACTERS = 70_000;
    private static final int MEBIBYTE = 1 << 20;
    /** The longest text of one property, in bytes of UTF-8. */
    private static final int VALUE_BYTES_MAX = 32_767;
    private static final Duration RECEIVE_MAX = Duration.ofSeconds(120);

    private final Map<String, Message> received = new ConcurrentHashMap<>();

    @Test
    void valuesOfEveryTypeComeOutAsTheyWentIn() throws Exception {
        String subject = listen("订单");
        Message message = Clients.producer().generateMessage(subject);
        message.setProperty("中文键", CHINESE);
        message.setProperty("rocket", "\uD83D\uDE80");
        message.setProperty("empty", "");
        message.setProperty("line", "a=b:c\r\n\t\u0000d");
        message.setProperty("yes", true);
        message.setProperty("no", Boolean.FALSE);
        message.setProperty("int", Integer.MIN_VALUE);
        message.setProperty("long", Long.MAX_VALUE);
        message.setProperty("float", Float.MIN_VALUE);
        message.setProperty("double", Double.MAX_VALUE);
        message.setProperty("nan", Double.NaN);
        message.setProperty("infinite", Double.NEGATIVE_INFINITY);
        message.setProperty("date", new Date(-1));
        message.setProperty("whole", "x".repeat(VALUE_BYTES_MAX));
        Message got = sendAndReceive(message);

        assertEquals(subject, got.getSubject());
        assertEquals(message.getCreatedTime(), got.getCreatedTime());
        assertEquals(1, got.times());
        assertEquals(CHINESE, got.getStringProperty("中文键"));
        assertEquals("\uD83D\uDE80", got.getStringProperty("rocket"));
        assertEquals("", got.getStringProperty("empty"));
        assertEquals("a=b:c\r\n\t\u0000d", got.getStringProperty("line"));
        assertTrue(got.getBooleanProperty("yes"));
        assertFalse(got.getBooleanProperty("no"));
        assertEquals(Integer.MIN_VALUE, got.getIntProperty("int"));
        assertEquals(Long.MAX_VALUE, got.getLongProperty("long"));
        assertEquals(Float.MIN_VALUE, got.getFloatProperty("float"));
        assertEquals(Double.MAX_VALUE, got.getDoubleProperty("double"));
        assertEquals(Double.NaN, got.getDoubleProperty("nan"));
        assertEquals(Double.NEGATIVE_INFINITY, got.getDoubleProperty("infinite"));
        assertEquals(new Date(-1), got.getDateProperty("date"));
        assertEquals(message.getStringProperty("whole"), got.getStringProperty("whole"));
    }

    @Test
    void textsAbove64KiBAndMessagesOf1MiBArriveWhole() throws Exception {
        String subject = listen("large");
        Message chinese = Clients.producer().generateMessage(subject);
        chinese.setLargeString("text", text("消息队列", LARGE_CHARACTERS));
        Message plain = Clients.producer().generateMessage(subject);
        plain.setLargeString("text", text("abcdefghij", MEBIBYTE));
        for (Message message : List.of(chinese, plain)) {
            String text = message.getLargeString("text");
            assertTrue(text.getBytes(StandardCharsets.UTF_8).length > 1 << 16);
            assertEquals(text, sendAndReceive(message).getLargeString("text"));
        }
    }

    @Test
    void oneValueThatNoConsumerCouldReadIsRefused() throws Exception {
        String subject = listen("refused");
        Message message = Clients.producer().generateMessage(subject);
        message.setProperty("text", "x".repeat(VALUE_BYTES_MAX + 1));
        Answer answer = Answer.to(message);
        assertEquals(1, answer.failures(), answer::toString);
        // Another one passes, so nothing is stuck behind it, and it did not arrive before.
        sendAndReceive(Clients.producer().generateMessage(subject));
        assertFalse(received.containsKey(message.getMessageId()));
    }

    private String listen(String name) throws InterruptedException {
        String subject = Clients.unique(name);
        Subscription probes = new Subscription(new Tally());
        Clients.consumer().addListener(subject, "消费组", message -> {
            if (Sender.PROBE.equals(message.getStringProperty(Sender.KIND))) {
                probes.received(message);
            } else {
                received.put(message.getMessageId(), message);
            }
        }, Clients.handlers());
        Probes.reach(subject, probes);
        return subject;
    }

    private Message sendAndReceive(Message message) {
        Answer answer = Answer.to(message);
        assertEquals(1, answer.successes(), answer::toString);
        Await.until("the message arrives", RECEIVE_MAX, () -> received.containsKey(message.getMessageId()),
                () -> message.getSubject());
        return received.get(message.getMessageId());
    }

    private static String text(String letters, int characters) {
        Random random = new Random(characters);
        StringBuilder text = new StringBuilder(characters);
        while (text.length() < characters) {
            text.append(letters.charAt(random.nextInt(letters.length())));
        }
        return text.toString();
    }
}
