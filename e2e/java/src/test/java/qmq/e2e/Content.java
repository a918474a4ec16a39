package qmq.e2e;

import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.Arrays;
import java.util.Date;
import java.util.HexFormat;
import java.util.Random;
import java.util.TreeSet;

import qunar.tc.qmq.Message;

/** Content of every kind the client offers, made from a number, and the digest of what arrived. */
final class Content {
    private static final String LETTERS = "abcdefghijklmnopqrstuvwxyz ÄÖÜäöüß 消息队列\n\t=%:\u0000";
    /** Takes two UTF-16 units: the client spoils one that stands where it splits a large string. */
    private static final String ROCKET = "\uD83D\uDE80";
    /** Above the 8 192 characters of one part, so that the client splits it. */
    private static final int LARGE_CHARACTERS = 30_000;

    private Content() {
    }

    /** Fills a message with the content of this number. */
    static void fill(Message message, int number) {
        Random random = new Random(number);
        message.setProperty("number", number);
        message.setProperty("text", ROCKET + text(random, random.nextInt(600)) + ROCKET);
        message.setProperty("long", random.nextLong());
        message.setProperty("double", random.nextDouble());
        message.setProperty("float", random.nextFloat());
        message.setProperty("flag", random.nextBoolean());
        message.setProperty("date", new Date(random.nextInt(Integer.MAX_VALUE)));
        message.setLargeString("large", text(random, number % 100 == 0 ? LARGE_CHARACTERS : 20));
        if (number % 3 == 0) {
            message.addTag("third");
            message.addTag("größe-" + number % 7);
        }
    }

    /** A digest of everything {@link #fill} set, read through the getters an application uses. */
    static String digest(Message message) {
        Date date = message.getDateProperty("date");
        String all = String.join("|",
                message.getStringProperty("number"),
                message.getStringProperty("text"),
                Long.toString(message.getLongProperty("long")),
                Double.toString(message.getDoubleProperty("double")),
                Float.toString(message.getFloatProperty("float")),
                Boolean.toString(message.getBooleanProperty("flag")),
                date == null ? "no date" : Long.toString(date.getTime()),
                message.getLargeString("large"),
                new TreeSet<>(message.getTags()).toString());
        try {
            byte[] hash = MessageDigest.getInstance("SHA-256").digest(all.getBytes(StandardCharsets.UTF_8));
            return HexFormat.of().formatHex(hash, 0, 16);
        } catch (NoSuchAlgorithmException error) {
            throw new IllegalStateException("every JDK has SHA-256", error);
        }
    }

    private static String text(Random random, int characters) {
        StringBuilder text = new StringBuilder(characters);
        int[] letters = LETTERS.codePoints().toArray();
        // The client cuts a large string every 8 192 characters, also through the middle of one
        // that Java holds as two, and so destroys it: large strings have none of those.
        int[] usable = characters < LARGE_CHARACTERS
                ? letters
                : Arrays.stream(letters).filter(Character::isBmpCodePoint).toArray();
        for (int i = 0; i < characters; i++) {
            text.appendCodePoint(usable[random.nextInt(usable.length)]);
        }
        return text.toString();
    }
}
