package qmq.e2e;

import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Queue;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.atomic.AtomicInteger;

/**
 * What was sent, what the broker confirmed and what one subscription received, and whether that keeps the promise.
 * Pure: {@link TallyTest} shows that it notices every way of breaking it.
 */
final class Tally {
    private static final int PROBLEMS_SHOWN_MAX = 10;

    private final Map<String, String> sent = new ConcurrentHashMap<>();
    private final Set<String> confirmed = ConcurrentHashMap.newKeySet();
    private final Set<String> withheld = ConcurrentHashMap.newKeySet();
    private final Map<String, AtomicInteger> received = new ConcurrentHashMap<>();
    private final Queue<String> order = new ConcurrentLinkedQueue<>();
    private final Set<String> spoilt = ConcurrentHashMap.newKeySet();

    /** A message is about to be sent. */
    void sent(String id, String digest) {
        sent.put(id, digest);
    }

    /** A message is about to be sent that this subscription must not be handed. */
    void withheld(String id) {
        withheld.add(id);
    }

    /** The broker confirmed it. */
    void confirmed(String id) {
        confirmed.add(id);
    }

    /** The subscription was handed it. */
    void received(String id, String digest) {
        if (!digest.equals(sent.get(id)) && !withheld.contains(id)) {
            spoilt.add(id);
        }
        if (received.computeIfAbsent(id, unused -> new AtomicInteger()).incrementAndGet() == 1) {
            order.add(id);
        }
    }

    int confirmedCount() {
        return confirmed.size();
    }

    /** Different messages received, however often. */
    int receivedCount() {
        return received.size();
    }

    /** Different messages in the order of their first arrival. */
    List<String> receivedInOrder() {
        return List.copyOf(order);
    }

    Set<String> receivedIds() {
        return Set.copyOf(received.keySet());
    }

    /** Confirmed and not received yet. */
    int missingCount() {
        return (int) confirmed.stream().filter(id -> !received.containsKey(id)).count();
    }

    /** Whether every confirmed message was received. */
    boolean complete() {
        return received.size() >= confirmed.size() && missingCount() == 0;
    }

    /** What is wrong if a message may come more than once; empty when nothing is. */
    List<String> problemsAtLeastOnce() {
        List<String> problems = new ArrayList<>();
        add(problems, "confirmed but never received", confirmed.stream().filter(id -> !received.containsKey(id)).toList());
        add(problems, "received but never sent",
                received.keySet().stream().filter(id -> !sent.containsKey(id) && !withheld.contains(id)).toList());
        add(problems, "received although not meant for it", received.keySet().stream().filter(withheld::contains).toList());
        add(problems, "received with other content", spoilt.stream().filter(sent::containsKey).toList());
        add(problems, "confirmed but never sent", confirmed.stream().filter(id -> !sent.containsKey(id)).toList());
        return problems;
    }

    /** What is wrong in a run without any failure: then nothing comes twice either. */
    List<String> problemsExactlyOnce() {
        List<String> problems = problemsAtLeastOnce();
        add(problems, "received more than once",
                received.entrySet().stream().filter(entry -> entry.getValue().get() > 1).map(Map.Entry::getKey).toList());
        return problems;
    }

    @Override
    public String toString() {
        return "sent " + sent.size() + ", confirmed " + confirmed.size() + ", received " + received.size()
                + ", missing " + missingCount();
    }

    private static void add(List<String> problems, String what, List<String> ids) {
        if (!ids.isEmpty()) {
            problems.add(ids.size() + " " + what + ", such as " + ids.subList(0, Math.min(ids.size(), PROBLEMS_SHOWN_MAX)));
        }
    }
}
