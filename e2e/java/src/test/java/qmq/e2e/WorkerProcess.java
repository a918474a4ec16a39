package qmq.e2e;

import java.io.BufferedReader;
import java.io.File;
import java.io.IOException;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.io.UncheckedIOException;
import java.io.Writer;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.TimeUnit;
import java.util.function.Consumer;

/** Starts a {@link Worker}, follows what it prints and ends it. */
final class WorkerProcess implements AutoCloseable {
    private static final Duration END_MAX = Duration.ofSeconds(120);

    private final Subscription subscription;
    private final Set<String> acked = ConcurrentHashMap.newKeySet();
    private final Process process;
    private final Writer commands;
    private volatile boolean closed;

    WorkerProcess(String mode, String subject, String group, String clientId, Subscription subscription)
            throws IOException {
        this.subscription = subscription;
        String classPath = System.getProperty("surefire.test.class.path", System.getProperty("java.class.path"));
        process = new ProcessBuilder(
                System.getProperty("java.home") + File.separator + "bin" + File.separator + "java",
                "-Xmx192m", "-XX:TieredStopAtLevel=1", "-cp", classPath, Worker.class.getName(),
                mode, Settings.meta(), subject, group, clientId).start();
        commands = process.outputWriter(StandardCharsets.UTF_8);
        follow(process.getInputStream(), this::printed);
        follow(process.getErrorStream(), line -> System.err.println(clientId + ": " + line));
    }

    Subscription subscription() {
        return subscription;
    }

    /** Acks one message that the worker holds, and waits until its client has taken the ack. */
    void ack(String id) throws IOException {
        command("ack " + id);
        Await.until("ack of " + id, END_MAX, () -> acked.contains(id), () -> subscription);
    }

    /** Ends the worker in an orderly way: what it acked has reached the broker. */
    void stop() throws IOException, InterruptedException {
        command("close");
        Await.until("orderly end of a worker", END_MAX, () -> closed, () -> subscription);
        ended();
    }

    /** Ends the worker as a crash would. */
    void kill() throws InterruptedException {
        process.destroyForcibly();
        ended();
    }

    @Override
    public void close() throws InterruptedException {
        kill();
    }

    private void ended() throws InterruptedException {
        if (!process.waitFor(END_MAX.toSeconds(), TimeUnit.SECONDS)) {
            throw new AssertionError("worker did not end within " + END_MAX.toSeconds() + " s");
        }
    }

    private void command(String line) throws IOException {
        commands.write(line + "\n");
        commands.flush();
    }

    private void printed(String line) {
        String[] words = line.split(" ");
        switch (words[0]) {
            case "got" -> subscription.received(words[1], words[2], words[3]);
            case "acked" -> acked.add(words[1]);
            case "closed" -> closed = true;
            default -> System.err.println("worker printed: " + line);
        }
    }

    private static void follow(InputStream stream, Consumer<String> lines) {
        Thread reader = new Thread(() -> {
            try (BufferedReader in = new BufferedReader(new InputStreamReader(stream, StandardCharsets.UTF_8))) {
                for (String line = in.readLine(); line != null; line = in.readLine()) {
                    lines.accept(line);
                }
            } catch (IOException error) {
                throw new UncheckedIOException(error);
            }
        }, "worker-output");
        reader.setDaemon(true);
        reader.start();
    }
}
