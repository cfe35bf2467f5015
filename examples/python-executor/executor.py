#!/usr/bin/env python3
"""An executor: takes its share of a plan's task requests, works on each, and streams records back.

It shows what an executor needs, and is meant to be copied:

  * which tasks are left: the snapshot of WatchPlan says what has a result, GetPlan pages through the task requests
  * one SubmitRecord stream for all records: STARTED, PROGRESS, then the result of each task
  * receipts are read while records are sent, and only so many records may be without one
  * a lost connection is opened again; records without a receipt are sent again, as the server knows repeated ones

The work is a stand-in: it counts the words in all texts of the task request. Replace `steps`.
"""

import argparse
import hashlib
import itertools
import json
import random
import re
import signal
import sys
import threading
from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().with_name("generated")))
try:
    import grpc
    from fanout.v1 import fanout_service_pb2 as service
    from fanout.v1 import fanout_service_pb2_grpc as service_grpc
    from fanout.v1 import plan_pb2 as plan
    from fanout.v1 import record_pb2 as record
except ImportError as missing:
    sys.exit(f"executor: {missing}; install requirements.txt and run generate.sh, as README.md says")

EPILOG = """\
try it:
  fanout serve &
  executor.py --demo

share a plan between two executors:
  executor.py --plan-id PLAN --shard 0/2 &
  executor.py --plan-id PLAN --shard 1/2

exit codes:
  0    every task of the shard has a result
  1    not every task: records were refused, the plan ended early, or the server was lost
  2    usage
  130  interrupted (SIGINT)
  143  terminated (SIGTERM)
After a signal no task is begun, and receipts are awaited for at most 5 s. Start the executor again, and it does
what is left.
"""

# Records in one message. The server allows 1,000; small messages are answered sooner.
RECORDS_PER_MESSAGE = 100
# Task requests in a page of GetPlan, the most there may be.
PAGE_SIZE = 1_000
# Time for the calls before the stream, connecting included.
CALL_SECONDS = 30
# Failed connections in a row before the server counts as lost, and the longest waits around them.
CONNECTIONS_MAX = 10
FIRST_BACKOFF_SECONDS = 0.1
BACKOFF_SECONDS_MAX = 5
# Time for the last receipts after a signal.
STOP_SECONDS = 5

# The record was taken, now or before.
TAKEN = {record.DISPOSITION_ACCEPTED, record.DISPOSITION_DUPLICATE, record.DISPOSITION_SUPERSEDED_PREVIOUS}
# The record was not taken, and sending it again would not help.
REFUSED = {
    record.DISPOSITION_UNMATCHED: "names no task of the plan; it is in quarantine",
    record.DISPOSITION_AMBIGUOUS: "names several tasks; it is in quarantine",
    record.DISPOSITION_LATE: "came after the end of the plan; it is in quarantine",
    record.DISPOSITION_INVALID: "is not valid",
    record.DISPOSITION_TOO_LARGE: "is over a limit",
}


class Stopped(Exception):
    """No more records are taken: a signal came, or the plan has ended."""


class RecordStream:
    """One SubmitRecord stream that outlives its connections.

    `send` queues a record and waits while `in_flight` records are without a receipt. `run` talks to the server, and
    returns when the stream was closed and every record has its receipt.
    """

    def __init__(self, stub, plan_id, in_flight):
        # What became of the records, and the tasks that are known to have a result.
        self.dispositions = Counter()
        self.with_result = set()
        self.reconnects = 0
        self._stub = stub
        self._plan_id = plan_id
        self._in_flight = in_flight
        self._changed = threading.Condition()
        # Records without a receipt, oldest first; the first `_sent` of them were sent on this connection.
        self._records = deque()
        self._sent = 0
        self._connection = 0
        self._call = None
        self._closed = False
        self._stopped = False

    @property
    def unacknowledged(self):
        """Records without a receipt."""
        return len(self._records)

    @property
    def refused(self):
        """Records that were not taken."""
        return sum(count for disposition, count in self.dispositions.items() if disposition not in TAKEN)

    def send(self, sent):
        """Queues a record. Raises Stopped if none is taken any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._records) < self._in_flight)
            if self._closed:
                raise Stopped
            self._records.append(sent)
            self._changed.notify_all()

    def close(self):
        """Takes no more records; those queued are still sent."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def stop(self):
        """Closes, does not connect again, and gives up on receipts after a while."""
        with self._changed:
            self._stopped = True
            self.close()
        give_up = threading.Timer(STOP_SECONDS, self._cancel)
        give_up.daemon = True
        give_up.start()

    def _cancel(self):
        with self._changed:
            if self._call is not None:
                self._call.cancel()

    def run(self):
        """Talks to the server. Raises grpc.RpcError if it is lost or refuses the stream."""
        failures = 0
        try:
            while not self._stopped:
                try:
                    for response in self._connect():
                        self._take(response)
                        failures = 0
                    return
                except grpc.RpcError as error:
                    if self._stopped:
                        return
                    failures += 1
                    if error.code() != grpc.StatusCode.UNAVAILABLE or failures == CONNECTIONS_MAX:
                        raise
                    self.reconnects += 1
                # Full jitter: executors that lost the same server do not come back all at once.
                most = min(BACKOFF_SECONDS_MAX, FIRST_BACKOFF_SECONDS * 2**failures)
                with self._changed:
                    self._changed.wait_for(lambda: self._stopped, timeout=random.uniform(0, most))
        finally:
            self.close()

    def _connect(self):
        with self._changed:
            self._connection += 1
            self._sent = 0
            self._changed.notify_all()
            self._call = self._stub.SubmitRecord(self._requests(self._connection))
            return self._call

    def _requests(self, connection):
        """The messages of one connection: first what has no receipt yet, then what comes. Half-closes at the end."""
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._closed or connection != self._connection or self._sent < len(self._records)
                )
                if connection != self._connection:
                    return
                records = list(itertools.islice(self._records, self._sent, self._sent + RECORDS_PER_MESSAGE))
                self._sent += len(records)
            if not records:
                return
            yield record.SubmitRecordRequest(plan_id=self._plan_id, records=records)

    def _take(self, response):
        """Takes the receipts of one message. They come in the order of the records."""
        for receipt in response.receipts:
            with self._changed:
                sent = self._records.popleft()
                self._sent -= 1
                self._changed.notify_all()
            self.dispositions[receipt.disposition] += 1
            if receipt.status != record.TASK_STATUS_UNSPECIFIED:
                self.with_result.add(receipt.task_id)
            if receipt.disposition not in TAKEN:
                complain(sent, receipt)
        if response.status != plan.PLAN_STATUS_INCOMPLETE:
            # Somebody else's records, a deadline or SealPlan ended the plan: begin nothing more.
            self.close()


def name_of(disposition):
    """ACCEPTED, or the number of a disposition that is newer than these stubs."""
    known = disposition in record.Disposition.values()
    return record.Disposition.Name(disposition).removeprefix("DISPOSITION_") if known else str(disposition)


def complain(sent, receipt):
    """Says why a record was refused. A disposition this executor does not know is worth a line, too."""
    reason = REFUSED.get(receipt.disposition, "got a receipt that this executor does not know")
    details = ""
    if receipt.disposition == record.DISPOSITION_AMBIGUOUS:
        details = f": {', '.join(receipt.candidate_task_ids)}"
    elif receipt.HasField("violation"):
        details = f": {receipt.violation.field}: {receipt.violation.description} ({receipt.violation.reason})"
    print(
        f"executor: {name_of(receipt.disposition)}: the record of task {sent.task_id} {reason}{details}",
        file=sys.stderr,
    )


def texts(value):
    """All strings of a JSON value, in order."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, dict)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from texts(part)


def steps(document):
    """The work on one task request: a stand-in. Yields what each step found; the last one is the outcome."""
    found = list(texts(json.loads(document)))
    yield {"step": "read", "texts": len(found)}
    words = Counter(word.lower() for text in found for word in re.findall(r"\w+", text))
    yield {"step": "counted", "words": words.total()}
    # The first of the most frequent ones in the alphabet, so that the outcome depends on the request only.
    common = min(words, key=lambda word: (-words[word], word), default="")
    yield {"words": words.total(), "common": common, "sha256": hashlib.sha256(document).hexdigest()}


def records_of(task, session):
    """The records of one task: STARTED, a PROGRESS after each step, the result.

    They name the task and the session. From the first one on the server knows the session, too.
    """

    def made(kind, body, status=""):
        return record.Record(
            task_id=task.task_id,
            sandbox_session_id=session,
            kind=kind,
            status=status,
            body=json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode(),
        )

    yield made(record.RECORD_KIND_STARTED, {})
    try:
        *progress, outcome = steps(task.document)
    except Exception as error:  # Whatever the work dies of is this task's result, not the executor's end.
        yield made(record.RECORD_KIND_RESULT, {"error": f"{type(error).__name__}: {error}"}, "failed")
        return
    for step in progress:
        yield made(record.RECORD_KIND_PROGRESS, step)
    yield made(record.RECORD_KIND_RESULT, {"outcome": outcome}, "completed")


def with_result(stub, plan_id):
    """Ids of the tasks that have a result already."""
    watch = stub.WatchPlan(
        service.WatchPlanRequest(plan_id=plan_id, include_snapshot=True),
        timeout=CALL_SECONDS,
        wait_for_ready=True,
    )
    done = set()
    for response in watch:
        done.update(result.task_id for result in response.snapshot.results)
        if response.snapshot.last:
            break
    watch.cancel()
    return done


def task_requests(stub, plan_id):
    """All task requests, in plan order."""
    request = plan.GetPlanRequest(plan_id=plan_id, view=plan.VIEW_FULL, page_size=PAGE_SIZE)
    while True:
        page = stub.GetPlan(request, timeout=CALL_SECONDS, wait_for_ready=True)
        yield from page.task_requests
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


def plan_demo(stub):
    """Plans four tasks: one for each author."""
    lines = {
        "carroll": ["Begin at the beginning", "and go on till you come to the end", "then stop"],
        "dickens": ["It was the best of times", "it was the worst of times"],
        "melville": ["Call me Ishmael"],
        "shakespeare": ["Tomorrow and tomorrow and tomorrow", "creeps in this petty pace from day to day"],
    }
    groups = [{"key": author, "items": said} for author, said in lines.items()]
    config = {"task_request_template": {"id": "read-{{group.key}}", "inputs": {"lines": "{{group.items}}"}}}
    planned = stub.Plan(
        plan.PlanRequest(config=json.dumps(config).encode(), groups=json.dumps(groups).encode()),
        timeout=CALL_SECONDS,
        wait_for_ready=True,
    )
    return planned.plan.plan_id


def shard(text):
    """Reads `I/N`: part I of N parts, counted from 0."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not int(match[1]) < int(match[2]):
        raise argparse.ArgumentTypeError(f"expected I/N with I from 0 to N - 1, found {text!r}")
    return int(match[1]), int(match[2])


def positive(text):
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"expected a number from 1, found {text!r}")
    return int(text)


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--server", default="127.0.0.1:7117", metavar="HOST:PORT", help="default: %(default)s")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--plan-id", metavar="PLAN", help="the plan to work on")
    which.add_argument("--demo", action="store_true", help="plan a small fan-out first, and work on that")
    parser.add_argument(
        "--shard", type=shard, default=(0, 1), metavar="I/N", help="only every Nth task, from the Ith: 0/2, 1/2"
    )
    parser.add_argument(
        "--in-flight",
        type=positive,
        default=256,
        metavar="RECORDS",
        help="records that may be without a receipt (default: %(default)s)",
    )
    return parser.parse_args()


def work(tasks, stream, session):
    """Works on the tasks one by one. Each has a session of its own, the same one whenever it is begun again."""
    try:
        for position, task in tasks:
            for made in records_of(task, f"{session}-task-{position}"):
                stream.send(made)
    except Stopped:
        pass
    finally:
        stream.close()


def execute(stub, plan_id, part, in_flight):
    """Works on what is left of a part of a plan. Returns the exit code."""
    index, parts = part
    done = with_result(stub, plan_id)
    mine = itertools.islice(enumerate(task_requests(stub, plan_id)), index, None, parts)
    tasks = [(position, task) for position, task in mine if task.task_id not in done]

    stream = RecordStream(stub, plan_id, in_flight)
    signals = []

    def stop(number, _):
        signals.append(number)
        stream.stop()

    # The handlers run in this thread, which only waits below; so the stream's lock is never held by it.
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    lost = ""
    with ThreadPoolExecutor(2) as pool:
        working = pool.submit(work, tasks, stream, f"executor-{index}-of-{parts}")
        talking = pool.submit(stream.run)
        try:
            talking.result()
            working.result()
        except grpc.RpcError as error:
            lost = f"; lost the server: {error.code().name}: {error.details()}"

    left = len({task.task_id for _, task in tasks} - stream.with_result)
    tally = stream.dispositions
    receipts = ", ".join(f"{count} {name_of(disposition)}" for disposition, count in sorted(tally.items()))
    print(
        f"executor: plan {plan_id}, shard {index}/{parts}: {len(tasks) - left} of {len(tasks)} tasks have a result; "
        f"{tally.total()} receipts ({receipts or 'none'}), {stream.unacknowledged} outstanding, "
        f"{stream.reconnects} reconnects{lost}"
    )
    if signals:
        return 128 + signals[0]
    return 1 if lost or left or stream.refused else 0


def main():
    options = arguments()
    # Soon back after a cut; how often is bounded by the stream.
    channel_options = [
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", BACKOFF_SECONDS_MAX * 1_000),
        ("grpc.max_receive_message_length", 16 << 20),
    ]
    with grpc.insecure_channel(options.server, channel_options) as channel:
        stub = service_grpc.FanoutServiceStub(channel)
        try:
            plan_id = plan_demo(stub) if options.demo else options.plan_id
            return execute(stub, plan_id, options.shard, options.in_flight)
        except grpc.RpcError as error:
            print(f"executor: {options.server}: {error.code().name}: {error.details()}", file=sys.stderr)
            return 1


if __name__ == "__main__":
    sys.exit(main())
