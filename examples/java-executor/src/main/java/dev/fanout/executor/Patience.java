package dev.fanout.executor;

import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.RetryInfo;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import java.time.Duration;
import java.util.List;
import java.util.Optional;
import java.util.concurrent.ThreadLocalRandom;
import java.util.function.Supplier;

/** How often a server that is away is tried again, and how long to wait before. */
final class Patience {
    /** Failures in a row before the server counts as lost. */
    private static final int FAILURES_MAX = 10;

    /** The shortest and the longest limit of the waits between them. */
    private static final long FIRST_BACKOFF_MILLIS = 100;
    private static final long BACKOFF_MILLIS_MAX = 5_000;

    private int failures;

    /** Makes a call again while the server is away. */
    static <T> T persist(Supplier<T> call) throws InterruptedException {
        Patience patience = new Patience();
        while (true) {
            try {
                return call.get();
            } catch (StatusRuntimeException error) {
                Thread.sleep(patience.waitAfter(error).toMillis());
            }
        }
    }

    /** The server has answered: what failed before no longer counts. */
    void reward() {
        failures = 0;
    }

    /**
     * How long to wait after a call has failed.
     *
     * @throws StatusRuntimeException the error, if to call again is in vain
     */
    Duration waitAfter(StatusRuntimeException error) {
        failures++;
        Optional<Duration> delay = retryDelay(error);
        if (delay.isEmpty() || failures == FAILURES_MAX) {
            throw error;
        }
        // Full jitter: executors that lost the same server do not come back all at once.
        long most = Math.min(BACKOFF_MILLIS_MAX, FIRST_BACKOFF_MILLIS << failures);
        return delay.get().plusMillis(ThreadLocalRandom.current().nextLong(most));
    }

    /**
     * How long to wait at least before a call that failed is made again; empty if that would be in vain.
     *
     * <p>The server says so, with a RetryInfo. An error without any details is not the server's: the connection broke,
     * which may show as any of these codes.
     */
    private static Optional<Duration> retryDelay(StatusRuntimeException error) {
        List<Any> details = StatusProto.fromThrowable(error).getDetailsList();
        for (Any detail : details) {
            if (detail.is(RetryInfo.class)) {
                try {
                    var delay = detail.unpack(RetryInfo.class).getRetryDelay();
                    return Optional.of(Duration.ofSeconds(delay.getSeconds(), delay.getNanos()));
                } catch (InvalidProtocolBufferException malformed) {
                    return Optional.empty();
                }
            }
        }
        boolean isCut = switch (error.getStatus().getCode()) {
            case UNAVAILABLE, CANCELLED, UNKNOWN -> details.isEmpty();
            default -> false;
        };
        return isCut ? Optional.of(Duration.ZERO) : Optional.empty();
    }
}
