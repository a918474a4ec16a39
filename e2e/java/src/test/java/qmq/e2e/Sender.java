package qmq.e2e;

import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.Semaphore;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.Consumer;
import java.util.function.Predicate;

import qunar.tc.qmq.Message;
import qunar.tc.qmq.MessageSendStateListener;

/** Sends messages with a bound on the unanswered ones and notes in every tally what became of them. */
final class Sender {
    /** Property that tells probes from what is counted. */
    static final String KIND = "kind";
    static final String DATA = "data";
    static final String PROBE = "probe";

    /** Well below the 10 000 messages at which the client begins to drop. */
    private static final int UNANSWERED_MAX = 2_000;
    /** A client that lost its metaserver needs up to two minutes to find another one. */
    private static final Duration ANSWER_MAX = Duration.ofSeconds(240);

    private final String subject;
    private final List<Recipient> recipients = new ArrayList<>();
    private final Semaphore room = new Semaphore(UNANSWERED_MAX);
    private final AtomicInteger confirmed = new AtomicInteger();
    private final AtomicInteger failed = new AtomicInteger();

    /** A subscription and which messages it is to be handed. */
    private record Recipient(Tally tally, Predicate<Message> wants) {
        void sent(Message message, String digest) {
            if (wants.test(message)) {
                tally.sent(message.getMessageId(), digest);
            } else {
                tally.withheld(message.getMessageId());
            }
        }

        void confirmed(Message message) {
            if (wants.test(message)) {
                tally.confirmed(message.getMessageId());
            }
        }
    }

    /** Each of these is to be handed everything. */
    Sender(String subject, Tally... tallies) {
        this.subject = subject;
        for (Tally tally : tallies) {
            to(tally, message -> true);
        }
    }

    /** This one is to be handed some messages and none of the others. */
    Sender to(Tally tally, Predicate<Message> wants) {
        recipients.add(new Recipient(tally, wants));
        return this;
    }

    /** Sends the message of this number as soon as there is room. */
    void send(int number) throws InterruptedException {
        send(number, message -> { });
    }

    /** Sends the message of this number, with something added to it. */
    void send(int number, Consumer<Message> more) throws InterruptedException {
        acquire(1);
        Message message = Clients.producer().generateMessage(subject);
        message.setProperty(KIND, DATA);
        Content.fill(message, number);
        more.accept(message);
        String digest = Content.digest(message);
        recipients.forEach(recipient -> recipient.sent(message, digest));
        Clients.producer().sendMessage(message, new MessageSendStateListener() {
            @Override
            public void onSuccess(Message answered) {
                recipients.forEach(recipient -> recipient.confirmed(answered));
                confirmed.incrementAndGet();
                room.release();
            }

            @Override
            public void onFailed(Message answered) {
                failed.incrementAndGet();
                room.release();
            }
        });
    }

    /** Sends the messages of these numbers and waits for the answers. */
    void sendAll(int begin, int end) throws InterruptedException {
        for (int number = begin; number < end; number++) {
            send(number);
        }
        awaitAnswers();
    }

    /** Waits until every message was confirmed or failed. */
    void awaitAnswers() throws InterruptedException {
        acquire(UNANSWERED_MAX);
        room.release(UNANSWERED_MAX);
    }

    int confirmed() {
        return confirmed.get();
    }

    int failed() {
        return failed.get();
    }

    private void acquire(int count) throws InterruptedException {
        if (!room.tryAcquire(count, ANSWER_MAX.toSeconds(), TimeUnit.SECONDS)) {
            throw new AssertionError("no answer to a send within " + ANSWER_MAX.toSeconds() + " s; confirmed "
                    + confirmed + ", failed " + failed);
        }
    }
}
