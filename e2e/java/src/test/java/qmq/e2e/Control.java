package qmq.e2e;

import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.net.Socket;
import java.nio.charset.StandardCharsets;

/** Asks the harness to kill and start servers; a command returns when it is done. */
final class Control {
    /** Longer than the harness itself waits for a broker. */
    private static final int ANSWER_MS = 180_000;

    private Control() {
    }

    /** {@code kill -9}; the process is gone on return. */
    static void killBroker() throws IOException {
        ask("kill-broker");
    }

    /** Starts it on the same port and files; it is ready on return. */
    static void startBroker() throws IOException {
        ask("start-broker");
    }

    /** {@code kill -9} for the first metaserver; the process is gone on return. */
    static void killMetaserver() throws IOException {
        ask("kill-metaserver");
    }

    /** Kills the metaserver's database; the metaserver has noticed on return. */
    static void stopDatabase() throws IOException {
        ask("stop-database");
    }

    /** Starts it with what it held; the metaserver has noticed on return. */
    static void startDatabase() throws IOException {
        ask("start-database");
    }

    private static void ask(String command) throws IOException {
        String[] address = Settings.control().split(":");
        try (Socket socket = new Socket(address[0], Integer.parseInt(address[1]))) {
            socket.setSoTimeout(ANSWER_MS);
            socket.getOutputStream().write((command + "\n").getBytes(StandardCharsets.UTF_8));
            String answer = new BufferedReader(
                    new InputStreamReader(socket.getInputStream(), StandardCharsets.UTF_8)).readLine();
            if (!"ok".equals(answer)) {
                throw new IOException(command + ": " + answer);
            }
        }
    }
}
