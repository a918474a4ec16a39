package qmq.e2e;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.util.List;

import org.junit.jupiter.api.Test;

/** Sabotage: whatever is wrong with the deliveries of a message must be noticed. Needs no server. */
class AttemptsTest {
    private static final String VICTIM = "id-1";
    private static final int LAST = 3;

    /** Three messages that came three times each, the victim with these numbers. */
    private static Attempts attempts(int... victim) {
        Attempts attempts = new Attempts();
        for (String id : List.of("id-0", VICTIM, "id-2")) {
            attempts.sent(id, "digest of " + id);
            int[] counts = id.equals(VICTIM) ? victim : new int[] {1, 2, LAST};
            for (int count : counts) {
                attempts.received(id, count, "digest of " + id);
            }
        }
        return attempts;
    }

    @Test
    void acceptsWhatIsExpected() {
        Attempts attempts = attempts(1, 2, LAST);
        assertTrue(attempts.reached(LAST));
        assertEquals(List.of(), attempts.problems(1, LAST));
    }

    @Test
    void noticesAMessageThatDoesNotComeAgain() {
        Attempts attempts = attempts(1, 2);
        assertFalse(attempts.reached(LAST));
        assertEquals(1, attempts.problems(1, LAST).size());
    }

    @Test
    void noticesACountThatStandsStill() {
        assertEquals(1, attempts(1, 1, LAST).problems(1, LAST).size());
    }

    @Test
    void noticesASkippedDelivery() {
        Attempts attempts = attempts(1, LAST);
        assertTrue(attempts.reached(LAST));
        assertEquals(1, attempts.problems(1, LAST).size());
    }

    @Test
    void noticesADeliveryBeyondTheMaximum() {
        assertEquals(1, attempts(1, 2, LAST, LAST + 1).problems(1, LAST).size());
    }

    @Test
    void noticesContentThatChangedOnTheWay() {
        Attempts attempts = attempts(1, 2);
        attempts.received(VICTIM, LAST, "digest of something else");
        assertEquals(1, attempts.problems(1, LAST).size());
    }

    @Test
    void noticesAMessageNobodySent() {
        Attempts attempts = attempts(1, 2, LAST);
        attempts.received("foreign", 1, "digest");
        assertEquals(2, attempts.problems(1, LAST).size(), "unknown, and so is its content");
    }
}
