"""What an executor is, whichever way it talks to the server: its arguments, the work, what is sent and what receipts
mean, how long to wait. `executor.py` and `executor_asyncio.py` do the talking.

The work is a stand-in: it counts the words in all texts of the task request. Replace `steps`.
"""

import argparse
import hashlib
import itertools
import json
import random
import re
import sys
import uuid
from collections import Counter, deque
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().with_name("generated")))
try:
    # All that the executors need, so that what is missing is said here.
    import grpc
    from fanout.v1 import fanout_service_pb2 as service
    from fanout.v1 import fanout_service_pb2_grpc  # noqa: F401
    from fanout.v1 import plan_pb2 as plan
    from fanout.v1 import record_pb2 as record
    from google.rpc import error_details_pb2 as error_details
    from google.rpc import status_pb2 as rpc_status
except ImportError as missing:
    sys.exit(f"executor: {missing}; install requirements.txt and run generate.sh, as README.md says")

EPILOG = """\
try it:
  fanout serve &
  %(prog)s --demo

share a plan between two executors:
  %(prog)s --plan-id PLAN --shard 0/2 &
  %(prog)s --plan-id PLAN --shard 1/2

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
# Failures in a row before the server counts as lost, and the longest waits between them.
FAILURES_MAX = 10
FIRST_BACKOFF_SECONDS = 0.1
BACKOFF_SECONDS_MAX = 5
# Time for the last receipts after a signal.
STOP_SECONDS = 5

# A cut connection is tried again soon; how often is bounded by Patience.
CHANNEL_OPTIONS = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", BACKOFF_SECONDS_MAX * 1_000),
    ("grpc.max_receive_message_length", 16 << 20),
]

# The record was taken, now or before.
TAKEN = {record.DISPOSITION_ACCEPTED, record.DISPOSITION_DUPLICATE, record.DISPOSITION_SUPERSEDED_PREVIOUS}
# The record was not taken, and sending it again would not help.
REFUSED = {
    record.DISPOSITION_UNMATCHED: "names no task of the plan; it is in quarantine",
    record.DISPOSITION_AMBIGUOUS: "names several tasks; it is in quarantine",
    record.DISPOSITION_KEYS_DISAGREE: "has keys that name different tasks; it is in quarantine",
    record.DISPOSITION_LATE: "came after the end of the plan or after the record that counts; it is in quarantine",
    record.DISPOSITION_INVALID: "is not valid",
    record.DISPOSITION_TOO_LARGE: "is over a limit",
}

# What a call ends with whose connection broke: INTERNAL if grpc.aio was writing a message just then.
CUT = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.INTERNAL,
}


class Stopped(Exception):
    """No more records are taken: a signal came, or the plan has ended."""


class Patience:
    """How often a server that is away is tried again, and how long to wait before."""

    def __init__(self):
        self._failures = 0

    def reward(self):
        """The server has answered: what failed before no longer counts."""
        self._failures = 0

    def seconds_after(self, error):
        """How long to wait after a call has failed; None if to call again is in vain."""
        self._failures += 1
        seconds = retry_seconds(error)
        if seconds is None or self._failures == FAILURES_MAX:
            return None
        # Full jitter: executors that lost the same server do not come back all at once.
        return seconds + random.uniform(0, min(BACKOFF_SECONDS_MAX, FIRST_BACKOFF_SECONDS * 2**self._failures))


def retry_seconds(error):
    """How long to wait at least before a call that failed is made again; None if that would be in vain.

    The server says so, with a RetryInfo. An error without any details is not the server's: the connection broke.
    """
    trailers = dict(error.trailing_metadata() or ())
    details = rpc_status.Status.FromString(trailers.get("grpc-status-details-bin", b"")).details
    for detail in details:
        info = error_details.RetryInfo()
        if detail.Unpack(info):
            return info.retry_delay.ToTimedelta().total_seconds()
    return 0 if not details and error.code() in CUT else None


class Ledger:
    """The records of one SubmitRecord stream: which have no receipt yet, and what became of the others.

    The records are numbered from 0 on, as those of a producer that only this ledger is. So one that is sent again, as
    it has no receipt yet, is not applied again, and gets the receipt that it got.

    Does not wait and does not lock; a stream that is used by several threads does that around it.
    """

    def __init__(self, plan_id, in_flight):
        # What became of the records, and the tasks that are known to have a result.
        self.dispositions = Counter()
        self.with_result = set()
        self._plan_id = plan_id
        self._producer_id = str(uuid.uuid4())
        self._in_flight = in_flight
        # Records with a receipt: the offset of the first one without.
        self._receipted = 0
        # Records without a receipt, oldest first; the first `_sent` of them were sent on this connection.
        self._records = deque()
        self._sent = 0

    @property
    def unacknowledged(self):
        """Records without a receipt."""
        return len(self._records)

    @property
    def is_full(self):
        """Whether as many records are without a receipt as may be."""
        return len(self._records) >= self._in_flight

    @property
    def has_unsent(self):
        """Whether there are records to be sent on this connection."""
        return self._sent < len(self._records)

    @property
    def refused(self):
        """Records that were not taken."""
        return sum(count for disposition, count in self.dispositions.items() if disposition not in TAKEN)

    def add(self, made):
        """Takes a record that is to be sent."""
        self._records.append(made)

    def reconnect(self):
        """Begins a new connection: everything without a receipt is to be sent on it."""
        self._sent = 0

    def next_request(self):
        """The next message, of at most 100 records; None if all were sent."""
        records = list(itertools.islice(self._records, self._sent, self._sent + RECORDS_PER_MESSAGE))
        first_offset = self._receipted + self._sent
        self._sent += len(records)
        if not records:
            return None
        return record.SubmitRecordRequest(
            plan_id=self._plan_id,
            records=records,
            producer_id=self._producer_id,
            first_offset=first_offset,
            # What was sent need not come back.
            view=plan.VIEW_BASIC,
        )

    def take(self, response):
        """Takes a message's receipts, which come in the order of the records. Returns whether the plan is open."""
        for receipt in response.receipts:
            sent = self._records.popleft()
            self._sent -= 1
            self._receipted += 1
            self.dispositions[receipt.disposition] += 1
            if receipt.status != record.TASK_STATUS_UNSPECIFIED:
                self.with_result.add(receipt.task_id)
            if receipt.disposition not in TAKEN:
                complain(sent, receipt)
        return response.status == plan.PLAN_STATUS_INCOMPLETE


def name_of(disposition):
    """ACCEPTED, or the number of a disposition that is newer than these stubs."""
    known = disposition in record.Disposition.values()
    return record.Disposition.Name(disposition).removeprefix("DISPOSITION_") if known else str(disposition)


def complain(sent, receipt):
    """Says why a record was refused. A disposition this executor does not know is worth a line, too."""
    reason = REFUSED.get(receipt.disposition, "got a receipt that this executor does not know")
    details = ""
    if receipt.candidate_task_ids:
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


class Share:
    """One part of a plan's tasks: those that are left, with their positions in the plan."""

    def __init__(self, plan_id, part, with_result):
        """`part` is (I, N): every Nth task, from the Ith. `with_result` are ids of tasks that are not left."""
        self.plan_id = plan_id
        self.part = part
        # Pairs of position and task request, in plan order.
        self.tasks = []
        self._with_result = with_result
        self._read = 0

    @property
    def name(self):
        """The part as `--shard` spells it: 0/2."""
        index, parts = self.part
        return f"{index}/{parts}"

    def session(self, position):
        """A task's session, the same one whenever it is begun again."""
        index, parts = self.part
        return f"executor-{index}-of-{parts}-task-{position}"

    def take(self, task_requests):
        """Takes the task requests of the plan's next page."""
        index, parts = self.part
        for position, task in enumerate(task_requests, self._read):
            if position % parts == index and task.task_id not in self._with_result:
                self.tasks.append((position, task))
        self._read += len(task_requests)


def snapshot_request(plan_id):
    """The watch whose snapshot says which tasks have a result."""
    return service.WatchPlanRequest(plan_id=plan_id, include_snapshot=True)


def first_page_request(plan_id):
    """The call for the first page of task requests."""
    return plan.GetPlanRequest(plan_id=plan_id, view=plan.VIEW_FULL, page_size=PAGE_SIZE)


def demo_request():
    """A plan of four tasks: one for each author."""
    lines = {
        "carroll": ["Begin at the beginning", "and go on till you come to the end", "then stop"],
        "dickens": ["It was the best of times", "it was the worst of times"],
        "melville": ["Call me Ishmael"],
        "shakespeare": ["Tomorrow and tomorrow and tomorrow", "creeps in this petty pace from day to day"],
    }
    groups = [{"key": author, "items": said} for author, said in lines.items()]
    config = {"task_request_template": {"id": "read-{{group.key}}", "inputs": {"lines": "{{group.items}}"}}}
    # The request's id, as the call may be made again: it is still one plan.
    return plan.PlanRequest(
        request_id=str(uuid.uuid4()), config=json.dumps(config).encode(), groups=json.dumps(groups).encode()
    )


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


def arguments(description):
    """The command line."""
    parser = argparse.ArgumentParser(
        description=description, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
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


def report(share, ledger, reconnects, signals, lost):
    """Prints how it went, in one line, and returns the exit code.

    `signals` are those that came, `lost` is the error the server was lost with, or None.
    """
    left = len({task.task_id for _, task in share.tasks} - ledger.with_result)
    tally = ledger.dispositions
    receipts = ", ".join(f"{count} {name_of(disposition)}" for disposition, count in sorted(tally.items()))
    print(
        f"executor: plan {share.plan_id}, shard {share.name}: "
        f"{len(share.tasks) - left} of {len(share.tasks)} tasks have a result; "
        f"{tally.total()} receipts ({receipts or 'none'}), {ledger.unacknowledged} outstanding, "
        f"{reconnects} reconnects" + (f"; lost the server: {lost.code().name}: {lost.details()}" if lost else "")
    )
    if signals:
        return 128 + signals[0]
    return 1 if lost or left or ledger.refused else 0


def report_refused_call(server, error):
    """Says which call before the stream failed, and returns the exit code."""
    print(f"executor: {server}: {error.code().name}: {error.details()}", file=sys.stderr)
    return 1
