/*
 * A client in another language against the real server: every receipt, frame and document is compared with an oracle.
 *
 * FANOUT_SEED draws other records; a failure prints the seed.
 */

import assert from "node:assert/strict";
import { once } from "node:events";
import { test } from "node:test";
import { isDeepStrictEqual } from "node:util";

import { status } from "@grpc/grpc-js";

import {
  ReconcileRequest,
  type Result,
  type WatchPlanResponse,
} from "../../../examples/node-executor/generated/fanout/v1/fanout_service.js";
import { type Counts, EndReason, PlanStatus } from "../../../examples/node-executor/generated/fanout/v1/plan.js";
import {
  Disposition,
  MatchedBy,
  type Receipt,
  Record as TaskRecord,
  SubmitRecordRequest,
  type SubmitRecordResponse,
  TaskStatus,
  Warning,
} from "../../../examples/node-executor/generated/fanout/v1/record.js";
import { CODES, type Expected, type Json, Oracle, Task } from "./oracle.js";
import { Draw, jsonOf, Script, type Step } from "./script.js";
import { answer, deadline, present, Server, within } from "./server.js";

const SEED = process.env["FANOUT_SEED"] ?? "20240611";
const TASKS = 4_000;
const RECORDS = 50_000;
const STREAMS = 16;
/** How often the watcher that begins in the middle is cut off, and after how many results. */
const CUTS = 12;
const RESULTS_BEFORE_A_CUT = 400;
const RECORDS_IN_A_PAGE = 700;
/** Messages of the stream that does not read its receipts, far more than fit on the way; and the records in each. */
const MUTE_MESSAGES = 120;
const MUTE_RECORDS = 1_000;

/** The streams wait for each other and for the watcher that begins in the middle. */
class Meeting {
  readonly everybodyCame: Promise<void>;
  readonly goOn: Promise<void>;
  release: () => void = () => {};
  #come: () => void = () => {};
  #absent: number;

  constructor(expected: number) {
    this.#absent = expected;
    this.everybodyCame = new Promise((resolve) => (this.#come = resolve));
    this.goOn = new Promise((resolve) => (this.release = resolve));
  }

  async wait(): Promise<void> {
    this.#absent -= 1;
    if (this.#absent === 0) {
      this.#come();
    }
    await within(this.goOn, "the snapshot");
  }
}

/** What the watcher that begins in the middle saw. */
type Watched = { takenAt: number; snapshot: Result[]; results: Result[]; last: WatchPlanResponse; cuts: number };

/** One plan, thousands of tasks, sixteen streams, two watchers. */
class BigPlan {
  readonly oracle: Oracle;
  readonly scripts: Script[];
  /** The one record of the last task, which no script has. */
  readonly first: Step;
  readonly meeting = new Meeting(STREAMS);

  private constructor(
    readonly server: Server,
    tasks: Task[],
  ) {
    this.oracle = new Oracle(tasks);
    const mine = TaskRecord.fromPartial({ taskId: present(tasks.at(-1)).taskId, status: "completed" });
    this.first = { sent: mine, expected: this.oracle.receive(mine) };
    const share = TASKS / STREAMS;
    const shared = tasks.slice(0, -1);
    this.scripts = Array.from(
      { length: STREAMS },
      (_, n) => new Script(this.oracle, shared.slice(n * share, (n + 1) * share), `${SEED}-${n}`, RECORDS / STREAMS),
    );
  }

  static async register(server: Server): Promise<BigPlan> {
    const draw = new Draw(SEED);
    const tasks: Task[] = [];
    for (let position = 0; position < TASKS; position += 1) {
      // Every tenth task shares its group key with the task before it.
      const groupKey = `group-${position % 10 === 9 ? position - 1 : position}`;
      const session = draw.chance(0.2) ? `planned-session-${position}` : "";
      tasks.push(new Task(position, `task-${position}`, `other-name-${position}`, groupKey, session));
    }
    const groups = tasks.map(({ groupKey, session }) => ({ key: groupKey, items: session ? [{ session }] : [] }));
    const template = {
      task_id: "task-{{group.index}}",
      id: "other-name-{{group.index}}",
      sandbox_session_id: "{{group.items.0.session}}",
    };
    await server.register("big", groups, template);
    return new BigPlan(server, tasks);
  }

  /** All records and what their receipts must say, stream by stream. */
  get expected(): Expected[] {
    return [this.first, ...this.scripts.flatMap((script) => script.steps)].map((step) => step.expected);
  }

  /** Sends a script over one stream and compares every receipt as it comes. Returns the responses. */
  async stream(script: Script): Promise<SubmitRecordResponse[]> {
    const messages = script.messages();
    const quarter = Math.floor(messages.length / 4);
    let haveQuarter = () => {};
    const quarterApplied = new Promise<void>((resolve) => (haveQuarter = resolve));
    const call = this.server.client.submitRecord(deadline());
    const write = async () => {
      for (const [number, message] of messages.entries()) {
        if (number === quarter) {
          await within(quarterApplied, "the receipts of the first quarter");
          await this.meeting.wait();
        }
        // The plan is needed in the first message only.
        const planId = number % 2 === 0 ? "big" : "";
        if (!call.write(SubmitRecordRequest.fromPartial({ planId, records: message.map((step) => step.sent) }))) {
          await within(once(call, "drain"), "flow control");
        }
      }
      call.end();
    };
    const responses: SubmitRecordResponse[] = [];
    const read = async () => {
      for await (const response of call) {
        checkReceipts(messages[responses.length] ?? [], response.receipts);
        responses.push(response);
        if (responses.length === quarter) {
          haveQuarter();
        }
      }
    };
    await Promise.all([write(), read()]);
    assert.equal(responses.length, messages.length);
    return responses;
  }

  /** Begins in the middle with a snapshot; is cut off again and again, and goes on with its last cursor. */
  async watchWithCuts(): Promise<Watched> {
    await within(this.meeting.everybodyCame, "the first quarter");
    const snapshot: Result[] = [];
    const results: Result[] = [];
    let takenAt = 0;
    let after = "";
    for (let cuts = 0; ; cuts += 1) {
      const position = after ? { after } : { includeSnapshot: true };
      const { frames, stop } = this.server.watch({ planId: "big", includePayload: true, ...position });
      let news = 0;
      while (news < RESULTS_BEFORE_A_CUT || cuts >= CUTS) {
        const next = await frames.next();
        assert.ok(!next.done, "the watch ended without End");
        const { frame, cursor } = next.value;
        after = cursor;
        if (frame?.$case === "snapshot") {
          snapshot.push(...frame.value.results);
          if (frame.value.last) {
            takenAt = present(frame.value.plan).sequence;
            this.meeting.release();
          }
        } else if (frame?.$case === "result") {
          results.push(frame.value);
          news += 1;
        } else if (frame?.$case === "end") {
          return { takenAt, snapshot, results, last: next.value, cuts };
        }
      }
      stop();
    }
  }

  /** A change has an event of its own, a duplicate that of its original, a refused record none. */
  checkSequences(): void {
    const changes = this.expected.filter((it) => it.applied || it.quarantined).map((it) => it.sequence);
    assert.equal(new Set(changes).size, changes.length);
    assert.ok(changes.every((sequence) => sequence > 1), "the first event is the plan's creation");
    for (const it of this.expected) {
      if (!it.applied && !it.quarantined) {
        assert.equal(it.sequence, it.original?.sequence ?? 0);
      }
    }
    const quarantine = this.expected.filter((it) => it.quarantined).map((it) => it.quarantineId);
    assert.deepEqual(
      quarantine.sort((one, other) => one - other),
      Array.from({ length: this.oracle.quarantined }, (_, n) => n + 1),
    );
  }

  /** The draw was worth its time: hundreds of each kind, matched in each of the four ways. */
  checkEverythingWasDrawn(): void {
    const expected = this.expected;
    for (const disposition of CODES.keys()) {
      const seen = expected.filter((it) => it.disposition === disposition).length;
      assert.ok(seen > 100 || disposition === Disposition.LATE, Disposition[disposition]);
    }
    for (const way of [MatchedBy.ID, MatchedBy.TASK_ID, MatchedBy.SANDBOX_SESSION_ID, MatchedBy.GROUP_KEY]) {
      assert.ok(expected.filter((it) => it.applied && it.matchedBy === way).length > 1_000, MatchedBy[way]);
    }
    for (const warning of [Warning.KEYS_DISAGREE, Warning.FIELD_IN_BODY_IGNORED]) {
      assert.ok(expected.filter((it) => it.warnings.includes(warning)).length > 100, Warning[warning]);
    }
  }

  checkCounts(counts: Counts | undefined): void {
    const items = this.oracle.tasks.filter((task) => task.session).length;
    const wanted = { items, groups: TASKS, ...this.oracle.counts() };
    // A newer server may count more.
    assert.deepEqual({ ...wanted, ...present(counts) }, { ...present(counts), ...wanted });
  }

  /** Reconcile of the plan, whole and in pages. */
  async checkResult(planStatus: PlanStatus): Promise<void> {
    const reconcile = (request: Partial<ReconcileRequest>) =>
      answer(
        this.server.client.reconcile.bind(this.server.client),
        ReconcileRequest.fromPartial({ planId: "big", ...request }),
      );
    const wanted = this.oracle.resultDocument();
    if (planStatus === PlanStatus.INCOMPLETE) {
      wanted.status = "incomplete";
    }

    const whole = await reconcile({});
    assert.equal(whole.status, planStatus);
    this.checkCounts(whole.counts);
    const document = JSON.parse(whole.document.toString());
    delete document.reconciliation.schema;
    const { records, outcomes, reconciliation, status } = document;
    assert.deepEqual({ records, outcomes, reconciliation, status }, wanted);

    const parts = [];
    let pageToken = "";
    do {
      const page = await reconcile({ pageSize: RECORDS_IN_A_PAGE, pageToken });
      this.checkCounts(page.counts);
      parts.push(JSON.parse(page.document.toString()));
      pageToken = page.nextPageToken;
    } while (pageToken);
    assert.equal(parts.length, Math.ceil(TASKS / RECORDS_IN_A_PAGE));
    assert.deepEqual(parts.flatMap((part) => part.records), wanted.records);
    assert.deepEqual(parts.flatMap((part) => part.outcomes), wanted.outcomes);
    assert.deepEqual(
      parts.flatMap((part) => part.reconciliation.failed_task_ids),
      wanted.reconciliation.failed_task_ids,
    );
  }

  /** What the Result frames of a whole watch say. */
  resultsInOrder() {
    const groupKeys = new Map(this.oracle.tasks.map((task) => [task.taskId, task.groupKey]));
    return this.expected
      .filter((it) => it.applied && it.isResult)
      .sort((one, other) => one.sequence - other.sequence)
      .map(({ sequence, taskId, revision, status, successful, matchedBy, document }) => ({
        sequence,
        taskId,
        groupKey: groupKeys.get(taskId),
        revision,
        status,
        successful,
        matchedBy,
        document,
      }));
  }

  checkEnd(last: WatchPlanResponse | undefined): void {
    assert.equal(last?.frame?.$case, "end");
    const end = last.frame.value;
    assert.deepEqual([end.status, end.endReason], [PlanStatus.FAILED, EndReason.SEALED]);
    this.checkCounts(end.counts);
  }

  checkWatch(seen: WatchPlanResponse[]): void {
    const results = seen.flatMap(({ frame }) => (frame?.$case === "result" ? [factsOf(frame.value)] : []));
    assert.deepEqual(results, this.resultsInOrder());
    const signs = this.expected
      .filter((it) => it.applied && !it.isResult)
      .sort((one, other) => one.sequence - other.sequence);
    assert.deepEqual(
      seen.flatMap(({ frame }) => {
        if (frame?.$case !== "progress") {
          return [];
        }
        const { sequence, taskId, kind, body } = frame.value;
        return [{ sequence, taskId, kind, body: JSON.parse(body.toString()) }];
      }),
      signs.map(({ sequence, taskId, record }) => ({
        sequence,
        taskId,
        kind: record.kind,
        body: JSON.parse(record.body.toString()),
      })),
    );
    this.checkEnd(seen.at(-1));
  }

  checkWatchWithCuts({ takenAt, snapshot, results, last, cuts }: Watched): void {
    assert.equal(cuts, CUTS);
    const whole = this.resultsInOrder();
    const newest = new Map(whole.filter((it) => it.sequence <= takenAt).map((it) => [it.taskId, it]));
    const inPlanOrder = this.oracle.tasks.flatMap((task) => newest.get(task.taskId) ?? []);
    assert.ok(inPlanOrder.length > 100);
    assert.deepEqual(snapshot.map(factsOf), inPlanOrder);
    assert.deepEqual(
      results.map(factsOf),
      whole.filter((it) => it.sequence > takenAt),
    );
    this.checkEnd(last);
  }

  /** An ended plan knows its records again, and sets other ones aside. */
  async checkAfterTheEnd(): Promise<void> {
    this.oracle.ended = true;
    const withRecord = this.oracle.tasks.filter((task) => task.held).slice(0, 20);
    const without = this.oracle.tasks.filter((task) => !task.held).slice(0, 20);
    const sent = [
      ...withRecord.map((task) => present(task.held).record),
      ...[...withRecord, ...without].map((task) => TaskRecord.fromPartial({ taskId: task.taskId, status: "passed" })),
      TaskRecord.fromPartial({ id: "nobody" }),
    ];
    const steps = sent.map((record) => ({ sent: record, expected: this.oracle.receive(record) }));
    assert.ok(steps.filter((step) => step.expected.disposition === Disposition.LATE).length >= 20);
    checkReceipts(steps, await this.server.submit("big", sent));
    await this.checkResult(PlanStatus.FAILED);
  }
}

/** What a Result says, but for the time. */
function factsOf({ sequence, taskId, groupKey, revision, status, successful, matchedBy, record }: Result) {
  const document: Json = JSON.parse(record.toString());
  return { sequence, taskId, groupKey, revision, status, successful, matchedBy, document };
}

/** Compares the receipts of one message, and notes their sequences and numbers in quarantine. */
function checkReceipts(message: Step[], receipts: Receipt[]): void {
  assert.equal(receipts.length, message.length);
  for (const [place, { sent, expected }] of message.entries()) {
    const receipt = present(receipts[place]);
    const wanted = {
      disposition: Disposition[expected.disposition],
      code: CODES.get(expected.disposition),
      taskId: expected.taskId,
      matchedBy: MatchedBy[expected.matchedBy],
      revision: expected.revision,
      status: TaskStatus[expected.status],
      successful: expected.successful,
      document: expected.applied && expected.isResult ? expected.document : undefined,
      warnings: new Set(expected.warnings),
      candidates: expected.candidates,
      violation: expected.violation && {
        ...expected.violation,
        field: `records[${place}].${expected.violation.field}`,
      },
      quarantined: expected.quarantined,
    };
    const { violation } = receipt;
    const got = {
      disposition: Disposition[receipt.disposition],
      code: receipt.code,
      taskId: receipt.taskId,
      matchedBy: MatchedBy[receipt.matchedBy],
      revision: receipt.revision,
      status: TaskStatus[receipt.status],
      successful: receipt.successful,
      document: receipt.record.length > 0 ? JSON.parse(receipt.record.toString()) : undefined,
      warnings: new Set(receipt.warnings),
      candidates: receipt.candidateTaskIds,
      violation: violation && { field: violation.field, reason: violation.reason, limit: violation.limit },
      quarantined: receipt.quarantineId > 0,
    };
    if (!isDeepStrictEqual(got, wanted)) {
      const record = { ...sent, body: sent.body.toString().slice(0, 2_000) };
      assert.deepEqual({ ...got, record }, { ...wanted, record });
    }
    assert.ok(!violation || violation.description);
    expected.sequence = receipt.sequence;
    expected.quarantineId = receipt.quarantineId;
  }
}

/** One stream sees a plan that goes on: counts grow and fit. */
function checkCountsOnlyGrow(responses: SubmitRecordResponse[]): void {
  let before = { recorded: 0, quarantined: 0, sequence: 0 };
  for (const { counts, sequence } of responses) {
    const { recorded, quarantined, missing, successful, failed } = present(counts);
    assert.ok(recorded >= before.recorded && quarantined >= before.quarantined && sequence >= before.sequence);
    assert.equal(recorded + missing, TASKS);
    assert.equal(successful + failed, recorded);
    before = { recorded, quarantined, sequence };
  }
}

/** Says with which seed a test failed. */
async function seeded(run: () => Promise<void>): Promise<void> {
  try {
    await run();
  } catch (cause) {
    throw new Error(`failed with FANOUT_SEED=${SEED}`, { cause });
  }
}

/** A stream that sends one record over and over, 120,000 times, and does not read its receipts until it is told to. */
class MuteStream {
  /** Messages that the server has let in so far. */
  letIn = 0;
  readonly #responses: AsyncIterator<SubmitRecordResponse>;
  readonly #first: Promise<IteratorResult<SubmitRecordResponse>>;

  constructor(server: Server, planId: string, record: TaskRecord) {
    // Receipts that nobody reads fill a connection, so it has one of its own.
    const call = server.connect().submitRecord(deadline());
    call.on("error", () => {});
    this.#responses = call[Symbol.asyncIterator]();
    // As long as nothing was asked for, grpc-js takes in everything. From the first message on it is the reader's pace.
    this.#first = this.#responses.next();
    // Whoever reads gets the error.
    this.#first.catch(() => {});
    const records = Array.from({ length: MUTE_RECORDS }, () => record);
    for (let sent = 0; sent < MUTE_MESSAGES; sent += 1) {
      call.write(SubmitRecordRequest.fromPartial({ planId, records }), () => (this.letIn += 1));
    }
    call.end();
  }

  /** All receipts. */
  async read(): Promise<Receipt[]> {
    const receipts: Receipt[] = [];
    for (let next = await this.#first; !next.done; next = await this.#responses.next()) {
      receipts.push(...next.value.receipts);
    }
    return receipts;
  }
}

test("fifty thousand records over sixteen streams get the receipts, frames and documents that the oracle says", (t) =>
  seeded(async () => {
    const server = await Server.start(t);
    const big = await BigPlan.register(server);
    checkReceipts([big.first], await server.submit("big", [big.first.sent]));
    const mute = new MuteStream(server, "big", big.first.sent);
    const idle = server.client.submitRecord(deadline());
    const idleEnded = once(idle, "error");

    const watching = Promise.all([server.frames({ planId: "big", includePayload: true }), big.watchWithCuts()]);
    const streaming = Promise.all(big.scripts.map((script) => big.stream(script)));
    const responses = await Promise.race([streaming, watching.then(() => streaming)]);
    assert.equal(big.expected.length, 1 + RECORDS);
    big.checkEverythingWasDrawn();
    big.checkSequences();
    responses.forEach(checkCountsOnlyGrow);
    await big.checkResult(PlanStatus.INCOMPLETE);
    const sealed = await server.seal("big");
    assert.deepEqual([sealed.status, sealed.endReason], [PlanStatus.FAILED, EndReason.SEALED]);
    await big.checkResult(PlanStatus.FAILED);

    const [fromTheBeginning, fromTheMiddle] = await watching;
    big.checkWatch(fromTheBeginning);
    big.checkWatchWithCuts(fromTheMiddle);

    // The server did not read on while nobody read its receipts. None of them was lost, and the idle stream is open.
    assert.ok(0 < mute.letIn && mute.letIn < MUTE_MESSAGES, `${mute.letIn} messages were let in`);
    const receipts = await mute.read();
    assert.equal(receipts.length, MUTE_MESSAGES * MUTE_RECORDS);
    const { sequence } = big.first.expected;
    assert.ok(receipts.every((it) => it.disposition === Disposition.DUPLICATE && it.sequence === sequence));
    idle.cancel();
    const [ended] = await within(idleEnded, "the end of the idle stream");
    assert.equal(ended.code, status.CANCELLED);

    await big.checkAfterTheEnd();
  }));

test("records sent again after their stream was cut are applied once", async (t) => {
  const server = await Server.start(t);
  const tasks = 600;
  const enough = 100;
  await server.registerTasks("cut", tasks);
  const records = Array.from({ length: tasks }, (_, n) =>
    TaskRecord.fromPartial({ id: `task-${n}`, status: "completed", body: jsonOf({ n }) }),
  );

  const cut = server.connect().submitRecord(deadline());
  const ended = once(cut, "error");
  for (const record of records.slice(0, tasks / 2)) {
    cut.write(SubmitRecordRequest.fromPartial({ planId: "cut", records: [record] }));
  }
  const watch = server.watch({ planId: "cut" });
  for (let applied = 0; applied < enough; applied += 1) {
    assert.equal((await watch.frames.next()).value?.frame?.$case, "result");
  }
  // No receipt was read.
  cut.cancel();
  await within(ended, "the end of the stream");
  watch.stop();

  const again = server.client.submitRecord(deadline());
  for (const record of records) {
    again.write(SubmitRecordRequest.fromPartial({ planId: "cut", records: [record] }));
  }
  again.end();
  const receipts: Receipt[] = [];
  for await (const response of again) {
    receipts.push(...response.receipts);
  }
  assert.deepEqual(new Set(receipts.map((receipt) => receipt.revision)), new Set([1]));
  const duplicates = receipts.filter((receipt) => receipt.disposition === Disposition.DUPLICATE).length;
  const accepted = receipts.filter((receipt) => receipt.disposition === Disposition.ACCEPTED).length;
  assert.ok(duplicates >= enough);
  assert.equal(duplicates + accepted, tasks);

  await server.seal("cut");
  const frames = await server.frames({ planId: "cut" });
  const results = frames.flatMap(({ frame }) => (frame?.$case === "result" ? [frame.value] : []));
  assert.equal(results.length, tasks);
  assert.equal(new Set(results.map((result) => result.taskId)).size, tasks);
});
