"""A client in another language against the real server, over real connections."""

import signal
import tempfile
import threading
import unittest
from collections import Counter

import grpc
from calls import SECONDS, ServerTest, dispositions, frames, register, register_tasks, seal, submit
from fanout.v1 import fanout_service_pb2 as service
from fanout.v1 import fanout_service_pb2_grpc as service_grpc
from fanout.v1 import plan_pb2 as plan
from fanout.v1 import record_pb2 as record
from google.protobuf import descriptor_pool, message_factory
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from server import Server


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

    def test_numbered_records_sent_again_after_a_cut_and_a_kill_get_the_receipts_that_they_got(self):
        tasks, enough = 600, 100
        directory = self.enterContext(tempfile.TemporaryDirectory())
        server = self.enterContext(Server("--data-dir", directory))
        stub = service_grpc.FanoutServiceStub(server.channel)
        register_tasks(stub, "numbered", tasks)
        enough_read = threading.Event()

        def requests(count):
            for offset in range(count):
                sent = record.Record(id=f"task-{offset}", status="completed")
                yield record.SubmitRecordRequest(
                    plan_id="numbered", records=[sent], producer_id="sandbox", first_offset=offset
                )
            enough_read.wait(SECONDS)

        def receipts_of_all():
            return [response.receipts[0] for response in stub.SubmitRecord(requests(tasks), timeout=SECONDS)]

        def committed_offset():
            request = record.SubmitRecordsRequest(plan_id="numbered", producer_id="sandbox")
            return stub.SubmitRecords(request, timeout=SECONDS).committed_offset

        call = stub.SubmitRecord(requests(tasks // 2), timeout=SECONDS)
        first = [next(call).receipts[0] for _ in range(enough)]
        call.cancel()
        enough_read.set()
        self.assertLessEqual(enough, committed_offset())
        # Somebody else's record takes the place of the first one.
        submit(stub, "numbered", record.Record(id="task-0", status="failed"))

        again = receipts_of_all()
        self.assertEqual(first, again[:enough])
        self.assertEqual(["DISPOSITION_ACCEPTED"] * tasks, dispositions(again))
        self.assertEqual([1] * tasks, [receipt.revision for receipt in again])

        server.start_again(signal.SIGKILL)
        stub = service_grpc.FanoutServiceStub(server.channel)
        self.assertEqual(tasks, committed_offset())
        self.assertEqual(again, receipts_of_all())
        seal(stub, "numbered")
        results = [frame.result for frame in frames(stub, "numbered") if frame.HasField("result")]
        self.assertEqual(tasks + 1, len(results))
        self.assertEqual(["task-0"], [result.task_id for result in results if result.revision != 1])


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
