"""The executors of examples/python-executor, as a user runs them: each test runs for each of them."""

import json
import signal
import subprocess
import sys
import tempfile
import unittest
from collections import Counter
from itertools import islice
from pathlib import Path

import grpc
from calls import SECONDS, ServerTest, frames, register_tasks, seal
from fanout.v1 import fanout_service_pb2 as service
from fanout.v1 import fanout_service_pb2_grpc as service_grpc
from fanout.v1 import plan_pb2 as plan
from fanout.v1 import record_pb2 as record
from google.protobuf import duration_pb2 as duration
from google.rpc import error_details_pb2 as error_details
from google.rpc import status_pb2 as rpc_status
from server import Server, Wire

EXAMPLE = Path(__file__).resolve().parents[3] / "examples/python-executor"
sys.path.insert(0, str(EXAMPLE))
import execution


class Executor:
    """What every executor does. A subclass names its program."""

    program = None

    def start(self, *arguments, server=None):
        process = subprocess.Popen(
            [sys.executable, EXAMPLE / self.program, "--server", server or self.server.address, *arguments],
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

    def check_that_all_was_sent_once(self, tasks, frames, output):
        """Although the server was lost, no record has another one's receipt, and each was applied once."""
        self.assertIn(f" {tasks} of {tasks} tasks have a result; ", output)
        receipts = 4 * tasks
        self.assertRegex(output, rf" {receipts} receipts \({receipts} ACCEPTED\), 0 outstanding, [1-9]\d* reconnects$")
        revisions = {frame.result.task_id: frame.result.revision for frame in frames if frame.HasField("result")}
        self.assertEqual({f"task-{n}": 1 for n in range(tasks)}, revisions)
        kinds = Counter(frame.progress.kind for frame in frames if frame.HasField("progress"))
        self.assertEqual({record.RECORD_KIND_STARTED: tasks, record.RECORD_KIND_PROGRESS: 2 * tasks}, kinds)

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
        self.plan_is("wire", plan.PLAN_STATUS_COMPLETED)
        self.check_that_all_was_sent_once(tasks, frames(self.stub, "wire"), output)

    def test_an_executor_and_a_watcher_go_on_with_a_server_that_was_killed_or_drained_and_started_again(self):
        tasks = 600
        directory = self.enterContext(tempfile.TemporaryDirectory())
        server = self.enterContext(Server("--data-dir", directory))
        register_tasks(
            service_grpc.FanoutServiceStub(server.channel), "again", tasks, plan.SEAL_RULE_WHEN_ALL_RECORDED
        )
        executor = self.start("--plan-id", "again", "--in-flight", "8", server=server.address)
        seen, cursor = [], ""
        # Three watches see as many frames as there are tasks, then the server ends; the last one sees the plan's end.
        for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, None):
            stub = service_grpc.FanoutServiceStub(server.channel)
            watch = stub.WatchPlan(service.WatchPlanRequest(plan_id="again", after=cursor), timeout=SECONDS)
            for frame in islice(watch, tasks) if number else watch:
                seen.append(frame)
                cursor = frame.cursor
            if number:
                server.start_again(number)
        code, output, errors = self.finish(executor)
        self.assertEqual((0, ""), (code, errors))
        self.assertEqual(plan.PLAN_STATUS_COMPLETED, seen[-1].end.status)
        self.check_that_all_was_sent_once(tasks, seen, output)

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
        register_tasks(service_grpc.FanoutServiceStub(server.channel), "small", 2)
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


class Refusal(grpc.RpcError):
    """A status as a call raises it: with these details if it is the server's."""

    def __init__(self, code, *details):
        self.code = lambda: code
        status = rpc_status.Status(code=code.value[0])
        for detail in details:
            status.details.add().Pack(detail)
        trailers = (("grpc-status-details-bin", status.SerializeToString()),)
        self.trailing_metadata = lambda: trailers if details else None


class Waits(unittest.TestCase):
    """How long both executors wait before they call again."""

    info = error_details.ErrorInfo(domain="fanout.v1")
    retry = error_details.RetryInfo(retry_delay=duration.Duration(seconds=7, nanos=500_000_000))

    def test_a_call_is_made_again_after_the_time_that_the_server_says_and_never_earlier(self):
        for code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.ABORTED):
            patience = execution.Patience()
            waits = [patience.seconds_after(Refusal(code, self.info, self.retry)) for _ in range(9)]
            for wait, backoff in zip(waits, [0.2, 0.4, 0.8, 1.6, 3.2, 5, 5, 5, 5]):
                self.assertTrue(7.5 <= wait <= 7.5 + backoff, waits)
            self.assertIsNone(patience.seconds_after(Refusal(code, self.info, self.retry)))
            patience.reward()
            self.assertIsNotNone(patience.seconds_after(Refusal(code, self.info, self.retry)))

    def test_a_broken_connection_is_opened_again_and_what_the_server_refuses_for_good_is_not_repeated(self):
        wait = execution.Patience().seconds_after(Refusal(grpc.StatusCode.UNAVAILABLE))
        self.assertTrue(0 <= wait <= 0.2, wait)
        for refusal in [
            Refusal(grpc.StatusCode.INTERNAL, self.info),
            Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, self.info),
            Refusal(grpc.StatusCode.OUT_OF_RANGE, self.info),
            Refusal(grpc.StatusCode.UNIMPLEMENTED),
        ]:
            self.assertIsNone(execution.Patience().seconds_after(refusal))


class ThreadsExecutor(Executor, ServerTest):
    program = "executor.py"


class AsyncioExecutor(Executor, ServerTest):
    program = "executor_asyncio.py"


if __name__ == "__main__":
    unittest.main()
