package dev.fanout.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.fanout.client.Oracle.Expected;
import dev.fanout.client.Oracle.Fact;
import dev.fanout.client.Oracle.Key;
import dev.fanout.client.Oracle.PlannedTask;
import dev.fanout.client.Oracle.Violation;
import fanout.v1.FanoutServiceOuterClass.End;
import fanout.v1.FanoutServiceOuterClass.Progress;
import fanout.v1.FanoutServiceOuterClass.ReconcileRequest;
import fanout.v1.FanoutServiceOuterClass.ReconcileResponse;
import fanout.v1.FanoutServiceOuterClass.Result;
import fanout.v1.FanoutServiceOuterClass.WatchPlanRequest;
import fanout.v1.FanoutServiceOuterClass.WatchPlanResponse;
import fanout.v1.PlanOuterClass.Counts;
import fanout.v1.PlanOuterClass.EndReason;
import fanout.v1.PlanOuterClass.Plan;
import fanout.v1.PlanOuterClass.PlanStatus;
import fanout.v1.PlanOuterClass.SealRule;
import fanout.v1.RecordOuterClass.Disposition;
import fanout.v1.RecordOuterClass.MatchedBy;
import fanout.v1.RecordOuterClass.Receipt;
import fanout.v1.RecordOuterClass.Record;
import fanout.v1.RecordOuterClass.SubmitRecordRequest;
import fanout.v1.RecordOuterClass.SubmitRecordResponse;
import fanout.v1.RecordOuterClass.TaskStatus;
import fanout.v1.RecordOuterClass.Warning;
import io.grpc.Context;
import io.grpc.StatusException;
import io.grpc.stub.BlockingClientCall;
import java.util.ArrayList;
import java.util.Collections;
import java.util.Comparator;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.Set;
import java.util.concurrent.Callable;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicReference;
import java.util.function.Function;
import java.util.stream.Collectors;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.extension.RegisterExtension;

/** One plan with all its streams and watchers. {@code FANOUT_SEED} draws other records; a failure says the seed. */
final class FiftyThousandRecordsTest {
    private static final long SEED = Long.parseLong(System.getenv().getOrDefault("FANOUT_SEED", "20240611"));

    private static final String PLAN_ID = "big";
    private static final int TASKS = 4_000;
    private static final int STREAMS = 16;
    private static final int RECORDS = 50_000;
    /** Those of them that are sent after the plan's end. */
    private static final int RECORDS_LATE = 800;
    private static final int CUTS_OF_A_WATCH = 8;
    private static final int RESULTS_TO_A_CUT = 500;
    /** A page of the result document. */
    private static final int TASKS_IN_A_PAGE = 700;
    /**
     * The stream that reads no receipts sends messages of so many records, and must be stopped by flow control long
     * before it has sent so many messages.
     */
    private static final int RECORDS_UNREAD = 100;
    private static final int MESSAGES_UNREAD = 10_000;

    @RegisterExtension
    final Stage stage = new Stage();

    private final ExecutorService threads = Executors.newCachedThreadPool();
    /** The calls of all threads: the first failure ends them. */
    private final Context.CancellableContext together = Context.current().withCancellation();
    private final AtomicReference<Throwable> firstFailure = new AtomicReference<>();

    private Server server;
    private Oracle oracle;
    private final List<Script> scripts = new ArrayList<>();
    /** The record of the stream that reads no receipts, for the one task that no other stream has. */
    private Expected repeated;
    /**
     * The watcher that begins in the middle begins when each stream has the receipts of a quarter of its records; the
     * streams go on, and wait for its snapshot in the middle.
     */
    private final AtomicInteger streamsBeforeQuarter = new AtomicInteger(STREAMS);
    private final CompletableFuture<Void> quarterDone = new CompletableFuture<>();
    private final CompletableFuture<Void> snapshotTaken = new CompletableFuture<>();

    @AfterEach
    void endThreads() {
        together.cancel(null);
        threads.shutdownNow();
    }

    @Test
    void everyReceiptFrameAndDocumentOfFiftyThousandRecordsIsWhatTheOracleSays() {
        try {
            exchangeAll();
        } catch (Exception | AssertionError failure) {
            fail(failure);
            throw new AssertionError("FANOUT_SEED=" + SEED, firstFailure.get());
        }
    }

    private void exchangeAll() throws Exception {
        prepare();
        assertReceipt(repeated, server.submit(PLAN_ID, repeated.record), 0);
        BlockingClientCall<SubmitRecordRequest, SubmitRecordResponse> idle = open();
        BlockingClientCall<SubmitRecordRequest, SubmitRecordResponse> unread = open();
        AtomicInteger unreadSent = new AtomicInteger();
        CompletableFuture<Void> enough = new CompletableFuture<>();
        Future<?> sendingUnread = begin(() -> sendUnread(unread, unreadSent, enough));

        Future<List<WatchPlanResponse>> wholeWatch = begin(() ->
                server.frames(WatchPlanRequest.newBuilder().setPlanId(PLAN_ID).setIncludePayload(true).build()));
        Future<CutWatch> cutWatch = begin(this::watchWithCuts);
        List<Stream> streams = new ArrayList<>();
        List<List<List<Expected>>> messages = new ArrayList<>();
        for (Script script : scripts) {
            streams.add(new Stream(open()));
            messages.add(script.messages(script.steps));
        }
        exchange(streams, messages);
        assertResult(PlanStatus.PLAN_STATUS_INCOMPLETE);

        Plan sealed = server.seal(PLAN_ID);
        assertEquals(PlanStatus.PLAN_STATUS_FAILED, sealed.getStatus());
        assertEquals(EndReason.END_REASON_SEALED, sealed.getEndReason());
        oracle.hasEnded = true;
        assertResult(PlanStatus.PLAN_STATUS_FAILED);
        assertWholeWatch(end(wholeWatch));
        assertCutWatch(end(cutWatch));

        // An ended plan knows its records again, and sets other ones aside. The streams are the same ones.
        List<List<List<Expected>>> late = new ArrayList<>();
        for (Script script : scripts) {
            late.add(script.messages(script.write(RECORDS_LATE / STREAMS)));
        }
        exchange(streams, late);
        for (Stream stream : streams) {
            stream.call.halfClose();
            assertNull(stream.call.read(), "after the last receipt");
            stream.assertCountsFit();
        }
        assertResult(PlanStatus.PLAN_STATUS_FAILED);

        assertEquals(RECORDS + 1, steps().size());
        assertSequences();
        assertTheDrawWasWorthItsTime();
        idle.halfClose();
        assertNull(idle.read(), "a response although nothing was sent");
        enough.complete(null);
        readUnread(unread, unreadSent, sendingUnread);
    }

    /** Starts the server, plans the tasks and writes the scripts. */
    private void prepare() throws Exception {
        server = stage.server();
        Random draw = new Random(SEED);
        List<PlannedTask> tasks = new ArrayList<>();
        ArrayNode groups = Json.MAKE.arrayNode();
        for (int position = 0; position < TASKS; position++) {
            // Every tenth task shares its group key with the task before it.
            String groupKey = "group-" + (position % 10 == 9 ? position - 1 : position);
            ArrayNode items = groups.addObject().put("key", groupKey).putArray("items");
            String session = "";
            if (draw.nextInt(5) == 0) {
                session = "planned-session-" + position;
                items.addObject().put("session", session);
            }
            tasks.add(new PlannedTask(position, "task-" + position, "other-name-" + position, groupKey, session));
        }
        server.register(PLAN_ID, groups,
                Json.MAKE.objectNode()
                        .put("task_id", "task-{{group.index}}")
                        .put("id", "other-name-{{group.index}}")
                        .put("sandbox_session_id", "{{group.items.0.session}}"),
                SealRule.SEAL_RULE_EXPLICIT);

        oracle = new Oracle(tasks);
        repeated = oracle.receive(Record.newBuilder().setTaskId(tasks.get(0).taskId).setStatus("passed").build());
        // The two tasks that share a key stay together: the order of what happens to both is determined.
        List<PlannedTask> shared = tasks.subList(10, TASKS);
        int share = shared.size() / STREAMS / 10 * 10;
        for (int number = 0; number < STREAMS; number++) {
            int to = number == STREAMS - 1 ? shared.size() : (number + 1) * share;
            Script script = new Script(oracle, shared.subList(number * share, to), SEED, number);
            script.write((RECORDS - RECORDS_LATE) / STREAMS - 2);
            script.writeHeavy();
            scripts.add(script);
        }
    }

    /** The expectations of all records, those of one stream in its order. */
    private List<Expected> steps() {
        List<Expected> steps = new ArrayList<>(List.of(repeated));
        scripts.forEach(script -> steps.addAll(script.steps));
        return steps;
    }

    /** Keeps the first failure, and ends what waits for anything. */
    private void fail(Throwable failure) {
        firstFailure.compareAndSet(null, failure);
        together.cancel(failure);
        quarterDone.completeExceptionally(failure);
        snapshotTaken.completeExceptionally(failure);
    }

    /** Does something in another thread. */
    private <T> Future<T> begin(Callable<T> work) {
        return threads.submit(together.wrap(() -> {
            try {
                return work.call();
            } catch (Exception | AssertionError failure) {
                fail(failure);
                throw failure;
            }
        }));
    }

    /** Waits for what another thread does. */
    private static <T> T end(Future<T> work) throws Exception {
        return work.get(Server.DEADLINE_SECONDS, TimeUnit.SECONDS);
    }

    /** A SubmitRecord stream. */
    private BlockingClientCall<SubmitRecordRequest, SubmitRecordResponse> open() throws Exception {
        return together.call(() -> server.calls().submitRecord());
    }

    /** Sends one record again and again. */
    private Void sendUnread(
            BlockingClientCall<SubmitRecordRequest, SubmitRecordResponse> call, AtomicInteger sent,
            CompletableFuture<Void> enough) throws StatusException, InterruptedException {
        SubmitRecordRequest message = SubmitRecordRequest.newBuilder()
                .setPlanId(PLAN_ID)
                .addAllRecords(Collections.nCopies(RECORDS_UNREAD, repeated.record))
                .build();
        while (!enough.isDone() && sent.get() < MESSAGES_UNREAD) {
            assertTrue(call.write(message));
            sent.incrementAndGet();
        }
        call.halfClose();
        return null;
    }

    /** Reads the receipts of a stream that has not read any after all: every one is there. */
    private void readUnread(
            BlockingClientCall<SubmitRecordRequest, SubmitRecordResponse> call, AtomicInteger sent, Future<?> sending)
            throws Exception {
        assertTrue(sent.get() < MESSAGES_UNREAD, "all messages were taken although no receipt was read");
        int answered = 0;
        for (SubmitRecordResponse response; (response = call.read()) != null; answered++) {
            assertEquals(RECORDS_UNREAD, response.getReceiptsCount());
            for (Receipt receipt : response.getReceiptsList()) {
                assertEquals(Disposition.DISPOSITION_DUPLICATE, receipt.getDisposition());
                assertEquals(repeated.sequence, receipt.getSequence());
            }
        }
        end(sending);
        assertEquals(sent.get(), answered);
    }

    /** Sends each stream's messages, all streams at once, and compares every receipt as it comes. */
    private void exchange(List<Stream> streams, List<List<List<Expected>>> messages) throws Exception {
        List<Future<?>> exchanging = new ArrayList<>();
        for (int number = 0; number < STREAMS; number++) {
            Stream stream = streams.get(number);
            List<List<Expected>> mine = messages.get(number);
            exchanging.add(begin(() -> stream.send(mine)));
            exchanging.add(begin(() -> stream.receive(mine)));
        }
        for (Future<?> each : exchanging) {
            end(each);
        }
    }

    /** One SubmitRecord stream: a thread sends, another one receives. */
    private final class Stream {
        private final BlockingClientCall<SubmitRecordRequest, SubmitRecordResponse> call;
        /** The responses, without their receipts. */
        private final List<SubmitRecordResponse> responses = new ArrayList<>();
        private int sent;
        private boolean isBeforeQuarter = true;

        Stream(BlockingClientCall<SubmitRecordRequest, SubmitRecordResponse> call) {
            this.call = call;
        }

        Void send(List<List<Expected>> messages) throws Exception {
            for (int n = 0; n < messages.size(); n++) {
                if (n == messages.size() / 2) {
                    snapshotTaken.get(Server.DEADLINE_SECONDS, TimeUnit.SECONDS);
                }
                SubmitRecordRequest.Builder request = SubmitRecordRequest.newBuilder();
                messages.get(n).forEach(expected -> request.addRecords(expected.record));
                // The plan is needed in the first message only.
                if (sent % 2 == 0) {
                    request.setPlanId(PLAN_ID);
                }
                sent++;
                assertTrue(call.write(request.build()), "the server ended the stream");
            }
            return null;
        }

        Void receive(List<List<Expected>> messages) throws Exception {
            for (int n = 0; n < messages.size(); n++) {
                if (n == messages.size() / 4 && isBeforeQuarter) {
                    isBeforeQuarter = false;
                    if (streamsBeforeQuarter.decrementAndGet() == 0) {
                        quarterDone.complete(null);
                    }
                }
                SubmitRecordResponse response = call.read();
                assertTrue(response != null, "the server ended the stream");
                List<Expected> message = messages.get(n);
                assertEquals(message.size(), response.getReceiptsCount());
                for (int place = 0; place < message.size(); place++) {
                    assertReceipt(message.get(place), response.getReceipts(place), place);
                }
                responses.add(response.toBuilder().clearReceipts().build());
            }
            return null;
        }

        /** Checks that the counts only grow, and fit each other. */
        void assertCountsFit() {
            SubmitRecordResponse last = SubmitRecordResponse.getDefaultInstance();
            for (SubmitRecordResponse now : responses) {
                Counts counts = now.getCounts();
                assertTrue(now.getSequence() >= last.getSequence()
                        && counts.getRecorded() >= last.getCounts().getRecorded()
                        && counts.getQuarantined() >= last.getCounts().getQuarantined(),
                        () -> "the counts went back: " + now);
                assertEquals(TASKS, counts.getRecorded() + counts.getMissing());
                assertEquals(counts.getRecorded(), counts.getSuccessful() + counts.getFailed());
                last = now;
            }
        }
    }

    /** Compares a receipt and keeps its numbers. */
    private static void assertReceipt(Expected expected, Receipt receipt, int place) {
        Violation violation = null;
        if (receipt.hasViolation()) {
            String prefix = "records[" + place + "].";
            String field = receipt.getViolation().getField();
            violation = new Violation(
                    field.startsWith(prefix) ? field.substring(prefix.length()) : "not here: " + field,
                    receipt.getViolation().getReason(), receipt.getViolation().getLimit());
        }
        Fact got = new Fact(
                receipt.getDisposition(), receipt.getTaskId(), receipt.getMatchedBy(), receipt.getRevision(),
                receipt.getStatus(), receipt.getSuccessful(), Json.object(receipt.getRecord()),
                receipt.getWarningsList().stream().sorted().toList(), receipt.getCandidateTaskIdsList(), violation);
        if (!expected.fact().equals(got)) {
            assertEquals(expected.fact().toString(), got.toString(), () -> "the receipt of " + brief(expected.record));
            throw new AssertionError("two facts look the same and are not: " + got);
        }
        assertEquals(Oracle.CODES.get(expected.disposition), receipt.getCode(), () -> "the code of " + receipt);
        assertEquals(expected.isQuarantined(), receipt.getQuarantineId() > 0, () -> "the quarantine id of " + receipt);
        assertTrue(violation == null || !receipt.getViolation().getDescription().isEmpty(), "no description");
        expected.sequence = receipt.getSequence();
        expected.quarantineId = receipt.getQuarantineId();
    }

    private static String brief(Object value) {
        String text = value.toString();
        return text.substring(0, Math.min(text.length(), 2_000));
    }

    /**
     * Checks that a change has an event of its own, a duplicate that of its original, a refused record none, and that
     * the quarantine is numbered from 1.
     */
    private void assertSequences() {
        Set<Long> changes = new HashSet<>();
        List<Long> quarantine = new ArrayList<>();
        for (Expected expected : steps()) {
            if (expected.isApplied() || expected.isQuarantined()) {
                // The first event is the plan's creation.
                assertTrue(expected.sequence >= 2 && changes.add(expected.sequence),
                        () -> "event " + expected.sequence + " is not its own");
            } else {
                assertEquals(expected.original == null ? 0 : expected.original.sequence, expected.sequence,
                        () -> "the event behind " + expected.disposition);
            }
            if (expected.isQuarantined()) {
                quarantine.add(expected.quarantineId);
            }
        }
        assertEquals(oracle.quarantined, quarantine.size());
        Collections.sort(quarantine);
        for (int n = 0; n < quarantine.size(); n++) {
            assertEquals(n + 1L, quarantine.get(n), "a number in quarantine");
        }
    }

    /** Checks that there were many records of each kind, matched in each of the four ways. */
    private void assertTheDrawWasWorthItsTime() {
        List<Expected> steps = steps();
        Map<Disposition, Long> dispositions = times(steps, expected -> expected.disposition);
        Map<MatchedBy, Long> ways =
                times(steps.stream().filter(Expected::isApplied).toList(), expected -> expected.matchedBy);
        Map<Warning, Long> warnings = times(
                steps.stream().flatMap(expected -> expected.warnings.stream()).toList(), Function.identity());
        String drawn = dispositions + ", " + ways + ", " + warnings;
        for (Disposition disposition : Oracle.CODES.keySet()) {
            assertTrue(dispositions.getOrDefault(disposition, 0L) >= 250, drawn);
        }
        for (Key key : Key.values()) {
            assertTrue(ways.getOrDefault(key.by, 0L) >= 2_500, drawn);
        }
        assertTrue(warnings.getOrDefault(Warning.WARNING_KEYS_DISAGREE, 0L) >= 250, drawn);
        assertTrue(warnings.getOrDefault(Warning.WARNING_FIELD_IN_BODY_IGNORED, 0L) >= 250, drawn);
    }

    private static <T, K> Map<K, Long> times(List<T> all, Function<T, K> kind) {
        return all.stream().collect(Collectors.groupingBy(kind, Collectors.counting()));
    }

    /** Compares counts with the oracle's, but for the items and groups, which it does not count. */
    private void assertCounts(Counts counts) {
        assertEquals(oracle.counts(), counts.toBuilder().clearItems().clearGroups().build());
    }

    /** Checks the answer of Reconcile, whole and in pages. */
    private void assertResult(PlanStatus status) throws StatusException {
        ReconcileResponse whole =
                server.calls().reconcile(ReconcileRequest.newBuilder().setPlanId(PLAN_ID).build());
        assertEquals(status, whole.getStatus());
        assertCounts(whole.getCounts());
        ObjectNode wanted = oracle.resultDocument();
        ObjectNode got = Json.object(whole.getDocument());
        ((ObjectNode) got.get("reconciliation")).remove("schema");
        for (String member : List.of("records", "outcomes", "reconciliation", "status")) {
            assertSame(member, wanted.get(member), got.get(member));
        }

        ArrayNode records = Json.MAKE.arrayNode();
        ArrayNode outcomes = Json.MAKE.arrayNode();
        ArrayNode failed = Json.MAKE.arrayNode();
        ReconcileRequest.Builder request =
                ReconcileRequest.newBuilder().setPlanId(PLAN_ID).setPageSize(TASKS_IN_A_PAGE);
        int pages = 0;
        do {
            ReconcileResponse page = server.calls().reconcile(request.build());
            ObjectNode part = Json.object(page.getDocument());
            records.addAll((ArrayNode) part.get("records"));
            outcomes.addAll((ArrayNode) part.get("outcomes"));
            failed.addAll((ArrayNode) part.get("reconciliation").get("failed_task_ids"));
            request.setPageToken(page.getNextPageToken());
            pages++;
        } while (!request.getPageToken().isEmpty());
        assertEquals((TASKS + TASKS_IN_A_PAGE - 1) / TASKS_IN_A_PAGE, pages);
        assertSame("records in pages", wanted.get("records"), records);
        assertSame("outcomes in pages", wanted.get("outcomes"), outcomes);
        assertSame("failed tasks in pages", wanted.get("reconciliation").get("failed_task_ids"), failed);
    }

    /** Compares two values of JSON, and shows where lists begin to differ. */
    private static void assertSame(String what, JsonNode wanted, JsonNode got) {
        if (wanted.equals(got)) {
            return;
        }
        if (wanted.isArray() && got != null && got.isArray()) {
            for (int n = 0; n < Math.min(wanted.size(), got.size()); n++) {
                assertEquals(wanted.get(n), got.get(n), what + "[" + n + "]");
            }
            assertEquals(wanted.size(), got.size(), what);
        }
        assertEquals(brief(wanted), got == null ? "nothing" : brief(got), what);
        throw new AssertionError(what + " differ");
    }

    /** What a Result frame says, but for the time. */
    private record News(
            long sequence, String taskId, String groupKey, int revision, TaskStatus status, boolean isSuccessful,
            MatchedBy matchedBy, JsonNode document) {
        static News of(Result result) {
            return new News(result.getSequence(), result.getTaskId(), result.getGroupKey(), result.getRevision(),
                    result.getStatus(), result.getSuccessful(), result.getMatchedBy(), Json.object(result.getRecord()));
        }
    }

    /** What the Result frames of a whole watch say. */
    private List<News> news() {
        Map<String, String> groupKeys = new HashMap<>();
        oracle.tasks.forEach(task -> groupKeys.put(task.taskId, task.groupKey));
        return steps().stream()
                .filter(expected -> expected.isApplied() && expected.isResult())
                .map(it -> new News(it.sequence, it.taskId, groupKeys.get(it.taskId), it.revision, it.status,
                        it.isSuccessful, it.matchedBy, it.document))
                .sorted(Comparator.comparingLong(News::sequence))
                .toList();
    }

    /** Compares Result frames, one by one. */
    private static void assertNews(String what, List<News> wanted, List<Result> got) {
        for (int n = 0; n < Math.min(wanted.size(), got.size()); n++) {
            assertEquals(wanted.get(n), News.of(got.get(n)), what + ": result " + n);
        }
        assertEquals(wanted.size(), got.size(), what);
    }

    private void assertEnd(WatchPlanResponse frame) {
        assertTrue(frame.hasEnd(), () -> "the last frame is " + frame);
        End end = frame.getEnd();
        assertEquals(PlanStatus.PLAN_STATUS_FAILED, end.getStatus());
        assertEquals(EndReason.END_REASON_SEALED, end.getEndReason());
        assertCounts(end.getCounts());
    }

    /** Checks the frames of a watch from the beginning. */
    private void assertWholeWatch(List<WatchPlanResponse> frames) {
        assertNews("from the beginning", news(), frames.stream()
                .filter(WatchPlanResponse::hasResult).map(WatchPlanResponse::getResult).toList());
        List<Expected> wanted = steps().stream()
                .filter(expected -> expected.isApplied() && !expected.isResult())
                .sorted(Comparator.comparingLong(expected -> expected.sequence))
                .toList();
        List<Progress> signs = frames.stream()
                .filter(WatchPlanResponse::hasProgress).map(WatchPlanResponse::getProgress).toList();
        assertEquals(wanted.size(), signs.size(), "signs of life");
        for (int n = 0; n < signs.size(); n++) {
            assertEquals(wanted.get(n).sequence, signs.get(n).getSequence());
            assertEquals(wanted.get(n).taskId, signs.get(n).getTaskId());
            assertEquals(wanted.get(n).record.getKind(), signs.get(n).getKind());
        }
        assertEnd(frames.get(frames.size() - 1));
    }

    /**
     * What a watch saw that began in the middle with a snapshot, was cut off again and again, and went on with its last
     * cursor.
     */
    private static final class CutWatch {
        /** The event that the snapshot was taken at. */
        private long takenAt;
        private final List<Result> snapshot = new ArrayList<>();
        private final List<Result> results = new ArrayList<>();
        private WatchPlanResponse last;
        private int cuts;
    }

    private CutWatch watchWithCuts() throws Exception {
        quarterDone.get(Server.DEADLINE_SECONDS, TimeUnit.SECONDS);
        CutWatch watch = new CutWatch();
        WatchPlanRequest.Builder request = WatchPlanRequest.newBuilder()
                .setPlanId(PLAN_ID).setIncludePayload(true).setIncludeSnapshot(true);
        while (watch.last == null) {
            watchToTheNextCut(request, watch);
            request.setIncludeSnapshot(false);
        }
        return watch;
    }

    /** Leaves the last cursor in the request. */
    private void watchToTheNextCut(WatchPlanRequest.Builder request, CutWatch watch)
            throws StatusException, InterruptedException {
        BlockingClientCall<?, WatchPlanResponse> call = server.calls().watchPlan(request.build());
        int until = watch.results.size() + RESULTS_TO_A_CUT;
        while (watch.results.size() < until || watch.cuts == CUTS_OF_A_WATCH) {
            WatchPlanResponse frame = call.read();
            assertTrue(frame != null, "a watch ended without End");
            request.setAfter(frame.getCursor());
            if (frame.hasSnapshot()) {
                watch.snapshot.addAll(frame.getSnapshot().getResultsList());
                if (frame.getSnapshot().getLast()) {
                    watch.takenAt = frame.getSnapshot().getPlan().getSequence();
                    snapshotTaken.complete(null);
                }
            } else if (frame.hasResult()) {
                watch.results.add(frame.getResult());
            } else if (frame.hasEnd()) {
                watch.last = frame;
                assertNull(call.read(), "a frame after the End");
                return;
            }
        }
        call.cancel("the watch is cut", null);
        watch.cuts++;
    }

    private void assertCutWatch(CutWatch watch) {
        assertEquals(CUTS_OF_A_WATCH, watch.cuts);
        Map<String, News> newest = new HashMap<>();
        List<News> after = new ArrayList<>();
        for (News it : news()) {
            if (it.sequence <= watch.takenAt) {
                newest.put(it.taskId, it);
            } else {
                after.add(it);
            }
        }
        List<News> snapshot = oracle.tasks.stream()
                .filter(task -> newest.containsKey(task.taskId)).map(task -> newest.get(task.taskId)).toList();
        assertTrue(snapshot.size() >= 100 && after.size() >= 1_000,
                () -> snapshot.size() + " results before the snapshot, " + after.size() + " after it");
        assertNews("in the snapshot", snapshot, watch.snapshot);
        assertNews("after the snapshot", after, watch.results);
        assertEnd(watch.last);
    }
}
