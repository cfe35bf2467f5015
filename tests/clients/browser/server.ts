/*
 * The real binary: as a server of its own for each test, and as the command line of somebody else; and a wire between a
 * page and a server that can be cut.
 */

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { type AddressInfo, connect, createServer, type Server as Listener, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { text } from "node:stream/consumers";
import type { TestContext } from "node:test";

/** A test that waits longer has failed. */
export const DEADLINE_MS = 60_000;
const LOG_LINES = 50;

/** An environment variable that run.sh sets. */
export function given(variable: string): string {
  const value = process.env[variable];
  if (!value) {
    throw new Error(`${variable} is not set; start run.sh`);
  }
  return value;
}

/** The promise, or a failure when it takes longer than `DEADLINE_MS`. */
export async function within<T>(promise: Promise<T>, what: string): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what} took longer than ${DEADLINE_MS} ms`)), DEADLINE_MS);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** Listens on a free port of the loopback interface, and says which. */
export async function listen(listener: Listener): Promise<number> {
  listener.listen(0, "127.0.0.1");
  await within(once(listener, "listening"), "listening");
  return (listener.address() as AddressInfo).port;
}

/** `fanout serve` on a free port of the loopback interface, killed when its test ends. */
export class Server {
  private constructor(
    readonly test: TestContext,
    readonly process: ChildProcess,
    readonly address: string,
  ) {}

  static async start(test: TestContext, ...options: string[]): Promise<Server> {
    const process = spawn(
      given("FANOUT_BINARY"),
      ["serve", "--listen", "127.0.0.1:0", "--log-format", "json", ...options],
      { stdio: ["ignore", "ignore", "pipe"], env: { ...globalThis.process.env, FANOUT_LOG: "info" } },
    );
    test.after(() => process.kill("SIGKILL"));
    return new Server(test, process, await within(servingAddress(process), "the start of the server"));
  }

  /** Registers a plan of the tasks `task-KEY` of groups `KEY`, from the command line. */
  async register(planId: string, keys: string[]): Promise<void> {
    const folder = await mkdtemp(join(tmpdir(), "fanout-"));
    try {
      const config = join(folder, "config.json");
      const groups = keys.map((key) => ({ key }));
      await writeFile(config, JSON.stringify({ groups, task_request_template: { id: "task-{{group.key}}" } }));
      await this.command(["plan", "--config", config, "--register", "--plan-id", planId]);
    } finally {
      await rm(folder, { recursive: true });
    }
  }

  /** Sends records to a plan, from the command line. */
  async submit(planId: string, ...records: object[]): Promise<void> {
    const lines = records.map((record) => `${JSON.stringify(record)}\n`);
    await this.command(["submit", "--plan-id", planId, "--fail-on-failure"], lines.join(""));
  }

  /** What a command prints that is a client of this server; it must succeed. */
  async command(words: string[], input = ""): Promise<string> {
    const process = spawn(given("FANOUT_BINARY"), words, {
      env: { ...globalThis.process.env, FANOUT_SERVER: this.address },
    });
    this.test.after(() => process.kill("SIGKILL"));
    // Not every command reads its input; how one ends says whether that was right.
    process.stdin.on("error", () => {});
    process.stdin.end(input);
    const ended = Promise.all([text(process.stdout), text(process.stderr), once(process, "close")]);
    const [output, errors, [code]] = await within(ended, words.join(" "));
    if (code !== 0) {
      throw new Error(`fanout ${words.join(" ")} ended with ${code}: ${errors}`);
    }
    return output;
  }

  /** Tells the server to end, as an orchestrator does. Resolves to its exit code. */
  async terminate(): Promise<number | null> {
    const ended = once(this.process, "exit");
    this.process.kill("SIGTERM");
    const [code] = await within(ended, "the end of the server");
    return code;
  }
}

/** The address that the server says it serves. */
async function servingAddress(process: ChildProcess): Promise<string> {
  const lines = createInterface({ input: process.stderr as NodeJS.ReadableStream });
  const log: string[] = [];
  return new Promise((resolve, reject) => {
    lines.on("line", (line) => {
      log.push(line);
      log.splice(0, log.length - LOG_LINES);
      const fields = line.startsWith("{") ? JSON.parse(line).fields : undefined;
      if (fields?.message === "serving") {
        resolve(fields.address);
      }
    });
    process.on("error", reject);
    process.on("exit", () => reject(new Error(`the server ended before it served:\n${log.join("\n")}`)));
  });
}

/** A TCP relay to a server. `cut` breaks the connections there are, `freeze` leaves them open; later ones work. */
export class Wire {
  readonly #ends = new Set<Socket>();
  /** `host:port` that later connections go to. */
  target: string;

  private constructor(
    readonly address: string,
    target: string,
  ) {
    this.target = target;
  }

  static async to(server: Server): Promise<Wire> {
    const listener = createServer();
    const wire = new Wire(`127.0.0.1:${await listen(listener)}`, server.address);
    listener.on("connection", (client) => wire.#relay(client));
    server.test.after(() => {
      listener.close();
      wire.cut();
    });
    return wire;
  }

  cut(): void {
    for (const end of this.#ends) {
      end.destroy();
    }
  }

  /** From now on nothing arrives on the connections there are. */
  freeze(): void {
    for (const end of this.#ends) {
      end.unpipe();
      end.pause();
    }
  }

  #relay(client: Socket): void {
    const { hostname, port } = new URL(`tcp://${this.target}`);
    const server = connect(Number(port), hostname);
    for (const [source, sink] of [
      [client, server],
      [server, client],
    ] as const) {
      this.#ends.add(source);
      source.on("error", () => {});
      source.on("close", () => {
        this.#ends.delete(source);
        sink.destroy();
      });
      source.pipe(sink);
    }
  }
}
