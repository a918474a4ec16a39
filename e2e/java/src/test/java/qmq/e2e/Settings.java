package qmq.e2e;

import java.util.UUID;

/** What the harness that starts the servers hands over as system properties. */
final class Settings {
    private Settings() {
    }

    /** Address of the metaserver's {@code /meta/address}. */
    static String meta() {
        return required("qmq.meta");
    }

    /** {@code host:port} of the harness that kills and starts the broker. */
    static String control() {
        return required("qmq.control");
    }

    /** Threads with which the client sends; by default as many as the client itself takes. */
    static int sendThreads() {
        return Integer.getInteger("qmq.sendThreads", 3);
    }

    /** How the clients of this JVM call themselves. */
    static String clientId() {
        return System.getProperty("qmq.clientId", "e2e-" + UUID.randomUUID());
    }

    static String appCode() {
        return System.getProperty("qmq.appCode", "qmq-e2e");
    }

    private static String required(String key) {
        String value = System.getProperty(key, "");
        if (value.isEmpty()) {
            throw new IllegalStateException("pass -D" + key + ": these tests run against servers that a harness started");
        }
        return value;
    }
}
