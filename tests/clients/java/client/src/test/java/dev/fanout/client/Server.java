package dev.fanout.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import com.google.protobuf.ByteString;
import fanout.v1.FanoutServiceGrpc;
import fanout.v1.FanoutServiceGrpc.FanoutServiceBlockingV2Stub;
import fanout.v1.FanoutServiceOuterClass.Result;
import fanout.v1.FanoutServiceOuterClass.WatchPlanRequest;
import fanout.v1.FanoutServiceOuterClass.WatchPlanResponse;
import fanout.v1.PlanOuterClass.CompletionPolicy;
import fanout.v1.PlanOuterClass.GetPlanRequest;
import fanout.v1.PlanOuterClass.Plan;
import fanout.v1.PlanOuterClass.PlanRequest;
import fanout.v1.PlanOuterClass.PlanStatus;
import fanout.v1.PlanOuterClass.SealPlanRequest;
import fanout.v1.PlanOuterClass.SealRule;
import fanout.v1.RecordOuterClass.Receipt;
import fanout.v1.RecordOuterClass.Record;
import fanout.v1.RecordOuterClass.SubmitRecordsRequest;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.StatusException;
import io.grpc.stub.BlockingClientCall;
import java.io.BufferedReader;
import java.io.IOException;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Set;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;

/** {@code fanout serve} on a free port of the loopback interface, and calls of it. */
final class Server implements AutoCloseable {
    /** A call that takes longer has failed. */
    static final long DEADLINE_SECONDS = 60;

    private static final int MESSAGE_BYTES_MAX = 16 << 20;
    private static final long START_SECONDS = 60;

    final String address;
    private final List<String> options;
    private final Process process;
    /** What it says. The monitor of the list guards it. */
    private final List<String> log;
    private final ManagedChannel channel;

    private Server(List<String> options, Process process, List<String> log, String address) {
        this.options = options;
        this.process = process;
        this.log = log;
        this.address = address;
        this.channel = Grpc.newChannelBuilder(address, InsecureChannelCredentials.create())
                .maxInboundMessageSize(MESSAGE_BYTES_MAX)
                .build();
    }

    /** Starts {@code FANOUT_BINARY} with these options of {@code serve}. */
    static Server start(String... options) throws IOException, InterruptedException, TimeoutException {
        return startAt("127.0.0.1:0", List.of(options));
    }

    /** Ends it by this signal, and starts it again at its address. */
    Server startAgain(String signal) throws IOException, InterruptedException, TimeoutException {
        assertEquals(0, new ProcessBuilder("kill", "-" + signal, Long.toString(process.pid())).start().waitFor());
        assertTrue(process.waitFor(DEADLINE_SECONDS, TimeUnit.SECONDS), "the server does not end");
        return startAt(address, options);
    }

    private static Server startAt(String listen, List<String> options)
            throws IOException, InterruptedException, TimeoutException {
        List<String> command = new ArrayList<>(List.of(binary(), "serve", "--listen", listen, "--log-format", "json"));
        command.addAll(options);
        ProcessBuilder builder = new ProcessBuilder(command).redirectOutput(ProcessBuilder.Redirect.DISCARD);
        builder.environment().put("FANOUT_LOG", "info");
        Process process = builder.start();
        // Also if the tests are interrupted.
        Runtime.getRuntime().addShutdownHook(new Thread(process::destroyForcibly));
        List<String> log = new ArrayList<>();
        CompletableFuture<String> serving = new CompletableFuture<>();
        Thread reading = new Thread(() -> read(process, log, serving), "server log");
        reading.setDaemon(true);
        reading.start();
        try {
            Server server = new Server(options, process, log, serving.get(START_SECONDS, TimeUnit.SECONDS));
            server.awaitReadiness();
            return server;
        } catch (ExecutionException ended) {
            throw new AssertionError("the server ended before it served:\n" + String.join("\n", log), ended);
        } catch (TimeoutException error) {
            process.destroyForcibly();
            throw error;
        }
    }

    private static String binary() {
        String binary = System.getenv("FANOUT_BINARY");
        assertTrue(binary != null, "FANOUT_BINARY is not set; start run.sh");
        return binary;
    }

    /** Waits until the plans of its data directory are read. */
    private void awaitReadiness() throws IOException, InterruptedException {
        ProcessBuilder asking = new ProcessBuilder(binary(), "health", "--server", address)
                .redirectOutput(ProcessBuilder.Redirect.DISCARD)
                .redirectError(ProcessBuilder.Redirect.DISCARD);
        long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(START_SECONDS);
        while (asking.start().waitFor() != 0) {
            assertTrue(System.nanoTime() < deadline, "the server does not become ready");
        }
    }

    /** Reads the log to its end, and says from which address the server serves. */
    private static void read(Process process, List<String> log, CompletableFuture<String> serving) {
        try (BufferedReader lines = process.errorReader()) {
            for (String line; (line = lines.readLine()) != null; ) {
                synchronized (log) {
                    log.add(line);
                }
                JsonNode fields = Json.read(ByteString.copyFromUtf8(line)).orElse(Json.MAKE.nullNode()).path("fields");
                if (fields.path("message").asText().equals("serving")) {
                    serving.complete(fields.path("address").asText());
                }
            }
        } catch (IOException closed) {
            // The server was killed.
        }
        serving.completeExceptionally(new IOException("its log ended"));
    }

    /** What it said so far. */
    String log() {
        synchronized (log) {
            return String.join("\n", log);
        }
    }

    long pid() {
        return process.pid();
    }

    @Override
    public void close() {
        channel.shutdownNow();
        process.destroyForcibly().onExit().join();
    }

    /** Calls, each of which ends at its deadline. */
    FanoutServiceBlockingV2Stub calls() {
        return FanoutServiceGrpc.newBlockingV2Stub(channel).withDeadlineAfter(DEADLINE_SECONDS, TimeUnit.SECONDS);
    }

    /** Plans one task for each of the explicit groups. */
    void register(String planId, ArrayNode groups, ObjectNode template, SealRule rule) throws StatusException {
        calls().plan(PlanRequest.newBuilder()
                .setPlanId(planId)
                .setConfig(Json.text(Json.MAKE.objectNode().set("task_request_template", template)))
                .setGroups(Json.text(groups))
                .setCompletionPolicy(CompletionPolicy.newBuilder().setSealRule(rule))
                .build());
    }

    /** Plans tasks {@code task-0}, {@code task-1} and so on, of groups {@code group-0}, {@code group-1} and so on. */
    void registerTasks(String planId, int count, SealRule rule) throws StatusException {
        ArrayNode groups = Json.MAKE.arrayNode();
        for (int position = 0; position < count; position++) {
            groups.addObject().put("key", "group-" + position).putArray("items");
        }
        register(planId, groups, Json.MAKE.objectNode().put("id", "task-{{group.index}}"), rule);
    }

    /** The receipt of one record. */
    Receipt submit(String planId, Record record) throws StatusException {
        List<Receipt> receipts = calls()
                .submitRecords(SubmitRecordsRequest.newBuilder().setPlanId(planId).addRecords(record).build())
                .getReceiptsList();
        assertEquals(1, receipts.size());
        return receipts.get(0);
    }

    /** The sealed plan. */
    Plan seal(String planId) throws StatusException {
        return calls().sealPlan(SealPlanRequest.newBuilder().setPlanId(planId).build()).getPlan();
    }

    /** The plan, which must be of this status. */
    Plan plan(String planId, PlanStatus status) throws StatusException {
        Plan plan = calls().getPlan(GetPlanRequest.newBuilder().setPlanId(planId).build()).getPlan();
        assertEquals(status, plan.getStatus());
        return plan;
    }

    /** A watch of a plan from the beginning. */
    BlockingClientCall<?, WatchPlanResponse> watch(String planId) {
        return calls().watchPlan(WatchPlanRequest.newBuilder().setPlanId(planId).build());
    }

    /** All frames of a watch. */
    List<WatchPlanResponse> frames(WatchPlanRequest request) throws StatusException, InterruptedException {
        BlockingClientCall<?, WatchPlanResponse> watch = calls().watchPlan(request);
        List<WatchPlanResponse> frames = new ArrayList<>();
        for (WatchPlanResponse frame; (frame = watch.read()) != null; ) {
            frames.add(frame);
        }
        return frames;
    }

    /** Waits until so many more results came. */
    static void awaitResults(BlockingClientCall<?, WatchPlanResponse> watch, int count)
            throws StatusException, InterruptedException {
        while (count > 0) {
            WatchPlanResponse frame = watch.read();
            assertTrue(frame != null, "the watch ended");
            count -= frame.hasResult() ? 1 : 0;
        }
    }

    /** Checks that each task of an ended plan has had one record. */
    void assertAppliedOnce(String planId, int tasks) throws StatusException, InterruptedException {
        Set<String> seen = new HashSet<>();
        for (WatchPlanResponse frame : frames(WatchPlanRequest.newBuilder().setPlanId(planId).build())) {
            if (frame.hasResult()) {
                Result result = frame.getResult();
                assertEquals(1, result.getRevision(), "the revision of " + result.getTaskId());
                assertTrue(seen.add(result.getTaskId()), result.getTaskId() + " has two results");
            }
        }
        assertEquals(tasks, seen.size());
    }
}
