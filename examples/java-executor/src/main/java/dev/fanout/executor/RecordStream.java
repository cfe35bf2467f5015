package dev.fanout.executor;

import fanout.v1.FanoutServiceGrpc;
import fanout.v1.FanoutServiceGrpc.FanoutServiceStub;
import fanout.v1.PlanOuterClass.PlanStatus;
import fanout.v1.PlanOuterClass.View;
import fanout.v1.RecordOuterClass.Disposition;
import fanout.v1.RecordOuterClass.Receipt;
import fanout.v1.RecordOuterClass.Record;
import fanout.v1.RecordOuterClass.SubmitRecordRequest;
import fanout.v1.RecordOuterClass.SubmitRecordResponse;
import fanout.v1.RecordOuterClass.TaskStatus;
import fanout.v1.RecordOuterClass.Violation;
import io.grpc.ManagedChannel;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.stub.ClientCallStreamObserver;
import io.grpc.stub.ClientResponseObserver;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Deque;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.UUID;
import java.util.concurrent.TimeUnit;

/**
 * One SubmitRecord stream that outlives its connections.
 *
 * <p>{@link #send} queues a record and waits while as many as may be are without a receipt. {@link #run} talks to the
 * server, and returns when the stream was closed and every record has its receipt. {@link #stop} may be called from any
 * thread.
 *
 * <p>The records are numbered from 0 on, as those of a producer that only this stream is. So one that is sent again, as
 * it has no receipt yet, is not applied again, and gets the receipt that it got.
 */
final class RecordStream implements Work.Records {
    /** Records in one message. The server allows 1,000; small messages are answered sooner. */
    private static final int RECORDS_PER_MESSAGE = 100;

    /** Time for the last receipts after {@link #stop}. */
    private static final long STOP_SECONDS = 5;

    private final ManagedChannel channel;
    private final FanoutServiceStub stub;
    private final String planId;
    private final String producerId = UUID.randomUUID().toString();
    private final int inFlight;

    // The stream's monitor guards what follows, and is notified of each change.
    /** Records without a receipt, oldest first: those sent on this connection, and then those that were not. */
    private final Deque<Record> sent = new ArrayDeque<>();
    private final Deque<Record> unsent = new ArrayDeque<>();
    /** Records with a receipt: the offset of the first one without. */
    private long receipted;
    private final Map<Disposition, Integer> dispositions = new TreeMap<>();
    private final Set<String> withResult = new HashSet<>();
    private int reconnects;
    private boolean closed;
    private boolean stopped;
    /** With {@link #stopped}: when to give up, as {@link System#nanoTime} tells it. */
    private long givenUpAt;

    /** @param inFlight records that may be without a receipt, from 1 */
    RecordStream(ManagedChannel channel, String planId, int inFlight) {
        this.channel = channel;
        this.stub = FanoutServiceGrpc.newStub(channel);
        this.planId = planId;
        this.inFlight = inFlight;
    }

    /** No more records are taken: a signal came, or the plan has ended. */
    static final class Stopped extends Exception {
        private static final long serialVersionUID = 1;
    }

    @Override
    public synchronized void send(Record record) throws Stopped, InterruptedException {
        while (!closed && outstanding() >= inFlight) {
            wait();
        }
        if (closed) {
            throw new Stopped();
        }
        unsent.add(record);
        notifyAll();
    }

    /** Takes no more records; those queued are still sent. */
    synchronized void close() {
        closed = true;
        notifyAll();
    }

    /** Closes, does not connect again, and gives up on receipts after a while. */
    synchronized void stop() {
        stopped = true;
        givenUpAt = System.nanoTime() + TimeUnit.SECONDS.toNanos(STOP_SECONDS);
        close();
    }

    /** Records without a receipt. */
    synchronized int outstanding() {
        return sent.size() + unsent.size();
    }

    /** How many receipts of each disposition there were. */
    synchronized Map<Disposition, Integer> dispositions() {
        return new TreeMap<>(dispositions);
    }

    /** Whether each record was taken, now or before. */
    synchronized boolean isEachTaken() {
        return dispositions.keySet().stream().allMatch(RecordStream::isTaken);
    }

    /** Whether the task is known to have a result. */
    synchronized boolean hasResult(String taskId) {
        return withResult.contains(taskId);
    }

    /** How often the connection was lost. */
    synchronized int reconnects() {
        return reconnects;
    }

    /**
     * Talks to the server.
     *
     * @throws StatusRuntimeException if the server is lost or refuses the stream
     */
    void run() throws InterruptedException {
        try {
            Patience patience = new Patience();
            while (true) {
                Connection connection = new Connection();
                try {
                    talk(connection);
                    return;
                } catch (StatusRuntimeException error) {
                    synchronized (this) {
                        if (stopped) {
                            return;
                        }
                        if (connection.isAnswered) {
                            patience.reward();
                        }
                        long wait = patience.waitAfter(error).toNanos();
                        reconnects++;
                        waitUntil(System.nanoTime() + wait);
                        if (stopped) {
                            return;
                        }
                    }
                    // How long to wait is said by `patience` alone.
                    channel.resetConnectBackoff();
                }
            }
        } finally {
            close();
        }
    }

    /** Waits until then, or until the stream is stopped. */
    private synchronized void waitUntil(long nanoTime) throws InterruptedException {
        for (long left; !stopped && (left = nanoTime - System.nanoTime()) > 0; ) {
            TimeUnit.NANOSECONDS.timedWait(this, left);
        }
    }

    /**
     * One connection, from its first message to its end: first sends what has no receipt yet, then what comes, and
     * half-closes at the end. Then every record has its receipt.
     *
     * @throws StatusRuntimeException if it broke or was refused
     */
    private void talk(Connection connection) throws InterruptedException {
        synchronized (this) {
            while (!sent.isEmpty()) {
                unsent.addFirst(sent.removeLast());
            }
        }
        stub.submitRecord(connection);
        // From here on only this thread uses the requests, as they take no other one's.
        ClientCallStreamObserver<SubmitRecordRequest> requests = connection.requests;
        try {
            while (awaitTurn(connection)) {
                SubmitRecordRequest request = nextMessage();
                if (request.getRecordsCount() > 0) {
                    requests.onNext(request);
                } else {
                    connection.isHalfClosed = true;
                    requests.onCompleted();
                }
            }
            if (connection.error != null) {
                throw connection.error;
            }
        } finally {
            requests.cancel("the executor hangs up", null); // Nothing happens if the call is over.
        }
    }

    /** Waits until there is something to send and it may be sent. False if the connection is at its end. */
    private synchronized boolean awaitTurn(Connection connection) throws InterruptedException {
        while (true) {
            long left = givenUpAt - System.nanoTime();
            if (stopped && left <= 0) {
                Status late = Status.CANCELLED.withDescription("the last receipts did not come in time");
                connection.end(late.asRuntimeException());
            }
            if (connection.hasEnded) {
                return false;
            }
            if (!connection.isHalfClosed && (unsent.isEmpty() ? closed : connection.requests.isReady())) {
                return true;
            }
            if (stopped) {
                TimeUnit.NANOSECONDS.timedWait(this, left);
            } else {
                wait();
            }
        }
    }

    /** The next message. It has no records if all were sent. */
    private synchronized SubmitRecordRequest nextMessage() {
        long firstOffset = receipted + sent.size();
        List<Record> records = new ArrayList<>();
        while (!unsent.isEmpty() && records.size() < RECORDS_PER_MESSAGE) {
            records.add(unsent.remove());
        }
        sent.addAll(records);
        return SubmitRecordRequest.newBuilder()
                .setPlanId(planId)
                .addAllRecords(records)
                .setProducerId(producerId)
                .setFirstOffset(firstOffset)
                // What was sent need not come back.
                .setView(View.VIEW_BASIC)
                .build();
    }

    /** One call, and what is told of it. */
    private final class Connection implements ClientResponseObserver<SubmitRecordRequest, SubmitRecordResponse> {
        private ClientCallStreamObserver<SubmitRecordRequest> requests;
        private boolean isHalfClosed;
        private boolean isAnswered;
        private boolean hasEnded;
        /** What it ended with; null before, and if it ended well. */
        private StatusRuntimeException error;

        @Override
        public void beforeStart(ClientCallStreamObserver<SubmitRecordRequest> requests) {
            this.requests = requests;
            requests.setOnReadyHandler(() -> {
                synchronized (RecordStream.this) {
                    RecordStream.this.notifyAll();
                }
            });
        }

        @Override
        public void onNext(SubmitRecordResponse response) {
            synchronized (RecordStream.this) {
                isAnswered = true;
                take(this, response);
            }
        }

        @Override
        public void onError(Throwable error) {
            end(Status.fromThrowable(error).asRuntimeException(Status.trailersFromThrowable(error)));
        }

        @Override
        public void onCompleted() {
            end(null);
        }

        /** The first end counts. */
        private void end(StatusRuntimeException with) {
            synchronized (RecordStream.this) {
                if (!hasEnded) {
                    hasEnded = true;
                    error = with;
                }
                RecordStream.this.notifyAll();
            }
        }
    }

    /** Takes the receipts of one message. They come in the order of the records. */
    private synchronized void take(Connection connection, SubmitRecordResponse response) {
        for (Receipt receipt : response.getReceiptsList()) {
            if (sent.isEmpty()) {
                Status wrong = Status.INTERNAL.withDescription("the server sent more receipts than it got records");
                connection.end(wrong.asRuntimeException());
                return;
            }
            Record record = sent.remove();
            receipted++;
            dispositions.merge(receipt.getDisposition(), 1, Integer::sum);
            if (receipt.getStatus() != TaskStatus.TASK_STATUS_UNSPECIFIED) {
                withResult.add(receipt.getTaskId());
            }
            if (!isTaken(receipt.getDisposition())) {
                complain(record, receipt);
            }
        }
        if (response.getStatus() != PlanStatus.PLAN_STATUS_INCOMPLETE) {
            // Somebody else's records, a deadline or SealPlan ended the plan: begin nothing more.
            close();
        }
        notifyAll();
    }

    /** Whether the record was taken, now or before. One that was not would not be if it were sent again. */
    private static boolean isTaken(Disposition disposition) {
        return switch (disposition) {
            case DISPOSITION_ACCEPTED, DISPOSITION_DUPLICATE, DISPOSITION_SUPERSEDED_PREVIOUS -> true;
            default -> false;
        };
    }

    /** Says why a record was refused. A disposition this executor does not know is worth a line, too. */
    private static void complain(Record record, Receipt receipt) {
        String reason = switch (receipt.getDisposition()) {
            case DISPOSITION_UNMATCHED -> "names no task of the plan; it is in quarantine";
            case DISPOSITION_AMBIGUOUS -> "names several tasks; it is in quarantine";
            case DISPOSITION_KEYS_DISAGREE -> "names different tasks; it is in quarantine";
            case DISPOSITION_LATE -> "came too late; it is in quarantine";
            case DISPOSITION_INVALID -> "is not valid";
            case DISPOSITION_TOO_LARGE -> "is over a limit";
            default -> "got a receipt that this executor does not know";
        };
        if (receipt.getCandidateTaskIdsCount() > 0) {
            reason += ": " + String.join(", ", receipt.getCandidateTaskIdsList());
        }
        if (receipt.hasViolation()) {
            Violation violation = receipt.getViolation();
            reason += ": " + violation.getField() + ": " + violation.getDescription()
                    + " (" + violation.getReason() + ")";
        }
        System.err.printf("executor: %s: the record of task %s %s%n",
                nameOf(receipt.getDisposition()), record.getTaskId(), reason);
    }

    /** ACCEPTED; UNRECOGNIZED if the disposition is newer than these stubs. */
    static String nameOf(Disposition disposition) {
        return disposition.name().replaceFirst("^DISPOSITION_", "");
    }
}
