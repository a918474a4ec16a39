package qmq.e2e;

import java.util.UUID;
import java.util.concurrent.ArrayBlockingQueue;
import java.util.concurrent.Executor;
import java.util.concurrent.Executors;
import java.util.concurrent.ThreadPoolExecutor;
import java.util.concurrent.TimeUnit;

import qunar.tc.qmq.consumer.MessageConsumerProvider;
import qunar.tc.qmq.producer.MessageProducerProvider;

/** The one producer and the one consumer of this JVM: the client has process-wide state. */
final class Clients {
    private static final String APP_CODE = Settings.appCode();
    private static final String CLIENT_ID = Settings.clientId();
    /** Name of every thread that runs handlers. */
    static final String HANDLER_THREAD = "handler";
    private static final int HANDLER_THREADS = 4;
    private static final int HANDLER_QUEUE_MAX = 1_000;

    private static MessageProducerProvider producer;
    private static MessageConsumerProvider consumer;

    private Clients() {
    }

    static synchronized MessageProducerProvider producer() {
        if (producer == null) {
            producer = new MessageProducerProvider();
            producer.setAppCode(APP_CODE);
            producer.setMetaServer(Settings.meta());
            producer.setClientIdProvider(() -> CLIENT_ID);
            producer.setSendThreads(Settings.sendThreads());
            producer.init();
        }
        return producer;
    }

    static synchronized MessageConsumerProvider consumer() {
        if (consumer == null) {
            consumer = consumer(Settings.meta(), CLIENT_ID);
        }
        return consumer;
    }

    /** A consumer with an identity of its own; only one per JVM. */
    static MessageConsumerProvider consumer(String meta, String clientId) {
        MessageConsumerProvider consumer = new MessageConsumerProvider();
        consumer.setAppCode(APP_CODE);
        consumer.setMetaServer(meta);
        consumer.setClientIdProvider(() -> clientId);
        // How long destroy() waits until what was acked has been confirmed.
        consumer.setDestroyWaitInSeconds(5);
        consumer.init();
        return consumer;
    }

    /** Runs handlers; a full queue refuses, and the client holds messages back until there is room. */
    static Executor handlers() {
        return new ThreadPoolExecutor(HANDLER_THREADS, HANDLER_THREADS, 1, TimeUnit.MINUTES,
                new ArrayBlockingQueue<>(HANDLER_QUEUE_MAX), Clients::handlerThread);
    }

    /** Handlers on a number of threads of their own. */
    static Executor handlers(int threads) {
        return Executors.newFixedThreadPool(threads, Clients::handlerThread);
    }

    /** A name that no other test and no other run uses. */
    static String unique(String name) {
        return "e2e." + name + "." + UUID.randomUUID().toString().substring(0, 13);
    }

    private static Thread handlerThread(Runnable task) {
        Thread thread = new Thread(task, HANDLER_THREAD);
        thread.setDaemon(true);
        return thread;
    }
}
