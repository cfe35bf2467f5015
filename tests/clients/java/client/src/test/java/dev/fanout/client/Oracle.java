package dev.fanout.client;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.DecimalNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import com.google.protobuf.ByteString;
import fanout.v1.PlanOuterClass.Counts;
import fanout.v1.RecordOuterClass.Disposition;
import fanout.v1.RecordOuterClass.MatchedBy;
import fanout.v1.RecordOuterClass.Record;
import fanout.v1.RecordOuterClass.RecordKind;
import fanout.v1.RecordOuterClass.TaskStatus;
import fanout.v1.RecordOuterClass.Warning;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Collection;
import java.util.EnumMap;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.function.BiConsumer;
import java.util.function.Function;

/**
 * A plan, in maps: what the documents say it does with records, the expectation of every receipt. Written from the
 * comments in proto/ and the rules for documents; it knows nothing of how the server does it.
 *
 * <p>Give it the records of a task in the order in which the server gets them.
 */
final class Oracle {
    /** The server's limits: bytes, bytes, levels, tasks. */
    static final int BODY_BYTES_MAX = 1 << 20;
    static final int KEY_BYTES_MAX = 1_024;
    static final int JSON_DEPTH_MAX = 512;
    private static final int CANDIDATES_MAX = 16;

    /** The google.rpc.Code of each disposition. */
    static final Map<Disposition, Integer> CODES = Map.of(
            Disposition.DISPOSITION_ACCEPTED, 0,
            Disposition.DISPOSITION_DUPLICATE, 0,
            Disposition.DISPOSITION_SUPERSEDED_PREVIOUS, 0,
            Disposition.DISPOSITION_UNMATCHED, 5,
            Disposition.DISPOSITION_AMBIGUOUS, 9,
            Disposition.DISPOSITION_LATE, 9,
            Disposition.DISPOSITION_INVALID, 3,
            Disposition.DISPOSITION_TOO_LARGE, 3);

    /** A text of a record that may stand in a typed field or in the body. */
    enum TextField {
        ID("id", Record::getId, Record.Builder::setId),
        TASK_ID("task_id", Record::getTaskId, Record.Builder::setTaskId),
        SESSION("sandbox_session_id", Record::getSandboxSessionId, Record.Builder::setSandboxSessionId),
        GROUP_KEY("group_key", Record::getGroupKey, Record.Builder::setGroupKey),
        STATUS("status", Record::getStatus, Record.Builder::setStatus);

        final String member;
        final Function<Record, String> of;
        final BiConsumer<Record.Builder, String> set;

        TextField(String member, Function<Record, String> of, BiConsumer<Record.Builder, String> set) {
            this.member = member;
            this.of = of;
            this.set = set;
        }
    }

    /** The fields by which a record is matched, in the order in which they are tried. */
    enum Key {
        TASK_ID(TextField.TASK_ID, MatchedBy.MATCHED_BY_TASK_ID),
        ID(TextField.ID, MatchedBy.MATCHED_BY_ID),
        SESSION(TextField.SESSION, MatchedBy.MATCHED_BY_SANDBOX_SESSION_ID),
        GROUP_KEY(TextField.GROUP_KEY, MatchedBy.MATCHED_BY_GROUP_KEY);

        final TextField field;
        final MatchedBy by;

        Key(TextField field, MatchedBy by) {
            this.field = field;
            this.by = by;
        }
    }

    /** The coordinator's words. */
    private static final Map<String, TaskStatus> HOST_STATUSES = Map.of(
            "completed", TaskStatus.TASK_STATUS_COMPLETED,
            "failed", TaskStatus.TASK_STATUS_FAILED,
            "missing_record", TaskStatus.TASK_STATUS_MISSING_RECORD);

    /** An executor's words for completed. */
    private static final Set<String> DONE_WORDS =
            Set.of("completed", "succeeded", "no_op", "success", "passed", "accepted");

    /** What is wrong with a record. The field is the record's, without its place in the message. */
    record Violation(String field, String reason, long limit) {}

    /**
     * What a receipt says of its record, but for what the server numbers.
     *
     * @param record the reconciled record; null if the receipt has none
     * @param warnings in ascending order
     * @param violation null if there is none
     */
    record Fact(
            Disposition disposition, String taskId, MatchedBy matchedBy, int revision, TaskStatus status,
            boolean successful, JsonNode record, List<Warning> warnings, List<String> candidates,
            Violation violation) {}

    /** What a receipt must say. */
    static final class Expected {
        final Record record;
        final Disposition disposition;
        String taskId = "";
        MatchedBy matchedBy = MatchedBy.MATCHED_BY_UNSPECIFIED;
        int revision;
        TaskStatus status = TaskStatus.TASK_STATUS_UNSPECIFIED;
        boolean isSuccessful;
        final List<Warning> warnings = new ArrayList<>();
        final List<String> candidates = new ArrayList<>();
        Violation violation;
        /** The record as reconciled, if it is a result that was applied; else null. */
        ObjectNode document;
        /** With DUPLICATE: the expectation of what it repeats; null if no event stands behind it. */
        Expected original;
        /** Filled in from the receipt. */
        long sequence;
        long quarantineId;

        private Expected(Record record, Disposition disposition) {
            this.record = record;
            this.disposition = disposition;
        }

        Fact fact() {
            return new Fact(disposition, taskId, matchedBy, revision, status, isSuccessful, document, warnings,
                    candidates, violation);
        }

        boolean isApplied() {
            return disposition == Disposition.DISPOSITION_ACCEPTED
                    || disposition == Disposition.DISPOSITION_SUPERSEDED_PREVIOUS;
        }

        boolean isQuarantined() {
            return disposition == Disposition.DISPOSITION_UNMATCHED
                    || disposition == Disposition.DISPOSITION_AMBIGUOUS
                    || disposition == Disposition.DISPOSITION_LATE;
        }

        boolean isResult() {
            return Oracle.isResult(record);
        }
    }

    /** One task of a plan. */
    static final class PlannedTask {
        final int position;
        /** Its identity, and another name of it. */
        final String taskId;
        final String id;
        final String groupKey;
        /** The session its task request names; may be empty. */
        final String session;
        /** The expectations of its record, and of the last sign of life before that; null if there is none. */
        Expected held;
        Expected alive;

        PlannedTask(int position, String taskId, String id, String groupKey, String session) {
            this.position = position;
            this.taskId = taskId;
            this.id = id;
            this.groupKey = groupKey;
            this.session = session;
        }
    }

    /** The tasks of each name, in plan order. */
    private static final class Index {
        private final Map<String, TreeMap<Integer, PlannedTask>> tasks = new HashMap<>();

        void add(String name, PlannedTask task) {
            if (!name.isEmpty()) {
                tasks.computeIfAbsent(name, none -> new TreeMap<>()).put(task.position, task);
            }
        }

        List<PlannedTask> get(String name) {
            return List.copyOf(tasks.getOrDefault(name, new TreeMap<>()).values());
        }
    }

    /** A record that is INVALID or TOO_LARGE. */
    private static final class Refused extends Exception {
        private static final long serialVersionUID = 1;
        private final Disposition disposition;
        private final transient Violation violation;

        Refused(Disposition disposition, String field, String reason, int limit) {
            this.disposition = disposition;
            this.violation = new Violation(field, reason, limit);
        }

        static Refused invalid(String field, String reason) {
            return new Refused(Disposition.DISPOSITION_INVALID, field, reason, 0);
        }

        static Refused tooLarge(String field, String reason, int limit) {
            return new Refused(Disposition.DISPOSITION_TOO_LARGE, field, reason, limit);
        }
    }

    final List<PlannedTask> tasks;
    boolean hasEnded;
    int quarantined;
    private final Map<String, PlannedTask> identities = new HashMap<>();
    private final Index names = new Index();
    private final Index sessions = new Index();
    private final Index groupKeys = new Index();

    Oracle(List<PlannedTask> tasks) {
        this.tasks = tasks;
        for (PlannedTask task : tasks) {
            identities.put(task.taskId, task);
            names.add(task.taskId, task);
            names.add(task.id, task);
            names.add(task.session, task);
            groupKeys.add(task.groupKey, task);
        }
    }

    /** Says what becomes of a record. */
    Expected receive(Record record) {
        ObjectNode body;
        try {
            body = read(record);
        } catch (Refused refused) {
            Expected expected = new Expected(record, refused.disposition);
            expected.violation = refused.violation;
            return expected;
        }
        Map<TextField, String> texts = new EnumMap<>(TextField.class);
        for (TextField field : TextField.values()) {
            texts.put(field, textOf(record, field, body));
        }
        Match match = match(texts);
        if (match.task == null) {
            return quarantine(record, match.several);
        }
        PlannedTask task = match.task;
        Expected expected = isResult(record) ? result(record, body, texts, task) : signOfLife(record, task);
        expected.taskId = task.taskId;
        expected.matchedBy = match.by;
        if (task.held != null) {
            expected.revision = task.held.revision;
            expected.status = task.held.status;
            expected.isSuccessful = task.held.isSuccessful;
        }
        for (Key key : Key.values()) {
            List<PlannedTask> named = named(key, texts.get(key.field));
            if (named.size() == 1 && named.get(0) != task) {
                expected.warnings.add(Warning.WARNING_KEYS_DISAGREE);
                break;
            }
        }
        for (TextField field : TextField.values()) {
            String typed = field.of.apply(record);
            JsonNode inBody = body.get(field.member);
            if (inBody != null && !typed.isEmpty() && !inBody.equals(Json.MAKE.textNode(typed))) {
                expected.warnings.add(Warning.WARNING_FIELD_IN_BODY_IGNORED);
                break;
            }
        }
        if (match.by != MatchedBy.MATCHED_BY_SANDBOX_SESSION_ID && !hasEnded) {
            sessions.add(texts.get(TextField.SESSION), task);
        }
        return expected;
    }

    /** The task that a record is for, and by which field; else the tasks that the first key with any names. */
    private record Match(PlannedTask task, MatchedBy by, List<PlannedTask> several) {}

    private Match match(Map<TextField, String> texts) {
        for (Key key : List.of(Key.TASK_ID, Key.ID, Key.GROUP_KEY)) {
            String identity = texts.get(key.field);
            if (identity.isEmpty()) {
                continue;
            }
            if (identities.containsKey(identity)) {
                return new Match(identities.get(identity), key.by, List.of());
            }
            break;
        }
        List<PlannedTask> several = List.of();
        for (Key key : Key.values()) {
            List<PlannedTask> named = named(key, texts.get(key.field));
            if (named.size() == 1) {
                return new Match(named.get(0), key.by, List.of());
            }
            if (several.isEmpty()) {
                several = named;
            }
        }
        return new Match(null, MatchedBy.MATCHED_BY_UNSPECIFIED, several);
    }

    /** The tasks that a key names, in plan order. */
    private List<PlannedTask> named(Key key, String name) {
        if (name.isEmpty()) {
            return List.of();
        }
        if (key == Key.GROUP_KEY) {
            return groupKeys.get(name);
        }
        List<PlannedTask> named = names.get(name);
        return named.isEmpty() && key == Key.SESSION ? sessions.get(name) : named;
    }

    private Expected quarantine(Record record, List<PlannedTask> candidates) {
        quarantined++;
        Expected expected = new Expected(record,
                candidates.isEmpty() ? Disposition.DISPOSITION_UNMATCHED : Disposition.DISPOSITION_AMBIGUOUS);
        candidates.stream().limit(CANDIDATES_MAX).forEach(task -> expected.candidates.add(task.taskId));
        return expected;
    }

    private Expected result(Record record, ObjectNode body, Map<TextField, String> texts, PlannedTask task) {
        ObjectNode document = merged(record, body);
        String status = hostStatus(document, texts.get(TextField.STATUS));
        document.put("status", status);
        if (task.held != null && canonical(task.held.document).equals(canonical(document))) {
            Expected duplicate = new Expected(record, Disposition.DISPOSITION_DUPLICATE);
            duplicate.original = task.held;
            return duplicate;
        }
        if (hasEnded) {
            quarantined++;
            return new Expected(record, Disposition.DISPOSITION_LATE);
        }
        Expected expected = new Expected(record, task.held == null
                ? Disposition.DISPOSITION_ACCEPTED : Disposition.DISPOSITION_SUPERSEDED_PREVIOUS);
        expected.document = document;
        expected.revision = task.held == null ? 1 : task.held.revision + 1;
        expected.status = HOST_STATUSES.get(status);
        expected.isSuccessful = isTrue(document.get("success")) || status.equals("completed");
        task.held = expected;
        task.alive = null;
        return expected;
    }

    /** STARTED and PROGRESS. STARTED tells nothing new of a task that is under way. */
    private Expected signOfLife(Record record, PlannedTask task) {
        boolean isStarted = record.getKind() == RecordKind.RECORD_KIND_STARTED;
        boolean isRepeated = task.alive != null && (isStarted || task.alive.record.equals(record));
        if (task.held != null || isRepeated) {
            Expected duplicate = new Expected(record, Disposition.DISPOSITION_DUPLICATE);
            // The sign of life is forgotten with the record: then no event stands behind it.
            duplicate.original = task.alive;
            return duplicate;
        }
        if (hasEnded) {
            quarantined++;
            return new Expected(record, Disposition.DISPOSITION_LATE);
        }
        task.alive = new Expected(record, Disposition.DISPOSITION_ACCEPTED);
        return task.alive;
    }

    /** The plan's counts, but for {@code items} and {@code groups}. */
    Counts counts() {
        int successful = 0;
        int failed = 0;
        int running = 0;
        int outcomes = 0;
        for (PlannedTask task : tasks) {
            if (task.held != null) {
                successful += task.held.isSuccessful ? 1 : 0;
                failed += task.held.isSuccessful ? 0 : 1;
                outcomes += isPresent(task.held.document.get("outcome")) ? 1 : 0;
            }
            running += task.alive == null ? 0 : 1;
        }
        return Counts.newBuilder()
                .setTasks(tasks.size())
                .setRecorded(successful + failed)
                .setSuccessful(successful)
                .setFailed(failed)
                .setMissing(tasks.size() - successful - failed)
                .setRunning(running)
                .setOutcomes(outcomes)
                .setQuarantined(quarantined)
                .build();
    }

    /**
     * The members {@code records}, {@code outcomes}, {@code reconciliation} (but for its schema) and {@code status} of
     * the result document.
     */
    ObjectNode resultDocument() {
        ObjectNode result = Json.MAKE.objectNode();
        ArrayNode records = result.putArray("records");
        ArrayNode outcomes = result.putArray("outcomes");
        ObjectNode reconciliation = result.putObject("reconciliation");
        ArrayNode failed = Json.MAKE.arrayNode();
        for (PlannedTask task : tasks) {
            if (task.held == null) {
                records.addObject()
                        .put("id", task.taskId).put("group_key", task.groupKey).put("status", "missing_record");
            } else {
                records.add(task.held.document);
                if (isPresent(task.held.document.get("outcome"))) {
                    outcomes.add(task.held.document.get("outcome"));
                }
            }
            if (task.held == null || !task.held.isSuccessful) {
                failed.add(task.taskId);
            }
        }
        reconciliation.put("group_count", tasks.size())
                .put("task_count", tasks.size())
                .put("record_count", tasks.size())
                .put("success_count", tasks.size() - failed.size())
                .put("failure_count", failed.size())
                .put("outcome_count", outcomes.size())
                .set("failed_task_ids", failed);
        String ended = failed.isEmpty() ? "completed" : "failed";
        return result.put("status", hasEnded ? ended : "incomplete");
    }

    /** The body of a record that was read before, with its typed fields. */
    static ObjectNode merged(Record record) {
        try {
            return merged(record, read(record));
        } catch (Refused refused) {
            throw new IllegalArgumentException("a record that can be read is needed", refused);
        }
    }

    private static ObjectNode merged(Record record, ObjectNode body) {
        ObjectNode merged = body.deepCopy();
        for (TextField field : TextField.values()) {
            String typed = field.of.apply(record);
            if (!typed.isEmpty()) {
                merged.put(field.member, typed);
            }
        }
        if (record.hasSuccess()) {
            merged.put("success", record.getSuccess());
        }
        return merged;
    }

    private static boolean isResult(Record record) {
        return record.getKind() == RecordKind.RECORD_KIND_UNSPECIFIED
                || record.getKind() == RecordKind.RECORD_KIND_RESULT;
    }

    /** A text of a record, the typed one if there is one. */
    private static String textOf(Record record, TextField field, ObjectNode body) {
        String typed = field.of.apply(record);
        return typed.isEmpty() ? textual(body.path(field.member)) : typed;
    }

    /** A text; empty if the value is another one. */
    private static String textual(JsonNode value) {
        return value.isTextual() ? value.textValue() : "";
    }

    /** Whether a value counts as given. Empty lists and objects do. */
    private static boolean isPresent(JsonNode value) {
        if (value == null || value.isNull()) {
            return false;
        }
        if (value.isTextual()) {
            return !value.textValue().isEmpty();
        }
        return value.isNumber() ? value.decimalValue().signum() != 0 : value.isContainerNode() || value.booleanValue();
    }

    private static boolean isTrue(JsonNode value) {
        return value != null && value.isBoolean() && value.booleanValue();
    }

    /** The coordinator's word for a record's own ones. */
    private static String hostStatus(ObjectNode document, String own) {
        if (HOST_STATUSES.containsKey(own)) {
            return own;
        }
        boolean isDone = isTrue(document.get("success"))
                || DONE_WORDS.contains(own)
                || DONE_WORDS.contains(textual(document.path("outcome").path("status")));
        return isDone ? "completed" : "failed";
    }

    /** A value whose equal ones are the same content: 1, 1.0 and 10e-1 are one number. */
    private static JsonNode canonical(JsonNode value) {
        if (value.isNumber()) {
            return DecimalNode.valueOf(value.decimalValue().stripTrailingZeros());
        }
        if (value instanceof ArrayNode list) {
            ArrayNode copy = Json.MAKE.arrayNode();
            list.forEach(part -> copy.add(canonical(part)));
            return copy;
        }
        if (value instanceof ObjectNode object) {
            ObjectNode copy = Json.MAKE.objectNode();
            object.properties().forEach(member -> copy.set(member.getKey(), canonical(member.getValue())));
            return copy;
        }
        return value;
    }

    /** A record's body. */
    private static ObjectNode read(Record record) throws Refused {
        if (record.getKind() == RecordKind.UNRECOGNIZED) {
            throw Refused.invalid("kind", "UNKNOWN_ENUM_VALUE");
        }
        if (record.getBody().size() > BODY_BYTES_MAX) {
            throw Refused.tooLarge("body", "BODY_TOO_LARGE", BODY_BYTES_MAX);
        }
        ByteString text = record.getBody().isEmpty() ? ByteString.copyFromUtf8("{}") : record.getBody();
        JsonNode value = Json.read(text).orElseThrow(() -> Refused.invalid("body", "INVALID_JSON"));
        if (depth(List.of(value)) > JSON_DEPTH_MAX) {
            throw Refused.tooLarge("body", "JSON_LIMIT_EXCEEDED", JSON_DEPTH_MAX);
        }
        if (!(value instanceof ObjectNode body)) {
            throw Refused.invalid("body", "INVALID_JSON");
        }
        for (TextField field : TextField.values()) {
            String known = textOf(record, field, body);
            if (known.getBytes(StandardCharsets.UTF_8).length > KEY_BYTES_MAX) {
                throw Refused.tooLarge(field.member, "KEY_TOO_LONG", KEY_BYTES_MAX);
            }
            if (known.indexOf('\0') >= 0) {
                throw Refused.invalid(field.member, "INVALID_TEXT");
            }
        }
        return body;
    }

    /** How deep lists and objects are nested in these values. */
    private static int depth(Collection<JsonNode> values) {
        int levels = 0;
        List<JsonNode> level = containers(values);
        while (!level.isEmpty()) {
            levels++;
            List<JsonNode> next = new ArrayList<>();
            level.forEach(value -> value.forEach(next::add));
            level = containers(next);
        }
        return levels;
    }

    private static List<JsonNode> containers(Collection<JsonNode> values) {
        return values.stream().filter(JsonNode::isContainerNode).toList();
    }
}
