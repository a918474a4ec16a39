package qmq.e2e;

import java.time.Duration;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.locks.LockSupport;
import java.util.function.BooleanSupplier;
import java.util.function.Supplier;

/** Waits for conditions, never for time to pass. */
final class Await {
    private static final long LOOK_AGAIN_NANOS = TimeUnit.MILLISECONDS.toNanos(2);

    private Await() {
    }

    /** Whether the condition came true within the limit. */
    static boolean within(Duration limit, BooleanSupplier condition) {
        long end = System.nanoTime() + limit.toNanos();
        while (!condition.getAsBoolean()) {
            if (System.nanoTime() - end > 0) {
                return false;
            }
            LockSupport.parkNanos(LOOK_AGAIN_NANOS);
        }
        return true;
    }

    /** Fails with the state at that moment when the condition does not come true within the limit. */
    static void until(String what, Duration limit, BooleanSupplier condition, Supplier<?> state) {
        if (!within(limit, condition)) {
            throw new AssertionError("not within " + limit.toSeconds() + " s: " + what + "; " + state.get());
        }
    }
}
