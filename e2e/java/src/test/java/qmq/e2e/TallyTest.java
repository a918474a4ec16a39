package qmq.e2e;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import org.junit.jupiter.api.Test;

/** Sabotage: whatever breaks the promise must be noticed. Needs no server. */
class TallyTest {
    private static final int MESSAGES = 1000;
    private static final int VICTIM = 517;

    private static String id(int number) {
        return "id-" + number;
    }

    private static Tally whole() {
        Tally tally = new Tally();
        for (int number = 0; number < MESSAGES; number++) {
            tally.sent(id(number), "digest-" + number);
            tally.confirmed(id(number));
        }
        return tally;
    }

    private static Tally receivedWithout(int victim) {
        Tally tally = whole();
        for (int number = 0; number < MESSAGES; number++) {
            if (number != victim) {
                tally.received(id(number), "digest-" + number);
            }
        }
        return tally;
    }

    @Test
    void acceptsAWholeRun() {
        Tally tally = receivedWithout(-1);
        assertTrue(tally.complete());
        assertEquals(0, tally.problemsExactlyOnce().size());
    }

    @Test
    void noticesOneLostMessageInAThousand() {
        Tally tally = receivedWithout(VICTIM);
        assertFalse(tally.complete());
        assertEquals(1, tally.problemsAtLeastOnce().size());
    }

    @Test
    void noticesAConfirmationBeforeTheWrite() {
        Tally tally = receivedWithout(-1);
        tally.sent("early", "digest");
        assertTrue(tally.complete(), "what was not confirmed may be lost");
        tally.confirmed("early");
        assertFalse(tally.complete());
        assertEquals(1, tally.problemsAtLeastOnce().size());
    }

    @Test
    void noticesChangedContent() {
        Tally tally = receivedWithout(VICTIM);
        tally.received(id(VICTIM), "digest-of-something-else");
        assertTrue(tally.complete());
        assertEquals(1, tally.problemsAtLeastOnce().size());
    }

    @Test
    void noticesAMessageNobodySent() {
        Tally tally = receivedWithout(-1);
        tally.received("foreign", "digest");
        assertEquals(1, tally.problemsAtLeastOnce().size());
    }

    @Test
    void noticesASecondDeliveryWhereThereMayBeNone() {
        Tally tally = receivedWithout(-1);
        tally.received(id(VICTIM), "digest-" + VICTIM);
        assertEquals(0, tally.problemsAtLeastOnce().size());
        assertEquals(1, tally.problemsExactlyOnce().size());
    }

    @Test
    void noticesAMessageThatAFilterShouldHaveHeldBack() {
        Tally tally = receivedWithout(-1);
        tally.withheld("filtered");
        assertTrue(tally.complete());
        assertEquals(0, tally.problemsExactlyOnce().size());
        tally.received("filtered", "digest");
        assertEquals(1, tally.problemsAtLeastOnce().size());
    }
}
