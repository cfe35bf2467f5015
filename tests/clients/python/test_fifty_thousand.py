"""One plan, thousands of tasks, 50,000 records: every receipt, frame and document is compared with an oracle.

FANOUT_SEED draws other records; a failure prints the seed.
"""

import asyncio
import json
import queue
import random
import signal
import subprocess
import sys
import threading
import unittest
from base64 import b64decode, b64encode
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from itertools import accumulate, chain
from pathlib import Path

import grpc
from calls import SECONDS, SEED, ServerTest, compact, dispositions, frames, register, seal, submit
from fanout.v1 import fanout_service_pb2 as service
from fanout.v1 import fanout_service_pb2_grpc as service_grpc
from fanout.v1 import plan_pb2 as plan
from fanout.v1 import record_pb2 as record
from oracle import CODES, Oracle, Task
from script import Script

CLIENT_TO_KILL = Path(__file__).resolve().with_name("client_to_kill.py")
PLAN_ID = "big"
TASKS = 4_000
STREAMS = 16
# All records of the streams, and those of them that come after the plan has ended.
RECORDS = 50_000
LATE = 800
CUTS = 8
RESULTS_BEFORE_A_CUT = 500
# Of the client that is killed: the records it would send, those it has sent, those it has receipts of.
KILLED_RECORDS, KILLED_SENT, KILLED_RECEIPTS = 500, 250, 100
# The stream that reads no receipts sends messages of so many records, and must be stopped by flow control long before
# it has sent so many messages.
UNREAD_RECORDS, UNREAD_MESSAGES = 100, 10_000


class Signals:
    """What the streams and the other clients of one plan tell each other. `give_up` ends all waiting."""

    def __init__(self):
        # One permit for each stream that has the receipts of a quarter of its messages.
        self.quarter_done = threading.Semaphore(0)
        # The streams send the second half of their messages after both.
        self.snapshot_taken = threading.Event()
        self.client_killed = threading.Event()

    def wait_for_quarters(self):
        for _ in range(STREAMS):
            if not self.quarter_done.acquire(timeout=SECONDS):
                raise AssertionError("a stream has no receipts of a quarter of its messages")

    def wait_for_second_half(self):
        if not (self.snapshot_taken.wait(SECONDS) and self.client_killed.wait(SECONDS)):
            raise AssertionError("the second half may not be sent")

    def give_up(self):
        self.quarter_done.release(STREAMS)
        self.snapshot_taken.set()
        self.client_killed.set()


class BlockingStreams:
    """SubmitRecord streams of the blocking client, each in a thread of its own."""

    def __init__(self, address):
        self._channel = grpc.insecure_channel(address)
        self._pool = ThreadPoolExecutor(STREAMS)
        stub = service_grpc.FanoutServiceStub(self._channel)
        # Requests on their way; None half-closes.
        self._queues = [queue.SimpleQueue() for _ in range(STREAMS)]
        self._calls = [
            stub.SubmitRecord(iter(partial(requests.get, timeout=SECONDS), None), timeout=SECONDS)
            for requests in self._queues
        ]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for requests in self._queues:
            requests.put(None)
        self._channel.close()
        self._pool.shutdown()

    def exchange(self, scripts, signals=None):
        """Sends each stream's requests, and returns each one's responses."""
        running = [
            self._pool.submit(self._exchange, call, sent, script, signals)
            for call, sent, script in zip(self._calls, self._queues, scripts, strict=True)
        ]
        try:
            for stream in as_completed(running):
                stream.result()
        except BaseException:
            self._channel.close()
            raise
        return [stream.result() for stream in running]

    @staticmethod
    def _exchange(call, sent, requests, signals):
        half, quarter, responses = len(requests) // 2, len(requests) // 4, []
        for part in (requests[:half], requests[half:]):
            for request in part:
                sent.put(request)
            for _ in part:
                responses.append(next(call))
                if signals and len(responses) == quarter:
                    signals.quarter_done.release()
            if signals and part and len(responses) == half:
                signals.wait_for_second_half()
        return responses

    def half_close(self):
        """Half-closes every stream, and returns the responses that were left, if any."""
        for requests in self._queues:
            requests.put(None)
        return list(chain.from_iterable(self._calls))


class AsyncioStreams:
    """SubmitRecord streams of the asyncio client, all in one event loop, which runs during the calls here."""

    def __init__(self, address):
        self._runner = asyncio.Runner()
        self._runner.run(self._open(address))

    async def _open(self, address):
        self._channel = grpc.aio.insecure_channel(address)
        stub = service_grpc.FanoutServiceStub(self._channel)
        self._queues = [asyncio.Queue() for _ in range(STREAMS)]
        self._calls = [stub.SubmitRecord(self._requests(sent), timeout=SECONDS) for sent in self._queues]

    @staticmethod
    async def _requests(sent):
        while (request := await sent.get()) is not None:
            yield request

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._runner.run(self._channel.close())
        self._runner.close()

    def exchange(self, scripts, signals=None):
        """Sends each stream's requests, and returns each one's responses."""
        return self._runner.run(self._exchange_all(scripts, signals))

    async def _exchange_all(self, scripts, signals):
        streams = zip(self._calls, self._queues, scripts, strict=True)
        async with asyncio.TaskGroup() as group:
            running = [group.create_task(self._exchange(*stream, signals)) for stream in streams]
        return [stream.result() for stream in running]

    @staticmethod
    async def _exchange(call, sent, requests, signals):
        half, quarter, responses = len(requests) // 2, len(requests) // 4, []
        for part in (requests[:half], requests[half:]):
            for request in part:
                sent.put_nowait(request)
            for _ in part:
                responses.append(await anext(aiter(call)))
                if signals and len(responses) == quarter:
                    signals.quarter_done.release()
            if signals and part and len(responses) == half:
                await asyncio.to_thread(signals.wait_for_second_half)
        return responses

    def half_close(self):
        """Half-closes every stream, and returns the responses that were left, if any."""
        return self._runner.run(self._half_close())

    async def _half_close(self):
        for sent in self._queues:
            sent.put_nowait(None)
        return [response for call in self._calls async for response in call]


def facts_of(result):
    """What a Result says, but for the time."""
    return (
        result.sequence,
        result.task_id,
        result.group_key,
        result.revision,
        result.status,
        result.successful,
        result.matched_by,
        json.loads(result.record),
    )


class FiftyThousandRecords(ServerTest):
    """Sixteen streams and two watchers at one plan, beside clients that misbehave."""

    def setUp(self):
        super().setUp()
        draw = random.Random(SEED)
        tasks, groups = [], []
        for position in range(TASKS):
            # Every tenth task shares its group key with the task before it.
            group_key = groups[-1]["key"] if position % 10 == 9 else f"group-{position}"
            session = f"planned-session-{position}" if draw.random() < 0.2 else ""
            tasks.append(Task(position, f"task-{position}", f"other-name-{position}", group_key, session))
            groups.append({"key": group_key, "items": [{"session": session}] if session else []})
        template = {
            "task_id": "task-{{group.index}}",
            "id": "other-name-{{group.index}}",
            "sandbox_session_id": "{{group.items.0.session}}",
        }
        self.oracle = Oracle(tasks)
        self.planned = register(self.stub, PLAN_ID, groups, template)
        self.signals = Signals()
        self.addCleanup(self.signals.give_up)
        # The first task is the unread stream's, nine have no record, the next ones are the killed client's.
        self.repeated = self.oracle.receive(record.Record(task_id=tasks[0].task_id, status="passed"))
        self.killed = [
            self.oracle.receive(record.Record(id=task.task_id, status="completed", body=b'{"outcome":"late"}'))
            for task in tasks[10 : 10 + KILLED_RECORDS]
        ]
        # Tasks that share a key stay together: so the order of what happens to both is known.
        shared = tasks[10 + KILLED_RECORDS :]
        share = len(shared) // STREAMS // 10 * 10
        cuts = [n * share for n in range(STREAMS)] + [len(shared)]
        self.scripts = [
            Script(self.oracle, shared[begin:end], f"{SEED}-{n}")
            for n, (begin, end) in enumerate(zip(cuts, cuts[1:]))
        ]

    def test_every_receipt_frame_and_document_of_threads_is_what_the_oracle_says(self):
        self.check_plan(BlockingStreams)

    def test_every_receipt_frame_and_document_of_asyncio_streams_is_what_the_oracle_says(self):
        self.check_plan(AsyncioStreams)

    def check_plan(self, open_streams):
        with (
            self.subTest(FANOUT_SEED=SEED),
            ThreadPoolExecutor(3) as pool,
            open_streams(self.server.address) as streams,
        ):
            try:
                self.check_streams(pool, streams)
            except BaseException:
                self.signals.give_up()
                self.server.process.kill()
                raise

    def check_streams(self, pool, streams):
        (receipt,) = submit(self.stub, PLAN_ID, self.repeated.record)
        self.check_receipt(self.repeated, receipt, 0)
        end_silent, end_unread = self.open_silent(), self.open_unread()
        from_the_beginning = pool.submit(frames, self.stub, PLAN_ID, include_payload=True)
        from_the_middle = pool.submit(self.watch_with_cuts)
        resumed = pool.submit(self.kill_and_resume)

        messages = [script.write((RECORDS - LATE) // STREAMS - 2) + script.write_heavy() for script in self.scripts]
        responses = self.exchange(streams, messages, self.signals)
        resumed.result(SECONDS)
        self.check_counts_only_grow(responses)
        self.check_result(plan.PLAN_STATUS_INCOMPLETE)
        sealed = seal(self.stub, PLAN_ID)
        self.assertEqual((plan.PLAN_STATUS_FAILED, plan.END_REASON_SEALED), (sealed.status, sealed.end_reason))
        self.oracle.ended = True
        self.check_result(plan.PLAN_STATUS_FAILED)
        self.check_watch(from_the_beginning.result(SECONDS))
        self.check_watch_with_cuts(from_the_middle.result(SECONDS))
        self.check_documents()

        # An ended plan knows its records again, and sets other ones aside. The streams are the same ones.
        late = [script.write(LATE // STREAMS) for script in self.scripts]
        self.exchange(streams, late)
        self.assertEqual([], streams.half_close())
        self.check_result(plan.PLAN_STATUS_FAILED)
        self.assertEqual(RECORDS, sum(len(script.steps) for script in self.scripts))
        self.check_sequences(self.steps())
        self.check_the_draw_was_worth_its_time(self.steps())
        end_silent()
        end_unread()

    def steps(self):
        """The expectations of all records that were sent, those of one stream in its order."""
        return [self.repeated, *self.killed, *chain.from_iterable(script.steps for script in self.scripts)]

    def exchange(self, streams, messages, signals=None):
        """Sends each stream's messages and compares every receipt. Returns the responses."""
        requests = [
            [
                # The plan is needed in the first message of a stream only.
                record.SubmitRecordRequest(
                    plan_id=PLAN_ID if number % 2 == 0 else "", records=[expected.record for expected in message]
                )
                for number, message in enumerate(one_stream)
            ]
            for one_stream in messages
        ]
        responses = streams.exchange(requests, signals)
        for message, response in zip(chain(*messages), chain(*responses), strict=True):
            self.check_message(message, response)
        return responses

    def open_silent(self):
        """Opens a stream that sends nothing. The function returned ends it."""
        ended = threading.Event()

        def requests():
            ended.wait(SECONDS)
            yield from ()

        self.addCleanup(ended.set)
        call = self.stub.SubmitRecord(requests(), timeout=SECONDS)

        def end():
            ended.set()
            self.assertEqual([], list(call))
            self.assertEqual(grpc.StatusCode.OK, call.code())

        return end

    def open_unread(self):
        """Opens a stream that sends one record again and again and reads no receipt.

        The function returned reads them after all: every one is there.
        """
        enough, sent = threading.Event(), []
        request = record.SubmitRecordRequest(plan_id=PLAN_ID, records=[self.repeated.record] * UNREAD_RECORDS)

        def requests():
            while not enough.is_set() and len(sent) < UNREAD_MESSAGES:
                sent.append(request)
                yield request

        self.addCleanup(enough.set)
        call = self.stub.SubmitRecord(requests(), timeout=SECONDS)

        def end():
            enough.set()
            self.assertLess(len(sent), UNREAD_MESSAGES, "messages were taken although no receipt was read")
            responses = list(call)
            self.assertEqual(len(sent), len(responses))
            said = Counter(
                (receipt.disposition, receipt.sequence, receipt.revision)
                for response in responses
                for receipt in response.receipts
            )
            duplicate = (record.DISPOSITION_DUPLICATE, self.repeated.sequence, 1)
            self.assertEqual({duplicate: UNREAD_RECORDS * len(sent)}, said)

        return end

    def kill_and_resume(self):
        """A client is killed in the middle of its stream; the next one sends again what had no receipt."""
        process = subprocess.Popen(
            [sys.executable, CLIENT_TO_KILL, self.server.address, str(KILLED_RECEIPTS), str(SECONDS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        with process:
            try:
                for expected in self.killed[:KILLED_SENT]:
                    request = record.SubmitRecordRequest(plan_id=PLAN_ID, records=[expected.record])
                    process.stdin.write(b64encode(request.SerializeToString()) + b"\n")
                process.stdin.flush()
                for expected in self.killed[:KILLED_RECEIPTS]:
                    answer = record.SubmitRecordResponse.FromString(b64decode(process.stdout.readline()))
                    self.check_message([expected], answer)
                # All that was sent is applied before the client dies, with receipts or without.
                watch = self.stub.WatchPlan(service.WatchPlanRequest(plan_id=PLAN_ID), timeout=SECONDS)
                while next(watch).result.task_id != self.killed[KILLED_SENT - 1].task_id:
                    pass
                watch.cancel()
            finally:
                process.send_signal(signal.SIGKILL)
        self.assertEqual(-signal.SIGKILL, process.returncode)
        self.signals.client_killed.set()

        again = self.killed[KILLED_RECEIPTS:]
        receipts = submit(self.stub, PLAN_ID, *(expected.record for expected in again))
        known = KILLED_SENT - KILLED_RECEIPTS
        wanted = ["DISPOSITION_DUPLICATE"] * known + ["DISPOSITION_ACCEPTED"] * (len(again) - known)
        self.assertEqual(wanted, dispositions(receipts))
        for place, (expected, receipt) in enumerate(zip(again, receipts, strict=True)):
            if place < known:
                self.assertEqual((expected.task_id, 1), (receipt.task_id, receipt.revision))
                expected.sequence = receipt.sequence
            else:
                self.check_receipt(expected, receipt, place)

    def check_message(self, message, response):
        for place, (expected, receipt) in enumerate(zip(message, response.receipts, strict=True)):
            self.check_receipt(expected, receipt, place)

    def check_receipt(self, expected, receipt, place):
        """Compares a receipt with what it must say, and keeps its numbers."""
        violation = None
        if receipt.HasField("violation"):
            self.assertTrue(receipt.violation.description)
            violation = (receipt.violation.field, receipt.violation.reason, receipt.violation.limit)
        wanted = (
            expected.disposition,
            CODES[expected.disposition],
            expected.task_id,
            expected.matched_by,
            expected.revision,
            expected.status,
            expected.successful,
            expected.document if expected.applied and expected.is_result else None,
            expected.warnings,
            expected.candidates,
            expected.violation and (f"records[{place}].{expected.violation[0]}", *expected.violation[1:]),
            expected.quarantined,
        )
        got = (
            receipt.disposition,
            receipt.code,
            receipt.task_id,
            receipt.matched_by,
            receipt.revision,
            receipt.status,
            receipt.successful,
            json.loads(receipt.record) if receipt.record else None,
            set(receipt.warnings),
            list(receipt.candidate_task_ids),
            violation,
            receipt.quarantine_id > 0,
        )
        if wanted != got:
            self.assertEqual(wanted, got, f"the receipt of {str(expected.record)[:2_000]}")
        expected.sequence = receipt.sequence
        expected.quarantine_id = receipt.quarantine_id

    def check_sequences(self, expected):
        """A change has an event of its own, a duplicate that of its original, a refused record none."""
        changes = [it.sequence for it in expected if it.applied or it.quarantined]
        self.assertEqual(len(changes), len(set(changes)))
        self.assertGreater(min(changes), 1, "the first event is the plan's creation")
        for it in expected:
            if not it.applied and not it.quarantined:
                self.assertEqual(it.original.sequence if it.original else 0, it.sequence)
        quarantine = sorted(it.quarantine_id for it in expected if it.quarantined)
        self.assertEqual(list(range(1, self.oracle.quarantined + 1)), quarantine)

    def check_the_draw_was_worth_its_time(self, expected):
        """There were hundreds of each disposition, and thousands matched in each of the four ways."""
        seen = Counter(it.disposition for it in expected)
        seen_ways = Counter(it.matched_by for it in expected if it.applied)
        for disposition in CODES:
            self.assertGreater(seen[disposition], 250, record.Disposition.Name(disposition))
        for way in set(record.MatchedBy.values()) - {record.MATCHED_BY_UNSPECIFIED, record.MATCHED_BY_OPERATOR}:
            self.assertGreater(seen_ways[way], 2_500, record.MatchedBy.Name(way))
        warnings = Counter(chain.from_iterable(it.warnings for it in expected))
        self.assertGreater(warnings[record.WARNING_KEYS_DISAGREE], 250)
        self.assertGreater(warnings[record.WARNING_FIELD_IN_BODY_IGNORED], 250)

    def check_counts_only_grow(self, streams):
        for responses in streams:
            for field in ("recorded", "quarantined"):
                values = [getattr(response.counts, field) for response in responses]
                self.assertEqual(list(accumulate(values, max)), values)
            sequences = [response.sequence for response in responses]
            self.assertEqual(list(accumulate(sequences, max)), sequences)
            self.assertTrue(all(it.counts.recorded + it.counts.missing == TASKS for it in responses))
            self.assertTrue(all(it.counts.successful + it.counts.failed == it.counts.recorded for it in responses))

    def check_counts(self, counts, wanted):
        self.assertEqual(wanted, {field: getattr(counts, field) for field in wanted})

    def check_result(self, status):
        """Reconcile of the plan, whole and in pages."""
        whole = self.documents(plan_id=PLAN_ID)
        self.assertEqual(status, whole.status)
        self.check_counts(whole.counts, self.oracle.counts())
        document = json.loads(whole.document)
        document["reconciliation"].pop("schema")
        wanted = self.oracle.result_document()
        if status == plan.PLAN_STATUS_INCOMPLETE:
            wanted["status"] = "incomplete"
        self.assertEqual(wanted, {member: document[member] for member in wanted})

        pages = [self.documents(plan_id=PLAN_ID, page_size=700)]
        while pages[-1].next_page_token:
            pages.append(self.documents(plan_id=PLAN_ID, page_size=700, page_token=pages[-1].next_page_token))
        self.assertEqual(-(-TASKS // 700), len(pages))
        parts = [json.loads(page.document) for page in pages]
        for member in ("records", "outcomes"):
            self.assertEqual(wanted[member], list(chain.from_iterable(part[member] for part in parts)))
        failed = chain.from_iterable(part["reconciliation"]["failed_task_ids"] for part in parts)
        self.assertEqual(wanted["reconciliation"]["failed_task_ids"], list(failed))

    def results_in_order(self):
        """What the Result frames of a whole watch say."""
        by_task = {task.task_id: task for task in self.oracle.tasks}
        applied = sorted((it for it in self.steps() if it.applied and it.is_result), key=lambda it: it.sequence)
        return [
            (
                it.sequence,
                it.task_id,
                by_task[it.task_id].group_key,
                it.revision,
                it.status,
                it.successful,
                it.matched_by,
                it.document,
            )
            for it in applied
        ]

    def check_end(self, frame):
        self.assertEqual("end", frame.WhichOneof("frame"))
        self.assertEqual(plan.PLAN_STATUS_FAILED, frame.end.status)
        self.assertEqual(plan.END_REASON_SEALED, frame.end.end_reason)
        self.check_counts(frame.end.counts, self.oracle.counts())

    def check_watch(self, seen):
        results = [facts_of(frame.result) for frame in seen if frame.HasField("result")]
        self.assertEqual(self.results_in_order(), results)
        signs = sorted((it for it in self.steps() if it.applied and not it.is_result), key=lambda it: it.sequence)
        self.assertEqual(
            [(it.sequence, it.task_id, it.record.kind, json.loads(it.record.body)) for it in signs],
            [
                (it.progress.sequence, it.progress.task_id, it.progress.kind, json.loads(it.progress.body))
                for it in seen
                if it.HasField("progress")
            ],
        )
        self.check_end(seen[-1])

    def watch_with_cuts(self):
        """Begins in the middle with a snapshot; is cut off again and again, and goes on with its last cursor.

        Returns the snapshot's sequence, its results, the results after it, the last frame, and how often it was cut.
        """
        self.signals.wait_for_quarters()
        snapshot, results, cuts = [], [], 0
        options = {"include_snapshot": True}
        while True:
            request = service.WatchPlanRequest(plan_id=PLAN_ID, include_payload=True, **options)
            call = self.stub.WatchPlan(request, timeout=SECONDS)
            news = 0
            for frame in call:
                options = {"after": frame.cursor}
                if frame.HasField("snapshot"):
                    snapshot += frame.snapshot.results
                    if frame.snapshot.last:
                        taken_at = frame.snapshot.plan.sequence
                        self.signals.snapshot_taken.set()
                elif frame.HasField("result"):
                    results.append(frame.result)
                    news += 1
                elif frame.HasField("end"):
                    return taken_at, snapshot, results, frame, cuts
                if news == RESULTS_BEFORE_A_CUT and cuts < CUTS:
                    break
            else:
                raise AssertionError("the watch ended without End")
            cuts += 1
            call.cancel()

    def check_watch_with_cuts(self, watched):
        taken_at, snapshot, results, last, cuts = watched
        self.assertEqual(CUTS, cuts)
        whole = self.results_in_order()
        newest = {facts[1]: facts for facts in whole if facts[0] <= taken_at}
        in_plan_order = [newest[task.task_id] for task in self.oracle.tasks if task.task_id in newest]
        self.assertGreater(len(in_plan_order), 100)
        self.assertEqual(in_plan_order, [facts_of(result) for result in snapshot])
        self.assertEqual([facts for facts in whole if facts[0] > taken_at], [facts_of(result) for result in results])
        self.check_end(last)

    def check_documents(self):
        """The records that the tasks have, as documents and in any order, come to the same result.

        But for those that only a learnt session names: documents know the sessions of the task requests alone.
        """

        def names_its_task(task):
            by_session = task.held and task.held.matched_by == record.MATCHED_BY_SANDBOX_SESSION_ID
            return task.held and (not by_session or task.held.document["sandbox_session_id"] == task.session)

        learnt = sum(bool(task.held and not names_its_task(task)) for task in self.oracle.tasks)
        self.assertGreater(learnt, 50)
        records = [task.held.document for task in self.oracle.tasks if task.held]
        random.Random(SEED).shuffle(records)
        given = service.ReconcileDocuments(plan=self.planned.document, records=compact(records))
        answer = self.documents(documents=given)
        document = json.loads(answer.document)
        document["reconciliation"].pop("schema")
        wanted = self.oracle.result_document(names_its_task)
        self.assertEqual(wanted, {member: document[member] for member in wanted})
        self.assertEqual(plan.PLAN_STATUS_FAILED, answer.status)
        counts = self.oracle.counts()
        self.assertEqual(counts["recorded"] - learnt, answer.counts.recorded)
        self.assertEqual(counts["missing"] + learnt, answer.counts.missing)


if __name__ == "__main__":
    unittest.main()
