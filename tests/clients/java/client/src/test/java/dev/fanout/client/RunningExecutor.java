package dev.fanout.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.File;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
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

    @Override
    public void close() throws IOException {
        process.destroyForcibly();
        Files.deleteIfExists(output);
        Files.deleteIfExists(errors);
    }
}
