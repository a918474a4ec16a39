package qmq.e2e;

import java.time.Duration;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicReference;
import java.util.concurrent.locks.LockSupport;

/** Sends on a thread of its own until it is stopped. */
final class Traffic implements AutoCloseable {
    private static final Duration PROGRESS_MAX = Duration.ofSeconds(90);
    /** Without a broker the client fails a send within a millisecond: leave it time to connect. */
    private static final long PAUSE_AFTER_FAILURE_NANOS = TimeUnit.MILLISECONDS.toNanos(5);

    private final Sender sender;
    private final long pauseNanos;
    private final AtomicBoolean stop = new AtomicBoolean();
    private final AtomicReference<Throwable> problem = new AtomicReference<>();
    private final Thread thread;

    /** Begins to send, with this pause after each message. */
    Traffic(Sender sender, Duration pause) {
        this.sender = sender;
        pauseNanos = pause.toNanos();
        thread = new Thread(this::send, "traffic");
        thread.start();
    }

    /** Waits until this many more messages were confirmed. */
    void awaitConfirmed(int more) {
        int target = sender.confirmed() + more;
        Await.until(more + " more confirmed sends", PROGRESS_MAX, () -> sender.confirmed() >= target,
                () -> "confirmed " + sender.confirmed() + ", failed " + sender.failed() + ", " + problem.get());
    }

    /** Stops, and waits for the answer to every message. */
    void finish() throws InterruptedException {
        close();
        if (problem.get() != null) {
            throw new AssertionError("the traffic stopped", problem.get());
        }
        sender.awaitAnswers();
    }

    @Override
    public void close() throws InterruptedException {
        stop.set(true);
        thread.join();
    }

    private void send() {
        int failedBefore = 0;
        try {
            for (int number = 0; !stop.get(); number++) {
                sender.send(number);
                if (sender.failed() > failedBefore) {
                    failedBefore = sender.failed();
                    LockSupport.parkNanos(PAUSE_AFTER_FAILURE_NANOS);
                }
                LockSupport.parkNanos(pauseNanos);
            }
        } catch (Throwable error) {
            problem.set(error);
        }
    }
}
