package dev.fanout.client;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import com.google.protobuf.ByteString;
import dev.fanout.client.Oracle.Expected;
import dev.fanout.client.Oracle.PlannedTask;
import dev.fanout.client.Oracle.TextField;
import fanout.v1.RecordOuterClass.Record;
import fanout.v1.RecordOuterClass.RecordKind;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Collections;
import java.util.EnumMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.function.Supplier;
import java.util.stream.Collectors;

/**
 * What one stream sends: records of its own tasks in every form there is, drawn from a seed, and the expectations of
 * their receipts.
 */
final class Script {
    /** What executors call how it went. */
    private static final List<String> WORDS = List.of(
            "completed", "success", "succeeded", "passed", "accepted", "no_op", "failed", "error", "crashed", "");

    /** Outcomes of every type. */
    private static final List<JsonNode> OUTCOMES = List.of(
            Json.MAKE.numberNode(0), Json.MAKE.textNode(""), Json.MAKE.booleanNode(false), Json.MAKE.nullNode(),
            Json.MAKE.arrayNode(), Json.MAKE.objectNode(), Json.MAKE.textNode("é\u2028\"\\"),
            Json.MAKE.arrayNode().add(1.5).add("two").add(-30),
            Json.MAKE.objectNode().put("status", "passed"), Json.MAKE.objectNode().put("status", "lost"));

    /** Bodies that are no JSON objects; one more is no UTF-8. */
    private static final List<String> NO_OBJECTS =
            List.of("{", "[]", "7", "{\"a\":1}x", "{'a':1}", "{\"a\":01}", "null");

    /** How a record is made, and how often compared with the others. */
    private record Form(int weight, Supplier<Record> make) {}

    private final List<Form> forms = List.of(
            new Form(20, this::byTaskId),
            new Form(15, this::byId),
            new Form(15, this::bySession),
            new Form(15, this::byGroupKey),
            new Form(6, this::started),
            new Form(8, this::progress),
            new Form(15, this::again),
            new Form(8, this::againSpeltAnotherWay),
            new Form(3, this::inTwoPlaces),
            new Form(3, this::withKeysThatDisagree),
            new Form(4, this::stray),
            new Form(4, this::broken));

    private final Oracle oracle;
    private final List<PlannedTask> tasks;
    private final Random draw;
    private final int number;
    private int serial;
    /** The expectations of all records so far. */
    final List<Expected> steps = new ArrayList<>();
    /** Sessions that task requests name, and those that records of this stream have named. */
    private final List<String> plannedSessions;
    private final List<String> sessions = new ArrayList<>();

    /** @param tasks the stream's own ones, at least one of which has a session */
    Script(Oracle oracle, List<PlannedTask> tasks, long seed, int number) {
        this.oracle = oracle;
        this.tasks = tasks;
        this.draw = new Random(seed * 1_000 + number);
        this.number = number;
        this.plannedSessions = tasks.stream().map(task -> task.session).filter(session -> !session.isEmpty()).toList();
    }

    /** Adds so many records, and returns their expectations. */
    List<Expected> write(int length) {
        int total = forms.stream().mapToInt(Form::weight).sum();
        int before = steps.size();
        for (int n = 0; n < length; n++) {
            int roll = draw.nextInt(total);
            for (Form form : forms) {
                roll -= form.weight;
                if (roll < 0) {
                    add(form.make.get());
                    break;
                }
            }
        }
        return List.copyOf(steps.subList(before, steps.size()));
    }

    /** Adds two records: one of many bytes, one of many levels. */
    void writeHeavy() {
        add(Record.newBuilder().setId(anyTask().taskId)
                .setBody(ByteString.copyFromUtf8("{\"text\":\"" + "x".repeat(Oracle.BODY_BYTES_MAX) + "\"}")).build());
        String deep = "[".repeat(Oracle.JSON_DEPTH_MAX) + "]".repeat(Oracle.JSON_DEPTH_MAX);
        add(Record.newBuilder().setId(anyTask().taskId)
                .setBody(ByteString.copyFromUtf8("{\"deep\":" + deep + "}")).build());
    }

    private void add(Record record) {
        steps.add(oracle.receive(record));
    }

    /** Cuts expectations into messages of one record and of up to 50. */
    List<List<Expected>> messages(List<Expected> expectations) {
        List<List<Expected>> messages = new ArrayList<>();
        for (int from = 0; from < expectations.size(); ) {
            int size = draw.nextInt(4) == 0 ? 2 + draw.nextInt(49) : 1;
            int to = Math.min(expectations.size(), from + size);
            messages.add(expectations.subList(from, to));
            from = to;
        }
        return messages;
    }

    private PlannedTask anyTask() {
        return pick(tasks);
    }

    private <T> T pick(List<T> from) {
        return from.get(draw.nextInt(from.size()));
    }

    private boolean chance(double of) {
        return draw.nextDouble() < of;
    }

    /** A text that no other record has. */
    private String fresh(String prefix) {
        serial++;
        return prefix + "-" + number + "-" + serial;
    }

    /** Most often none; else a new one, or one that was named before, maybe for another task. */
    private String session() {
        if (chance(0.5)) {
            return "";
        }
        if (chance(0.8) || sessions.isEmpty()) {
            sessions.add(fresh("session"));
            return sessions.get(sessions.size() - 1);
        }
        return pick(sessions);
    }

    /** A record with these texts, each as a typed field or in the body, and that body. */
    private record Draft(Record.Builder record, ObjectNode body) {
        Record done() {
            return record.setBody(Json.text(body)).build();
        }
    }

    private Draft draft(Map<TextField, String> texts) {
        Draft draft = new Draft(Record.newBuilder(), Json.MAKE.objectNode().put("note", fresh("note")));
        for (TextField field : TextField.values()) {
            String text = texts.getOrDefault(field, "");
            if (text.isEmpty()) {
                continue;
            }
            if (chance(0.5)) {
                field.set.accept(draft.record, text);
            } else {
                draft.body.put(field.member, text);
            }
        }
        return draft;
    }

    private Draft result(Map<TextField, String> keys) {
        Map<TextField, String> texts = new EnumMap<>(TextField.class);
        texts.putAll(keys);
        texts.put(TextField.STATUS, pick(WORDS));
        Draft draft = draft(texts);
        if (chance(0.2)) {
            draft.record.setSuccess(chance(0.5));
        } else if (chance(0.1)) {
            draft.body.set("success", pick(List.of(Json.MAKE.booleanNode(true), Json.MAKE.booleanNode(false),
                    Json.MAKE.textNode("true"), Json.MAKE.numberNode(1))));
        }
        if (chance(0.5)) {
            draft.body.set("outcome", pick(OUTCOMES));
        }
        return draft;
    }

    private Record byTaskId() {
        PlannedTask task = anyTask();
        return result(Map.of(
                TextField.TASK_ID, pick(List.of(task.taskId, task.id)), TextField.SESSION, session())).done();
    }

    private Record byId() {
        PlannedTask task = anyTask();
        return result(Map.of(
                TextField.TASK_ID, pick(List.of("", "", fresh("unknown"))),
                TextField.ID, pick(List.of(task.taskId, task.id)),
                TextField.SESSION, session())).done();
    }

    private Record bySession() {
        List<String> from = !sessions.isEmpty() && chance(0.8) ? sessions : plannedSessions;
        return result(Map.of(
                TextField.ID, pick(List.of("", fresh("run"))), TextField.SESSION, pick(from))).done();
    }

    /** Ambiguous for the tasks that share their key. */
    private Record byGroupKey() {
        return result(Map.of(
                TextField.ID, pick(List.of("", fresh("run"))), TextField.GROUP_KEY, anyTask().groupKey)).done();
    }

    private Record started() {
        Draft draft = draft(Map.of(TextField.TASK_ID, anyTask().taskId, TextField.SESSION, session()));
        draft.record.setKind(RecordKind.RECORD_KIND_STARTED);
        return draft.done();
    }

    private Record progress() {
        Draft draft = draft(Map.of(TextField.ID, anyTask().taskId, TextField.SESSION, session()));
        draft.record.setKind(RecordKind.RECORD_KIND_PROGRESS);
        return draft.done();
    }

    /** What a task has, once more and unchanged. */
    private Record again() {
        for (int tries = 0; tries < 20; tries++) {
            PlannedTask task = anyTask();
            if (task.held != null) {
                return task.held.record;
            }
            if (task.alive != null) {
                return task.alive.record;
            }
        }
        return byTaskId();
    }

    /**
     * The record that a task has once more, with its typed fields in the body, whose members are in another order and
     * whose numbers are spelt and whose parts are laid out another way.
     */
    private Record againSpeltAnotherWay() {
        for (int tries = 0; tries < 20; tries++) {
            PlannedTask task = anyTask();
            if (task.held != null) {
                return Record.newBuilder().setBody(
                        ByteString.copyFromUtf8(spelt(Oracle.merged(task.held.record)))).build();
            }
        }
        return byTaskId();
    }

    /** A value as JSON in a layout, an order and a spelling that are drawn. */
    private String spelt(JsonNode value) {
        String gap = pick(List.of("", " ", "\n\t"));
        if (value instanceof ObjectNode object) {
            List<String> members = object.properties().stream()
                    .map(member -> spelt(Json.MAKE.textNode(member.getKey())) + ":" + spelt(member.getValue()))
                    .collect(Collectors.toCollection(ArrayList::new));
            Collections.shuffle(members, draw);
            return gap + "{" + String.join(",", members) + "}" + gap;
        }
        if (value instanceof ArrayNode list) {
            List<String> parts = new ArrayList<>();
            list.forEach(part -> parts.add(spelt(part)));
            return gap + "[" + String.join(",", parts) + "]" + gap;
        }
        if (value.isNumber()) {
            String digits = value.asText();
            String more = digits.contains(".") ? "0" : pick(List.of("", ".0"));
            return gap + digits + pick(List.of("", more, more + "e0", more + "E+00")) + gap;
        }
        return gap + value + gap;
    }

    private Record inTwoPlaces() {
        Draft draft = result(Map.of());
        draft.record.setTaskId(anyTask().taskId);
        draft.body.put("task_id", pick(List.of(draft.record.getTaskId(), fresh("ignored"))));
        return draft.done();
    }

    private Record withKeysThatDisagree() {
        return result(Map.of(TextField.TASK_ID, anyTask().taskId, TextField.GROUP_KEY, anyTask().groupKey)).done();
    }

    private Record stray() {
        return result(Map.of(
                TextField.ID, pick(List.of("", fresh("stray"))),
                TextField.TASK_ID, pick(List.of("", fresh("stray"))),
                TextField.SESSION, pick(List.of("", fresh("stray"))),
                TextField.GROUP_KEY, pick(List.of("", fresh("stray"))))).done();
    }

    private Record broken() {
        Record.Builder record = byTaskId().toBuilder();
        switch (draw.nextInt(7)) {
            case 0 -> record.setBody(ByteString.copyFromUtf8(pick(NO_OBJECTS)));
            case 1 -> record.setBody(ByteString.copyFrom("{\"a\":\"\u00ff\"}", StandardCharsets.ISO_8859_1));
            case 2 -> record.setId("x".repeat(Oracle.KEY_BYTES_MAX + 1));
            case 3 -> record.setSandboxSessionId("a\0b");
            case 4 -> record.setKindValue(99);
            case 5 -> record.setStatus("é".repeat(Oracle.KEY_BYTES_MAX / 2 + 1));
            default -> record.setBody(Json.text(
                    Json.MAKE.objectNode().put("group_key", "y".repeat(Oracle.KEY_BYTES_MAX + 1))));
        }
        return record.build();
    }
}
