package qmq.e2e;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;

import java.util.List;

import org.junit.jupiter.api.Test;

/** Who sends to a name that no subject can have is told so, at once, and sends on. */
@Scenario
class IllegalSubjectTest {
    private static final int ROUNDS = 3;
    /** Passes the client, which counts 100 characters: too long in bytes. */
    private static final String LONG = "题".repeat(100);

    @Test
    void theProducerIsToldAndSendsOn() throws Exception {
        // More of them than the client has threads that send.
        for (int round = 1; round <= ROUNDS; round++) {
            for (String subject : List.of("e2e/slash", "e2e space", "e2e\nline", "..", "%RETRY%e2e", LONG)) {
                Answer answer = Answer.to(Clients.producer().generateMessage(subject));
                assertEquals(1, answer.failures(), subject);
                assertEquals(0, answer.successes(), subject);
                assertEquals(round, Meters.count("qmq_client_send_msg_count", subject), "one attempt each");
            }
        }
        Answer legal = Answer.to(Clients.producer().generateMessage(Clients.unique("legal")));
        assertEquals(1, legal.successes());
    }

    @Test
    void theClientItselfRefusesALongName() {
        assertThrows(IllegalArgumentException.class, () -> Clients.producer().generateMessage("e".repeat(101)));
    }
}
