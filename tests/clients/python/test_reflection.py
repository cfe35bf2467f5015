"""A generic client, as grpcurl is one: it knows the server's address and nothing else.

It asks the server which services there are and what their messages look like, and calls every method with JSON.
Nothing here is generated from proto/.
"""

import json
import threading
import unittest
from base64 import b64decode, b64encode
from datetime import datetime
from hashlib import sha256

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from server import Server

# A call that takes longer has failed.
SECONDS = 60
FANOUT = "fanout.v1.FanoutService"
HEALTH = "grpc.health.v1.Health"
REFLECTIONS = ("grpc.reflection.v1", "grpc.reflection.v1alpha")


def reflection_messages(package):
    """The request and the response class of a reflection protocol: the part of it that this client uses."""
    file = descriptor_pb2.FileDescriptorProto(name="reflection.proto", package=package, syntax="proto3")
    field = descriptor_pb2.FieldDescriptorProto

    def message(name, *fields):
        made = file.message_type.add(name=name)
        for number, field_name, kind in fields:
            label = field.LABEL_OPTIONAL
            if field_name.endswith("*"):
                field_name, label = field_name[:-1], field.LABEL_REPEATED
            if isinstance(kind, str):
                made.field.add(
                    name=field_name, number=number, label=label, type=field.TYPE_MESSAGE, type_name=f".{package}.{kind}"
                )
            else:
                made.field.add(name=field_name, number=number, label=label, type=kind)

    message(
        "ServerReflectionRequest",
        (3, "file_by_filename", field.TYPE_STRING),
        (4, "file_containing_symbol", field.TYPE_STRING),
        (7, "list_services", field.TYPE_STRING),
    )
    message(
        "ServerReflectionResponse",
        (4, "file_descriptor_response", "FileDescriptorResponse"),
        (6, "list_services_response", "ListServiceResponse"),
        (7, "error_response", "ErrorResponse"),
    )
    message("FileDescriptorResponse", (1, "file_descriptor_proto*", field.TYPE_BYTES))
    message("ListServiceResponse", (1, "service*", "ServiceResponse"))
    message("ServiceResponse", (1, "name", field.TYPE_STRING))
    message("ErrorResponse", (1, "error_code", field.TYPE_INT32), (2, "error_message", field.TYPE_STRING))
    # A oneof, so that an empty text counts as set.
    request = file.message_type[0]
    request.oneof_decl.add(name="message_request")
    for each in request.field:
        each.oneof_index = 0
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return [
        message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}"))
        for name in ("ServerReflectionRequest", "ServerReflectionResponse")
    ]


class GenericClient:
    """Calls any method of a server with JSON. `called` are the methods that were, as `service/method`."""

    def __init__(self, channel, reflection):
        self.called = set()
        self._channel = channel
        self._reflection = f"/{reflection}.ServerReflection/ServerReflectionInfo"
        self._request, self._response = reflection_messages(reflection)
        self._pool = descriptor_pool.DescriptorPool()
        self._files = set()

    def _ask(self, **question):
        """The answer to one question to the reflection service."""
        ask = self._channel.stream_stream(
            self._reflection,
            request_serializer=self._request.SerializeToString,
            response_deserializer=self._response.FromString,
        )
        (answer,) = ask(iter([self._request(**question)]), timeout=SECONDS)
        if answer.HasField("error_response"):
            raise LookupError(answer.error_response.error_code, answer.error_response.error_message)
        return answer

    def services(self):
        """Names of the services the server says it has."""
        return [service.name for service in self._ask(list_services="").list_services_response.service]

    def _learn(self, answer):
        """Adds files to the pool, each after those it depends on, which are fetched if the answer lacks them."""
        files = [
            descriptor_pb2.FileDescriptorProto.FromString(text)
            for text in answer.file_descriptor_response.file_descriptor_proto
        ]
        by_name = {file.name: file for file in files}

        def add(file):
            if file.name in self._files:
                return
            self._files.add(file.name)
            for name in file.dependency:
                if name in by_name:
                    add(by_name[name])
                elif name not in self._files:
                    self._learn(self._ask(file_by_filename=name))
            self._pool.Add(file)

        for file in files:
            add(file)

    def methods(self, service):
        """Descriptors of a service's methods by name."""
        try:
            return self._pool.FindServiceByName(service).methods_by_name
        except KeyError:
            self._learn(self._ask(file_containing_symbol=service))
            return self._pool.FindServiceByName(service).methods_by_name

    def stream(self, path, requests):
        """Calls `service/method` with JSON texts. Yields the answers, as json.loads reads them."""
        service, name = path.split("/")
        method = self.methods(service)[name]
        self.called.add(path)
        request_class = message_factory.GetMessageClass(method.input_type)
        kind = ("stream" if method.client_streaming else "unary") + ("_stream" if method.server_streaming else "_unary")
        call = getattr(self._channel, kind)(
            f"/{path}",
            request_serializer=request_class.SerializeToString,
            response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
        )
        messages = (json_format.Parse(text, request_class()) for text in requests)
        answers = call(messages if method.client_streaming else next(messages), timeout=SECONDS)
        for answer in answers if method.server_streaming else [answers]:
            yield json.loads(json_format.MessageToJson(answer, preserving_proto_field_name=True))

    def call(self, path, request):
        """The one answer to one request, which is a JSON text."""
        (answer,) = self.stream(path, [request])
        return answer


def in_json(value):
    """A document as it stands in a JSON request: in base64."""
    return b64encode(json.dumps(value).encode()).decode()


def document(text):
    """A document of a JSON answer."""
    return json.loads(b64decode(text))


def without(answer, *names):
    """An object without members that differ from run to run; all of them must be there."""
    missing = set(names) - answer.keys()
    if missing:
        raise AssertionError(f"{missing} missing in {answer}")
    return {name: value for name, value in answer.items() if name not in names}


class GenericCalls(unittest.TestCase):
    def setUp(self):
        self.maxDiff = 4_000
        self.server = self.enterContext(Server())
        self.client = GenericClient(self.server.channel, "grpc.reflection.v1")

    def call(self, method, **request):
        """The answer of a method of FanoutService."""
        return self.client.call(f"{FANOUT}/{method}", json.dumps(request))

    def register(self, plan_id, **more):
        """Plans task-0 to task-3 of two items each; the last two have one group key."""
        groups = [{"key": key, "items": [{"n": 1}, {"n": 2}]} for key in ("red", "green", "blue", "blue")]
        config = {"task_request_template": {"id": "task-{{group.index}}", "about": "{{group.key}}"}}
        return self.call(
            "Plan",
            plan_id=plan_id,
            config=in_json(config),
            groups=in_json(groups),
            completion_policy={"seal_rule": "SEAL_RULE_EXPLICIT"},
            **more,
        )

    def check_error(self, code, method, **request):
        with self.assertRaises(grpc.RpcError) as raised:
            self.call(method, **request)
        self.assertEqual(code, raised.exception.code())

    def test_every_method_of_the_service_answers_a_client_that_knows_only_the_address(self):
        self.assertLessEqual({FANOUT, HEALTH}, set(self.client.services()))
        planned = self.check_planning()
        self.check_records()
        self.check_quarantine()
        self.check_tasks(planned)
        self.check_the_end()
        self.check_cancelling_and_deleting()
        self.check_a_streamed_plan()
        methods = {f"{FANOUT}/{name}" for name in self.client.methods(FANOUT)}
        self.assertEqual(methods, self.client.called)

    def check_a_streamed_plan(self):
        """PlanStream."""
        items = json.dumps([{"colour": "red"}, {"colour": "green"}]).encode()
        config = {"group_key_path": "colour", "task_request_template": {"id": "task-{{group.key}}"}}
        parts = [
            {"header": {"plan_id": "streamed", "config": in_json(config)}},
            {"items": b64encode(items).decode()},
            {"commit": {"item_count": 2, "digest": sha256(items).hexdigest()}},
        ]
        (answer,) = self.client.stream(f"{FANOUT}/PlanStream", map(json.dumps, parts))
        self.assertIs(True, answer["created"])
        self.assertEqual("2", answer["plan"]["counts"]["tasks"])
        self.call("DeletePlan", plan_id="streamed")

    def check_planning(self):
        """Plan, GetPlan, ListPlans. Returns what Plan answered."""
        answer = self.register("p", labels={"team": "blue"}, timeout="600s")
        self.assertIs(True, answer["created"])
        counts = {"items": "8", "groups": "4", "tasks": "4", "missing": "4"}
        wanted = {
            "plan_id": "p",
            "status": "PLAN_STATUS_INCOMPLETE",
            "counts": counts,
            "sequence": "1",
            "labels": {"team": "blue"},
            "completion_policy": {"seal_rule": "SEAL_RULE_EXPLICIT"},
        }
        self.assertEqual(wanted, without(answer["plan"], "cursor", "digest", "create_time", "deadline"))
        self.assertRegex(answer["plan"]["digest"], "^[0-9a-f]{64}$")
        created, deadline = (datetime.fromisoformat(answer["plan"][name]) for name in ("create_time", "deadline"))
        self.assertEqual(600, (deadline - created).total_seconds())
        requests = [
            (it["task_id"], it["group_key"], document(it["document"])["about"]) for it in answer["task_requests"]
        ]
        wanted = [("task-0", "red"), ("task-1", "green"), ("task-2", "blue"), ("task-3", "blue")]
        self.assertEqual([(task_id, key, key) for task_id, key in wanted], requests)
        in_document = document(answer["document"])["task_requests"]
        self.assertEqual([task_id for task_id, _ in wanted], [it["id"] for it in in_document])
        self.assertNotIn("next_page_token", answer)

        self.assertEqual({"plan": answer["plan"]}, self.call("GetPlan", plan_id="p"))
        first = self.call("GetPlan", plan_id="p", view="VIEW_FULL", page_size=3)
        self.assertEqual(answer["task_requests"][:3], first["task_requests"])
        whole, short = document(answer["document"]), document(first["document"])
        self.assertEqual(short, {name: whole[name] for name in ("schema", "orchestrator", "summary")})
        last = self.call("GetPlan", plan_id="p", view="VIEW_FULL", page_size=3, page_token=first["next_page_token"])
        self.assertEqual({"plan": answer["plan"], "task_requests": answer["task_requests"][3:]}, last)

        self.assertEqual({"plans": [answer["plan"]]}, self.call("ListPlans", labels={"team": "blue"}))
        self.assertEqual({}, self.call("ListPlans", labels={"team": "green"}))
        self.assertEqual({}, self.call("ListPlans", status="PLAN_STATUS_COMPLETED"))
        return answer

    def check_records(self):
        """SubmitRecord, with the second message sent after the first one's receipts, and SubmitRecords."""
        first = {"task_id": "task-0", "kind": "RECORD_KIND_STARTED", "sandbox_session_id": "s"}
        second = [
            {"sandbox_session_id": "s", "status": "passed", "body": in_json({"outcome": 7})},
            {"group_key": "blue", "success": True},
        ]
        first_answered = threading.Event()

        def requests():
            yield json.dumps({"plan_id": "p", "records": [first]})
            self.assertTrue(first_answered.wait(SECONDS))
            yield json.dumps({"records": second})

        answers = self.client.stream(f"{FANOUT}/SubmitRecord", requests())
        answer = next(answers)
        self.assertEqual("PLAN_STATUS_INCOMPLETE", answer["status"])
        self.assertEqual(
            [
                {
                    "disposition": "DISPOSITION_ACCEPTED",
                    "task_id": "task-0",
                    "matched_by": "MATCHED_BY_TASK_ID",
                    "sequence": "2",
                }
            ],
            answer["receipts"],
        )
        self.assertEqual({"items": "8", "groups": "4", "tasks": "4", "missing": "4", "running": "1"}, answer["counts"])
        first_answered.set()
        (answer,) = answers
        result, ambiguous = answer["receipts"]
        self.assertEqual(
            {"sandbox_session_id": "s", "outcome": 7, "status": "completed"}, document(result.pop("record"))
        )
        self.assertEqual(
            {
                "disposition": "DISPOSITION_ACCEPTED",
                "task_id": "task-0",
                "matched_by": "MATCHED_BY_SANDBOX_SESSION_ID",
                "revision": 1,
                # The session was learnt with an event of its own, the third.
                "sequence": "4",
                "status": "TASK_STATUS_COMPLETED",
                "successful": True,
            },
            result,
        )
        self.assertEqual(
            {
                "disposition": "DISPOSITION_AMBIGUOUS",
                "code": 9,
                "sequence": "5",
                "candidate_task_ids": ["task-2", "task-3"],
                "quarantine_id": "1",
            },
            ambiguous,
        )

        records = [
            {"id": "task-1", "status": "crashed"},
            {"id": "nobody", "status": "passed"},
            {"id": "task-1", "body": in_json([])},
        ]
        answer = self.call("SubmitRecords", plan_id="p", records=records)
        failed, unmatched, invalid = answer.pop("receipts")
        self.assertEqual({"id": "task-1", "status": "failed"}, document(failed.pop("record")))
        self.assertEqual(
            {
                "disposition": "DISPOSITION_ACCEPTED",
                "task_id": "task-1",
                "matched_by": "MATCHED_BY_ID",
                "revision": 1,
                "sequence": "6",
                "status": "TASK_STATUS_FAILED",
            },
            failed,
        )
        self.assertEqual(
            {"disposition": "DISPOSITION_UNMATCHED", "code": 5, "sequence": "7", "quarantine_id": "2"}, unmatched
        )
        self.assertTrue(invalid["violation"].pop("description"))
        self.assertEqual(
            {
                "disposition": "DISPOSITION_INVALID",
                "code": 3,
                "violation": {"field": "records[2].body", "reason": "INVALID_JSON"},
            },
            invalid,
        )
        counts = {
            "items": "8",
            "groups": "4",
            "tasks": "4",
            "recorded": "2",
            "successful": "1",
            "failed": "1",
            "missing": "2",
            "outcomes": "1",
            "quarantined": "2",
        }
        self.assertEqual({"status": "PLAN_STATUS_INCOMPLETE", "counts": counts, "sequence": "7"}, answer)

    def check_quarantine(self):
        """ListQuarantine, ExplainTask, RematchRecord, DiscardRecord."""
        ambiguous, unmatched = self.call("ListQuarantine", plan_id="p")["records"]
        self.assertEqual(
            {"group_key": "blue", "success": True, "status": "completed"}, document(ambiguous["record"])
        )
        self.assertEqual(
            {
                "quarantine_id": "1",
                "reason": "QUARANTINE_REASON_AMBIGUOUS",
                "candidate_task_ids": ["task-2", "task-3"],
                "kind": "RECORD_KIND_RESULT",
                "sequence": "5",
            },
            without(ambiguous, "record", "quarantine_time"),
        )
        self.assertEqual({"id": "nobody", "status": "completed"}, document(unmatched["record"]))
        self.assertEqual(
            {
                "quarantine_id": "2",
                "reason": "QUARANTINE_REASON_UNMATCHED",
                "kind": "RECORD_KIND_RESULT",
                "sequence": "7",
            },
            without(unmatched, "record", "quarantine_time"),
        )

        why = self.call("ExplainTask", plan_id="p", task_id="task-3")
        self.assertEqual(
            {
                "task_id": "task-3",
                "group_key": "blue",
                "state": "TASK_STATE_PENDING",
                "missing_cause": "MISSING_CAUSE_RECORD_QUARANTINED",
            },
            why["task"],
        )
        decisive = why["reasons"][0]
        self.assertEqual(
            ("TASK_REASON_CODE_RECORD_QUARANTINED", "1"), (decisive["code"], decisive["quarantine_id"])
        )
        self.assertEqual(self.call("GetPlan", plan_id="p")["plan"]["deadline"], why["next_event_time"])

        answer = self.call("RematchRecord", plan_id="p", quarantine_id=1, task_id="task-2", reason="by hand")
        self.assertEqual(
            {
                "disposition": "DISPOSITION_ACCEPTED",
                "task_id": "task-2",
                "matched_by": "MATCHED_BY_OPERATOR",
                "revision": 1,
                "sequence": "8",
                "status": "TASK_STATUS_COMPLETED",
                "successful": True,
            },
            without(answer["receipt"], "record"),
        )
        rematched = {
            "resolution": "QUARANTINE_RESOLUTION_REMATCHED",
            "task_id": "task-2",
            "resolution_note": "by hand",
        }
        self.assertEqual(ambiguous | rematched, answer["record"])

        answer = self.call("DiscardRecord", plan_id="p", quarantine_id=2, reason="nobody's")
        discarded = {"resolution": "QUARANTINE_RESOLUTION_DISCARDED", "resolution_note": "nobody's"}
        self.assertEqual({"record": unmatched | discarded}, answer)
        self.assertEqual({}, self.call("ListQuarantine", plan_id="p"))
        resolved = self.call("ListQuarantine", plan_id="p", include_resolved=True)
        self.assertEqual({"records": [ambiguous | rematched, unmatched | discarded]}, resolved)

    def check_tasks(self, planned):
        """GetTask, ListTasks."""
        task = self.call("GetTask", plan_id="p", task_id="task-0", view="VIEW_FULL")["task"]
        self.assertEqual(planned["task_requests"][0]["document"], task["request"])
        self.assertEqual({"sandbox_session_id": "s", "outcome": 7, "status": "completed"}, document(task["record"]))
        self.assertEqual(
            {
                "task_id": "task-0",
                "group_key": "red",
                "state": "TASK_STATE_RECORDED",
                "status": "TASK_STATUS_COMPLETED",
                "successful": True,
                "revision": 1,
                "matched_by": "MATCHED_BY_SANDBOX_SESSION_ID",
                "sequence": "4",
            },
            without(task, "accept_time", "request", "record"),
        )

        tasks = self.call("ListTasks", plan_id="p", page_size=3)
        self.assertEqual(["task-0", "task-1", "task-2"], [it["task_id"] for it in tasks["tasks"]])
        tasks = self.call("ListTasks", plan_id="p", page_size=3, page_token=tasks["next_page_token"])
        pending = {
            "task_id": "task-3",
            "group_key": "blue",
            "state": "TASK_STATE_PENDING",
            "missing_cause": "MISSING_CAUSE_NEVER_STARTED",
        }
        self.assertEqual({"tasks": [pending]}, tasks)
        self.assertEqual({"tasks": [pending]}, self.call("ListTasks", plan_id="p", states=["TASK_STATE_PENDING"]))
        failed = self.call("ListTasks", plan_id="p", statuses=["TASK_STATUS_FAILED"])
        self.assertEqual(["task-1"], [it["task_id"] for it in failed["tasks"]])

    def check_the_end(self):
        """SealPlan, WatchPlan, Reconcile."""
        sealed = self.call("SealPlan", plan_id="p", reason="done")["plan"]
        self.assertEqual(
            ("PLAN_STATUS_FAILED", "END_REASON_SEALED", "done"),
            (sealed["status"], sealed["end_reason"], sealed["end_note"]),
        )
        counts = {
            "items": "8",
            "groups": "4",
            "tasks": "4",
            "recorded": "3",
            "successful": "2",
            "failed": "1",
            "missing": "1",
            "outcomes": "1",
        }
        self.assertEqual(counts, sealed["counts"])

        watch = [json.dumps({"plan_id": "p", "include_payload": True})]
        started, *results, last = self.client.stream(f"{FANOUT}/WatchPlan", watch)
        self.assertEqual(
            {
                "sequence": "2",
                "task_id": "task-0",
                "kind": "RECORD_KIND_STARTED",
                "sandbox_session_id": "s",
            },
            without(started["progress"], "body", "accept_time"),
        )
        self.assertEqual(
            [
                ("4", "task-0", "red", "TASK_STATUS_COMPLETED", "MATCHED_BY_SANDBOX_SESSION_ID"),
                ("6", "task-1", "green", "TASK_STATUS_FAILED", "MATCHED_BY_ID"),
                ("8", "task-2", "blue", "TASK_STATUS_COMPLETED", "MATCHED_BY_OPERATOR"),
            ],
            [
                tuple(frame["result"][name] for name in ("sequence", "task_id", "group_key", "status", "matched_by"))
                for frame in results
            ],
        )
        end = {"status": "PLAN_STATUS_FAILED", "end_reason": "END_REASON_SEALED", "counts": counts}
        self.assertEqual({"cursor": sealed["cursor"], "end": end}, last)
        resumed = json.dumps({"plan_id": "p", "include_payload": True, "after": results[1]["cursor"]})
        self.assertEqual([results[2], last], list(self.client.stream(f"{FANOUT}/WatchPlan", [resumed])))

        answer = self.call("Reconcile", plan_id="p")
        position = {"sequence": sealed["sequence"], "cursor": sealed["cursor"]}
        self.assertEqual(end | position, without(answer, "document"))
        result = document(answer["document"])
        self.assertEqual(
            [
                {"sandbox_session_id": "s", "outcome": 7, "status": "completed"},
                {"id": "task-1", "status": "failed"},
                {"group_key": "blue", "success": True, "status": "completed"},
                {"id": "task-3", "group_key": "blue", "status": "missing_record"},
            ],
            result["records"],
        )
        self.assertEqual(([7], "failed"), (result["outcomes"], result["status"]))
        self.assertEqual(
            {
                "group_count": 4,
                "task_count": 4,
                "record_count": 4,
                "success_count": 2,
                "failure_count": 2,
                "outcome_count": 1,
                "failed_task_ids": ["task-1", "task-3"],
            },
            without(result["reconciliation"], "schema"),
        )

    def check_cancelling_and_deleting(self):
        """CancelPlan, DeletePlan."""
        self.register("q")
        cancelled = self.call("CancelPlan", plan_id="q", reason="no more")
        wanted = {
            "plan_id": "q",
            "status": "PLAN_STATUS_FAILED",
            "end_reason": "END_REASON_CANCELLED",
            "counts": {"items": "8", "groups": "4", "tasks": "4", "missing": "4"},
            "sequence": "2",
            "completion_policy": {"seal_rule": "SEAL_RULE_EXPLICIT"},
            "end_note": "no more",
        }
        times = ("cursor", "digest", "create_time", "end_time", "expire_time")
        self.assertEqual(wanted, without(cancelled["plan"], *times))
        self.assertEqual(cancelled, self.call("DeletePlan", plan_id="q"))
        self.check_error(grpc.StatusCode.NOT_FOUND, "GetPlan", plan_id="q")
        self.assertEqual(["p"], [it["plan_id"] for it in self.call("ListPlans")["plans"]])

    def test_both_versions_of_reflection_describe_the_same_methods(self):
        described = []
        for reflection in REFLECTIONS:
            client = GenericClient(self.server.channel, reflection)
            self.assertLessEqual({FANOUT, HEALTH}, set(client.services()))
            described.append(
                {
                    name: (
                        method.input_type.full_name,
                        method.output_type.full_name,
                        method.client_streaming,
                        method.server_streaming,
                    )
                    for service in (FANOUT, HEALTH)
                    for name, method in client.methods(service).items()
                }
            )
        self.assertEqual(*described)
        bidi = ("fanout.v1.SubmitRecordRequest", "fanout.v1.SubmitRecordResponse", True, True)
        self.assertEqual(bidi, described[0]["SubmitRecord"])

    def test_a_client_that_reflects_with_v1alpha_can_make_a_call(self):
        self.client = GenericClient(self.server.channel, "grpc.reflection.v1alpha")
        self.assertEqual("alpha", self.register("alpha")["plan"]["plan_id"])

    def test_the_document_of_get_plan_lacks_only_what_is_as_large_as_the_plan(self):
        whole = document(self.register("p")["document"])
        short = document(self.call("GetPlan", plan_id="p", view="VIEW_FULL")["document"])
        self.assertEqual(without(whole, "groups", "task_requests", "reconciliation"), short)

    def test_the_reason_of_a_quarantined_record_names_the_event_that_set_it_aside(self):
        self.register("p")
        self.call("SubmitRecords", plan_id="p", records=[{"group_key": "blue", "status": "passed"}])
        (aside,) = self.call("ListQuarantine", plan_id="p")["records"]
        reason = self.call("ExplainTask", plan_id="p", task_id="task-3")["reasons"][0]
        self.assertEqual((aside["sequence"], "1"), (reason.get("sequence"), reason["quarantine_id"]))

    def test_reflection_does_not_know_a_service_there_is_not(self):
        # The protocol has an ErrorResponse for this; this server ends the stream with the status instead.
        for reflection in REFLECTIONS:
            with self.assertRaises(grpc.RpcError) as raised:
                GenericClient(self.server.channel, reflection).methods("fanout.v1.NoService")
            self.assertEqual(grpc.StatusCode.NOT_FOUND, raised.exception.code())

    def test_health_that_was_found_by_reflection_is_serving(self):
        for name in ("", FANOUT, "readiness"):
            request = json.dumps({"service": name})
            self.assertEqual({"status": "SERVING"}, self.client.call(f"{HEALTH}/Check", request))
            self.assertEqual({"status": "SERVING"}, next(self.client.stream(f"{HEALTH}/Watch", [request])))
        with self.assertRaises(grpc.RpcError) as raised:
            self.client.call(f"{HEALTH}/Check", '{"service":"nobody"}')
        self.assertEqual(grpc.StatusCode.NOT_FOUND, raised.exception.code())


if __name__ == "__main__":
    unittest.main()
