/*
 * A real browser, the site that the page comes from, and what the page shows.
 */

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { isDeepStrictEqual } from "node:util";

import { type Browser, chromium, errors, type Page } from "playwright-core";

import { DEADLINE_MS, given, listen } from "./server.js";

const FILES = new Map([
  ["/", { name: "index.html", type: "text/html; charset=utf-8" }],
  ["/dist/page.js", { name: "dist/page.js", type: "text/javascript; charset=utf-8" }],
]);

/** What a page shows, as text. */
export type Shown = {
  connection: string;
  /** What the server said last. */
  told: string;
  plan: string;
  /** The plan's status and why it ended. */
  status: string;
  counts: { [name: string]: string };
  /** A line for each row: task, group, status, revision, sequence. */
  tasks: string[];
  events: string[];
  /** What became of the record that the page itself sent last. */
  receipt: string;
};

/** The built page on a port of its own, which is not that of any server. */
export class Site {
  private constructor(
    readonly port: number,
    readonly close: () => void,
  ) {}

  static async open(): Promise<Site> {
    const site = createServer(async (request, response) => {
      const file = FILES.get(new URL(request.url ?? "", "http://localhost").pathname);
      if (!file) {
        response.writeHead(404).end();
        return;
      }
      const content = await readFile(join(given("FANOUT_PAGE"), file.name));
      response.writeHead(200, { "content-type": file.type }).end(content);
    });
    return new Site(await listen(site), () => site.close());
  }

  /** Where a page watches this plan from. */
  address(server: string, plan = "", host = "127.0.0.1"): string {
    return `http://${host}:${this.port}/?${new URLSearchParams({ server: `http://${server}`, plan })}`;
  }
}

export function launch(): Promise<Browser> {
  const root = process.getuid?.() === 0;
  return chromium.launch({
    executablePath: given("CHROMIUM"),
    // Chromium refuses to sandbox itself as root. Who runs this as root does so in a container, which is the sandbox;
    // and the only pages that are opened are this project's own.
    chromiumSandbox: !root,
    // The shared memory of a container is often too small for a browser.
    args: ["--disable-dev-shm-usage"],
    timeout: DEADLINE_MS,
  });
}

/** A page in a browser profile of its own, closed when its test ends. */
export class OpenPage {
  readonly #errors: Error[] = [];

  private constructor(readonly page: Page) {
    page.on("pageerror", (error) => this.#errors.push(error));
  }

  static async at(address: string, browser: Browser, test: TestContext): Promise<OpenPage> {
    const context = await browser.newContext();
    test.after(() => context.close());
    context.setDefaultTimeout(DEADLINE_MS);
    const page = new OpenPage(await context.newPage());
    await page.page.goto(address);
    return page;
  }

  /** Waits until the page shows this; what is left out may be anything. Fails with what it shows instead, `read` by this. */
  async shows(expected: Partial<Shown>, read: (shown: Shown) => Shown = (shown) => shown): Promise<void> {
    const end = Date.now() + DEADLINE_MS;
    const names = Object.keys(expected);
    let shown = {};
    let seen = "";
    do {
      try {
        const timeout = Math.max(1, end - Date.now());
        // Resolves as soon as the page shows something else than before.
        seen = await (await this.page.waitForFunction(otherThan, seen, { timeout })).jsonValue();
      } catch (error) {
        assert.deepEqual(this.#errors, []);
        assert.ok(error instanceof errors.TimeoutError, error as Error);
        assert.deepEqual(shown, expected);
      }
      const all = Object.entries(read(JSON.parse(seen)));
      shown = Object.fromEntries(all.filter(([name]) => names.includes(name)));
    } while (!isDeepStrictEqual(shown, expected));
    assert.deepEqual(this.#errors, []);
  }

  /** Presses a button of a task's row. */
  async press(taskId: string, button: string): Promise<void> {
    await this.page.locator("#tasks tr", { hasText: taskId }).getByRole("button", { name: button }).click();
  }
}

/** What the page shows, as JSON, if it is not this. Runs in the page. */
function otherThan(seen: string): string {
  const texts = (selector: string) => Array.from(document.querySelectorAll(selector), (found) => found.textContent);
  const words = (selector: string) => texts(selector).filter(Boolean).join(" ");
  const counts = texts("#counts dt").map((name, position) => [name, texts("#counts dd")[position]]);
  const rows = Array.from(document.querySelectorAll("#tasks tr"));
  const shown = JSON.stringify({
    connection: words("#connection"),
    told: words("#told"),
    plan: words("#plan-id"),
    status: words("#status, #end-reason"),
    counts: Object.fromEntries(counts),
    tasks: rows.map((row) =>
      Array.from(row.querySelectorAll("td[data-field]"), (cell) => cell.textContent)
        .filter(Boolean)
        .join(" "),
    ),
    events: texts("#events li"),
    receipt: words("#receipt"),
  } satisfies { [part in keyof Shown]: unknown });
  return shown === seen ? "" : shown;
}
