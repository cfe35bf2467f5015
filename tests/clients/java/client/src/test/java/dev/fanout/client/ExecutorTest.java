package dev.fanout.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import fanout.v1.FanoutServiceOuterClass.ReconcileRequest;
import fanout.v1.FanoutServiceOuterClass.WatchPlanRequest;
import fanout.v1.FanoutServiceOuterClass.WatchPlanResponse;
import fanout.v1.PlanOuterClass.ListPlansRequest;
import fanout.v1.PlanOuterClass.Plan;
import fanout.v1.PlanOuterClass.PlanStatus;
import fanout.v1.PlanOuterClass.SealRule;
import fanout.v1.RecordOuterClass.Disposition;
import fanout.v1.RecordOuterClass.Receipt;
import fanout.v1.RecordOuterClass.Record;
import fanout.v1.RecordOuterClass.RecordKind;
import fanout.v1.RecordOuterClass.SubmitRecordRequest;
import fanout.v1.RecordOuterClass.SubmitRecordResponse;
import fanout.v1.RecordOuterClass.SubmitRecordsRequest;
import io.grpc.StatusException;
import io.grpc.stub.BlockingClientCall;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.extension.RegisterExtension;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.api.parallel.Execution;
import org.junit.jupiter.api.parallel.ExecutionMode;

/** Lost connections, and the executor of examples/java-executor. */
@Execution(ExecutionMode.CONCURRENT)
final class ExecutorTest {
    private static final SealRule WHEN_ALL_RECORDED = SealRule.SEAL_RULE_WHEN_ALL_RECORDED;
    private static final SealRule EXPLICIT = SealRule.SEAL_RULE_EXPLICIT;

    @RegisterExtension
    final Stage stage = new Stage();

    private static SubmitRecordRequest completed(String planId, int task) {
        Record record = Record.newBuilder().setId("task-" + task).setStatus("completed").build();
        return SubmitRecordRequest.newBuilder().setPlanId(planId).addRecords(record).build();
    }

    @Test
    void recordsSentAgainAfterACutAreAppliedOnce() throws Exception {
        int tasks = 600;
        int enough = 100;
        Server server = stage.server();
        server.registerTasks("cut", tasks, EXPLICIT);
        BlockingClientCall<SubmitRecordRequest, SubmitRecordResponse> first = server.calls().submitRecord();
        for (int task = 0; task < tasks / 2; task++) {
            assertTrue(first.write(completed("cut", task)));
        }
        Server.awaitResults(server.watch("cut"), enough);
        first.cancel("no receipt was read", null);

        BlockingClientCall<SubmitRecordRequest, SubmitRecordResponse> again = server.calls().submitRecord();
        int duplicates = 0;
        for (int task = 0; task < tasks; task++) {
            assertTrue(again.write(completed("cut", task)));
            Receipt receipt = again.read().getReceipts(0);
            boolean isDuplicate = receipt.getDisposition() == Disposition.DISPOSITION_DUPLICATE;
            assertTrue(isDuplicate || receipt.getDisposition() == Disposition.DISPOSITION_ACCEPTED, receipt.toString());
            assertEquals(1, receipt.getRevision());
            duplicates += isDuplicate ? 1 : 0;
        }
        again.cancel("that was all", null);
        assertTrue(duplicates >= enough && duplicates <= tasks / 2, duplicates + " duplicates");
        server.seal("cut");
        server.assertAppliedOnce("cut", tasks);
    }

    /** A stream of a producer's records of these tasks, as many as there are tasks before {@code count}. */
    private static BlockingClientCall<SubmitRecordRequest, SubmitRecordResponse> numbered(Server server, int count)
            throws StatusException, InterruptedException {
        var call = server.calls().submitRecord();
        for (int offset = 0; offset < count; offset++) {
            SubmitRecordRequest request = completed("numbered", offset);
            assertTrue(call.write(request.toBuilder().setProducerId("sandbox").setFirstOffset(offset).build()));
        }
        return call;
    }

    private static List<Receipt> receipts(BlockingClientCall<?, SubmitRecordResponse> call, int count)
            throws StatusException, InterruptedException {
        List<Receipt> receipts = new ArrayList<>();
        while (receipts.size() < count) {
            receipts.addAll(call.read().getReceiptsList());
        }
        return receipts;
    }

    private static long committedOffset(Server server) throws StatusException {
        SubmitRecordsRequest request =
                SubmitRecordsRequest.newBuilder().setPlanId("numbered").setProducerId("sandbox").build();
        return server.calls().submitRecords(request).getCommittedOffset();
    }

    @Test
    void numberedRecordsSentAgainAfterACutAndAKillGetTheReceiptsThatTheyGot(@TempDir Path directory) throws Exception {
        int tasks = 600;
        int enough = 100;
        Server server = stage.server("--data-dir", directory.toString());
        server.registerTasks("numbered", tasks, EXPLICIT);
        var call = numbered(server, tasks / 2);
        List<Receipt> first = receipts(call, enough);
        call.cancel("so many receipts were read", null);
        assertTrue(committedOffset(server) >= enough);
        // Somebody else's record takes the place of the first one.
        server.submit("numbered", Record.newBuilder().setId("task-0").setStatus("failed").build());

        List<Receipt> again = receipts(numbered(server, tasks), tasks);
        assertEquals(first, again.subList(0, enough));
        for (Receipt receipt : again) {
            assertEquals(Disposition.DISPOSITION_ACCEPTED, receipt.getDisposition());
            assertEquals(1, receipt.getRevision());
        }

        server = stage.again(server, "KILL");
        assertEquals(tasks, committedOffset(server));
        assertEquals(again, receipts(numbered(server, tasks), tasks));
        server.seal("numbered");
        List<Integer> revisions = server.frames(WatchPlanRequest.newBuilder().setPlanId("numbered").build()).stream()
                .filter(WatchPlanResponse::hasResult)
                .map(frame -> frame.getResult().getRevision())
                .toList();
        assertEquals(tasks + 1, revisions.size());
        assertEquals(tasks, revisions.stream().filter(revision -> revision == 1).count());
    }

    @Test
    void twoShardsCompleteAPlanAndDoNoTaskTwice() throws Exception {
        int tasks = 301;
        Server server = stage.server();
        server.registerTasks("shards", tasks, WHEN_ALL_RECORDED);
        var shards = List.of(
                stage.executor(server.address, "--plan-id", "shards", "--shard", "0/2"),
                stage.executor(server.address, "--plan-id", "shards", "--shard=1/2"));
        for (int shard = 0; shard < 2; shard++) {
            int count = tasks / 2 + 1 - shard;
            shards.get(shard).assertEnds(0, String.format(
                    "shard %d/2: %d of %d tasks have a result; "
                            + "%d receipts (%d ACCEPTED), 0 outstanding, 0 reconnects\n",
                    shard, count, count, 4 * count, 4 * count), "^$");
        }
        assertEquals(tasks, server.plan("shards", PlanStatus.PLAN_STATUS_COMPLETED).getCounts().getOutcomes());
        List<RecordKind> signs = server.frames(WatchPlanRequest.newBuilder().setPlanId("shards").build()).stream()
                .filter(WatchPlanResponse::hasProgress)
                .map(frame -> frame.getProgress().getKind())
                .toList();
        assertEquals(tasks, signs.stream().filter(RecordKind.RECORD_KIND_STARTED::equals).count());
        assertEquals(2 * tasks, signs.stream().filter(RecordKind.RECORD_KIND_PROGRESS::equals).count());
    }

    @Test
    void anExecutorLeavesOnSigtermAndAnotherOneDoesTheRest() throws Exception {
        int tasks = 3_000;
        Server server = stage.server();
        server.registerTasks("stop", tasks, WHEN_ALL_RECORDED);
        var watch = server.watch("stop");
        // Few records in flight make it slow: it is far from done when the signal comes.
        var first = stage.executor(server.address, "--plan-id", "stop", "--in-flight", "1");
        Server.awaitResults(watch, 5);
        first.terminate();
        first.assertEnds(143, " 0 outstanding, ", "^$");
        long left = server.plan("stop", PlanStatus.PLAN_STATUS_INCOMPLETE).getCounts().getMissing();
        first.assertEnds(143, String.format(" %d of %d tasks have a result", tasks - left, tasks), "^$");

        var second = stage.executor(server.address, "--plan-id", "stop");
        second.assertEnds(0, String.format(" %d of %d tasks have a result", left, left), "^$");
        server.plan("stop", PlanStatus.PLAN_STATUS_COMPLETED);
        server.assertAppliedOnce("stop", tasks);
    }

    @Test
    void anExecutorWhoseConnectionIsCutComesBackAndLosesNothing() throws Exception {
        int tasks = 1_500;
        Server server = stage.server();
        server.registerTasks("wire", tasks, WHEN_ALL_RECORDED);
        Wire wire = stage.wire(server);
        var watch = server.watch("wire");
        var executor = stage.executor(wire.address(), "--plan-id", "wire", "--in-flight", "8");
        for (int cuts = 0; cuts < 3; cuts++) {
            Server.awaitResults(watch, 100);
            wire.cut();
        }
        executor.assertSentOnce(tasks, server.frames(WatchPlanRequest.newBuilder().setPlanId("wire").build()));
        server.plan("wire", PlanStatus.PLAN_STATUS_COMPLETED);
    }

    @Test
    void anExecutorAndAWatcherGoOnWithAServerThatWasKilledOrDrainedAndStartedAgain(@TempDir Path directory)
            throws Exception {
        int tasks = 600;
        Server server = stage.server("--data-dir", directory.toString());
        server.registerTasks("again", tasks, WHEN_ALL_RECORDED);
        var executor = stage.executor(server.address, "--plan-id", "again", "--in-flight", "8");
        List<WatchPlanResponse> seen = new ArrayList<>();
        WatchPlanRequest.Builder request = WatchPlanRequest.newBuilder().setPlanId("again");
        for (String signal : List.of("KILL", "TERM", "KILL")) {
            var watch = server.calls().watchPlan(request.build());
            for (int frames = 0; frames < tasks; frames++) {
                seen.add(watch.read());
                request.setAfter(seen.get(seen.size() - 1).getCursor());
            }
            server = stage.again(server, signal);
        }
        seen.addAll(server.frames(request.build()));
        executor.assertSentOnce(tasks, seen);
        server.plan("again", PlanStatus.PLAN_STATUS_COMPLETED);
    }

    @Test
    void anExecutorLeavesOnSigtermAlthoughTheServerAnswersNoMore() throws Exception {
        Server server = stage.server();
        server.registerTasks("silent", 3_000, EXPLICIT);
        var watch = server.watch("silent");
        var executor = stage.executor(server.address, "--plan-id", "silent", "--in-flight", "1");
        Server.awaitResults(watch, 5);
        suspend(server.pid());
        long began = System.nanoTime();
        executor.terminate();
        executor.assertEnds(143, "shard 0/1", "^$");
        assertTrue(executor.output().matches("(?s).*, [01] outstanding, .*"), executor.output());
        long seconds = TimeUnit.NANOSECONDS.toSeconds(System.nanoTime() - began);
        assertTrue(seconds < 15, "it took " + seconds + " s");
    }

    /** Sends SIGSTOP, and waits until the process has stopped. */
    private static void suspend(long pid) throws Exception {
        assertEquals(0, new ProcessBuilder("kill", "-STOP", Long.toString(pid)).start().waitFor());
        long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(Server.DEADLINE_SECONDS);
        String state;
        do {
            assertTrue(System.nanoTime() < deadline, "the server does not stop");
            try (var said = new ProcessBuilder("ps", "-o", "stat=", "-p", Long.toString(pid)).start().inputReader()) {
                state = said.readLine();
            }
        } while (state == null || !state.startsWith("T"));
    }

    @Test
    void anExecutorBeginsNothingMoreWhenItsPlanHasEnded() throws Exception {
        Server server = stage.server();
        server.registerTasks("sealed", 3_000, EXPLICIT);
        var watch = server.watch("sealed");
        var executor = stage.executor(server.address, "--plan-id", "sealed", "--in-flight", "1");
        Server.awaitResults(watch, 5);
        Plan sealed = server.seal("sealed");
        executor.assertEnds(1,
                String.format(" %d of 3000 tasks have a result", sealed.getCounts().getRecorded()),
                "^executor: LATE: ");
        assertEquals(1, executor.errors().lines().count(), executor.errors());
    }

    @Test
    void anExecutorNamesTheLimitThatItsResultsPass() throws Exception {
        Server server = stage.server("--record-body-bytes-max", "60");
        server.registerTasks("small", 2, EXPLICIT);
        stage.executor(server.address, "--plan-id", "small").assertEnds(1,
                " 0 of 2 tasks have a result; 8 receipts (6 ACCEPTED, 2 TOO_LARGE), 0 outstanding",
                "TOO_LARGE: the record of task task-1 is over a limit: .* \\(BODY_TOO_LARGE\\)");
    }

    @Test
    void theDemoCompletesAPlanOfItsOwn() throws Exception {
        Server server = stage.server();
        stage.executor(server.address, "--demo").assertEnds(0, "4 of 4 tasks have a result", "^$");
        List<Plan> plans = server.calls().listPlans(ListPlansRequest.getDefaultInstance()).getPlansList();
        assertEquals(1, plans.size());
        String planId = plans.get(0).getPlanId();
        server.plan(planId, PlanStatus.PLAN_STATUS_COMPLETED);
        ObjectNode result = Json.object(
                server.calls().reconcile(ReconcileRequest.newBuilder().setPlanId(planId).build()).getDocument());
        JsonNode outcomes = result.get("outcomes");
        assertEquals(4, outcomes.size());
        // The last author's: three times tomorrow.
        assertEquals("tomorrow", outcomes.get(3).get("common").asText());
    }

    @Test
    void anExecutorSaysWhichPlanThereIsNot() throws Exception {
        stage.executor(stage.server().address, "--plan-id", "nowhere").assertEnds(1, "", "NOT_FOUND: .*nowhere");
    }

    @Test
    void anExecutorExplainsItselfAndRefusesAShardOutsideOfThePlan() throws Exception {
        Map<String, Integer> codes = Map.of(
                "--help", 0, "--shard 0/1", 2, "--demo --plan-id plan", 2, "--demo --shard 2/2", 2,
                "--demo --in-flight 0", 2, "--demo more", 2);
        for (var expected : codes.entrySet()) {
            var executor = stage.execution(expected.getKey().split(" "));
            executor.await();
            assertEquals(expected.getValue(), executor.exitCode(), expected.getKey());
            String said = expected.getValue() == 0 ? executor.output() : executor.errors();
            String wanted = expected.getValue() == 0 ? "143  terminated (SIGTERM)" : "--help says more";
            assertTrue(said.contains(wanted), said);
        }
    }
}
