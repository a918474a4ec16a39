package qmq.e2e;

import java.util.concurrent.atomic.AtomicInteger;

import qunar.tc.qmq.Message;

/** What one consumer was handed, in this JVM or in a worker. */
final class Subscription {
    private final Tally tally;
    private final AtomicInteger probes = new AtomicInteger();
    private final AtomicInteger messages = new AtomicInteger();

    /** Several consumers of one group share one tally. */
    Subscription(Tally tally) {
        this.tally = tally;
    }

    /** A message arrived at a listener of this JVM. */
    void received(Message message) {
        received(message.getStringProperty(Sender.KIND), message.getMessageId(), Content.digest(message));
    }

    void received(String kind, String id, String digest) {
        if (Sender.PROBE.equals(kind)) {
            probes.incrementAndGet();
        } else {
            tally.received(id, digest);
            messages.incrementAndGet();
        }
    }

    Tally tally() {
        return tally;
    }

    int probes() {
        return probes.get();
    }

    /** Deliveries that are no probes, repeated ones included. */
    int messages() {
        return messages.get();
    }

    @Override
    public String toString() {
        return probes + " probes, " + messages + " messages, " + tally;
    }
}
