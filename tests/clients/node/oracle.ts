/*
 * What the documents say a plan does with records, in maps: the expectation of every receipt.
 *
 * Written from the comments in proto/ and the rules for documents; it knows nothing of how the server does it.
 */

import { isDeepStrictEqual } from "node:util";

import {
  Disposition,
  MatchedBy,
  RecordKind,
  type Record as TaskRecord,
  TaskStatus,
  Warning,
} from "../../../examples/node-executor/generated/fanout/v1/record.js";

/** Largest body of a record, in bytes. */
export const BODY_BYTES_MAX = 1 << 20;
/** Longest key, in bytes of UTF-8. */
export const KEY_BYTES_MAX = 1_024;
/** Deepest nesting of lists and objects in a body. */
export const JSON_DEPTH_MAX = 512;
const CANDIDATES_MAX = 16;

/** A record's text fields: the name in a typed record, and in a body. */
export const TEXT_FIELDS = [
  ["id", "id"],
  ["taskId", "task_id"],
  ["sandboxSessionId", "sandbox_session_id"],
  ["groupKey", "group_key"],
  ["status", "status"],
] as const;
export type TextField = (typeof TEXT_FIELDS)[number][0];
type Key = Exclude<TextField, "status">;

/** A record's keys in the order in which they are tried. */
const KEYS: [Key, MatchedBy][] = [
  ["taskId", MatchedBy.TASK_ID],
  ["id", MatchedBy.ID],
  ["sandboxSessionId", MatchedBy.SANDBOX_SESSION_ID],
  ["groupKey", MatchedBy.GROUP_KEY],
];
const HOST_STATUSES = new Map([
  ["completed", TaskStatus.COMPLETED],
  ["failed", TaskStatus.FAILED],
  ["missing_record", TaskStatus.MISSING_RECORD],
]);
const DONE_WORDS = new Set(["succeeded", "no_op", "success", "passed", "accepted"]);

/** The google.rpc.Code of each disposition. */
export const CODES = new Map([
  [Disposition.ACCEPTED, 0],
  [Disposition.DUPLICATE, 0],
  [Disposition.SUPERSEDED_PREVIOUS, 0],
  [Disposition.UNMATCHED, 5],
  [Disposition.AMBIGUOUS, 9],
  [Disposition.LATE, 9],
  [Disposition.INVALID, 3],
  [Disposition.TOO_LARGE, 3],
]);

export type Json = { [member: string]: unknown };
type Refusal = { field: string; reason: string; limit: number };

/** What a receipt must say. */
export class Expected {
  taskId = "";
  matchedBy = MatchedBy.UNSPECIFIED;
  revision = 0;
  status = TaskStatus.UNSPECIFIED;
  successful = false;
  /** The reconciled record. */
  document: Json | undefined;
  warnings: Warning[] = [];
  candidates: string[] = [];
  violation: Refusal | undefined;
  /** With DUPLICATE: the expectation of the original, undefined if no event stands behind it. */
  original: Expected | undefined;
  /** Filled in from the receipt. */
  sequence = 0;
  quarantineId = 0;

  constructor(
    readonly record: TaskRecord,
    readonly disposition: Disposition,
    given: Partial<Expected> = {},
  ) {
    Object.assign(this, given);
  }

  get applied(): boolean {
    return [Disposition.ACCEPTED, Disposition.SUPERSEDED_PREVIOUS].includes(this.disposition);
  }

  get quarantined(): boolean {
    return [Disposition.UNMATCHED, Disposition.AMBIGUOUS, Disposition.LATE].includes(this.disposition);
  }

  get isResult(): boolean {
    return isResult(this.record);
  }
}

/** One planned task. `taskId` is its identity, `id` another name of it, `session` the one its request names. */
export class Task {
  /** The expectations of its record, and of the last sign of life before that. */
  held: Expected | undefined;
  alive: Expected | undefined;

  constructor(
    readonly position: number,
    readonly taskId: string,
    readonly id: string,
    readonly groupKey: string,
    readonly session: string,
  ) {}
}

/** Which tasks a name stands for. */
class Names {
  readonly #tasks = new Map<string, Set<Task>>();

  add(name: string, task: Task): void {
    this.#tasks.set(name, (this.#tasks.get(name) ?? new Set()).add(task));
  }

  /** In plan order. */
  get(name: string): Task[] {
    return [...(this.#tasks.get(name) ?? [])].sort((one, other) => one.position - other.position);
  }
}

/** A plan. Give it the records of a task in the order in which the server gets them. */
export class Oracle {
  ended = false;
  quarantined = 0;
  readonly #names = new Names();
  readonly #sessions = new Names();
  readonly #groupKeys = new Names();

  constructor(readonly tasks: Task[]) {
    for (const task of tasks) {
      for (const name of [task.taskId, task.id, task.session].filter(Boolean)) {
        this.#names.add(name, task);
      }
      this.#groupKeys.add(task.groupKey, task);
    }
  }

  /** What becomes of a record. */
  receive(sent: TaskRecord): Expected {
    const body = parseBody(sent);
    const refusal = refusalOf(sent, body);
    if (refusal) {
      const disposition = refusal.limit ? Disposition.TOO_LARGE : Disposition.INVALID;
      return new Expected(sent, disposition, { violation: refusal });
    }
    return this.#apply(sent, body as Json);
  }

  #apply(sent: TaskRecord, body: Json): Expected {
    const texts = textsOf(sent, body);
    const named = KEYS.map(([key, matchedBy]) => ({ key, matchedBy, tasks: this.#named(key, texts[key]) }));
    const match = named.find(({ tasks }) => tasks.length === 1);
    const task = match?.tasks[0];
    if (!match || !task) {
      return this.#quarantine(sent, named.find(({ tasks }) => tasks.length > 0)?.tasks ?? []);
    }
    const expected = isResult(sent) ? this.#result(sent, body, texts, task) : this.#signOfLife(sent, task);
    expected.taskId = task.taskId;
    expected.matchedBy = match.matchedBy;
    if (task.held) {
      expected.revision = task.held.revision;
      expected.status = task.held.status;
      expected.successful = task.held.successful;
    }
    if (named.some(({ tasks }) => tasks.length === 1 && tasks[0] !== task)) {
      expected.warnings.push(Warning.KEYS_DISAGREE);
    }
    if (TEXT_FIELDS.some(([field, member]) => member in body && sent[field] && sent[field] !== body[member])) {
      expected.warnings.push(Warning.FIELD_IN_BODY_IGNORED);
    }
    if (texts.sandboxSessionId && match.key !== "sandboxSessionId" && !this.ended) {
      this.#sessions.add(texts.sandboxSessionId, task);
    }
    return expected;
  }

  #named(key: Key, name: string): Task[] {
    if (!name) {
      return [];
    }
    if (key === "groupKey") {
      return this.#groupKeys.get(name);
    }
    const tasks = this.#names.get(name);
    return key === "sandboxSessionId" && tasks.length === 0 ? this.#sessions.get(name) : tasks;
  }

  #quarantine(sent: TaskRecord, several: Task[]): Expected {
    this.quarantined += 1;
    const candidates = several.slice(0, CANDIDATES_MAX).map((task) => task.taskId);
    return new Expected(sent, several.length > 0 ? Disposition.AMBIGUOUS : Disposition.UNMATCHED, { candidates });
  }

  #result(sent: TaskRecord, body: Json, texts: Texts, task: Task): Expected {
    const status = hostStatus(sent, body, texts);
    const document: Json = { ...body };
    for (const [field, member] of TEXT_FIELDS) {
      if (sent[field]) {
        document[member] = sent[field];
      }
    }
    if (sent.success !== undefined) {
      document["success"] = sent.success;
    }
    document["status"] = status;
    if (task.held && isDeepStrictEqual(task.held.document, document)) {
      return new Expected(sent, Disposition.DUPLICATE, { original: task.held });
    }
    if (this.ended) {
      this.quarantined += 1;
      return new Expected(sent, Disposition.LATE);
    }
    task.held = new Expected(sent, task.held ? Disposition.SUPERSEDED_PREVIOUS : Disposition.ACCEPTED, {
      revision: (task.held?.revision ?? 0) + 1,
      status: HOST_STATUSES.get(status) ?? TaskStatus.UNSPECIFIED,
      successful: document["success"] === true || status === "completed",
      document,
    });
    task.alive = undefined;
    return task.held;
  }

  #signOfLife(sent: TaskRecord, task: Task): Expected {
    if (task.held) {
      return new Expected(sent, Disposition.DUPLICATE);
    }
    if (task.alive && isDeepStrictEqual(task.alive.record, sent)) {
      return new Expected(sent, Disposition.DUPLICATE, { original: task.alive });
    }
    task.alive = new Expected(sent, Disposition.ACCEPTED);
    return task.alive;
  }

  /** The plan's counts, but for `items` and `groups`. */
  counts() {
    const held = this.tasks.flatMap((task) => task.held ?? []);
    const successful = held.filter((expected) => expected.successful).length;
    return {
      tasks: this.tasks.length,
      recorded: held.length,
      successful,
      failed: held.length - successful,
      missing: this.tasks.length - held.length,
      running: this.tasks.filter((task) => task.alive).length,
      outcomes: held.filter((expected) => isPresent(expected.document?.["outcome"])).length,
      quarantined: this.quarantined,
    };
  }

  /** The members `records`, `outcomes`, `reconciliation` (but for its schema) and `status` of the ended plan. */
  resultDocument() {
    const records = this.tasks.map(
      ({ held, taskId, groupKey }): Json =>
        held?.document ?? { id: taskId, group_key: groupKey, status: "missing_record" },
    );
    const failed = this.tasks.filter((task) => !task.held?.successful).map((task) => task.taskId);
    const outcomes = records.map((record) => record["outcome"]).filter(isPresent);
    return {
      records,
      outcomes,
      reconciliation: {
        group_count: this.tasks.length,
        task_count: this.tasks.length,
        record_count: this.tasks.length,
        success_count: this.tasks.length - failed.length,
        failure_count: failed.length,
        outcome_count: outcomes.length,
        failed_task_ids: failed,
      },
      status: failed.length > 0 ? "failed" : "completed",
    };
  }
}

function isResult(sent: TaskRecord): boolean {
  return sent.kind === RecordKind.UNSPECIFIED || sent.kind === RecordKind.RESULT;
}

type Texts = { [field in TextField]: string };

/** A record's texts: the typed field, else that of the body. */
function textsOf(sent: TaskRecord, body: Json): Texts {
  const texts: Texts = { id: "", taskId: "", sandboxSessionId: "", groupKey: "", status: "" };
  for (const [field, member] of TEXT_FIELDS) {
    const inBody = body[member];
    texts[field] = sent[field] || (typeof inBody === "string" ? inBody : "");
  }
  return texts;
}

/** Whether a value counts as given. Empty lists and objects do. */
function isPresent(value: unknown): boolean {
  return ![undefined, null, "", 0, false].some((absent) => absent === value);
}

/** The coordinator's word for a record's own ones. */
function hostStatus(sent: TaskRecord, body: Json, texts: Texts): string {
  const own = texts.status;
  if (HOST_STATUSES.has(own)) {
    return own;
  }
  const outcome = body["outcome"];
  const said = typeof outcome === "object" && outcome !== null ? String((outcome as Json)["status"]) : "";
  const success = sent.success ?? body["success"] === true;
  return success || DONE_WORDS.has(own) || DONE_WORDS.has(said) || said === "completed" ? "completed" : "failed";
}

/** The JSON value of a body; undefined if it is not JSON. */
function parseBody(sent: TaskRecord): unknown {
  if (sent.body.length === 0) {
    return {};
  }
  try {
    return JSON.parse(new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(sent.body));
  } catch {
    return undefined;
  }
}

/** What is wrong with a record that is INVALID (its limit is 0) or TOO_LARGE. */
function refusalOf(sent: TaskRecord, body: unknown): Refusal | undefined {
  if (RecordKind[sent.kind] === undefined) {
    return { field: "kind", reason: "UNKNOWN_ENUM_VALUE", limit: 0 };
  }
  if (sent.body.length > BODY_BYTES_MAX) {
    return { field: "body", reason: "BODY_TOO_LARGE", limit: BODY_BYTES_MAX };
  }
  if (depth(body) > JSON_DEPTH_MAX) {
    return { field: "body", reason: "JSON_LIMIT_EXCEEDED", limit: JSON_DEPTH_MAX };
  }
  if (typeof body !== "object" || body === null || Array.isArray(body)) {
    return { field: "body", reason: "INVALID_JSON", limit: 0 };
  }
  const texts = textsOf(sent, body as Json);
  for (const [field, member] of TEXT_FIELDS) {
    if (Buffer.byteLength(texts[field]) > KEY_BYTES_MAX) {
      return { field: member, reason: "KEY_TOO_LONG", limit: KEY_BYTES_MAX };
    }
    if (texts[field].includes("\0")) {
      return { field: member, reason: "INVALID_TEXT", limit: 0 };
    }
  }
  return undefined;
}

/** How deep lists and objects are nested. */
function depth(value: unknown): number {
  let levels = 0;
  let level = [value];
  for (;;) {
    const nested = level.filter((part) => typeof part === "object" && part !== null);
    if (nested.length === 0) {
      return levels;
    }
    levels += 1;
    level = nested.flatMap((part) => Object.values(part as object));
  }
}
