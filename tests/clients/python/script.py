"""What one stream sends: records of its own tasks in every form there is, drawn from a seed."""

import json
import random

from fanout.v1 import record_pb2 as record
from oracle import BODY_BYTES_MAX, JSON_DEPTH_MAX, KEY_BYTES_MAX, TEXT_FIELDS

WORDS = ["completed", "success", "succeeded", "passed", "accepted", "no_op", "failed", "error", "crashed", ""]


class Script:
    """`steps` are the expectations of the receipts of what was written, in order; each has its record."""

    def __init__(self, oracle, tasks, seed):
        self.oracle = oracle
        self.tasks = tasks
        self.draw = random.Random(seed)
        self.name = seed
        self.serial = 0
        self.steps = []
        # Sessions that task requests name, and those that records of this stream have named.
        self.planned_sessions = [task.session for task in tasks if task.session]
        self.sessions = []
        self.forms = {
            self.by_task_id: 20,
            self.by_id: 15,
            self.by_session: 15,
            self.by_group_key: 15,
            self.started: 6,
            self.progress: 8,
            self.again: 15,
            self.again_in_the_body: 8,
            self.in_two_places: 3,
            self.with_keys_that_disagree: 3,
            self.stray: 4,
            self.broken: 4,
        }

    def write(self, length):
        """Adds so many records, and returns them in messages of one record and of up to 50."""
        before = len(self.steps)
        for make in self.draw.choices(list(self.forms), self.forms.values(), k=length):
            self.steps.append(self.oracle.receive(make()))
        return self.messages(self.steps[before:])

    def write_heavy(self):
        """Adds one record of too many bytes and one of too many levels, and returns them in messages."""
        text, deep = b"x" * BODY_BYTES_MAX, b"[" * JSON_DEPTH_MAX + b"]" * JSON_DEPTH_MAX
        for body in (b'{"text":"%s"}' % text, b'{"deep":%s}' % deep):
            self.steps.append(self.oracle.receive(record.Record(id=self.any_task().task_id, body=body)))
        return self.messages(self.steps[-2:])

    def messages(self, steps):
        cut = []
        while steps:
            size = self.draw.choice([1, 1, 1, self.draw.randint(2, 50)])
            cut.append(steps[:size])
            steps = steps[size:]
        return cut

    def any_task(self):
        return self.draw.choice(self.tasks)

    def fresh(self, prefix):
        """A text that no other record has."""
        self.serial += 1
        return f"{prefix}-{self.name}-{self.serial}"

    def session(self):
        """Most often none; else a new one, or one that was named before, maybe for another task."""
        roll = self.draw.random()
        if roll < 0.5:
            return ""
        if roll < 0.9 or not self.sessions:
            self.sessions.append(self.fresh("session"))
            return self.sessions[-1]
        return self.draw.choice(self.sessions)

    def made(self, kind=record.RECORD_KIND_UNSPECIFIED, **texts):
        """A record with these texts, each as a typed field or in the body."""
        body = {"note": self.fresh("note")}
        made = record.Record(kind=kind)
        for name, text in texts.items():
            if text and self.draw.random() < 0.5:
                setattr(made, name, text)
            elif text:
                body[name] = text
        made.body = json.dumps(body, separators=(",", ":")).encode()
        return made

    def result(self, **keys):
        made = self.made(status=self.draw.choice(WORDS), **keys)
        if self.draw.random() < 0.2:
            made.success = self.draw.random() < 0.5
        body = json.loads(made.body)
        if self.draw.random() < 0.1 and not made.HasField("success"):
            body["success"] = self.draw.choice([True, False, "true", 1])
        if self.draw.random() < 0.5:
            body["outcome"] = self.draw.choice(
                [0, "", False, None, [], {}, 'é\u2028"\\', [1.5, "two"], {"status": "passed"}, {"status": "lost"}]
            )
        made.body = json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()
        return made

    def by_task_id(self):
        task = self.any_task()
        return self.result(task_id=self.draw.choice([task.task_id, task.id]), sandbox_session_id=self.session())

    def by_id(self):
        task = self.any_task()
        return self.result(
            task_id=self.draw.choice(["", "", self.fresh("unknown")]),
            id=self.draw.choice([task.task_id, task.id]),
            sandbox_session_id=self.session(),
        )

    def by_session(self):
        sessions = self.sessions if self.sessions and self.draw.random() < 0.8 else self.planned_sessions
        return self.result(id=self.draw.choice(["", self.fresh("run")]), sandbox_session_id=self.draw.choice(sessions))

    def by_group_key(self):
        """Ambiguous for the tasks that share their key."""
        return self.result(id=self.draw.choice(["", self.fresh("run")]), group_key=self.any_task().group_key)

    def started(self):
        task = self.any_task()
        return self.made(record.RECORD_KIND_STARTED, task_id=task.task_id, sandbox_session_id=self.session())

    def progress(self):
        return self.made(record.RECORD_KIND_PROGRESS, id=self.any_task().task_id, sandbox_session_id=self.session())

    def again(self):
        """What a task has, once more and unchanged."""
        last = [task.held or task.alive for task in self.draw.choices(self.tasks, k=20)]
        return next((expected.record for expected in last if expected), None) or self.by_task_id()

    def again_in_the_body(self):
        """The record that a task has once more, with its typed fields in the body."""
        held = [task.held.record for task in self.draw.choices(self.tasks, k=20) if task.held]
        for sent in held:
            body = json.loads(sent.body)
            typed = {name: getattr(sent, name) for name in TEXT_FIELDS if getattr(sent, name)}
            if not typed or typed.keys() & body.keys():
                continue
            status = {"status": typed.pop("status")} if "status" in typed else {}
            if sent.HasField("success"):
                typed["success"] = sent.success
            merged = typed | body | status
            return record.Record(body=json.dumps(merged, separators=(",", ":"), ensure_ascii=False).encode())
        return self.by_task_id()

    def in_two_places(self):
        made = self.result()
        made.task_id = self.any_task().task_id
        body = json.loads(made.body) | {"task_id": self.draw.choice([made.task_id, self.fresh("ignored")])}
        made.body = json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()
        return made

    def with_keys_that_disagree(self):
        return self.result(task_id=self.any_task().task_id, group_key=self.any_task().group_key)

    def stray(self):
        keys = {name: self.draw.choice(["", self.fresh("stray")]) for name in TEXT_FIELDS if name != "status"}
        return self.result(**keys)

    def broken(self):
        made = self.by_task_id()
        spoil = self.draw.randrange(6)
        if spoil == 0:
            made.body = self.draw.choice(
                [b"{", b"[]", b"7", b'{"a":1}x', b"{'a':1}", b'{"a":"\xff"}', b'{"a":01}', b"null"]
            )
        elif spoil == 1:
            made.id = "x" * (KEY_BYTES_MAX + 1)
        elif spoil == 2:
            made.sandbox_session_id = "a\0b"
        elif spoil == 3:
            made.kind = 99
        elif spoil == 4:
            made.status = "é" * (KEY_BYTES_MAX // 2 + 1)
        else:
            made.body = json.dumps({"group_key": "y" * (KEY_BYTES_MAX + 1)}).encode()
        return made
