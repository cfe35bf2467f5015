#!/usr/bin/env node
/*
 * An executor: takes its share of a plan's task requests, works on each, and streams records back.
 *
 * It shows what an executor needs, and is meant to be copied:
 *
 *   - which tasks are left: the snapshot of WatchPlan says what has a result, GetPlan pages through the task requests
 *   - one SubmitRecord stream for all records: STARTED, PROGRESS, then the result of each task
 *   - receipts are read while records are sent, and only so many records may be without one
 *   - a lost connection is opened again, also to a server that was started again; records without a receipt are sent
 *     again, numbered as before, so that none is applied twice
 *
 * Whether to call again, and when, is in patience.ts. The work is a stand-in: it counts the words in all texts of the task
 * request. Replace `steps`.
 */

import { createHash, randomUUID } from "node:crypto";
import { EventEmitter, once } from "node:events";
import { constants } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";

import {
  type CallOptions,
  type ClientDuplexStream,
  type ClientUnaryCall,
  credentials,
  Metadata,
  type ServiceError,
  status,
} from "@grpc/grpc-js";

import { FanoutServiceClient, WatchPlanRequest } from "./generated/fanout/v1/fanout_service.js";
import { GetPlanRequest, PlanRequest, PlanStatus, type TaskRequest, View } from "./generated/fanout/v1/plan.js";
import {
  Disposition,
  type Receipt,
  Record as TaskRecord,
  RecordKind,
  type SubmitRecordRequest,
  type SubmitRecordResponse,
  TaskStatus,
} from "./generated/fanout/v1/record.js";
import { BACKOFF_MS_MAX, FIRST_BACKOFF_MS, isServiceError, Patience } from "./patience.js";

const HELP = `\
usage: executor.js (--plan-id PLAN | --demo) [--server HOST:PORT] [--shard I/N] [--in-flight RECORDS]

An executor: takes its share of a plan's task requests, works on each, and streams records back. Tasks that have a
result already are left out. The work is a stand-in: it counts the words in all texts of the task request.

options:
  --plan-id PLAN       the plan to work on
  --demo               plan a small fan-out first, and work on that
  --server HOST:PORT   default: 127.0.0.1:7117
  --shard I/N          only every Nth task, from the Ith: 0/2, 1/2 (default: 0/1, all of them)
  --in-flight RECORDS  records that may be without a receipt (default: 256)
  -h, --help           show this and exit

try it:
  fanout serve &
  node dist/executor.js --demo

share a plan between two executors:
  node dist/executor.js --plan-id PLAN --shard 0/2 &
  node dist/executor.js --plan-id PLAN --shard 1/2

exit codes:
  0    every task of the shard has a result
  1    not every task: records were refused, the plan ended early, or the server was lost
  2    usage
  130  interrupted (SIGINT)
  143  terminated (SIGTERM)
After a signal no task is begun, and receipts are awaited for at most 5 s. Start the executor again, and it does
what is left.
`;

/** Records in one message. The server allows 1,000; small messages are answered sooner. */
const RECORDS_PER_MESSAGE = 100;
/** Task requests in a page of GetPlan, the most there may be. */
const PAGE_SIZE = 1_000;
/** Largest message from the server, in bytes: its own default. */
const MESSAGE_BYTES_MAX = 16 << 20;
/** Time for each of the calls before the stream, connecting included. */
const CALL_MS = 30_000;
/** Time for the last receipts after a signal. */
const STOP_MS = 5_000;

/** The record was taken, now or before. */
const TAKEN = new Set([Disposition.ACCEPTED, Disposition.DUPLICATE, Disposition.SUPERSEDED_PREVIOUS]);
/** The record was not taken, and sending it again would not help. */
const REFUSED = new Map([
  [Disposition.UNMATCHED, "names no task of the plan; it is in quarantine"],
  [Disposition.AMBIGUOUS, "names several tasks; it is in quarantine"],
  [Disposition.KEYS_DISAGREE, "names different tasks with its keys; it is in quarantine"],
  [Disposition.LATE, "came too late; it is in quarantine"],
  [Disposition.INVALID, "is not valid"],
  [Disposition.TOO_LARGE, "is over a limit"],
]);
/** No more records are taken: a signal came, or the plan has ended. */
class Stopped extends Error {}

/** A task request and its place in the plan, from 0. */
type Placed = { position: number; task: TaskRequest };

/** Makes a call again while the server is away. */
async function persistently<Answered>(call: () => Promise<Answered>): Promise<Answered> {
  const patience = new Patience();
  for (;;) {
    try {
      return await call();
    } catch (error) {
      await sleep(patience.waitAfter(error));
    }
  }
}

/**
 * One SubmitRecord stream that outlives its connections.
 *
 * `send` queues a record and waits while `inFlight` records are without a receipt. `run` talks to the server, and
 * returns when the stream was closed and every record has its receipt.
 *
 * The records are numbered from 0 on, as those of a producer that only this stream is. So one that is sent again, as it
 * has no receipt yet, is not applied again, and gets the receipt that it got.
 */
class RecordStream {
  /** How many records got which disposition. */
  readonly dispositions = new Map<Disposition, number>();
  /** Tasks that are known to have a result. */
  readonly withResult = new Set<string>();
  reconnects = 0;

  readonly #client: FanoutServiceClient;
  readonly #planId: string;
  readonly #inFlight: number;
  /** Says `change` when there is room for a record, and when the stream closes. */
  readonly #events = new EventEmitter();
  readonly #stopping = new AbortController();
  readonly #producerId = randomUUID();
  /** Records without a receipt, oldest first; the first `#sent` of them were sent on this connection. */
  readonly #records: TaskRecord[] = [];
  #sent = 0;
  /** Records with a receipt: the offset of the first one without. */
  #receipted = 0;
  #call: ClientDuplexStream<SubmitRecordRequest, SubmitRecordResponse> | undefined;
  #flushing = false;
  #closed = false;

  constructor(client: FanoutServiceClient, planId: string, inFlight: number) {
    this.#client = client;
    this.#planId = planId;
    this.#inFlight = inFlight;
  }

  /** Records without a receipt. */
  get unacknowledged(): number {
    return this.#records.length;
  }

  /** Records that were not taken. */
  get refused(): number {
    return total([...this.dispositions].filter(([disposition]) => !TAKEN.has(disposition)));
  }

  /** Queues a record. Throws Stopped if none is taken any more. */
  async send(record: TaskRecord): Promise<void> {
    while (!this.#closed && this.#records.length >= this.#inFlight) {
      await once(this.#events, "change");
    }
    if (this.#closed) {
      throw new Stopped();
    }
    this.#records.push(record);
    this.#flushSoon();
  }

  /** Takes no more records; those queued are still sent. */
  close(): void {
    if (!this.#closed) {
      this.#closed = true;
      this.#events.emit("change");
      this.#flushSoon();
    }
  }

  /** Closes, does not connect again, and gives up on receipts after a while. */
  stop(): void {
    this.#stopping.abort();
    this.close();
    setTimeout(() => this.#call?.cancel(), STOP_MS).unref();
  }

  /** Talks to the server. Throws a ServiceError if it is lost or refuses the stream. */
  async run(): Promise<void> {
    const stopping = this.#stopping.signal;
    const patience = new Patience();
    let wait = 0;
    try {
      while (!stopping.aborted) {
        try {
          for await (const response of this.#connect()) {
            this.#take(response);
            patience.reward();
          }
          return;
        } catch (error) {
          if (stopping.aborted) {
            return;
          }
          wait = patience.waitAfter(error);
        } finally {
          this.#call = undefined;
        }
        this.reconnects += 1;
        await sleep(wait, undefined, { signal: stopping }).catch(() => {});
      }
    } finally {
      this.close();
    }
  }

  #connect(): AsyncIterable<SubmitRecordResponse> {
    this.#sent = 0;
    this.#call = this.#client.submitRecord();
    this.#flushSoon();
    return this.#call;
  }

  /** Sends when the event loop comes round, so that records queued until then share a message. */
  #flushSoon(): void {
    if (!this.#flushing) {
      this.#flushing = true;
      setImmediate(() => {
        this.#flushing = false;
        this.#flush();
      });
    }
  }

  /**
   * Sends what was not sent on this connection: first what has no receipt yet, then what came. Half-closes at the end.
   *
   * What `write` answers is of no matter: the stream never buffers more than the records that are without a receipt.
   */
  #flush(): void {
    const call = this.#call;
    if (!call || call.writableEnded || call.destroyed) {
      return;
    }
    while (this.#sent < this.#records.length) {
      const records = this.#records.slice(this.#sent, this.#sent + RECORDS_PER_MESSAGE);
      const firstOffset = this.#receipted + this.#sent;
      this.#sent += records.length;
      // BASIC: what was sent need not come back.
      call.write({ planId: this.#planId, records, producerId: this.#producerId, firstOffset, view: View.BASIC });
    }
    if (this.#closed) {
      call.end();
    }
  }

  /** Takes the receipts of one message. They come in the order of the records. */
  #take(response: SubmitRecordResponse): void {
    for (const receipt of response.receipts) {
      const record = this.#records.shift();
      this.#sent -= 1;
      this.#receipted += 1;
      this.dispositions.set(receipt.disposition, (this.dispositions.get(receipt.disposition) ?? 0) + 1);
      if (receipt.status !== TaskStatus.UNSPECIFIED) {
        this.withResult.add(receipt.taskId);
      }
      if (!TAKEN.has(receipt.disposition)) {
        complain(record?.taskId ?? "", receipt);
      }
    }
    this.#events.emit("change");
    if (response.status !== PlanStatus.INCOMPLETE) {
      // Somebody else's records, a deadline or SealPlan ended the plan: begin nothing more.
      this.close();
    }
  }
}

/** ACCEPTED, or the number of a disposition that is newer than these stubs. */
function nameOf(disposition: Disposition): string {
  return Disposition[disposition] ?? String(disposition);
}

function total(counts: Iterable<[unknown, number]>): number {
  let sum = 0;
  for (const [, count] of counts) {
    sum += count;
  }
  return sum;
}

/** Says why a record was refused. A disposition this executor does not know is worth a line, too. */
function complain(taskId: string, receipt: Receipt): void {
  const reason = REFUSED.get(receipt.disposition) ?? "got a receipt that this executor does not know";
  let details = "";
  if (receipt.candidateTaskIds.length > 0) {
    details = `: ${receipt.candidateTaskIds.join(", ")}`;
  } else if (receipt.violation) {
    const { field, description, reason: code } = receipt.violation;
    details = `: ${field}: ${description} (${code})`;
  }
  console.error(`executor: ${nameOf(receipt.disposition)}: the record of task ${taskId} ${reason}${details}`);
}

/** UNAVAILABLE: the reason. */
function described(error: ServiceError): string {
  return `${status[error.code] ?? error.code}: ${error.details}`;
}

/** All strings of a JSON value, in order. */
function* texts(value: unknown): Generator<string> {
  if (typeof value === "string") {
    yield value;
  } else if (typeof value === "object" && value !== null) {
    for (const part of Object.values(value)) {
      yield* texts(part);
    }
  }
}

/**
 * The work on one task request, a JSON object in UTF-8: a stand-in. Yields what each step found, returns the outcome.
 */
async function* steps(document: Buffer): AsyncGenerator<object, object> {
  const found = [...texts(JSON.parse(document.toString()))];
  yield { step: "read", texts: found.length };
  const words = found.flatMap((text) => text.match(/[\p{L}\p{N}_]+/gu) ?? []).map((word) => word.toLowerCase());
  yield { step: "counted", words: words.length };
  const counts = new Map<string, number>();
  for (const word of words.sort()) {
    counts.set(word, (counts.get(word) ?? 0) + 1);
  }
  // The first of the most frequent ones in the alphabet, so that the outcome depends on the request only.
  let common = "";
  for (const [word, count] of counts) {
    if (count > (counts.get(common) ?? 0)) {
      common = word;
    }
  }
  return { words: words.length, common, sha256: createHash("sha256").update(document).digest("hex") };
}

/**
 * The records of one task: STARTED, a PROGRESS after each step, the result.
 *
 * They name the task and the session. From the first one on the server knows the session, too.
 */
async function* recordsOf(task: TaskRequest, session: string): AsyncGenerator<TaskRecord> {
  const made = (kind: RecordKind, body: object, status = "") =>
    TaskRecord.fromPartial({
      taskId: task.taskId,
      sandboxSessionId: session,
      kind,
      status,
      body: Buffer.from(JSON.stringify(body)),
    });

  yield made(RecordKind.STARTED, {});
  const working = steps(task.document);
  for (;;) {
    let step: IteratorResult<object, object>;
    try {
      step = await working.next();
    } catch (error) {
      // Whatever the work dies of is this task's result, not the executor's end.
      yield made(RecordKind.RESULT, { error: String(error) }, "failed");
      return;
    }
    if (step.done) {
      yield made(RecordKind.RESULT, { outcome: step.value }, "completed");
      return;
    }
    yield made(RecordKind.PROGRESS, step.value);
  }
}

/** Makes a unary call, which waits for the connection. Throws a ServiceError. */
function answer<Asked, Answered>(
  method: (
    request: Asked,
    metadata: Metadata,
    options: Partial<CallOptions>,
    callback: (error: ServiceError | null, response: Answered) => void,
  ) => ClientUnaryCall,
  request: Asked,
): Promise<Answered> {
  return new Promise((resolve, reject) => {
    method(request, patient(), { deadline: Date.now() + CALL_MS }, (error, response) =>
      error ? reject(error) : resolve(response),
    );
  });
}

function patient(): Metadata {
  return new Metadata({ waitForReady: true });
}

/** Ids of the tasks that have a result already. */
async function withResult(client: FanoutServiceClient, planId: string): Promise<Set<string>> {
  const request = WatchPlanRequest.fromPartial({ planId, includeSnapshot: true });
  const watch = client.watchPlan(request, patient(), { deadline: Date.now() + CALL_MS });
  // Being cancelled below is an error, too, but nobody's.
  watch.on("error", () => {});
  const done = new Set<string>();
  for await (const response of watch) {
    if (response.frame?.$case === "snapshot") {
      for (const result of response.frame.value.results) {
        done.add(result.taskId);
      }
      if (response.frame.value.last) {
        break;
      }
    }
  }
  watch.cancel();
  return done;
}

/** All task requests, in plan order. */
async function* taskRequests(client: FanoutServiceClient, planId: string): AsyncGenerator<TaskRequest> {
  const request = GetPlanRequest.fromPartial({ planId, view: View.FULL, pageSize: PAGE_SIZE });
  do {
    const page = await persistently(() => answer(client.getPlan.bind(client), request));
    yield* page.taskRequests;
    request.pageToken = page.nextPageToken;
  } while (request.pageToken);
}

/** Plans four tasks: one for each author. Returns the plan's id. */
async function planDemo(client: FanoutServiceClient): Promise<string> {
  const lines = {
    carroll: ["Begin at the beginning", "and go on till you come to the end", "then stop"],
    dickens: ["It was the best of times", "it was the worst of times"],
    melville: ["Call me Ishmael"],
    shakespeare: ["Tomorrow and tomorrow and tomorrow", "creeps in this petty pace from day to day"],
  };
  const groups = Object.entries(lines).map(([key, items]) => ({ key, items }));
  const config = { task_request_template: { id: "read-{{group.key}}", inputs: { lines: "{{group.items}}" } } };
  const request = PlanRequest.fromPartial({
    // As the call may be made again: it is still one plan.
    requestId: randomUUID(),
    config: Buffer.from(JSON.stringify(config)),
    source: { $case: "groups", value: Buffer.from(JSON.stringify(groups)) },
  });
  const planned = await persistently(() => answer(client.plan.bind(client), request));
  return planned.plan?.planId ?? "";
}

/** Works on the tasks one by one. Each has a session of its own, the same one whenever it is begun again. */
async function work(tasks: Placed[], stream: RecordStream, session: string): Promise<void> {
  try {
    for (const { position, task } of tasks) {
      for await (const record of recordsOf(task, `${session}-task-${position}`)) {
        await stream.send(record);
      }
    }
  } catch (error) {
    if (!(error instanceof Stopped)) {
      throw error;
    }
  } finally {
    stream.close();
  }
}

type Options = { server: string; planId: string | undefined; shard: [number, number]; inFlight: number };

/** Works on what is left of a part of a plan. Returns the exit code. */
async function execute(client: FanoutServiceClient, planId: string, options: Options): Promise<number> {
  const [index, parts] = options.shard;
  const done = await persistently(() => withResult(client, planId));
  const tasks: Placed[] = [];
  let position = 0;
  for await (const task of taskRequests(client, planId)) {
    if (position % parts === index && !done.has(task.taskId)) {
      tasks.push({ position, task });
    }
    position += 1;
  }

  const stream = new RecordStream(client, planId, options.inFlight);
  let stoppedBy = 0;
  for (const signal of ["SIGTERM", "SIGINT"] as const) {
    process.on(signal, () => {
      stoppedBy = constants.signals[signal];
      stream.stop();
    });
  }
  let lost = "";
  try {
    await Promise.all([work(tasks, stream, `executor-${index}-of-${parts}`), stream.run()]);
  } catch (error) {
    if (!isServiceError(error)) {
      throw error;
    }
    lost = `; lost the server: ${described(error)}`;
  }

  const left = tasks.filter(({ task }) => !stream.withResult.has(task.taskId)).length;
  const tally = [...stream.dispositions].sort(([one], [other]) => one - other);
  const receipts = tally.map(([disposition, count]) => `${count} ${nameOf(disposition)}`).join(", ");
  console.log(
    `executor: plan ${planId}, shard ${index}/${parts}: ${tasks.length - left} of ${tasks.length} tasks have a ` +
      `result; ${total(tally)} receipts (${receipts || "none"}), ${stream.unacknowledged} outstanding, ` +
      `${stream.reconnects} reconnects${lost}`,
  );
  if (stoppedBy) {
    return 128 + stoppedBy;
  }
  return lost || left || stream.refused ? 1 : 0;
}

class UsageError extends Error {}

/** Reads `I/N`: part I of N parts, counted from 0. */
function readShard(text: string): [number, number] {
  const [, index, parts] = /^(\d+)\/(\d+)$/.exec(text) ?? [];
  if (index === undefined || parts === undefined || Number(index) >= Number(parts)) {
    throw new UsageError(`--shard: expected I/N with I from 0 to N - 1, found '${text}'`);
  }
  return [Number(index), Number(parts)];
}

function readPositive(name: string, text: string): number {
  if (!/^\d+$/.test(text) || Number(text) === 0) {
    throw new UsageError(`${name}: expected a number from 1, found '${text}'`);
  }
  return Number(text);
}

/** Reads the arguments. Throws UsageError; undefined if help is wanted. */
function readArguments(): Options | undefined {
  const read = () =>
    parseArgs({
      options: {
        server: { type: "string", default: "127.0.0.1:7117" },
        "plan-id": { type: "string" },
        demo: { type: "boolean", default: false },
        shard: { type: "string", default: "0/1" },
        "in-flight": { type: "string", default: "256" },
        help: { type: "boolean", short: "h", default: false },
      },
    }).values;
  let values: ReturnType<typeof read>;
  try {
    values = read();
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
  if (values.help) {
    return undefined;
  }
  if (values.demo === (values["plan-id"] !== undefined)) {
    throw new UsageError("expected either --plan-id or --demo");
  }
  return {
    server: values.server,
    planId: values["plan-id"],
    shard: readShard(values.shard),
    inFlight: readPositive("--in-flight", values["in-flight"]),
  };
}

/** Returns the exit code. */
async function main(): Promise<number> {
  let options: Options | undefined;
  try {
    options = readArguments();
  } catch (error) {
    if (!(error instanceof UsageError)) {
      throw error;
    }
    console.error(`executor: ${error.message}\nexecutor: --help says more`);
    return 2;
  }
  if (!options) {
    process.stdout.write(HELP);
    return 0;
  }
  // Soon back after a cut; how often is bounded by the stream.
  const client = new FanoutServiceClient(options.server, credentials.createInsecure(), {
    "grpc.initial_reconnect_backoff_ms": FIRST_BACKOFF_MS,
    "grpc.max_reconnect_backoff_ms": BACKOFF_MS_MAX,
    "grpc.max_receive_message_length": MESSAGE_BYTES_MAX,
  });
  try {
    return await execute(client, options.planId ?? (await planDemo(client)), options);
  } catch (error) {
    if (!isServiceError(error)) {
      throw error;
    }
    console.error(`executor: ${options.server}: ${described(error)}`);
    return 1;
  } finally {
    client.close();
  }
}

process.exitCode = await main();
