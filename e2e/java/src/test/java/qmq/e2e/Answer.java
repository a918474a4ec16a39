package qmq.e2e;

import java.time.Duration;
import java.util.concurrent.atomic.AtomicInteger;

import qunar.tc.qmq.Message;
import qunar.tc.qmq.MessageSendStateListener;

/** What became of one send. */
final class Answer implements MessageSendStateListener {
    private static final Duration ANSWER_MAX = Duration.ofSeconds(120);

    private final AtomicInteger successes = new AtomicInteger();
    private final AtomicInteger failures = new AtomicInteger();

    /** Sends a message and waits until the client says what became of it. */
    static Answer to(Message message) {
        Answer answer = new Answer();
        Clients.producer().sendMessage(message, answer);
        answer.await();
        return answer;
    }

    /** Waits until the client called back. */
    void await() {
        Await.until("an answer to a send", ANSWER_MAX, () -> successes.get() + failures.get() > 0, () -> this);
    }

    @Override
    public void onSuccess(Message message) {
        successes.incrementAndGet();
    }

    @Override
    public void onFailed(Message message) {
        failures.incrementAndGet();
    }

    int successes() {
        return successes.get();
    }

    int failures() {
        return failures.get();
    }

    @Override
    public String toString() {
        return "successes " + successes + ", failures " + failures;
    }
}
