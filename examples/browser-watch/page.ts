/*
 * A page that watches a plan live from a browser, over gRPC-Web.
 *
 * It shows what such a page needs, and is meant to be copied:
 *
 *   - GetPlan comes first, and the watch begins at its cursor; ListTasks is asked in between, so that nothing is missed
 *   - a watch that was cut goes on after the cursor of its last frame: no gap and no repeat
 *   - heartbeats tell a quiet plan from a dead connection
 *   - which errors pass, and which are the server's last word
 *
 * The address says what is watched: ?server=http://127.0.0.1:7117&plan=PLAN
 */

import { durationFromMs } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createGrpcWebTransport } from "@connectrpc/connect-web";

import { FanoutService, type WatchPlanResponse } from "./generated/fanout/v1/fanout_service_pb";
import { type Counts, EndReason, PlanStatus } from "./generated/fanout/v1/plan_pb";
import { Disposition, RecordKind, TaskStatus } from "./generated/fanout/v1/record_pb";
import { type Task, TaskState } from "./generated/fanout/v1/task_pb";

/** Time for each call but the watch. */
const SOON = { timeoutMs: 30_000 };
/** How often a quiet watch is to say that it is alive, and when its connection counts as dead. */
const HEARTBEAT_MS = 2_000;
const SILENCE_MS = 6_000;
/** Waits before connecting again: the longest of the first one, and of any. */
const FIRST_BACKOFF_MS = 200;
const BACKOFF_MS_MAX = 5_000;
/** Tasks in a page of ListTasks, the most there may be. */
const PAGE_SIZE = 1_000;
/** Events that are kept on the page. */
const EVENTS_MAX = 1_000;
/** What is lost rather than refused: calls that end so are worth another try. */
const PASSING = new Set([Code.Unavailable, Code.Unknown, Code.Canceled, Code.DeadlineExceeded]);
/** Codes that the server never sends: the browser says so of a connection, and of pages that are not let in. */
const NOT_OF_THE_SERVER = new Set([Code.Unknown, Code.Canceled]);

/** Where a task stands on this page. */
type State = "pending" | "running" | "successful" | "failed" | "missing";

/** A task's row. */
class Row {
  static readonly #template = element<HTMLTemplateElement>("task");
  readonly #row = (Row.#template.content.cloneNode(true) as DocumentFragment).querySelector("tr") as HTMLElement;
  state: State = "pending";
  /** The event that it shows; 0 if there was none. */
  #sequence = 0n;

  constructor(
    readonly taskId: string,
    groupKey: string,
  ) {
    this.#fill({ task: taskId, group: groupKey, status: "PENDING" });
    for (const button of this.#row.querySelectorAll("button")) {
      button.onclick = () => send(taskId, button.value);
    }
    element("tasks").append(this.#row);
  }

  /** Shows where the task stands since this event, unless a later one is shown already. */
  show(state: State, status: string, sequence: bigint, revision: number): void {
    if (sequence > this.#sequence) {
      this.#sequence = sequence;
      this.#stands(state, { status, sequence: `${sequence}`, revision: revision ? `${revision}` : "" });
    }
  }

  /** The plan has ended: there will be no record. */
  end(): void {
    if (this.state === "pending" || this.state === "running") {
      this.#stands("missing", { status: "MISSING_RECORD" });
    }
  }

  #stands(state: State, fields: { [field: string]: string }): void {
    tally[this.state] -= 1;
    tally[state] += 1;
    this.state = state;
    this.#row.dataset["state"] = state;
    this.#fill(fields);
  }

  #fill(fields: { [field: string]: string }): void {
    for (const cell of this.#row.querySelectorAll<HTMLElement>("[data-field]")) {
      cell.textContent = fields[cell.dataset["field"] ?? ""] ?? cell.textContent;
    }
  }
}

const form = element<HTMLFormElement>("what");
const asked = new URLSearchParams(location.search);
const planId = asked.get("plan") ?? "";
for (const [name, value] of asked) {
  form.querySelector(`input[name="${CSS.escape(name)}"]`)?.setAttribute("value", value);
}
const server = new FormData(form).get("server") as string;
const fanout = createClient(FanoutService, createGrpcWebTransport({ baseUrl: server }));

const rows = new Map<string, Row>();
/** How many rows are in which state. */
const tally: { [state in State]: number } = { pending: 0, running: 0, successful: 0, failed: 0, missing: 0 };

element("register").onclick = register;
if (planId) {
  await follow();
}

/** Shows the plan until it has ended, or the server refuses to say more. */
async function follow(): Promise<void> {
  let cursor = "";
  for (let failures = 0; ; failures += 1) {
    try {
      say("connecting", `Connecting to ${server} …`);
      cursor ||= await load();
      for await (const { frame, cursor: position } of watch(cursor)) {
        failures = 0;
        show(frame);
        cursor = position;
        if (frame.case === "end") {
          say("ended", "The plan has ended.");
          return;
        }
      }
    } catch (error) {
      if (!(error instanceof ConnectError)) {
        throw error;
      }
      if (!NOT_OF_THE_SERVER.has(error.code)) {
        element("told").textContent = error.message;
      }
      if (!PASSING.has(error.code)) {
        say("refused", `${server} refused.`);
        return;
      }
    }
    if (cursor) {
      say("lost", "The connection was lost. Connecting again …");
    } else {
      say("lost", `No answer from ${server}. Does it run, and does it let in pages of ${location.origin}?`);
    }
    await pause(Math.random() * Math.min(BACKOFF_MS_MAX, FIRST_BACKOFF_MS * 2 ** failures));
  }
}

/** Shows the plan as it is, and says from where on it is to be watched. */
async function load(): Promise<string> {
  const { plan } = await fanout.getPlan({ planId }, SOON);
  if (!plan) {
    throw new ConnectError("an answer without a plan", Code.Internal);
  }
  const tasks: Task[] = [];
  let pageToken = "";
  do {
    const page = await fanout.listTasks({ planId, pageSize: PAGE_SIZE, pageToken }, SOON);
    tasks.push(...page.tasks);
    pageToken = page.nextPageToken;
  } while (pageToken);

  element("plan-id").textContent = plan.planId;
  showStanding(plan.status, plan.endReason, plan.counts);
  for (const task of tasks) {
    const row = new Row(task.taskId, task.groupKey);
    rows.set(task.taskId, row);
    tally.pending += 1;
    row.show(...standing(task), task.sequence, task.revision);
    if (task.state === TaskState.MISSING) {
      row.end();
    }
  }
  // Tasks may have gone on since the plan was asked for; the watch tells again how.
  showTally();
  element("plan").hidden = false;
  return plan.cursor;
}

function standing(task: Task): [State, string] {
  switch (task.state) {
    case TaskState.RECORDED:
      return [task.successful ? "successful" : "failed", TaskStatus[task.status]];
    case TaskState.RUNNING:
      return ["running", "RUNNING"];
    default:
      return ["pending", "PENDING"];
  }
}

/** The frames after this cursor. Throws a ConnectError if the watch is cut or nothing is heard for too long. */
async function* watch(after: string): AsyncIterable<WatchPlanResponse> {
  const silence = new AbortController();
  let timer = setTimeout(() => silence.abort(), SILENCE_MS);
  try {
    const request = { planId, after, heartbeatInterval: durationFromMs(HEARTBEAT_MS) };
    const options = {
      signal: silence.signal,
      onHeader: () => {
        say("live", `Live from ${server}`);
        element("told").textContent = "";
      },
    };
    for await (const response of fanout.watchPlan(request, options)) {
      clearTimeout(timer);
      timer = setTimeout(() => silence.abort(), SILENCE_MS);
      yield response;
    }
  } finally {
    clearTimeout(timer);
  }
}

function show(frame: WatchPlanResponse["frame"]): void {
  switch (frame.case) {
    case "result": {
      const { taskId, status, successful, sequence, revision } = frame.value;
      rows.get(taskId)?.show(successful ? "successful" : "failed", TaskStatus[status], sequence, revision);
      showTally();
      note(`${sequence} ${taskId} ${TaskStatus[status]}`);
      break;
    }
    case "progress": {
      const { taskId, kind, sequence } = frame.value;
      rows.get(taskId)?.show("running", "RUNNING", sequence, 0);
      showTally();
      note(`${sequence} ${taskId} ${RecordKind[kind]}`);
      break;
    }
    case "heartbeat":
      showCounts(frame.value.counts);
      break;
    case "end":
      for (const row of rows.values()) {
        row.end();
      }
      showStanding(frame.value.status, frame.value.endReason, frame.value.counts);
      note(`end ${PlanStatus[frame.value.status]} ${EndReason[frame.value.endReason]}`);
      break;
  }
}

function showStanding(status: PlanStatus, reason: EndReason, counts: Counts | undefined): void {
  element("status").textContent = PlanStatus[status];
  element("end-reason").textContent = reason ? EndReason[reason] : "";
  showCounts(counts);
}

function showCounts(counts: Counts | undefined): void {
  for (const [name, count] of Object.entries(counts ?? {})) {
    if (typeof count === "bigint") {
      showCount(name, count);
    }
  }
}

/** Results come without counts; those that depend on them are counted here. */
function showTally(): void {
  showCount("recorded", tally.successful + tally.failed);
  showCount("successful", tally.successful);
  showCount("failed", tally.failed);
  showCount("missing", tally.pending + tally.running + tally.missing);
  showCount("running", tally.running);
}

function showCount(name: string, count: bigint | number): void {
  let shown = document.getElementById(`count-${name}`);
  if (!shown) {
    const term = Object.assign(document.createElement("dt"), { textContent: name });
    shown = Object.assign(document.createElement("dd"), { id: `count-${name}` });
    const both = document.createElement("div");
    both.append(term, shown);
    element("counts").append(both);
  }
  shown.textContent = `${count}`;
}

/** Adds a line to the events. */
function note(text: string): void {
  const events = element("events");
  events.append(Object.assign(document.createElement("li"), { textContent: text }));
  if (events.childElementCount > EVENTS_MAX) {
    events.firstElementChild?.remove();
  }
}

/** Says how the connection stands. */
function say(state: "connecting" | "live" | "lost" | "ended" | "refused", text: string): void {
  const connection = element("connection");
  connection.dataset["state"] = state;
  connection.textContent = text;
}

/** Sends a record of a task, as an executor would: that it has begun, or how it went. */
async function send(taskId: string, word: string): Promise<void> {
  const shown = element("receipt");
  const record = word === "started" ? { taskId, kind: RecordKind.STARTED } : { taskId, status: word };
  try {
    const { receipts } = await fanout.submitRecords({ planId, records: [record] }, SOON);
    const dispositions = receipts.map(({ disposition }) => Disposition[disposition]);
    shown.textContent = `${taskId}: ${dispositions.join()}`;
  } catch (error) {
    shown.textContent = `${taskId}: ${ConnectError.from(error).message}`;
  }
}

/** Registers a small plan, and goes on to watch it. */
async function register(): Promise<void> {
  const config = {
    groups: [{ key: "parser" }, { key: "printer" }, { key: "driver" }],
    task_request_template: { id: "task-{{group.key}}", work: "Review the {{group.key}}." },
  };
  const request = { requestId: crypto.randomUUID(), config: new TextEncoder().encode(JSON.stringify(config)) };
  try {
    const { plan } = await fanout.plan(request, SOON);
    (form.elements.namedItem("plan") as HTMLInputElement).value = plan?.planId ?? "";
    form.submit();
  } catch (error) {
    element("told").textContent = ConnectError.from(error).message;
  }
}

function pause(milliseconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}

function element<E extends HTMLElement = HTMLElement>(id: string): E {
  return document.getElementById(id) as E;
}
