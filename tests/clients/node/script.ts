/*
 * What one stream sends: records of its own tasks in every form there is, drawn from a seed.
 */

import { Record as TaskRecord, RecordKind } from "../../../examples/node-executor/generated/fanout/v1/record.js";
import {
  BODY_BYTES_MAX,
  type Expected,
  type Json,
  JSON_DEPTH_MAX,
  KEY_BYTES_MAX,
  type Oracle,
  type Task,
  TEXT_FIELDS,
  type TextField,
} from "./oracle.js";

const WORDS = ["completed", "success", "succeeded", "passed", "accepted", "no_op", "failed", "error", "crashed", ""];
const OUTCOMES = [0, "", false, null, [], {}, 'é\u2028"\\', [1.5, "two"], { status: "passed" }, { status: "lost" }];
const BROKEN_BODIES = ["{", "[]", "7", '{"a":1}x', "{'a':1}", '{"a":"\xff"}', '{"a":01}', "null"].map((body) =>
  Buffer.from(body, "latin1"),
);
/** Most records in one message of a script. */
const RECORDS_PER_MESSAGE = 50;

type Texts = { [field in TextField]?: string };

/** Draws that depend on a seed only: the generator mulberry32. */
export class Draw {
  #state = 0;

  constructor(seed: string) {
    for (const byte of Buffer.from(seed)) {
      this.#state = Math.imul(this.#state ^ byte, 0x01000193);
    }
  }

  /** From 0, below 1. */
  next(): number {
    this.#state = (this.#state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(this.#state ^ (this.#state >>> 15), this.#state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  }

  /** A whole number from 0, below `limit`. */
  below(limit: number): number {
    return Math.floor(this.next() * limit);
  }

  chance(probability: number): boolean {
    return this.next() < probability;
  }

  choice<T>(values: readonly T[]): T {
    return values[this.below(values.length)] as T;
  }
}

/** A record and the expectation of its receipt. */
export type Step = { sent: TaskRecord; expected: Expected };

export class Script {
  readonly steps: Step[] = [];
  readonly #draw: Draw;
  #serial = 0;
  /** Sessions that task requests name, and those that records of this script have named. */
  readonly #plannedSessions: string[];
  readonly #sessions: string[] = [];

  /** Draws `length` records of these tasks, which no other script has. `name` is the seed. */
  constructor(
    readonly oracle: Oracle,
    readonly tasks: Task[],
    readonly name: string,
    length: number,
  ) {
    this.#draw = new Draw(name);
    this.#plannedSessions = tasks.map((task) => task.session).filter(Boolean);
    const forms: [number, () => TaskRecord][] = [
      [20, () => this.#byTaskId()],
      [15, () => this.#byId()],
      [15, () => this.#bySession()],
      [15, () => this.#byGroupKey()],
      [6, () => this.#started()],
      [8, () => this.#progress()],
      [15, () => this.#again()],
      [8, () => this.#againInTheBody()],
      [3, () => this.#inTwoPlaces()],
      [3, () => this.#withKeysThatDisagree()],
      [4, () => this.#stray()],
      [4, () => this.#broken()],
    ];
    const weighted = forms.flatMap(([weight, make]) => Array.from({ length: weight }, () => make));
    // Two records are heavy, so there is one of each.
    this.#send(this.#heavy(`{"text":"${"x".repeat(BODY_BYTES_MAX)}"}`));
    this.#send(this.#heavy(`{"deep":${"[".repeat(JSON_DEPTH_MAX)}${"]".repeat(JSON_DEPTH_MAX)}}`));
    while (this.steps.length < length) {
      this.#send(this.#draw.choice(weighted)());
    }
  }

  /** The steps, cut into messages of one record and of up to 50. */
  messages(): Step[][] {
    const messages = [];
    for (let at = 0; at < this.steps.length; ) {
      const size = this.#draw.chance(0.75) ? 1 : 2 + this.#draw.below(RECORDS_PER_MESSAGE - 1);
      messages.push(this.steps.slice(at, at + size));
      at += size;
    }
    return messages;
  }

  #send(sent: TaskRecord): void {
    this.steps.push({ sent, expected: this.oracle.receive(sent) });
  }

  #anyTask(): Task {
    return this.#draw.choice(this.tasks);
  }

  #someTasks(): Task[] {
    return Array.from({ length: 20 }, () => this.#anyTask());
  }

  /** A text that no other record has. */
  #fresh(prefix: string): string {
    this.#serial += 1;
    return `${prefix}-${this.name}-${this.#serial}`;
  }

  /** Half the time none; else a new one, or one that was named before, maybe for another task. */
  #session(): string {
    if (this.#draw.chance(0.5)) {
      return "";
    }
    if (this.#draw.chance(0.8) || this.#sessions.length === 0) {
      const session = this.#fresh("session");
      this.#sessions.push(session);
      return session;
    }
    return this.#draw.choice(this.#sessions);
  }

  /** A record with these texts, each as a typed field or in the body. */
  #made(kind: RecordKind, texts: Texts, members: Json = {}): TaskRecord {
    const made = TaskRecord.fromPartial({ kind });
    const body: Json = { note: this.#fresh("note"), ...members };
    for (const [field, member] of TEXT_FIELDS) {
      const text = texts[field];
      if (text && this.#draw.chance(0.5)) {
        made[field] = text;
      } else if (text) {
        body[member] = text;
      }
    }
    made.body = jsonOf(body);
    return made;
  }

  #result(keys: Texts): TaskRecord {
    const members: Json = {};
    const typedSuccess = this.#draw.chance(0.2);
    if (!typedSuccess && this.#draw.chance(0.1)) {
      members["success"] = this.#draw.choice([true, false, "true", 1]);
    }
    if (this.#draw.chance(0.5)) {
      members["outcome"] = this.#draw.choice(OUTCOMES);
    }
    const made = this.#made(RecordKind.UNSPECIFIED, { ...keys, status: this.#draw.choice(WORDS) }, members);
    if (typedSuccess) {
      made.success = this.#draw.chance(0.5);
    }
    return made;
  }

  #heavy(body: string): TaskRecord {
    return TaskRecord.fromPartial({ id: this.#anyTask().taskId, body: Buffer.from(body) });
  }

  #byTaskId(): TaskRecord {
    const task = this.#anyTask();
    return this.#result({ taskId: this.#draw.choice([task.taskId, task.id]), sandboxSessionId: this.#session() });
  }

  #byId(): TaskRecord {
    const task = this.#anyTask();
    return this.#result({
      taskId: this.#draw.chance(0.3) ? this.#fresh("unknown") : "",
      id: this.#draw.choice([task.taskId, task.id]),
      sandboxSessionId: this.#session(),
    });
  }

  #bySession(): TaskRecord {
    const learnt = this.#sessions.length > 0 && this.#draw.chance(0.8);
    return this.#result({
      id: this.#draw.chance(0.5) ? this.#fresh("run") : "",
      sandboxSessionId: this.#draw.choice(learnt ? this.#sessions : this.#plannedSessions),
    });
  }

  /** Ambiguous for the tasks that share their key. */
  #byGroupKey(): TaskRecord {
    return this.#result({
      id: this.#draw.chance(0.5) ? this.#fresh("run") : "",
      groupKey: this.#anyTask().groupKey,
    });
  }

  /** Of a task that is not under way, if there is one: what STARTED means after PROGRESS is not documented. */
  #started(): TaskRecord {
    const idle = this.#someTasks().find((task) => !task.alive) ?? this.tasks.find((task) => !task.alive);
    const texts = { taskId: (idle ?? this.#anyTask()).taskId, sandboxSessionId: this.#session() };
    return this.#made(RecordKind.STARTED, texts);
  }

  #progress(): TaskRecord {
    return this.#made(RecordKind.PROGRESS, { id: this.#anyTask().taskId, sandboxSessionId: this.#session() });
  }

  /** What a task has, once more and unchanged. */
  #again(): TaskRecord {
    const had = this.#someTasks().flatMap((task) => task.held ?? task.alive ?? []);
    return had[0]?.record ?? this.#byTaskId();
  }

  /**
   * The record that a task has once more, with its typed fields in the body. They stand where the reconciled record has
   * them: whether another order of the members is the same content is not documented.
   */
  #againInTheBody(): TaskRecord {
    for (const task of this.#someTasks()) {
      const sent = task.held?.record;
      const body: Json | undefined = sent && JSON.parse(sent.body.toString());
      if (!sent || !body) {
        continue;
      }
      const typed = TEXT_FIELDS.filter(([field]) => sent[field]);
      if (typed.length === 0 || typed.some(([, member]) => member in body)) {
        continue;
      }
      const { status, ...keys }: Json = Object.fromEntries(typed.map(([field, member]) => [member, sent[field]]));
      const success = sent.success === undefined ? {} : { success: sent.success };
      return TaskRecord.fromPartial({ body: jsonOf({ ...keys, ...success, ...body, ...(status ? { status } : {}) }) });
    }
    return this.#byTaskId();
  }

  #inTwoPlaces(): TaskRecord {
    const taskId = this.#anyTask().taskId;
    const made = this.#result({});
    const body: Json = JSON.parse(made.body.toString());
    body["task_id"] = this.#draw.choice([taskId, this.#fresh("ignored")]);
    return { ...made, taskId, body: jsonOf(body) };
  }

  #withKeysThatDisagree(): TaskRecord {
    return this.#result({ taskId: this.#anyTask().taskId, groupKey: this.#anyTask().groupKey });
  }

  #stray(): TaskRecord {
    const key = () => (this.#draw.chance(0.5) ? this.#fresh("stray") : "");
    return this.#result({ id: key(), taskId: key(), sandboxSessionId: key(), groupKey: key() });
  }

  #broken(): TaskRecord {
    const made = this.#byTaskId();
    switch (this.#draw.below(6)) {
      case 0:
        return { ...made, body: this.#draw.choice(BROKEN_BODIES) };
      case 1:
        return { ...made, id: "x".repeat(KEY_BYTES_MAX + 1) };
      case 2:
        return { ...made, sandboxSessionId: "a\0b" };
      case 3:
        return { ...made, kind: 99 as RecordKind };
      case 4:
        return { ...made, status: "é".repeat(KEY_BYTES_MAX / 2 + 1) };
      default:
        return { ...made, body: jsonOf({ group_key: "y".repeat(KEY_BYTES_MAX + 1) }) };
    }
  }
}

/** A JSON value in UTF-8. */
export function jsonOf(value: unknown): Buffer {
  return Buffer.from(JSON.stringify(value));
}
