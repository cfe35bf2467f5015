/*
 * examples/browser-watch in a real browser, against the real server, over gRPC-Web from another origin.
 */

import assert from "node:assert/strict";
import { after, before, describe, test, type TestContext } from "node:test";

import type { Browser } from "playwright-core";

import { launch, OpenPage, type Shown, Site } from "./browser.js";
import { Server, Wire } from "./server.js";

const TOLD_TO_RECONNECT = "[unavailable] the server is closing this connection; reconnect and go on";

let site: Site;
let browser: Browser;

before(async () => {
  site = await Site.open();
  browser = await launch();
});
after(async () => {
  await browser?.close();
  site?.close();
});

/** A page that watches a plan, and has said that it does. */
async function watching(test: TestContext, address: string, plan: string): Promise<OpenPage> {
  const page = await OpenPage.at(site.address(address, plan), browser, test);
  await page.shows({ connection: `Live from http://${address}`, told: "", plan });
  return page;
}

/** Keys of groups: KEY-0, KEY-1 and so on. */
function numbered(key: string, count: number): string[] {
  return Array.from({ length: count }, (_, position) => `${key}-${position}`);
}

/**
 * What a page shows without its sequences, but for those that are not above all before: how many messages records come
 * in, and so how many sequences there are between them, is up to the submitter.
 */
function inOrder(shown: Shown): Shown {
  let last = 0;
  const events = shown.events.map((event) => {
    const [sequence = "", ...rest] = event.split(" ");
    const ascends = Number(sequence) > last;
    last = Math.max(last, Number(sequence) || 0);
    return ascends ? rest.join(" ") : event;
  });
  return { ...shown, events, tasks: shown.tasks.map((task) => task.replace(/ \d+$/, "")) };
}

// Together, as some of them wait most of their time.
describe("a page in a browser", { concurrency: 3 }, () => {
  test("shows a plan that somebody else registered, each result as it comes, and the end", async (t) => {
    const server = await Server.start(t);
    await server.register("live", ["a", "b", "c"]);
    const page = await watching(t, server.address, "live");
    await page.shows({
      status: "INCOMPLETE",
      counts: {
        items: "0",
        groups: "3",
        tasks: "3",
        recorded: "0",
        successful: "0",
        failed: "0",
        missing: "3",
        running: "0",
        outcomes: "0",
        quarantined: "0",
      },
      tasks: ["task-a a PENDING", "task-b b PENDING", "task-c c PENDING"],
      events: [],
    });

    await server.submit("live", { task_id: "task-b", status: "completed" });
    await page.shows({
      status: "INCOMPLETE",
      counts: {
        items: "0",
        groups: "3",
        tasks: "3",
        recorded: "1",
        successful: "1",
        failed: "0",
        missing: "2",
        running: "0",
        outcomes: "0",
        quarantined: "0",
      },
      tasks: ["task-a a PENDING", "task-b b COMPLETED 1 2", "task-c c PENDING"],
      events: ["2 task-b COMPLETED"],
    });

    // The command numbers its records, which is an event of its own after them.
    await server.submit("live", { task_id: "task-a", status: "crashed" });
    await page.shows({
      status: "INCOMPLETE",
      tasks: ["task-a a FAILED 1 4", "task-b b COMPLETED 1 2", "task-c c PENDING"],
      events: ["2 task-b COMPLETED", "4 task-a FAILED"],
    });

    // Another word for it: the record takes the place of the one before.
    await server.submit("live", { task_id: "task-a", status: "passed" });
    await page.shows({
      status: "INCOMPLETE",
      tasks: ["task-a a COMPLETED 2 6", "task-b b COMPLETED 1 2", "task-c c PENDING"],
      events: ["2 task-b COMPLETED", "4 task-a FAILED", "6 task-a COMPLETED"],
    });

    await server.submit("live", { task_id: "task-c", status: "failed", outcome: "broken" });
    await page.shows({
      connection: "The plan has ended.",
      told: "",
      status: "FAILED ALL_RECORDED",
      counts: {
        items: "0",
        groups: "3",
        tasks: "3",
        recorded: "3",
        successful: "2",
        failed: "1",
        missing: "0",
        running: "0",
        outcomes: "1",
        quarantined: "0",
      },
      tasks: ["task-a a COMPLETED 2 6", "task-b b COMPLETED 1 2", "task-c c FAILED 1 8"],
      events: [
        "2 task-b COMPLETED",
        "4 task-a FAILED",
        "6 task-a COMPLETED",
        "8 task-c FAILED",
        "end FAILED ALL_RECORDED",
      ],
    });
  });

  test("shows an ended plan as it ended, tasks without a record among them", async (t) => {
    const server = await Server.start(t);
    await server.register("sealed", ["a", "b"]);
    await server.submit("sealed", { task_id: "task-b", status: "completed" });
    await server.command(["seal", "sealed"]);
    const page = await OpenPage.at(site.address(server.address, "sealed"), browser, t);
    await page.shows({
      connection: "The plan has ended.",
      status: "FAILED SEALED",
      tasks: ["task-a a MISSING_RECORD", "task-b b COMPLETED 1 2"],
      events: ["end FAILED SEALED"],
    });
  });

  test("registers a plan and sends its records itself", async (t) => {
    const server = await Server.start(t);
    const page = await OpenPage.at(site.address(server.address), browser, t);
    await page.page.getByRole("button", { name: "Register a small plan" }).click();
    await page.shows({
      connection: `Live from http://${server.address}`,
      tasks: ["task-parser parser PENDING", "task-printer printer PENDING", "task-driver driver PENDING"],
    });
    await page.press("task-parser", "started");
    await page.shows({
      receipt: "task-parser: ACCEPTED",
      tasks: ["task-parser parser RUNNING 2", "task-printer printer PENDING", "task-driver driver PENDING"],
      events: ["2 task-parser STARTED"],
    });
    for (const task of ["task-driver", "task-printer", "task-parser"]) {
      await page.press(task, "completed");
      await page.shows({ receipt: `${task}: ACCEPTED` });
    }
    await page.shows({
      connection: "The plan has ended.",
      status: "COMPLETED ALL_RECORDED",
      tasks: [
        "task-parser parser COMPLETED 1 5",
        "task-printer printer COMPLETED 1 4",
        "task-driver driver COMPLETED 1 3",
      ],
      events: [
        "2 task-parser STARTED",
        "3 task-driver COMPLETED",
        "4 task-printer COMPLETED",
        "5 task-parser COMPLETED",
        "end COMPLETED ALL_RECORDED",
      ],
    });
    await page.press("task-driver", "failed");
    await page.shows({ receipt: "task-driver: LATE" });

    const planId = (await page.page.locator("#plan-id").textContent()) ?? "";
    assert.equal(JSON.parse(await server.command(["get", planId, "--json"])).status, "completed");
  });

  test("sees the same as another page that watches the same plan", async (t) => {
    const server = await Server.start(t);
    await server.register("both", ["a", "b"]);
    const pages = [await watching(t, server.address, "both"), await watching(t, server.address, "both")] as const;
    const both = async (expected: Parameters<OpenPage["shows"]>[0]) => {
      await Promise.all(pages.map((page) => page.shows(expected)));
    };
    await pages[0].press("task-a", "started");
    await both({ tasks: ["task-a a RUNNING 2", "task-b b PENDING"], events: ["2 task-a STARTED"] });
    await pages[1].press("task-a", "completed");
    await both({
      tasks: ["task-a a COMPLETED 1 3", "task-b b PENDING"],
      events: ["2 task-a STARTED", "3 task-a COMPLETED"],
    });
    await server.command(["cancel", "both"]);
    await both({
      connection: "The plan has ended.",
      status: "FAILED CANCELLED",
      tasks: ["task-a a COMPLETED 1 3", "task-b b MISSING_RECORD"],
      events: ["2 task-a STARTED", "3 task-a COMPLETED", "end FAILED CANCELLED"],
    });
  });

  test("goes on where it was when its watch is cut, and misses and repeats nothing", async (t) => {
    const server = await Server.start(t);
    const [rounds, tasks] = [5, 40];
    await server.register("cut", numbered("t", rounds * tasks));
    const wire = await Wire.to(server);
    const page = await watching(t, wire.address, "cut");
    const events: string[] = [];
    for (let round = 0; round < rounds; round += 1) {
      const keys = numbered("t", (round + 1) * tasks).slice(round * tasks);
      const records = keys.map((key) => ({ task_id: `task-${key}`, status: "completed" }));
      // Half of them may still be on their way to the page when the wire is cut; the others come while it is away.
      await server.submit("cut", ...records.slice(0, tasks / 2));
      wire.cut();
      await server.submit("cut", ...records.slice(tasks / 2));
      for (const key of keys) {
        events.push(`task-${key} COMPLETED`);
      }
      if (round < rounds - 1) {
        await page.shows({ connection: `Live from http://${wire.address}`, events }, inOrder);
      }
    }
    await page.shows(
      {
        connection: "The plan has ended.",
        status: "COMPLETED ALL_RECORDED",
        tasks: numbered("t", rounds * tasks).map((key) => `task-${key} ${key} COMPLETED 1`),
        events: [...events, "end COMPLETED ALL_RECORDED"],
      },
      inOrder,
    );
  });

  test("gives up a connection on which nothing comes any more, and goes on with another", async (t) => {
    const server = await Server.start(t);
    await server.register("frozen", ["a", "b"]);
    const wire = await Wire.to(server);
    const page = await watching(t, wire.address, "frozen");
    await server.submit("frozen", { task_id: "task-a", status: "completed" });
    await page.shows({ events: ["2 task-a COMPLETED"] });
    wire.freeze();
    await server.submit("frozen", { task_id: "task-b", status: "completed" });
    await page.shows({
      connection: "The plan has ended.",
      events: ["2 task-a COMPLETED", "4 task-b COMPLETED", "end COMPLETED ALL_RECORDED"],
    });
  });

  test("shows the server's NOT_FOUND for a plan that does not exist", async (t) => {
    const server = await Server.start(t);
    const page = await OpenPage.at(site.address(server.address, "nope"), browser, t);
    await page.shows({
      connection: `http://${server.address} refused.`,
      told: '[not_found] there is no plan "nope"',
      plan: "",
      tasks: [],
    });
  });

  test("shows that the plan it watches was deleted", async (t) => {
    const server = await Server.start(t);
    await server.register("deleted", ["a"]);
    const page = await watching(t, server.address, "deleted");
    await server.command(["delete", "deleted"]);
    await page.shows({
      connection: `http://${server.address} refused.`,
      told: '[not_found] plan "deleted" was deleted or has expired',
    });
  });

  test("gets nothing if its origin is not let in, and shows so", async (t) => {
    const server = await Server.start(t, "--web-origins", "https://elsewhere.example");
    await server.register("secret", ["a"]);
    const page = await OpenPage.at(site.address(server.address, "secret"), browser, t);
    const origin = `http://127.0.0.1:${site.port}`;
    const lost = `No answer from http://${server.address}. Does it run, and does it let in pages of ${origin}?`;
    await page.shows({ connection: lost, told: "", plan: "", status: "", counts: {}, tasks: [], events: [] });
    // What it asks for is not done either.
    await page.page.getByRole("button", { name: "Register a small plan" }).click();
    await page.shows({ told: "[unknown] Failed to fetch", plan: "", tasks: [] });
    const plans = (await server.command(["list", "--json"])).trim().split("\n");
    assert.deepEqual(
      plans.map((line) => JSON.parse(line).plan_id),
      ["secret"],
    );
  });

  test("is let in by its origin: its scheme, its host and its port", async (t) => {
    const server = await Server.start(t, "--web-origins", `https://elsewhere.example,http://localhost:${site.port}`);
    await server.register("shared", ["a"]);
    const friend = await OpenPage.at(site.address(server.address, "shared", "localhost"), browser, t);
    await friend.shows({ connection: `Live from http://${server.address}`, tasks: ["task-a a PENDING"] });
    const stranger = await OpenPage.at(site.address(server.address, "shared", "127.0.0.1"), browser, t);
    const origin = `http://127.0.0.1:${site.port}`;
    const lost = `No answer from http://${server.address}. Does it run, and does it let in pages of ${origin}?`;
    await stranger.shows({ connection: lost, tasks: [] });
  });

  test("is told to reconnect by a server that ends, and does", async (t) => {
    const server = await Server.start(t);
    await server.register("drain", ["a"]);
    const wire = await Wire.to(server);
    const page = await watching(t, wire.address, "drain");
    const [code] = await Promise.all([server.terminate(), page.shows({ told: TOLD_TO_RECONNECT })]);
    assert.equal(code, 0);
    await page.shows({ told: TOLD_TO_RECONNECT, plan: "drain", tasks: ["task-a a PENDING"] });
    // The next server at this address answers it; plans are kept in memory, so it has none.
    wire.target = (await Server.start(t)).address;
    await page.shows({ connection: `http://${wire.address} refused.`, told: '[not_found] there is no plan "drain"' });
  });
});
