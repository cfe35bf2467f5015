package dev.fanout.executor;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import com.google.protobuf.ByteString;
import fanout.v1.PlanOuterClass.TaskRequest;
import fanout.v1.RecordOuterClass.Record;
import fanout.v1.RecordOuterClass.RecordKind;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.TreeMap;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** The work on one task. It is a stand-in: replace {@link #count}. */
final class Work {
    /** Letters, digits and underscores of any script. */
    private static final Pattern WORD = Pattern.compile("[\\p{L}\\p{M}\\p{N}_]+");

    private static final ObjectMapper JSON = new ObjectMapper();

    private Work() {}

    /** Takes records. */
    interface Records {
        /** Takes one, and may wait. */
        void send(Record record) throws RecordStream.Stopped, InterruptedException;
    }

    /** Takes a JSON object for each step that is done. */
    private interface Steps {
        void done(ObjectNode step) throws RecordStream.Stopped, InterruptedException;
    }

    /**
     * Works on one task and sends its records: STARTED, a PROGRESS after each step, the result. Whatever the work dies
     * of is this task's result.
     *
     * <p>The records name the task and the session. From the first one on the server knows the session, too.
     */
    static void perform(TaskRequest task, String session, Records records)
            throws RecordStream.Stopped, InterruptedException {
        Record.Builder record = Record.newBuilder().setTaskId(task.getTaskId()).setSandboxSessionId(session);
        records.send(record.clone().setKind(RecordKind.RECORD_KIND_STARTED).build());
        ObjectNode body = object();
        try {
            body.set("outcome", count(task.getDocument().toByteArray(), step -> records.send(
                    record.clone().setKind(RecordKind.RECORD_KIND_PROGRESS).setBody(text(step)).build())));
            record.setStatus("completed");
        } catch (RecordStream.Stopped | InterruptedException stopped) {
            throw stopped;
        } catch (Exception error) {
            body.put("error", error.toString());
            record.setStatus("failed");
        }
        records.send(record.setKind(RecordKind.RECORD_KIND_RESULT).setBody(text(body)).build());
    }

    /**
     * Counts the words in all texts of a task request, a JSON document.
     *
     * @return the number of words, the most frequent one, and the hash of the request: 64 hex digits
     */
    private static ObjectNode count(byte[] document, Steps steps)
            throws IOException, NoSuchAlgorithmException, RecordStream.Stopped, InterruptedException {
        List<String> texts = new ArrayList<>();
        collectTexts(JSON.readTree(document), texts);
        steps.done(object().put("step", "read").put("texts", texts.size()));

        int words = 0;
        Map<String, Integer> times = new TreeMap<>();
        for (String text : texts) {
            Matcher found = WORD.matcher(text.toLowerCase(Locale.ROOT));
            for (; found.find(); words++) {
                times.merge(found.group(), 1, Integer::sum);
            }
        }
        steps.done(object().put("step", "counted").put("words", words));

        // The first of the most frequent ones in the alphabet, so that the outcome depends on the request only.
        String common = "";
        for (String word : times.keySet()) {
            if (times.get(word) > times.getOrDefault(common, 0)) {
                common = word;
            }
        }
        byte[] hash = MessageDigest.getInstance("SHA-256").digest(document);
        return object().put("words", words).put("common", common).put("sha256", HexFormat.of().formatHex(hash));
    }

    /** Adds all strings of a JSON value, in order. */
    private static void collectTexts(JsonNode value, List<String> texts) {
        if (value.isTextual()) {
            texts.add(value.textValue());
        }
        for (JsonNode part : value) {
            collectTexts(part, texts);
        }
    }

    /** An empty JSON object. */
    static ObjectNode object() {
        return JsonNodeFactory.instance.objectNode();
    }

    /** JSON in UTF-8. */
    static ByteString text(JsonNode value) {
        try {
            return ByteString.copyFrom(JSON.writeValueAsString(value), StandardCharsets.UTF_8);
        } catch (JsonProcessingException impossible) {
            throw new AssertionError("a JSON value has a text", impossible);
        }
    }
}
