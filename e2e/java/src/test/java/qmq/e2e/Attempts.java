package qmq.e2e;

import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.stream.IntStream;

/**
 * Which deliveries of each message a group was handed, by their {@code times()}, and whether those are the expected
 * ones. Pure: {@link AttemptsTest} shows that it notices what is wrong.
 */
final class Attempts {
    private final Map<String, String> sent = new ConcurrentHashMap<>();
    private final Map<String, List<Integer>> times = new ConcurrentHashMap<>();
    private final List<String> spoilt = new CopyOnWriteArrayList<>();

    /** A message is about to be sent. */
    void sent(String id, String digest) {
        sent.put(id, digest);
    }

    /** The group was handed a message for the so-many-th time, as the message says. */
    void received(String id, int count, String digest) {
        if (!digest.equals(sent.get(id))) {
            spoilt.add(id + " at delivery " + count);
        }
        times.computeIfAbsent(id, unused -> new CopyOnWriteArrayList<>()).add(count);
    }

    /** Whether every message came at least up to this delivery. */
    boolean reached(int last) {
        return sent.keySet().stream().allMatch(id -> times.getOrDefault(id, List.of()).contains(last));
    }

    /** What is wrong if every message was to come with each of these numbers once and in their order. */
    List<String> problems(int first, int last) {
        List<Integer> expected = IntStream.rangeClosed(first, last).boxed().toList();
        List<String> problems = new ArrayList<>();
        sent.keySet().forEach(id -> {
            List<Integer> counts = times.getOrDefault(id, List.of());
            if (!counts.equals(expected)) {
                problems.add(id + " came as " + counts + " instead of " + expected);
            }
        });
        times.keySet().stream().filter(id -> !sent.containsKey(id)).forEach(id -> problems.add(id + " was never sent"));
        spoilt.forEach(id -> problems.add(id + " has other content"));
        return problems;
    }

    @Override
    public String toString() {
        return "sent " + sent.size() + ", deliveries " + times;
    }
}
