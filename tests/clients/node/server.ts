/*
 * The real binary, as a server of its own for each test; the calls that tests make; and a wire that can be cut.
 */

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Socket } from "node:net";
import { createInterface } from "node:readline";
import type { TestContext } from "node:test";

import {
  type CallOptions,
  type ClientOptions,
  type ClientUnaryCall,
  credentials,
  Metadata,
  type ServiceError,
} from "@grpc/grpc-js";

import {
  FanoutServiceClient,
  WatchPlanRequest,
  type WatchPlanResponse,
} from "../../../examples/node-executor/generated/fanout/v1/fanout_service.js";
import {
  type Plan,
  PlanRequest,
  SealPlanRequest,
  SealRule,
} from "../../../examples/node-executor/generated/fanout/v1/plan.js";
import {
  type Receipt,
  type Record as TaskRecord,
  SubmitRecordsRequest,
} from "../../../examples/node-executor/generated/fanout/v1/record.js";
import { jsonOf } from "./script.js";

/** A test that waits longer has failed. */
export const DEADLINE_MS = 120_000;
const MESSAGE_BYTES_MAX = 16 << 20;
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
    // When a test has failed, others of its waits are nobody's.
    timer.unref();
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** Options of a call that must have ended by the deadline of a test. */
export function deadline(): Partial<CallOptions> {
  return { deadline: Date.now() + DEADLINE_MS };
}

/** Makes a unary call. Throws a ServiceError. */
export function answer<Asked, Answered>(
  method: (
    request: Asked,
    metadata: Metadata,
    options: Partial<CallOptions>,
    callback: (error: ServiceError | null, response: Answered) => void,
  ) => ClientUnaryCall,
  request: Asked,
): Promise<Answered> {
  return new Promise((resolve, reject) => {
    method(request, new Metadata(), deadline(), (error, response) => (error ? reject(error) : resolve(response)));
  });
}

/** `fanout serve` on a free port of the loopback interface, killed when its test ends. */
export class Server {
  readonly client: FanoutServiceClient;

  private constructor(
    readonly test: TestContext,
    readonly process: ChildProcess,
    readonly options: string[],
    readonly address: string,
  ) {
    this.client = this.connect();
  }

  static start(test: TestContext, ...options: string[]): Promise<Server> {
    return Server.#startAt("127.0.0.1:0", test, options);
  }

  /** Ends it by this signal, and starts it again at its address. */
  async startAgain(signal: NodeJS.Signals): Promise<Server> {
    const ended = once(this.process, "exit");
    this.process.kill(signal);
    await within(ended, "the end of the server");
    return Server.#startAt(this.address, this.test, this.options);
  }

  static async #startAt(listen: string, test: TestContext, options: string[]): Promise<Server> {
    const process = spawn(
      given("FANOUT_BINARY"),
      ["serve", "--listen", listen, "--log-format", "json", ...options],
      { stdio: ["ignore", "ignore", "pipe"], env: { ...globalThis.process.env, FANOUT_LOG: "info" } },
    );
    test.after(() => process.kill("SIGKILL"));
    const address = await within(servingAddress(process), "the start of the server");
    await within(readiness(process, address), "the reading of the server's plans");
    return new Server(test, process, options, address);
  }

  /** Another client, with a connection of its own. */
  connect(options: ClientOptions = {}): FanoutServiceClient {
    const client = new FanoutServiceClient(this.address, credentials.createInsecure(), {
      "grpc.max_receive_message_length": MESSAGE_BYTES_MAX,
      "grpc.use_local_subchannel_pool": 1,
      ...options,
    });
    this.test.after(() => client.close());
    return client;
  }

  /** Plans one task for each group. */
  async register(planId: string, groups: object[], template: object, sealRule = SealRule.EXPLICIT): Promise<void> {
    const request = PlanRequest.fromPartial({
      planId,
      config: jsonOf({ task_request_template: template }),
      source: { $case: "groups", value: jsonOf(groups) },
      completionPolicy: { sealRule },
    });
    await answer(this.client.plan.bind(this.client), request);
  }

  /** Plans tasks `task-0`, `task-1` and so on, of groups `group-0`, `group-1` and so on. */
  async registerTasks(planId: string, count: number, sealRule = SealRule.EXPLICIT): Promise<void> {
    const groups = Array.from({ length: count }, (_, position) => ({ key: `group-${position}` }));
    await this.register(planId, groups, { id: "task-{{group.index}}" }, sealRule);
  }

  /** The receipts of one call. */
  async submit(planId: string, records: TaskRecord[]): Promise<Receipt[]> {
    const request = SubmitRecordsRequest.fromPartial({ planId, records });
    return (await answer(this.client.submitRecords.bind(this.client), request)).receipts;
  }

  async seal(planId: string): Promise<Plan> {
    const sealed = await answer(this.client.sealPlan.bind(this.client), SealPlanRequest.fromPartial({ planId }));
    return present(sealed.plan);
  }

  /** The frames of a watch. `stop` ends it. */
  watch(options: Partial<WatchPlanRequest>): { frames: AsyncIterableIterator<WatchPlanResponse>; stop: () => void } {
    const call = this.client.watchPlan(WatchPlanRequest.fromPartial(options), deadline());
    // Who reads the frames gets the error; who does not read any more has no use for it.
    call.on("error", () => {});
    return { frames: call[Symbol.asyncIterator](), stop: () => call.cancel() };
  }

  /** All frames of a watch, up to and with its End. */
  async frames(options: Partial<WatchPlanRequest>): Promise<WatchPlanResponse[]> {
    const frames = [];
    for await (const frame of this.watch(options).frames) {
      frames.push(frame);
    }
    return frames;
  }
}

/** Waits until the plans of the server's data directory are read, or it has ended. */
async function readiness(server: ChildProcess, address: string): Promise<void> {
  let code: number | undefined;
  while (code !== 0 && server.exitCode === null && server.signalCode === null) {
    [code] = await once(spawn(given("FANOUT_BINARY"), ["health", "--server", address], { stdio: "ignore" }), "exit");
  }
}

/** The address that the server says it serves. */
async function servingAddress(process: ChildProcess): Promise<string> {
  const lines = createInterface({ input: present(process.stderr) });
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

/** The value, which must be there. */
export function present<T>(value: T | null | undefined): T {
  if (value === null || value === undefined) {
    throw new Error("a value is absent that must be there");
  }
  return value;
}

/** A TCP relay to a server. `cut` breaks the connections there are, `freeze` leaves them open; later ones work. */
export class Wire {
  readonly #ends = new Set<Socket>();
  /** Connections that were made. */
  connections = 0;

  private constructor(readonly address: string) {}

  static async to(server: Server): Promise<Wire> {
    const listener = createServer();
    listener.listen(0, "127.0.0.1");
    await within(once(listener, "listening"), "listening");
    const wire = new Wire(`127.0.0.1:${(listener.address() as AddressInfo).port}`);
    const { hostname, port } = new URL(`tcp://${server.address}`);
    listener.on("connection", (client) => wire.#relay(client, connect(Number(port), hostname)));
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

  #relay(client: Socket, server: Socket): void {
    this.connections += 1;
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
