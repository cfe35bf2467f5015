/*
 * examples/node-executor, as a user runs it.
 */

import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, test, type TestContext } from "node:test";

import {
  ReconcileRequest,
  type WatchPlanResponse,
} from "../../../examples/node-executor/generated/fanout/v1/fanout_service.js";
import {
  GetPlanRequest,
  ListPlansRequest,
  type Plan,
  PlanStatus,
  SealRule,
} from "../../../examples/node-executor/generated/fanout/v1/plan.js";
import { RecordKind } from "../../../examples/node-executor/generated/fanout/v1/record.js";
import { answer, given, present, Server, Wire, within } from "./server.js";

type Ended = { code: number | null; output: string; errors: string };

/** A running executor. It is killed when its test ends. */
class Executor {
  readonly process: ChildProcess;
  readonly #ended: Promise<Ended>;

  constructor(test: TestContext, address: string, ...options: string[]) {
    this.process = spawn(process.execPath, [given("FANOUT_EXECUTOR"), "--server", address, ...options], {
      stdio: ["ignore", "pipe", "pipe"],
    });
    test.after(() => this.process.kill("SIGKILL"));
    this.#ended = this.#read();
  }

  async #read(): Promise<Ended> {
    let output = "";
    let errors = "";
    this.process.stdout?.on("data", (data) => (output += data));
    this.process.stderr?.on("data", (data) => (errors += data));
    const [code] = await once(this.process, "close");
    return { code, output, errors };
  }

  end(): Promise<Ended> {
    return within(this.#ended, "the executor");
  }
}

/** The plan, which must have this status. */
async function planIs(server: Server, planId: string, status: PlanStatus): Promise<Plan> {
  const request = GetPlanRequest.fromPartial({ planId });
  const plan = present((await answer(server.client.getPlan.bind(server.client), request)).plan);
  assert.equal(PlanStatus[plan.status], PlanStatus[status]);
  return plan;
}

async function untilResults(frames: AsyncIterator<WatchPlanResponse>, count: number): Promise<void> {
  while (count > 0) {
    const next = await frames.next();
    assert.ok(!next.done, "the watch ended");
    count -= next.value.frame?.$case === "result" ? 1 : 0;
  }
}

/** The ended plan has one result of each task, and none was superseded. */
async function noTaskWasDoneTwice(server: Server, planId: string, tasks: number): Promise<void> {
  const frames = await server.frames({ planId });
  const revisions = frames.flatMap(({ frame }) => (frame?.$case === "result" ? [frame.value.revision] : []));
  assert.deepEqual(
    revisions,
    Array.from({ length: tasks }, () => 1),
  );
}

/** A folder that is removed when the test has ended. */
async function folder(test: TestContext): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), "fanout-"));
  test.after(() => rm(path, { recursive: true, force: true, maxRetries: 10 }));
  return path;
}

/**
 * The executor has ended well, no record has another one's receipt, and each was applied once, although the server was
 * lost. `frames` are those of the whole plan.
 */
function eachWasSentOnce({ code, output, errors }: Ended, frames: WatchPlanResponse[], tasks: number): void {
  assert.deepEqual({ code, errors }, { code: 0, errors: "" });
  const receipts = `${4 * tasks} receipts (${4 * tasks} ACCEPTED)`;
  assert.ok(output.includes(`: ${tasks} of ${tasks} tasks have a result; ${receipts}, 0 outstanding, `), output);
  assert.match(output, /, [1-9]\d* reconnects\n$/);
  const seen = frames.flatMap(({ frame }) => (frame ? [frame] : []));
  const revisions = seen.flatMap((frame) => (frame.$case === "result" ? [frame.value.revision] : []));
  assert.deepEqual(
    revisions,
    Array.from({ length: tasks }, () => 1),
  );
  const kinds = seen.flatMap((frame) => (frame.$case === "progress" ? [frame.value.kind] : []));
  assert.equal(kinds.filter((kind) => kind === RecordKind.STARTED).length, tasks);
  assert.equal(kinds.filter((kind) => kind === RecordKind.PROGRESS).length, 2 * tasks);
}

// Together, as some of them wait most of their time.
describe("the executor", { concurrency: 3 }, () => {
  test("two shards complete a plan and do no task twice", async (t) => {
    const server = await Server.start(t);
    await server.registerTasks("shards", 301, SealRule.WHEN_ALL_RECORDED);
    const shards = [0, 1].map((n) => new Executor(t, server.address, "--plan-id", "shards", "--shard", `${n}/2`));
    const ended = await Promise.all(shards.map((shard) => shard.end()));
    for (const [n, { code, output, errors }] of ended.entries()) {
      const count = 151 - n;
      assert.equal(
        output,
        `executor: plan shards, shard ${n}/2: ${count} of ${count} tasks have a result; ` +
          `${4 * count} receipts (${4 * count} ACCEPTED), 0 outstanding, 0 reconnects\n`,
      );
      assert.deepEqual({ code, errors }, { code: 0, errors: "" });
    }
    assert.equal((await planIs(server, "shards", PlanStatus.COMPLETED)).counts?.outcomes, 301);
    const frames = await server.frames({ planId: "shards" });
    const kinds = frames.flatMap(({ frame }) => (frame?.$case === "progress" ? [frame.value.kind] : []));
    assert.equal(kinds.filter((kind) => kind === RecordKind.STARTED).length, 301);
    assert.equal(kinds.filter((kind) => kind === RecordKind.PROGRESS).length, 602);
    await noTaskWasDoneTwice(server, "shards", 301);
  });

  test("an executor leaves on SIGTERM and another one does the rest", async (t) => {
    const server = await Server.start(t);
    const tasks = 3_000;
    await server.registerTasks("stop", tasks, SealRule.WHEN_ALL_RECORDED);
    const watch = server.watch({ planId: "stop" });
    // Few records in flight make it slow: it is far from done when the signal comes.
    const first = new Executor(t, server.address, "--plan-id", "stop", "--in-flight", "2");
    await untilResults(watch.frames, 5);
    first.process.kill("SIGTERM");
    const stopped = await first.end();
    watch.stop();
    assert.deepEqual({ code: stopped.code, errors: stopped.errors }, { code: 143, errors: "" });
    assert.match(stopped.output, / 0 outstanding, 0 reconnects\n$/);
    const left = present((await planIs(server, "stop", PlanStatus.INCOMPLETE)).counts).missing;
    assert.ok(left > 0);
    assert.ok(stopped.output.includes(` ${tasks - left} of ${tasks} tasks have a result`), stopped.output);

    const second = await new Executor(t, server.address, "--plan-id", "stop").end();
    assert.deepEqual({ code: second.code, errors: second.errors }, { code: 0, errors: "" });
    assert.ok(second.output.includes(` ${left} of ${left} tasks have a result`), second.output);
    await planIs(server, "stop", PlanStatus.COMPLETED);
    await noTaskWasDoneTwice(server, "stop", tasks);
  });

  test("an executor whose connection is cut comes back and loses nothing", async (t) => {
    const server = await Server.start(t);
    const tasks = 1_500;
    await server.registerTasks("wire", tasks, SealRule.WHEN_ALL_RECORDED);
    const wire = await Wire.to(server);
    const watch = server.watch({ planId: "wire" });
    const executor = new Executor(t, wire.address, "--plan-id", "wire", "--in-flight", "8");
    for (let cut = 0; cut < 3; cut += 1) {
      await untilResults(watch.frames, 100);
      wire.cut();
    }
    const ended = await executor.end();
    watch.stop();
    assert.ok(wire.connections > 1);
    await planIs(server, "wire", PlanStatus.COMPLETED);
    eachWasSentOnce(ended, await server.frames({ planId: "wire" }), tasks);
  });

  test("an executor and a watcher go on with a server that was killed or drained and started again", async (t) => {
    const tasks = 600;
    let server = await Server.start(t, "--data-dir", await folder(t));
    await server.registerTasks("again", tasks, SealRule.WHEN_ALL_RECORDED);
    const executor = new Executor(t, server.address, "--plan-id", "again", "--in-flight", "8");
    const seen: WatchPlanResponse[] = [];
    const after = () => seen.at(-1)?.cursor ?? "";
    for (const signal of ["SIGKILL", "SIGTERM", "SIGKILL"] as const) {
      const watch = server.watch({ planId: "again", after: after() });
      for (let count = 0; count < tasks; count += 1) {
        seen.push((await watch.frames.next()).value);
      }
      watch.stop();
      server = await server.startAgain(signal);
    }
    seen.push(...(await server.frames({ planId: "again", after: after() })));
    await planIs(server, "again", PlanStatus.COMPLETED);
    eachWasSentOnce(await executor.end(), seen, tasks);
  });

  test("an executor whose server is gone gives up after ten attempts and says so", async (t) => {
    const server = await Server.start(t);
    await server.registerTasks("gone", 3_000);
    const watch = server.watch({ planId: "gone" });
    const executor = new Executor(t, server.address, "--plan-id", "gone", "--in-flight", "2");
    await untilResults(watch.frames, 5);
    server.process.kill("SIGKILL");
    const { code, output } = await executor.end();
    assert.equal(code, 1);
    assert.match(output, /, 9 reconnects; lost the server: UNAVAILABLE: /);
  });

  test("an executor leaves on SIGTERM although the server answers no more", async (t) => {
    const server = await Server.start(t);
    await server.registerTasks("silent", 3_000);
    const wire = await Wire.to(server);
    const watch = server.watch({ planId: "silent" });
    const executor = new Executor(t, wire.address, "--plan-id", "silent", "--in-flight", "2");
    await untilResults(watch.frames, 5);
    wire.freeze();
    executor.process.kill("SIGTERM");
    const { code, output, errors } = await executor.end();
    assert.deepEqual({ code, errors }, { code: 143, errors: "" });
    assert.match(output, /shard 0\/1/);
  });

  test("an executor begins nothing more when its plan has ended", async (t) => {
    const server = await Server.start(t);
    await server.registerTasks("sealed", 3_000);
    const watch = server.watch({ planId: "sealed" });
    const executor = new Executor(t, server.address, "--plan-id", "sealed", "--in-flight", "2");
    await untilResults(watch.frames, 5);
    watch.stop();
    const recorded = present((await server.seal("sealed")).counts).recorded;
    const { code, output } = await executor.end();
    assert.equal(code, 1);
    assert.ok(output.includes(` ${recorded} of 3000 tasks have a result`), output);
  });

  test("an executor names the limit that its results pass", async (t) => {
    const server = await Server.start(t, "--record-body-bytes-max", "60");
    await server.registerTasks("small", 2);
    const { code, output, errors } = await new Executor(t, server.address, "--plan-id", "small").end();
    assert.equal(code, 1);
    assert.match(output, / 0 of 2 tasks have a result; 8 receipts \(6 ACCEPTED, 2 TOO_LARGE\), 0 outstanding/);
    assert.match(errors, /TOO_LARGE: the record of task task-1 is over a limit: .* \(BODY_TOO_LARGE\)/);
  });

  test("the demo completes a plan of its own", async (t) => {
    const server = await Server.start(t);
    const { code, output, errors } = await new Executor(t, server.address, "--demo").end();
    assert.deepEqual({ code, errors }, { code: 0, errors: "" });
    assert.match(output, /: 4 of 4 tasks have a result/);
    const { client } = server;
    const { plans } = await answer(client.listPlans.bind(client), ListPlansRequest.fromPartial({}));
    const demo = present(plans[0]);
    assert.deepEqual([plans.length, PlanStatus[demo.status]], [1, "COMPLETED"]);
    const request = ReconcileRequest.fromPartial({ planId: demo.planId });
    const { document } = await answer(client.reconcile.bind(client), request);
    const { outcomes } = JSON.parse(document.toString());
    assert.deepEqual(
      outcomes.map(({ words, common }: { words: number; common: string }) => ({ words, common })),
      [
        { words: 18, common: "carroll" },
        { words: 15, common: "dickens" },
        { words: 6, common: "melville" },
        { words: 17, common: "tomorrow" },
      ],
    );
  });

  test("an executor says which plan there is not", async (t) => {
    const server = await Server.start(t);
    const { code, output, errors } = await new Executor(t, server.address, "--plan-id", "nowhere").end();
    assert.deepEqual({ code, output }, { code: 1, output: "" });
    assert.match(errors, /NOT_FOUND: .*nowhere/);
  });

  test("wrong arguments are named and end with 2", async (t) => {
    for (const [options, named] of [
      [[], "--plan-id or --demo"],
      [["--demo", "--shard", "2/2"], "'2/2'"],
      [["--demo", "--in-flight", "0"], "--in-flight"],
      [["--demo", "--bogus"], "--bogus"],
    ] as const) {
      const { code, output, errors } = await new Executor(t, "127.0.0.1:1", ...options).end();
      assert.deepEqual({ code, output }, { code: 2, output: "" });
      assert.ok(errors.includes(named), errors);
    }
  });
});
