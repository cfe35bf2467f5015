package dev.fanout.client;

import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Deque;
import java.util.List;
import org.junit.jupiter.api.extension.AfterEachCallback;
import org.junit.jupiter.api.extension.ExtensionContext;

/** What one test has started. It ends with the test; if that failed, the servers' logs are shown. */
final class Stage implements AfterEachCallback {
    private final Deque<AutoCloseable> started = new ArrayDeque<>();

    Server server(String... options) throws Exception {
        return add(Server.start(options));
    }

    /** The server, ended by this signal and started again at its address. */
    Server again(Server server, String signal) throws Exception {
        return add(server.startAgain(signal));
    }

    Wire wire(Server server) {
        return add(new Wire(server.address));
    }

    /** An executor of the server at this address. */
    RunningExecutor executor(String address, String... arguments) throws Exception {
        List<String> all = new ArrayList<>(List.of("--server", address));
        all.addAll(List.of(arguments));
        return add(RunningExecutor.start(all));
    }

    /** An executor with these arguments only. */
    RunningExecutor execution(String... arguments) throws Exception {
        return add(RunningExecutor.start(List.of(arguments)));
    }

    private <T extends AutoCloseable> T add(T it) {
        started.push(it);
        return it;
    }

    @Override
    public void afterEach(ExtensionContext context) throws Exception {
        for (AutoCloseable it : started) {
            it.close();
            if (it instanceof Server server && context.getExecutionException().isPresent()) {
                System.err.println(context.getDisplayName() + " failed; the server's log:\n" + server.log());
            }
        }
    }
}
