package qmq.e2e;

import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;

import qunar.tc.qmq.Message;
import qunar.tc.qmq.PullConsumer;
import qunar.tc.qmq.consumer.MessageConsumerProvider;

/**
 * A consumer with an identity of its own, in a JVM of its own. It prints {@code got KIND ID DIGEST} for what it is
 * handed and {@code acked ID}; it reads {@code ack ID} and {@code close}. It ends when its standard input does.
 */
public final class Worker {
    /** Consumes with a listener that acks by returning. */
    static final String LISTEN = "listen";
    /** Pulls, acks probes, and acks the rest when told to. */
    static final String PULL = "pull";

    private static final int PULL_MAX = 100;
    private static final long PULL_MS = 1_000;

    private final Map<String, Message> held = new ConcurrentHashMap<>();
    private final PrintStream out = new PrintStream(System.out, true, StandardCharsets.UTF_8);
    private final MessageConsumerProvider consumer;

    private Worker(String meta, String clientId) {
        consumer = Clients.consumer(meta, clientId);
    }

    /** Arguments: listen or pull, address of the metaserver, subject, consumer group, client id. */
    public static void main(String[] arguments) throws IOException {
        Worker worker = new Worker(arguments[1], arguments[4]);
        if (LISTEN.equals(arguments[0])) {
            worker.consumer.addListener(arguments[2], arguments[3], worker::print, Clients.handlers());
        } else {
            PullConsumer pulls = worker.consumer.getOrCreatePullConsumer(arguments[2], arguments[3], false);
            pulls.online();
            Thread loop = new Thread(() -> worker.pull(pulls), "pull");
            loop.setDaemon(true);
            loop.start();
        }
        worker.obey();
        // Threads of the client are left to themselves: whatever was to be confirmed has been.
        Runtime.getRuntime().halt(0);
    }

    private void pull(PullConsumer pulls) {
        while (true) {
            for (Message message : pulls.pull(PULL_MAX, PULL_MS)) {
                if (Sender.PROBE.equals(message.getStringProperty(Sender.KIND))) {
                    message.ack(0, null);
                } else {
                    held.put(message.getMessageId(), message);
                }
                print(message);
            }
        }
    }

    private void print(Message message) {
        out.println("got " + message.getStringProperty(Sender.KIND) + " " + message.getMessageId() + " "
                + Content.digest(message));
    }

    private void obey() throws IOException {
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            if (line.startsWith("ack ")) {
                String id = line.substring(4);
                held.remove(id).ack(0, null);
                out.println("acked " + id);
            } else if (line.equals("close")) {
                consumer.destroy();
                out.println("closed");
                return;
            }
        }
    }
}
