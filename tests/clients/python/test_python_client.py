"""A client in another language against the real server: every receipt, frame and document is compared with an oracle.

FANOUT_SEED draws other records; a failure prints the seed.
"""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import unittest
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate, chain
from pathlib import Path

EXECUTOR = Path(__file__).resolve().parents[3] / "examples/python-executor/executor.py"
sys.path.insert(0, str(EXECUTOR.with_name("generated")))

import grpc
from fanout.v1 import fanout_service_pb2 as service
from fanout.v1 import plan_pb2 as plan
from fanout.v1 import record_pb2 as record
from google.protobuf import descriptor_pool, message_factory
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from oracle import CODES, Oracle, Task
from script import Script
from server import Server, Wire

SEED = int(os.environ.get("FANOUT_SEED", "20240611"))
# A test that waits longer has failed.
SECONDS = 60
RECORDS = 20_000
STREAMS = 8
TASKS = 4_000
CUTS = 8
RESULTS_BEFORE_A_CUT = 300


def compact(value):
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def register(stub, plan_id, groups, template, seal_rule=plan.SEAL_RULE_EXPLICIT):
    """Plans one task for each group."""
    request = plan.PlanRequest(
        plan_id=plan_id,
        config=compact({"task_request_template": template}),
        groups=compact(groups),
        completion_policy=plan.CompletionPolicy(seal_rule=seal_rule),
    )
    return stub.Plan(request, timeout=SECONDS)


def register_tasks(stub, plan_id, count, seal_rule=plan.SEAL_RULE_EXPLICIT):
    """Plans tasks `task-0`, `task-1` and so on, of groups `group-0`, `group-1` and so on."""
    groups = [{"key": f"group-{position}"} for position in range(count)]
    return register(stub, plan_id, groups, {"id": "task-{{group.index}}"}, seal_rule)


def submit(stub, plan_id, *records):
    """The receipts of one call."""
    request = record.SubmitRecordsRequest(plan_id=plan_id, records=records)
    return stub.SubmitRecords(request, timeout=SECONDS).receipts


def dispositions(receipts):
    return [record.Disposition.Name(receipt.disposition) for receipt in receipts]


def seal(stub, plan_id):
    return stub.SealPlan(plan.SealPlanRequest(plan_id=plan_id), timeout=SECONDS).plan


def frames(stub, plan_id, **options):
    """All frames of a watch, up to and with its End."""
    watch = stub.WatchPlan(service.WatchPlanRequest(plan_id=plan_id, **options), timeout=SECONDS)
    return list(watch)


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


class ServerTest(unittest.TestCase):
    def setUp(self):
        self.server = self.enterContext(Server())
        self.stub = self.server.stub
        self.maxDiff = 2_000

    def documents(self, **request):
        return self.stub.Reconcile(service.ReconcileRequest(**request), timeout=SECONDS)


class TwentyThousandRecords(ServerTest):
    """One plan, thousands of tasks, eight streams, two watchers."""

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
        self.planned = register(self.stub, "big", groups, template)
        # Two heavy records come with each script.
        share = TASKS // STREAMS
        self.scripts = [
            Script(self.oracle, tasks[n * share : (n + 1) * share], f"{SEED}-{n}", RECORDS // STREAMS - 2)
            for n in range(STREAMS)
        ]
        # The streams stop here for the watcher that begins in the middle.
        self.quarter_sent = threading.Barrier(STREAMS + 1)
        self.snapshot_taken = threading.Event()

    def test_every_receipt_frame_and_document_is_what_the_oracle_says(self):
        with self.subTest(FANOUT_SEED=SEED), ThreadPoolExecutor(STREAMS + 2) as pool:
            from_the_beginning = pool.submit(frames, self.stub, "big", include_payload=True)
            from_the_middle = pool.submit(self.watch_with_cuts)
            streams = [pool.submit(self.stream, script) for script in self.scripts]
            responses = [stream.result(SECONDS) for stream in streams]
            expected = [expected for script in self.scripts for _, expected in script.steps]
            self.assertEqual(RECORDS, len(expected))

            self.check_sequences(expected)
            self.check_every_disposition_was_seen(expected)
            self.check_counts_only_grow(responses)
            self.check_result(plan.PLAN_STATUS_INCOMPLETE)
            sealed = seal(self.stub, "big")
            self.assertEqual((plan.PLAN_STATUS_FAILED, plan.END_REASON_SEALED), (sealed.status, sealed.end_reason))
            self.check_result(plan.PLAN_STATUS_FAILED)

            self.check_watch(from_the_beginning.result(SECONDS), expected)
            self.check_watch_with_cuts(from_the_middle.result(SECONDS), expected)
            self.check_documents()
            self.check_after_the_end()

    def stream(self, script):
        """Sends a script over one stream and compares every receipt as it comes. Returns the responses."""
        messages = list(script.messages())

        def requests():
            for number, message in enumerate(messages):
                if number == len(messages) // 4:
                    self.quarter_sent.wait(SECONDS)
                    self.assertTrue(self.snapshot_taken.wait(SECONDS))
                # The plan is needed in the first message only.
                plan_id = "big" if number % 2 == 0 else ""
                yield record.SubmitRecordRequest(plan_id=plan_id, records=[sent for sent, _ in message])

        responses = list(self.stub.SubmitRecord(requests(), timeout=SECONDS))
        for message, response in zip(messages, responses, strict=True):
            for place, ((_, expected), receipt) in enumerate(zip(message, response.receipts, strict=True)):
                self.check_receipt(expected, receipt, place)
        return responses

    def check_receipt(self, expected, receipt, place):
        warnings = set(receipt.warnings)
        violation = None
        if receipt.HasField("violation"):
            self.assertTrue(receipt.violation.description)
            violation = (receipt.violation.field, receipt.violation.reason, receipt.violation.limit)
        wanted = expected.violation and (f"records[{place}].{expected.violation[0]}", *expected.violation[1:])
        has_document = expected.applied and expected.is_result
        self.assertEqual(
            (
                record.Disposition.Name(expected.disposition),
                CODES[expected.disposition],
                expected.task_id,
                expected.matched_by,
                expected.revision,
                expected.status,
                expected.successful,
                expected.document if has_document else None,
                expected.warnings,
                expected.candidates,
                wanted,
                expected.quarantined,
            ),
            (
                record.Disposition.Name(receipt.disposition),
                receipt.code,
                receipt.task_id,
                receipt.matched_by,
                receipt.revision,
                receipt.status,
                receipt.successful,
                json.loads(receipt.record) if receipt.record else None,
                warnings,
                list(receipt.candidate_task_ids),
                violation,
                receipt.quarantine_id > 0,
            ),
            f"the receipt of {str(expected.record)[:2_000]}",
        )
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

    def check_every_disposition_was_seen(self, expected):
        """The draw was worth its time: hundreds of each kind, matched in each of the four ways."""
        seen = Counter(it.disposition for it in expected)
        seen_ways = Counter(it.matched_by for it in expected if it.applied)
        for disposition in set(CODES) - {record.DISPOSITION_LATE}:
            self.assertGreater(seen[disposition], 100, record.Disposition.Name(disposition))
        for way in set(record.MatchedBy.values()) - {record.MATCHED_BY_UNSPECIFIED, record.MATCHED_BY_OPERATOR}:
            self.assertGreater(seen_ways[way], 1_000, record.MatchedBy.Name(way))
        warnings = Counter(chain.from_iterable(it.warnings for it in expected))
        self.assertGreater(warnings[record.WARNING_KEYS_DISAGREE], 100)
        self.assertGreater(warnings[record.WARNING_FIELD_IN_BODY_IGNORED], 100)

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
        whole = self.documents(plan_id="big")
        self.assertEqual(status, whole.status)
        self.check_counts(whole.counts, self.oracle.counts())
        document = json.loads(whole.document)
        document["reconciliation"].pop("schema")
        wanted = self.oracle.result_document()
        if status == plan.PLAN_STATUS_INCOMPLETE:
            wanted["status"] = "incomplete"
        self.assertEqual(wanted, {member: document[member] for member in wanted})

        pages = [self.documents(plan_id="big", page_size=700)]
        while pages[-1].next_page_token:
            pages.append(self.documents(plan_id="big", page_size=700, page_token=pages[-1].next_page_token))
        self.assertEqual(-(-TASKS // 700), len(pages))
        parts = [json.loads(page.document) for page in pages]
        for member in ("records", "outcomes"):
            self.assertEqual(wanted[member], list(chain.from_iterable(part[member] for part in parts)))
        failed = chain.from_iterable(part["reconciliation"]["failed_task_ids"] for part in parts)
        self.assertEqual(wanted["reconciliation"]["failed_task_ids"], list(failed))

    def results_in_order(self, expected):
        """What the Result frames of a whole watch say."""
        by_task = {task.task_id: task for task in self.oracle.tasks}
        applied = sorted((it for it in expected if it.applied and it.is_result), key=lambda it: it.sequence)
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

    def check_watch(self, seen, expected):
        results = [facts_of(frame.result) for frame in seen if frame.HasField("result")]
        self.assertEqual(self.results_in_order(expected), results)
        signs = sorted((it for it in expected if it.applied and not it.is_result), key=lambda it: it.sequence)
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
        self.quarter_sent.wait(SECONDS)
        snapshot, results, cuts = [], [], 0
        options = {"include_snapshot": True}
        while True:
            request = service.WatchPlanRequest(plan_id="big", include_payload=True, **options)
            call = self.stub.WatchPlan(request, timeout=SECONDS)
            news = 0
            for frame in call:
                options = {"after": frame.cursor}
                if frame.HasField("snapshot"):
                    snapshot += frame.snapshot.results
                    if frame.snapshot.last:
                        taken_at = frame.snapshot.plan.sequence
                        self.snapshot_taken.set()
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

    def check_watch_with_cuts(self, watched, expected):
        taken_at, snapshot, results, last, cuts = watched
        self.assertEqual(CUTS, cuts)
        whole = self.results_in_order(expected)
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

    def check_after_the_end(self):
        """An ended plan knows its records again, and sets other ones aside."""
        self.oracle.ended = True
        with_record = [task for task in self.oracle.tasks if task.held][:20]
        without = [task for task in self.oracle.tasks if not task.held][:20]
        sent = [task.held.record for task in with_record]
        sent += [record.Record(task_id=task.task_id, status="completed") for task in with_record + without]
        sent += [record.Record(id="nobody")]
        for place, (one, receipt) in enumerate(zip(sent, submit(self.stub, "big", *sent), strict=True)):
            self.check_receipt(self.oracle.receive(one), receipt, place)
        self.check_result(plan.PLAN_STATUS_FAILED)


class CutStream(ServerTest):
    def test_records_sent_again_after_a_cut_are_applied_once(self):
        tasks, enough = 600, 100
        register_tasks(self.stub, "cut", tasks)
        records = [record.Record(id=f"task-{n}", status="completed") for n in range(tasks)]
        enough_applied = threading.Event()

        def requests():
            for number, sent in enumerate(records):
                if number == tasks // 2:
                    enough_applied.wait(SECONDS)
                yield record.SubmitRecordRequest(plan_id="cut", records=[sent])

        call = self.stub.SubmitRecord(requests(), timeout=SECONDS)
        watch = self.stub.WatchPlan(service.WatchPlanRequest(plan_id="cut"), timeout=SECONDS)
        for _ in range(enough):
            self.assertTrue(next(watch).HasField("result"))
        # No receipt was read.
        call.cancel()
        enough_applied.set()

        again = (record.SubmitRecordRequest(plan_id="cut", records=[sent]) for sent in records)
        receipts = [
            receipt for response in self.stub.SubmitRecord(again, timeout=SECONDS) for receipt in response.receipts
        ]
        self.assertEqual([1] * tasks, [receipt.revision for receipt in receipts])
        seen = Counter(dispositions(receipts))
        self.assertGreaterEqual(seen["DISPOSITION_DUPLICATE"], enough)
        self.assertEqual(tasks, seen["DISPOSITION_DUPLICATE"] + seen["DISPOSITION_ACCEPTED"])
        seal(self.stub, "cut")
        results = [frame.result for frame in frames(self.stub, "cut") if frame.HasField("result")]
        self.assertEqual(tasks, len(results))
        self.assertEqual(tasks, len({result.task_id for result in results}))


class Executors(ServerTest):
    """examples/python-executor, as a user runs it."""

    def start(self, *arguments, server=None):
        process = subprocess.Popen(
            [sys.executable, EXECUTOR, "--server", server or self.server.address, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.addCleanup(process.kill)
        return process

    def finish(self, process):
        """Exit code, standard output and standard error."""
        output, errors = process.communicate(timeout=SECONDS)
        return process.returncode, output, errors

    def plan_is(self, plan_id, status):
        got = self.stub.GetPlan(plan.GetPlanRequest(plan_id=plan_id), timeout=SECONDS).plan
        self.assertEqual(plan.PlanStatus.Name(status), plan.PlanStatus.Name(got.status))
        return got

    def watch(self, plan_id):
        return self.stub.WatchPlan(service.WatchPlanRequest(plan_id=plan_id), timeout=SECONDS)

    def until_results(self, watch, count):
        while count > 0:
            count -= next(watch).HasField("result")

    def test_two_shards_complete_a_plan_and_do_no_task_twice(self):
        register_tasks(self.stub, "shards", 301, plan.SEAL_RULE_WHEN_ALL_RECORDED)
        shards = [self.start("--plan-id", "shards", "--shard", f"{n}/2") for n in range(2)]
        ended = [self.finish(shard) for shard in shards]
        for n, (code, output, errors) in enumerate(ended):
            self.assertEqual((0, ""), (code, errors))
            count = 151 - n
            self.assertIn(f"shard {n}/2: {count} of {count} tasks", output)
            self.assertIn(f"{4 * count} receipts ({4 * count} ACCEPTED), 0 outstanding, 0 reconnects", output)
            self.assertEqual(1, output.count("\n"))
        done = self.plan_is("shards", plan.PLAN_STATUS_COMPLETED)
        self.assertEqual(301, done.counts.outcomes)
        kinds = Counter(frame.progress.kind for frame in frames(self.stub, "shards") if frame.HasField("progress"))
        self.assertEqual({record.RECORD_KIND_STARTED: 301, record.RECORD_KIND_PROGRESS: 602}, kinds)

    def test_an_executor_leaves_on_sigterm_and_another_one_does_the_rest(self):
        tasks = 3_000
        register_tasks(self.stub, "stop", tasks, plan.SEAL_RULE_WHEN_ALL_RECORDED)
        watch = self.watch("stop")
        # Few records in flight make it slow: it is far from done when the signal comes.
        first = self.start("--plan-id", "stop", "--in-flight", "2")
        self.until_results(watch, 5)
        first.send_signal(signal.SIGTERM)
        code, output, errors = self.finish(first)
        self.assertEqual((143, ""), (code, errors))
        self.assertIn(" 0 outstanding", output)
        left = self.plan_is("stop", plan.PLAN_STATUS_INCOMPLETE).counts.missing
        self.assertIn(f" {tasks - left} of {tasks} tasks have a result", output)
        self.assertLess(0, left)

        code, output, errors = self.finish(self.start("--plan-id", "stop"))
        self.assertEqual((0, ""), (code, errors))
        self.assertIn(f" {left} of {left} tasks have a result", output)
        self.plan_is("stop", plan.PLAN_STATUS_COMPLETED)
        results = [frame.result for frame in frames(self.stub, "stop") if frame.HasField("result")]
        self.assertEqual([1] * tasks, [result.revision for result in results])

    def test_an_executor_whose_connection_is_cut_comes_back_and_loses_nothing(self):
        tasks = 1_500
        register_tasks(self.stub, "wire", tasks, plan.SEAL_RULE_WHEN_ALL_RECORDED)
        wire = self.enterContext(Wire(self.server.address))
        watch = self.watch("wire")
        executor = self.start("--plan-id", "wire", "--in-flight", "8", server=wire.address)
        for _ in range(3):
            self.until_results(watch, 100)
            wire.cut()
        code, output, errors = self.finish(executor)
        self.assertEqual((0, ""), (code, errors))
        self.assertIn(f" {tasks} of {tasks} tasks have a result", output)
        self.assertRegex(output, r" 0 outstanding, [1-9]\d* reconnects$")
        self.plan_is("wire", plan.PLAN_STATUS_COMPLETED)
        results = [frame.result for frame in frames(self.stub, "wire") if frame.HasField("result")]
        self.assertEqual([1] * tasks, [result.revision for result in results])

    def test_an_executor_leaves_on_sigterm_although_the_server_answers_no_more(self):
        register_tasks(self.stub, "silent", 3_000)
        watch = self.watch("silent")
        executor = self.start("--plan-id", "silent", "--in-flight", "2")
        self.until_results(watch, 5)
        self.server.process.send_signal(signal.SIGSTOP)
        executor.send_signal(signal.SIGTERM)
        code, output, errors = self.finish(executor)
        self.assertEqual((143, ""), (code, errors))
        self.assertIn("shard 0/1", output)

    def test_an_executor_begins_nothing_more_when_its_plan_has_ended(self):
        register_tasks(self.stub, "sealed", 3_000)
        watch = self.watch("sealed")
        executor = self.start("--plan-id", "sealed", "--in-flight", "2")
        self.until_results(watch, 5)
        recorded = seal(self.stub, "sealed").counts.recorded
        code, output, _ = self.finish(executor)
        self.assertEqual(1, code)
        self.assertIn(f" {recorded} of 3000 tasks have a result", output)

    def test_an_executor_names_the_limit_that_its_results_pass(self):
        server = self.enterContext(Server("--record-body-bytes-max", "60"))
        register_tasks(server.stub, "small", 2)
        code, output, errors = self.finish(self.start("--plan-id", "small", server=server.address))
        self.assertEqual(1, code)
        self.assertIn(" 0 of 2 tasks have a result; 8 receipts (6 ACCEPTED, 2 TOO_LARGE), 0 outstanding", output)
        self.assertRegex(errors, r"TOO_LARGE: the record of task task-1 is over a limit: .* \(BODY_TOO_LARGE\)")

    def test_the_demo_completes_a_plan_of_its_own(self):
        code, output, errors = self.finish(self.start("--demo"))
        self.assertEqual((0, ""), (code, errors))
        self.assertIn("4 of 4 tasks have a result", output)
        (planned,) = self.stub.ListPlans(plan.ListPlansRequest(), timeout=SECONDS).plans
        self.assertEqual(plan.PLAN_STATUS_COMPLETED, planned.status)
        outcomes = json.loads(self.documents(plan_id=planned.plan_id).document)["outcomes"]
        self.assertEqual(4, len(outcomes))
        self.assertIn("tomorrow", [outcome["common"] for outcome in outcomes])

    def test_an_executor_says_which_plan_there_is_not(self):
        code, output, errors = self.finish(self.start("--plan-id", "nowhere"))
        self.assertEqual((1, ""), (code, output))
        self.assertIn("NOT_FOUND", errors)


class Surroundings(ServerTest):
    def test_reflection_describes_the_service_well_enough_to_call_it(self):
        database = ProtoReflectionDescriptorDatabase(self.server.channel)
        self.assertIn("fanout.v1.FanoutService", database.get_services())
        pool = descriptor_pool.DescriptorPool(database)
        methods = pool.FindServiceByName("fanout.v1.FanoutService").methods_by_name
        asked = message_factory.GetMessageClass(methods["Plan"].input_type)
        answered = message_factory.GetMessageClass(methods["Plan"].output_type)
        call = self.server.channel.unary_unary(
            "/fanout.v1.FanoutService/Plan",
            request_serializer=asked.SerializeToString,
            response_deserializer=answered.FromString,
        )
        answer = call(asked(plan_id="reflected", items=b'[{"kind":"a"},{"kind":"b"},{"kind":"a"}]'), timeout=SECONDS)
        self.assertTrue(answer.created)
        self.assertEqual(["a", "b"], [request.group_key for request in answer.task_requests])
        known = self.stub.GetPlan(plan.GetPlanRequest(plan_id="reflected"), timeout=SECONDS)
        self.assertEqual(3, known.plan.counts.items)

    def test_every_health_name_is_serving(self):
        health = health_pb2_grpc.HealthStub(self.server.channel)
        for name in ("", "fanout.v1.FanoutService", "readiness"):
            answer = health.Check(health_pb2.HealthCheckRequest(service=name), timeout=SECONDS)
            self.assertEqual(health_pb2.HealthCheckResponse.SERVING, answer.status, name)

    def test_sigterm_ends_open_streams_as_unavailable_and_the_server_with_0(self):
        register_tasks(self.stub, "drain", 2)
        answered = threading.Event()

        def requests():
            yield record.SubmitRecordRequest(plan_id="drain", records=[record.Record(id="task-0")])
            answered.wait(SECONDS)

        self.addCleanup(answered.set)
        watch = self.stub.WatchPlan(service.WatchPlanRequest(plan_id="drain"), timeout=SECONDS)
        stream = self.stub.SubmitRecord(requests(), timeout=SECONDS)
        self.assertEqual(["DISPOSITION_ACCEPTED"], dispositions(next(stream).receipts))
        self.assertEqual("task-0", next(watch).result.task_id)
        self.server.terminate()
        for open_stream in (stream, watch):
            with self.assertRaises(grpc.RpcError) as raised:
                next(open_stream)
            self.assertEqual(grpc.StatusCode.UNAVAILABLE, raised.exception.code())
        self.assertEqual(0, self.server.wait())


class Receipts(ServerTest):
    """Corners of what the comments in proto/ promise of a record."""

    def setUp(self):
        super().setUp()
        register_tasks(self.stub, "plan", 2)

    def test_records_sent_again_in_their_order_end_where_they_ended_before(self):
        records = [record.Record(id="task-0", status=status) for status in ("failed", "completed")]
        submit(self.stub, "plan", *records)
        again = submit(self.stub, "plan", *records)
        self.assertEqual(["DISPOSITION_SUPERSEDED_PREVIOUS"] * 2, dispositions(again))
        self.assertEqual(record.TASK_STATUS_COMPLETED, again[-1].status)
        self.assertEqual(["DISPOSITION_DUPLICATE"], dispositions(submit(self.stub, "plan", records[-1])))

    def test_a_sign_of_life_that_tells_nothing_new_is_a_duplicate_of_the_latest(self):
        started = record.Record(id="task-0", kind=record.RECORD_KIND_STARTED)
        progress = record.Record(id="task-0", kind=record.RECORD_KIND_PROGRESS)
        _, latest, again = submit(self.stub, "plan", started, progress, started)
        self.assertEqual(("DISPOSITION_DUPLICATE", latest.sequence), (dispositions([again])[0], again.sequence))

    def test_started_for_an_ended_plan_is_late_and_set_aside(self):
        seal(self.stub, "plan")
        started = record.Record(id="task-0", kind=record.RECORD_KIND_STARTED)
        receipt, = submit(self.stub, "plan", started)
        self.assertEqual(["DISPOSITION_LATE"], dispositions([receipt]))
        self.assertEqual((1, 9), (receipt.quarantine_id, receipt.code))

    def test_a_group_key_that_is_a_task_id_counts_before_a_session(self):
        # As in whole documents: a record's own identity is the first of task_id, id, group_key.
        register(self.stub, "same", [{"key": "a"}, {"key": "b"}], {"id": "{{group.key}}"})
        learnt = record.Record(id="a", sandbox_session_id="session")
        both = record.Record(sandbox_session_id="session", group_key="b")
        receipt = submit(self.stub, "same", learnt, both)[1]
        self.assertEqual(("b", [record.WARNING_KEYS_DISAGREE]), (receipt.task_id, list(receipt.warnings)))

    def test_documents_have_their_items_counted(self):
        given = service.ReconcileDocuments(items=b"[1,2,3]")
        self.assertEqual(3, self.documents(documents=given).counts.items)

    def test_the_same_content_in_another_layout_is_a_duplicate(self):
        plain, spaced = (record.Record(id="task-0", body=body) for body in (b'{"v":1}', b'{ "v": 1.0 }'))
        got = dispositions(submit(self.stub, "plan", plain, spaced))
        self.assertEqual(["DISPOSITION_ACCEPTED", "DISPOSITION_DUPLICATE"], got)


if __name__ == "__main__":
    unittest.main()
