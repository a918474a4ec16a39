package qmq.e2e;

import static org.junit.jupiter.api.Assertions.assertEquals;

import java.time.Duration;
import java.util.concurrent.atomic.AtomicReference;

import org.junit.jupiter.api.Test;

import qunar.tc.qmq.Message;
import qunar.tc.qmq.base.BaseMessage;

/** Sends the message of the golden frames, so that e2e/tests/it/captures.rs can compare what passes with them. */
@Scenario
class CaptureTest {
    private static final String SUBJECT = "wire.order.changed";
    private static final String GROUP = "wire_group";
    private static final String MESSAGE_ID = "231114.221320.192.168.1.10.4242.0";
    private static final long CREATED_MS = 1_700_000_000_000L;
    private static final long EXPIRES_MS = 1_700_000_900_000L;
    private static final Duration WAIT_MAX = Duration.ofSeconds(120);

    @Test
    void theGoldenMessagePasses() {
        AtomicReference<Message> received = new AtomicReference<>();
        Clients.consumer().addListener(SUBJECT, GROUP, received::set, Clients.handlers());
        // A pull that finds nothing is among the golden frames, and shows that the group exists.
        Await.until("a first pull is answered", WAIT_MAX, () -> Meters.answeredPulls(SUBJECT, GROUP) > 0,
                () -> "none");
        BaseMessage message = (BaseMessage) Clients.producer().generateMessage(SUBJECT);
        message.setMessageId(MESSAGE_ID);
        message.setProperty(BaseMessage.keys.qmq_createTime, CREATED_MS);
        message.setProperty(BaseMessage.keys.qmq_expireTime, EXPIRES_MS);
        message.setProperty("orderNo", "A-1001");
        assertEquals(1, Answer.to(message).successes());
        Await.until("the message arrives", WAIT_MAX, () -> received.get() != null, () -> "nothing");
        assertEquals(MESSAGE_ID, received.get().getMessageId());
        assertEquals("A-1001", received.get().getStringProperty("orderNo"));
        // The client counts what the broker has confirmed.
        Await.until("its ack is answered", WAIT_MAX,
                () -> Meters.count("qmq_pull_ack_sendnum_qps", SUBJECT, GROUP) > 0, () -> "none");
    }
}
