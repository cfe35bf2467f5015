"""The calls that the tests make, with the generated stubs."""

import json
import os
import unittest

from fanout.v1 import fanout_service_pb2 as service
from fanout.v1 import fanout_service_pb2_grpc as service_grpc
from fanout.v1 import plan_pb2 as plan
from fanout.v1 import record_pb2 as record
from server import Server

# Draws other records; a failure prints it.
SEED = int(os.environ.get("FANOUT_SEED", "20240611"))
# A call or a process that takes longer has failed.
SECONDS = 120


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


class ServerTest(unittest.TestCase):
    """A test with a server of its own."""

    def setUp(self):
        self.server = self.enterContext(Server())
        self.stub = service_grpc.FanoutServiceStub(self.server.channel)
        self.maxDiff = 2_000

    def documents(self, **request):
        """The answer of Reconcile."""
        return self.stub.Reconcile(service.ReconcileRequest(**request), timeout=SECONDS)
