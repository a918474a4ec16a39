package qmq.e2e;

import java.util.Arrays;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;

import com.google.common.base.Supplier;

import qunar.tc.qmq.metrics.QmqCounter;
import qunar.tc.qmq.metrics.QmqMeter;
import qunar.tc.qmq.metrics.QmqMetricRegistry;
import qunar.tc.qmq.metrics.QmqTimer;

/**
 * How often the client did what it measures, by the names of its metrics. The client finds this class as it finds
 * that of an application, through {@code META-INF/services}.
 */
public final class Meters implements QmqMetricRegistry {
    private static final Map<String, AtomicLong> COUNTS = new ConcurrentHashMap<>();

    /** The count of a metric with the values of its labels in their order; 0 while there is none. */
    static long count(String name, String... values) {
        AtomicLong count = COUNTS.get(key(name, values));
        return count == null ? 0 : count.get();
    }

    /** Pulls of a subscription that the broker answered. */
    static long answeredPulls(String subject, String group) {
        return count("qmq_pull_timer", subject, group) - count("qmq_pull_error", subject, group);
    }

    @Override
    public void newGauge(String name, String[] tags, String[] values, Supplier<Double> supplier) {
        // Nothing to count.
    }

    @Override
    public QmqCounter newCounter(String name, String[] tags, String[] values) {
        AtomicLong count = of(name, values);
        return new QmqCounter() {
            @Override
            public void inc() {
                count.incrementAndGet();
            }

            @Override
            public void inc(long number) {
                count.addAndGet(number);
            }

            @Override
            public void dec() {
                count.decrementAndGet();
            }

            @Override
            public void dec(long number) {
                count.addAndGet(-number);
            }
        };
    }

    @Override
    public QmqMeter newMeter(String name, String[] tags, String[] values) {
        AtomicLong count = of(name, values);
        return new QmqMeter() {
            @Override
            public void mark() {
                count.incrementAndGet();
            }

            @Override
            public void mark(long number) {
                count.addAndGet(number);
            }
        };
    }

    @Override
    public QmqTimer newTimer(String name, String[] tags, String[] values) {
        AtomicLong count = of(name, values);
        return (long duration, TimeUnit unit) -> count.incrementAndGet();
    }

    @Override
    public void remove(String name, String[] tags, String[] values) {
        COUNTS.remove(key(name, values));
    }

    private static AtomicLong of(String name, String[] values) {
        return COUNTS.computeIfAbsent(key(name, values), unused -> new AtomicLong());
    }

    private static String key(String name, String[] values) {
        return name + Arrays.toString(values);
    }
}
