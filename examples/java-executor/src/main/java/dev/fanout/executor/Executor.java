package dev.fanout.executor;

import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import fanout.v1.FanoutServiceGrpc;
import fanout.v1.FanoutServiceGrpc.FanoutServiceBlockingStub;
import fanout.v1.FanoutServiceOuterClass.Result;
import fanout.v1.FanoutServiceOuterClass.WatchPlanRequest;
import fanout.v1.FanoutServiceOuterClass.WatchPlanResponse;
import fanout.v1.PlanOuterClass.GetPlanRequest;
import fanout.v1.PlanOuterClass.GetPlanResponse;
import fanout.v1.PlanOuterClass.PlanRequest;
import fanout.v1.PlanOuterClass.TaskRequest;
import fanout.v1.PlanOuterClass.View;
import fanout.v1.RecordOuterClass.Disposition;
import io.grpc.Context;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.Iterator;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.UUID;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Collectors;

/**
 * An executor: takes its share of a plan's task requests, works on each, and streams records back.
 *
 * <p>It shows what an executor needs, and is meant to be copied:
 *
 * <ul>
 *   <li>which tasks are left: the snapshot of WatchPlan says what has a result, GetPlan pages through the task requests
 *   <li>one SubmitRecord stream for all records: STARTED, PROGRESS, then the result of each task
 *   <li>receipts are read while records are sent, and only so many records may be without one
 *   <li>a lost connection is opened again, also to a server that was started again; records without a receipt are sent
 *       again, numbered as before, so that none is applied twice
 * </ul>
 *
 * <p>The work is a stand-in: it counts the words in all texts of the task request. Replace {@code count} in
 * {@link Work}.
 */
public final class Executor {
    private static final String USAGE = """
            usage: java -jar java-executor.jar (--plan-id PLAN | --demo) [--server HOST:PORT] [--shard I/N]
                                               [--in-flight RECORDS]

            An executor: takes its share of a plan's task requests, works on each, and streams records back.
            The work is a stand-in: it counts the words in all texts of the task request.

              --plan-id PLAN       the plan to work on
              --demo               plan a small fan-out first, and work on that
              --server HOST:PORT   where the server is (default: 127.0.0.1:7117)
              --shard I/N          only every Nth task, from the Ith: 0/2, 1/2 (default: 0/1)
              --in-flight RECORDS  records that may be without a receipt (default: 256)

            try it:
              fanout serve &
              java -jar java-executor.jar --demo

            share a plan between two executors:
              java -jar java-executor.jar --plan-id PLAN --shard 0/2 &
              java -jar java-executor.jar --plan-id PLAN --shard 1/2

            exit codes:
              0    every task of the shard has a result
              1    not every task: records were refused, the plan ended early, or the server was lost
              2    usage
              130  interrupted (SIGINT)
              143  terminated (SIGTERM)
            After a signal no task is begun, and receipts are awaited for at most 5 s. Start the executor again, and it
            does what is left.
            """;

    /** Task requests in a page of GetPlan, the most there may be. */
    private static final int PAGE_SIZE = 1_000;

    /** Largest message, in bytes: the server's own limit. */
    private static final int MESSAGE_BYTES_MAX = 16 << 20;

    /** Time for each of the calls before the stream, connecting included. */
    private static final long CALL_SECONDS = 30;

    private final ManagedChannel channel;
    private final Options options;

    private Executor(ManagedChannel channel, Options options) {
        this.channel = channel;
        this.options = options;
    }

    /** The command line. Without a plan's id: the demo. */
    private record Options(String server, String planId, Shard shard, int inFlight) {
        /** @throws IllegalArgumentException if the command line is wrong */
        static Options of(String[] arguments) {
            String server = "127.0.0.1:7117";
            String planId = "";
            boolean demo = false;
            Shard shard = new Shard(0, 1);
            int inFlight = 256;
            Iterator<String> rest = List.of(arguments).iterator();
            while (rest.hasNext()) {
                // Both `--name value` and `--name=value`.
                String[] parts = rest.next().split("=", 2);
                if (parts[0].equals("--demo") && parts.length == 1) {
                    demo = true;
                    continue;
                }
                if (!Set.of("--server", "--plan-id", "--shard", "--in-flight").contains(parts[0])) {
                    throw new IllegalArgumentException("unexpected argument " + parts[0]);
                }
                if (parts.length == 1 && !rest.hasNext()) {
                    throw new IllegalArgumentException("expected a value after " + parts[0]);
                }
                String value = parts.length == 2 ? parts[1] : rest.next();
                switch (parts[0]) {
                    case "--server" -> server = value;
                    case "--plan-id" -> planId = value;
                    case "--shard" -> shard = Shard.of(value);
                    default -> inFlight = positive(value);
                }
            }
            if (demo != planId.isEmpty()) {
                throw new IllegalArgumentException("expected either --plan-id or --demo");
            }
            return new Options(server, planId, shard, inFlight);
        }

        private static int positive(String text) {
            if (!text.matches("0*[1-9]\\d{0,8}")) {
                throw new IllegalArgumentException("expected --in-flight from 1, found " + text);
            }
            return Integer.parseInt(text);
        }
    }

    /** Part {@code index}, counted from 0, of so many parts. */
    private record Shard(int index, int parts) {
        private static final Pattern FORM = Pattern.compile("(\\d{1,9})/(\\d{1,9})");

        /** Reads I/N. */
        static Shard of(String text) {
            Matcher match = FORM.matcher(text);
            if (match.matches()) {
                Shard shard = new Shard(Integer.parseInt(match.group(1)), Integer.parseInt(match.group(2)));
                if (shard.index < shard.parts) {
                    return shard;
                }
            }
            throw new IllegalArgumentException("expected --shard I/N with I from 0 to N - 1, found " + text);
        }

        @Override
        public String toString() {
            return index + "/" + parts;
        }
    }

    /** A task request and its place in the plan, counted from 0. */
    private record Task(int position, TaskRequest request) {}

    public static void main(String[] arguments) throws InterruptedException {
        if (List.of(arguments).contains("--help") || List.of(arguments).contains("-h")) {
            System.out.print(USAGE);
            return;
        }
        Options options;
        try {
            options = Options.of(arguments);
        } catch (IllegalArgumentException error) {
            System.err.println("executor: " + error.getMessage() + "; --help says more");
            System.exit(2);
            return;
        }
        ManagedChannel channel = Grpc.newChannelBuilder(options.server, InsecureChannelCredentials.create())
                .maxInboundMessageSize(MESSAGE_BYTES_MAX)
                .build();
        Executor executor = new Executor(channel, options);
        boolean isDone = false;
        try {
            String planId = options.planId.isEmpty() ? executor.planDemo() : options.planId;
            isDone = executor.execute(planId);
        } catch (StatusRuntimeException error) {
            System.err.println("executor: " + options.server + ": " + said(error));
        } finally {
            channel.shutdownNow();
        }
        System.exit(isDone ? 0 : 1);
    }

    /** Works on what is left of a part of a plan. True if all of it was done. */
    private boolean execute(String planId) throws InterruptedException {
        Set<String> done = Patience.persist(() -> withResult(planId));
        List<TaskRequest> requests = taskRequests(planId);
        List<Task> tasks = new ArrayList<>();
        for (int position = options.shard.index; position < requests.size(); position += options.shard.parts) {
            if (!done.contains(requests.get(position).getTaskId())) {
                tasks.add(new Task(position, requests.get(position)));
            }
        }

        RecordStream stream = new RecordStream(channel, planId, options.inFlight);
        CountDownLatch left = stopOnSignal(stream);
        Thread working = new Thread(() -> work(tasks, stream), "work");
        working.start();
        StatusRuntimeException lost = null;
        try {
            stream.run();
        } catch (StatusRuntimeException error) {
            lost = error;
        }
        working.join();

        long recorded = tasks.stream().filter(task -> stream.hasResult(task.request.getTaskId())).count();
        System.out.printf(
                "executor: plan %s, shard %s: %d of %d tasks have a result; %s, %d outstanding, %d reconnects%s%n",
                planId, options.shard, recorded, tasks.size(), tally(stream.dispositions()), stream.outstanding(),
                stream.reconnects(), lost == null ? "" : "; lost the server: " + said(lost));
        left.countDown();
        return lost == null && recorded == tasks.size() && stream.isEachTaken();
    }

    /**
     * Stops the stream on SIGTERM and SIGINT. Then Java exits with 128 and the signal's number, as soon as the latch that
     * is returned was counted down.
     */
    private static CountDownLatch stopOnSignal(RecordStream stream) {
        CountDownLatch left = new CountDownLatch(1);
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            stream.stop();
            try {
                left.await();
            } catch (InterruptedException impatient) {
                Thread.currentThread().interrupt();
            }
        }, "signal"));
        return left;
    }

    /** Works on the tasks one by one. Each has a session of its own, the same one whenever it is begun again. */
    private void work(List<Task> tasks, RecordStream stream) {
        Shard shard = options.shard;
        try {
            for (Task task : tasks) {
                String session = "executor-" + shard.index + "-of-" + shard.parts + "-task-" + task.position;
                Work.perform(task.request, session, stream);
            }
        } catch (RecordStream.Stopped | InterruptedException stopped) {
            // Nothing more is begun.
        } finally {
            stream.close();
        }
    }

    /** Calls for everything but the records, one at a time. */
    private FanoutServiceBlockingStub calls() {
        return FanoutServiceGrpc.newBlockingStub(channel)
                .withWaitForReady()
                .withDeadlineAfter(CALL_SECONDS, TimeUnit.SECONDS);
    }

    /** Ids of the tasks that have a result already. */
    private Set<String> withResult(String planId) {
        Set<String> done = new HashSet<>();
        WatchPlanRequest request = WatchPlanRequest.newBuilder().setPlanId(planId).setIncludeSnapshot(true).build();
        // The watch would go on after its snapshot; it is cancelled with its context.
        Context.CancellableContext watching = Context.current().withCancellation();
        watching.run(() -> {
            Iterator<WatchPlanResponse> frames = calls().watchPlan(request);
            boolean isLast = false;
            while (!isLast && frames.hasNext()) {
                WatchPlanResponse frame = frames.next();
                for (Result result : frame.getSnapshot().getResultsList()) {
                    done.add(result.getTaskId());
                }
                isLast = frame.getSnapshot().getLast();
            }
        });
        watching.cancel(null);
        return done;
    }

    /** All task requests, in plan order. */
    private List<TaskRequest> taskRequests(String planId) throws InterruptedException {
        List<TaskRequest> all = new ArrayList<>();
        GetPlanRequest.Builder request =
                GetPlanRequest.newBuilder().setPlanId(planId).setView(View.VIEW_FULL).setPageSize(PAGE_SIZE);
        GetPlanResponse page;
        do {
            page = Patience.persist(() -> calls().getPlan(request.build()));
            all.addAll(page.getTaskRequestsList());
            request.setPageToken(page.getNextPageToken());
        } while (!page.getNextPageToken().isEmpty());
        return all;
    }

    /** Plans four tasks, one for each author, and returns the plan's id. */
    private String planDemo() throws InterruptedException {
        ArrayNode groups = JsonNodeFactory.instance.arrayNode();
        addGroup(groups, "carroll", "Begin at the beginning", "and go on till you come to the end", "then stop");
        addGroup(groups, "dickens", "It was the best of times", "it was the worst of times");
        addGroup(groups, "melville", "Call me Ishmael");
        addGroup(groups, "shakespeare",
                "Tomorrow and tomorrow and tomorrow", "creeps in this petty pace from day to day");
        var template = Work.object().put("id", "read-{{group.key}}");
        template.putObject("inputs").put("lines", "{{group.items}}");
        PlanRequest request = PlanRequest.newBuilder()
                // As the call may be made again: it is still one plan.
                .setRequestId(UUID.randomUUID().toString())
                .setConfig(Work.text(Work.object().set("task_request_template", template)))
                .setGroups(Work.text(groups))
                .build();
        return Patience.persist(() -> calls().plan(request)).getPlan().getPlanId();
    }

    private static void addGroup(ArrayNode groups, String key, String... lines) {
        ArrayNode items = groups.addObject().put("key", key).putArray("items");
        for (String line : lines) {
            items.add(line);
        }
    }

    /** Says how many receipts of each disposition there were. */
    private static String tally(Map<Disposition, Integer> dispositions) {
        int total = dispositions.values().stream().mapToInt(Integer::intValue).sum();
        String each = dispositions.entrySet().stream()
                .map(entry -> entry.getValue() + " " + RecordStream.nameOf(entry.getKey()))
                .collect(Collectors.joining(", "));
        return total + " receipts (" + (each.isEmpty() ? "none" : each) + ")";
    }

    /** What the server said with an error: its code and the first line of its message. */
    private static String said(StatusRuntimeException error) {
        Status status = error.getStatus();
        String message = status.getDescription() == null ? "" : status.getDescription();
        return status.getCode() + message.lines().findFirst().map(line -> ": " + line).orElse("");
    }
}
