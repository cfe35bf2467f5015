/* When the executor in TypeScript calls again, and when it does not. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { BinaryWriter } from "@bufbuild/protobuf/wire";
import { Metadata, type ServiceError, status } from "@grpc/grpc-js";

import { Patience } from "../../../examples/node-executor/patience.js";

/** A message with a field of bytes. */
const bytes = (field: number, value: Uint8Array) => new BinaryWriter().tag(field, 2).bytes(value);

/** A detail of a status, of this type. */
function detail(type: string, value: Uint8Array): Uint8Array {
  return new BinaryWriter().tag(1, 2).string(`type.googleapis.com/${type}`).tag(2, 2).bytes(value).finish();
}

const INFO = detail("google.rpc.ErrorInfo", new Uint8Array());
const DELAY = new BinaryWriter().tag(1, 0).int64(7).tag(2, 0).int32(500_000_000).finish();
const RETRY = detail("google.rpc.RetryInfo", bytes(1, DELAY).finish());

/** A status as a call throws it: with these details if it is the server's. */
function refusal(code: status, ...details: Uint8Array[]): ServiceError {
  const metadata = new Metadata();
  if (details.length > 0) {
    const said = details.map((detail) => bytes(3, detail).finish());
    metadata.set("grpc-status-details-bin", Buffer.concat(said));
  }
  return Object.assign(new Error("refused"), { code, details: "refused", metadata });
}

test("a call is made again after the time that the server says and never earlier", () => {
  for (const code of [status.UNAVAILABLE, status.RESOURCE_EXHAUSTED, status.ABORTED]) {
    const patience = new Patience();
    for (const backoff of [200, 400, 800, 1_600, 3_200, 5_000, 5_000, 5_000, 5_000]) {
      const wait = patience.waitAfter(refusal(code, INFO, RETRY));
      assert.ok(7_500 <= wait && wait <= 7_500 + backoff, `${wait} ms`);
    }
    assert.throws(() => patience.waitAfter(refusal(code, INFO, RETRY)), { code });
    patience.reward();
    assert.ok(patience.waitAfter(refusal(code, INFO, RETRY)) >= 7_500);
  }
});

test("a broken connection is opened again and what the server refuses for good is not repeated", () => {
  const wait = new Patience().waitAfter(refusal(status.UNAVAILABLE));
  assert.ok(0 <= wait && wait <= 200, `${wait} ms`);
  for (const refused of [
    refusal(status.INTERNAL, INFO),
    refusal(status.RESOURCE_EXHAUSTED, INFO),
    refusal(status.UNAVAILABLE, INFO),
    refusal(status.UNIMPLEMENTED),
    new Error("no status"),
  ]) {
    assert.throws(() => new Patience().waitAfter(refused), (thrown) => thrown === refused);
  }
});
