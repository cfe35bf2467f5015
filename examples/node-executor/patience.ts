/* Whether a call that failed is made again, and when. */

import { BinaryReader } from "@bufbuild/protobuf/wire";
import { type ServiceError, status } from "@grpc/grpc-js";

/** Failures in a row before the server counts as lost, and the shortest and longest waits between them. */
const FAILURES_MAX = 10;
export const FIRST_BACKOFF_MS = 100;
export const BACKOFF_MS_MAX = 5_000;

/** What a call ends with when its connection breaks. The server itself never answers CANCELLED or UNKNOWN. */
const LOST = new Set([status.UNAVAILABLE, status.CANCELLED, status.UNKNOWN]);

/** How often a server that is away, or busy, is tried again, and how long to wait before. */
export class Patience {
  #failures = 0;

  /** The server has answered: what failed before no longer counts. */
  reward(): void {
    this.#failures = 0;
  }

  /** How long to wait after a call has failed, in ms. Throws the error if to call again is in vain. */
  waitAfter(error: unknown): number {
    this.#failures += 1;
    const least = isServiceError(error) ? leastWait(error) : undefined;
    if (least === undefined || this.#failures === FAILURES_MAX) {
      throw error;
    }
    // Full jitter: executors that lost the same server do not come back all at once.
    return least + Math.random() * Math.min(BACKOFF_MS_MAX, FIRST_BACKOFF_MS * 2 ** this.#failures);
  }
}

export function isServiceError(error: unknown): error is ServiceError {
  return error instanceof Error && "code" in error && "details" in error;
}

/**
 * How long to wait at least before a call that failed is made again, in ms; undefined if that would be in vain.
 *
 * The server says so, with a RetryInfo. An error without any details is not the server's: the connection broke.
 */
function leastWait(error: ServiceError): number | undefined {
  const bytes = (reader: BinaryReader) => reader.bytes();
  const said = error.metadata?.get("grpc-status-details-bin") ?? [];
  const details = said.flatMap((said) => (typeof said === "string" ? [] : fields(said, 3, bytes)));
  for (const detail of details) {
    const [type] = fields(detail, 1, (reader) => reader.string());
    if (type?.endsWith("/google.rpc.RetryInfo")) {
      const delays = fields(detail, 2, bytes).flatMap((info) => fields(info, 1, bytes));
      const seconds = delays.flatMap((delay) => fields(delay, 1, (reader) => Number(reader.int64())));
      const nanos = delays.flatMap((delay) => fields(delay, 2, (reader) => reader.int32()));
      return (seconds[0] ?? 0) * 1_000 + (nanos[0] ?? 0) / 1_000_000;
    }
  }
  return details.length === 0 && LOST.has(error.code) ? 0 : undefined;
}

/** The values of a field of a message. */
function fields<Value>(message: Uint8Array, field: number, read: (reader: BinaryReader) => Value): Value[] {
  const reader = new BinaryReader(message);
  const values = [];
  while (reader.pos < reader.len) {
    const [number, wireType] = reader.tag();
    if (number === field) {
      values.push(read(reader));
    } else {
      reader.skip(wireType, number);
    }
  }
  return values;
}
