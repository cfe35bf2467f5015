package dev.fanout.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import fanout.v1.FanoutServiceOuterClass.WatchPlanResponse;
import fanout.v1.RecordOuterClass.RecordKind;
import java.io.File;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Collections;
import java.util.EnumMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import java.util.regex.Pattern;

/** examples/java-executor as a user runs it. */
final class RunningExecutor implements AutoCloseable {
    private final Process process;
    private final Path output;
    private final Path errors;

    private RunningExecutor(Process process, Path output, Path errors) {
        this.process = process;
        this.output = output;
        this.errors = errors;
    }

    static RunningExecutor start(List<String> arguments) throws IOException {
        // The lesser compiler makes a short run shorter.
        List<String> command = new ArrayList<>(List.of(
                System.getProperty("java.home") + "/bin/java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC",
                "-jar", System.getProperty("fanout.executor")));
        command.addAll(arguments);
        Path output = Files.createTempFile("executor-", ".output");
        Path errors = Files.createTempFile("executor-", ".errors");
        Process process = new ProcessBuilder(command)
                .redirectInput(new File("/dev/null"))
                .redirectOutput(output.toFile())
                .redirectError(errors.toFile())
                .start();
        Runtime.getRuntime().addShutdownHook(new Thread(process::destroyForcibly));
        return new RunningExecutor(process, output, errors);
    }

    /** Sends SIGTERM. */
    void terminate() {
        process.destroy();
    }

    /** Waits for its end. */
    void await() throws InterruptedException {
        assertTrue(process.waitFor(Server.DEADLINE_SECONDS, TimeUnit.SECONDS), "the executor does not end");
    }

    int exitCode() {
        return process.exitValue();
    }

    String output() throws IOException {
        return Files.readString(output);
    }

    String errors() throws IOException {
        return Files.readString(errors);
    }

    /** Waits for its end, and checks the exit code, the line of output, and with a pattern standard error. */
    void assertEnds(int code, String line, String errorPattern) throws IOException, InterruptedException {
        await();
        String said = "output: " + output() + "standard error: " + errors();
        assertEquals(code, exitCode(), said);
        assertTrue(output().contains(line) && output().lines().count() <= 1, "expected " + line + "\n" + said);
        assertTrue(Pattern.compile(errorPattern).matcher(errors()).find(), "expected " + errorPattern + "\n" + said);
    }

    /**
     * Waits for its end, and checks that no record has another one's receipt, and that each was applied once, although
     * the server was lost.
     *
     * @param frames those of the whole plan
     */
    void assertSentOnce(int tasks, List<WatchPlanResponse> frames) throws IOException, InterruptedException {
        int receipts = 4 * tasks;
        assertEnds(0, String.format(
                " %d of %d tasks have a result; %d receipts (%d ACCEPTED), 0 outstanding, ",
                tasks, tasks, receipts, receipts), "^$");
        assertTrue(output().matches("(?s).*, [1-9]\\d* reconnects\n"), output());
        List<Integer> revisions = new ArrayList<>();
        Map<RecordKind, Integer> kinds = new EnumMap<>(RecordKind.class);
        for (WatchPlanResponse frame : frames) {
            if (frame.hasResult()) {
                revisions.add(frame.getResult().getRevision());
            } else if (frame.hasProgress()) {
                kinds.merge(frame.getProgress().getKind(), 1, Integer::sum);
            }
        }
        assertEquals(Collections.nCopies(tasks, 1), revisions);
        assertEquals(Map.of(RecordKind.RECORD_KIND_STARTED, tasks, RecordKind.RECORD_KIND_PROGRESS, 2 * tasks), kinds);
    }

    @Override
    public void close() throws IOException {
        process.destroyForcibly();
        Files.deleteIfExists(output);
        Files.deleteIfExists(errors);
    }
}
