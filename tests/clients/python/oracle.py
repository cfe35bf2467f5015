"""What the documents say a plan does with records, in dictionaries: the expectation of every receipt.

Written from the comments in proto/ and the rules for documents; it knows nothing of how the server does it.
"""

import json
from collections import defaultdict
from dataclasses import dataclass, field

from fanout.v1 import record_pb2 as record

BODY_BYTES_MAX = 1 << 20
KEY_BYTES_MAX = 1_024
JSON_DEPTH_MAX = 512
CANDIDATES_MAX = 16

TEXT_FIELDS = ("id", "task_id", "sandbox_session_id", "group_key", "status")
# The order in which a record's keys are tried.
KEYS = {
    "task_id": record.MATCHED_BY_TASK_ID,
    "id": record.MATCHED_BY_ID,
    "sandbox_session_id": record.MATCHED_BY_SANDBOX_SESSION_ID,
    "group_key": record.MATCHED_BY_GROUP_KEY,
}
# A record's own identity is the first of these that is not empty.
OWN_IDENTITY = ("task_id", "id", "group_key")
HOST_STATUSES = {
    "completed": record.TASK_STATUS_COMPLETED,
    "failed": record.TASK_STATUS_FAILED,
    "missing_record": record.TASK_STATUS_MISSING_RECORD,
}
DONE_WORDS = {"succeeded", "no_op", "success", "passed", "accepted"}
# The google.rpc.Code of each disposition.
CODES = {
    record.DISPOSITION_ACCEPTED: 0,
    record.DISPOSITION_DUPLICATE: 0,
    record.DISPOSITION_SUPERSEDED_PREVIOUS: 0,
    record.DISPOSITION_UNMATCHED: 5,
    record.DISPOSITION_AMBIGUOUS: 9,
    record.DISPOSITION_LATE: 9,
    record.DISPOSITION_INVALID: 3,
    record.DISPOSITION_TOO_LARGE: 3,
}


@dataclass(eq=False)
class Expected:
    """What a receipt must say. `sequence` and `quarantine_id` are filled in from the receipt."""

    record: object
    disposition: int
    task_id: str = ""
    matched_by: int = 0
    revision: int = 0
    status: int = 0
    successful: bool = False
    document: dict | None = None
    warnings: set = field(default_factory=set)
    candidates: list = field(default_factory=list)
    # Field, reason and limit.
    violation: tuple | None = None
    # With DUPLICATE: the expectation of the original, None if no event stands behind it.
    original: "Expected | None" = None
    sequence: int = 0
    quarantine_id: int = 0

    @property
    def applied(self):
        return self.disposition in (record.DISPOSITION_ACCEPTED, record.DISPOSITION_SUPERSEDED_PREVIOUS)

    @property
    def quarantined(self):
        return self.disposition in (
            record.DISPOSITION_UNMATCHED,
            record.DISPOSITION_AMBIGUOUS,
            record.DISPOSITION_LATE,
        )

    @property
    def is_result(self):
        return self.record.kind in (record.RECORD_KIND_UNSPECIFIED, record.RECORD_KIND_RESULT)


@dataclass(eq=False)
class Task:
    """One planned task. `task_id` is its identity, `id` another name of it."""

    position: int
    task_id: str
    id: str
    group_key: str
    session: str = ""
    # The expectations of its record, and of the last sign of life before that.
    held: Expected | None = None
    alive: Expected | None = None


class Oracle:
    """A plan. Give it the records of a task in the order in which the server gets them."""

    def __init__(self, tasks):
        self.tasks = tasks
        self.ended = False
        self.quarantined = 0
        self.identities = {task.task_id: task for task in tasks}
        self.names = defaultdict(dict)
        self.sessions = defaultdict(dict)
        self.group_keys = defaultdict(dict)
        for task in tasks:
            for name in filter(None, (task.task_id, task.id, task.session)):
                self.names[name][task.position] = task
            self.group_keys[task.group_key][task.position] = task

    def receive(self, sent):
        """What becomes of a record."""
        refused = refusal(sent)
        if refused:
            return refused
        body = json.loads(sent.body or b"{}")
        texts = {name: getattr(sent, name) or text(body.get(name)) for name in TEXT_FIELDS}
        named = {key: self.named(key, texts[key]) for key in KEYS}
        key, task = self.match(texts, named)
        if task is None:
            several = next((tasks for tasks in named.values() if tasks), [])
            return self.quarantine(sent, several)
        expected = self.result(sent, body, texts, task) if is_result(sent) else self.sign_of_life(sent, task)
        expected.task_id = task.task_id
        if task.held:
            expected.revision = task.held.revision
            expected.status = task.held.status
            expected.successful = task.held.successful
        expected.matched_by = KEYS[key]
        if any(len(tasks) == 1 and tasks != [task] for tasks in named.values()):
            expected.warnings.add(record.WARNING_KEYS_DISAGREE)
        if any(name in body and getattr(sent, name) not in ("", body[name]) for name in TEXT_FIELDS):
            expected.warnings.add(record.WARNING_FIELD_IN_BODY_IGNORED)
        if texts["sandbox_session_id"] and key != "sandbox_session_id" and not self.ended:
            self.sessions[texts["sandbox_session_id"]][task.position] = task
        return expected

    def match(self, texts, named):
        """The field that matches, and its task; else two None."""
        own = next((key for key in OWN_IDENTITY if texts[key]), None)
        if own and texts[own] in self.identities:
            return own, self.identities[texts[own]]
        key = next((key for key in KEYS if len(named[key]) == 1), None)
        return (key, named[key][0]) if key else (None, None)

    def named(self, key, name):
        """The tasks that a key names, in plan order."""
        if not name:
            return []
        if key == "group_key":
            tasks = self.group_keys.get(name, {})
        elif key == "sandbox_session_id":
            tasks = self.names.get(name) or self.sessions.get(name, {})
        else:
            tasks = self.names.get(name, {})
        return [tasks[position] for position in sorted(tasks)]

    def quarantine(self, sent, candidates):
        self.quarantined += 1
        if not candidates:
            return Expected(sent, record.DISPOSITION_UNMATCHED)
        listed = [task.task_id for task in candidates[:CANDIDATES_MAX]]
        return Expected(sent, record.DISPOSITION_AMBIGUOUS, candidates=listed)

    def result(self, sent, body, texts, task):
        status = host_status(sent, body, texts)
        document = body | {name: getattr(sent, name) for name in TEXT_FIELDS if getattr(sent, name)}
        if sent.HasField("success"):
            document["success"] = sent.success
        document["status"] = status
        if task.held and task.held.document == document:
            return Expected(sent, record.DISPOSITION_DUPLICATE, original=task.held)
        if self.ended:
            self.quarantined += 1
            return Expected(sent, record.DISPOSITION_LATE)
        superseded = record.DISPOSITION_SUPERSEDED_PREVIOUS if task.held else record.DISPOSITION_ACCEPTED
        task.held = Expected(
            sent,
            superseded,
            revision=task.held.revision + 1 if task.held else 1,
            status=HOST_STATUSES[status],
            successful=document.get("success") is True or status == "completed",
            document=document,
        )
        task.alive = None
        return task.held

    def sign_of_life(self, sent, task):
        if task.held:
            return Expected(sent, record.DISPOSITION_DUPLICATE)
        # STARTED tells nothing new of a task that is under way.
        if task.alive and (sent.kind == record.RECORD_KIND_STARTED or task.alive.record == sent):
            return Expected(sent, record.DISPOSITION_DUPLICATE, original=task.alive)
        if self.ended:
            self.quarantined += 1
            return Expected(sent, record.DISPOSITION_LATE)
        task.alive = Expected(sent, record.DISPOSITION_ACCEPTED)
        return task.alive

    def counts(self):
        """The plan's counts, but for `items`."""
        held = [task.held for task in self.tasks if task.held]
        successful = sum(expected.successful for expected in held)
        return {
            "tasks": len(self.tasks),
            "recorded": len(held),
            "successful": successful,
            "failed": len(held) - successful,
            "missing": len(self.tasks) - len(held),
            "running": sum(task.alive is not None for task in self.tasks),
            "outcomes": sum(is_present(expected.document.get("outcome")) for expected in held),
            "quarantined": self.quarantined,
        }

    def result_document(self, has_record=lambda task: task.held is not None):
        """The members `records`, `outcomes`, `reconciliation` (but for its schema) and `status`."""
        records, failed = [], []
        for task in self.tasks:
            if has_record(task):
                records.append(task.held.document)
            else:
                records.append({"id": task.task_id, "group_key": task.group_key, "status": "missing_record"})
            if not (has_record(task) and task.held.successful):
                failed.append(task.task_id)
        outcomes = [document["outcome"] for document in records if is_present(document.get("outcome"))]
        return {
            "records": records,
            "outcomes": outcomes,
            "reconciliation": {
                "group_count": len(self.tasks),
                "task_count": len(self.tasks),
                "record_count": len(self.tasks),
                "success_count": len(self.tasks) - len(failed),
                "failure_count": len(failed),
                "outcome_count": len(outcomes),
                "failed_task_ids": failed,
            },
            "status": "failed" if failed else "completed",
        }


def is_result(sent):
    return sent.kind in (record.RECORD_KIND_UNSPECIFIED, record.RECORD_KIND_RESULT)


def text(value):
    return value if isinstance(value, str) else ""


def is_present(value):
    """Whether a value counts as given. Empty lists and objects do."""
    return value not in (None, "", 0)  # 0 == False


def host_status(sent, body, texts):
    """The coordinator's word for a record's own ones."""
    own = texts["status"]
    if own in HOST_STATUSES:
        return own
    success = sent.success if sent.HasField("success") else body.get("success") is True
    outcome = body.get("outcome")
    said = outcome.get("status") if isinstance(outcome, dict) else None
    if success or own in DONE_WORDS or said in DONE_WORDS | {"completed"}:
        return "completed"
    return "failed"


def refusal(sent):
    """The expectation of a record that is INVALID or TOO_LARGE, else None."""

    def invalid(name, reason):
        return Expected(sent, record.DISPOSITION_INVALID, violation=(name, reason, 0))

    def too_large(name, reason, limit):
        return Expected(sent, record.DISPOSITION_TOO_LARGE, violation=(name, reason, limit))

    if sent.kind not in record.RecordKind.values():
        return invalid("kind", "UNKNOWN_ENUM_VALUE")
    if len(sent.body) > BODY_BYTES_MAX:
        return too_large("body", "BODY_TOO_LARGE", BODY_BYTES_MAX)
    try:
        body = json.loads(sent.body or b"{}")
    except ValueError:
        return invalid("body", "INVALID_JSON")
    if depth(body) > JSON_DEPTH_MAX:
        return too_large("body", "JSON_LIMIT_EXCEEDED", JSON_DEPTH_MAX)
    if not isinstance(body, dict):
        return invalid("body", "INVALID_JSON")
    for name in TEXT_FIELDS:
        key = getattr(sent, name) or text(body.get(name))
        if len(key.encode()) > KEY_BYTES_MAX:
            return too_large(name, "KEY_TOO_LONG", KEY_BYTES_MAX)
        if "\0" in key:
            return invalid(name, "INVALID_TEXT")
    return None


def depth(value):
    """How deep lists and objects are nested."""
    levels, level = 0, [value]
    while level := [part for part in level if isinstance(part, (dict, list))]:
        levels += 1
        level = [inner for part in level for inner in (part.values() if isinstance(part, dict) else part)]
    return levels
