import { pino } from "pino";
import { afterAll, beforeAll, expect, test } from "vitest";
import { deadlineIn } from "../../src/domain/deadline.ts";
import { ErrorCode } from "../../src/domain/errors.ts";
import { connectJetStream, type JetStream } from "../../src/jetstream/connection.ts";
import { createDurable, durableState, resetDurable } from "../../src/jetstream/durable.ts";
import { startNats } from "../support/nats.ts";

const ROUNDS = 60;
const DURABLES = ["a", "b", "c"];
const owned = new AsyncDisposableStack();
let js: JetStream;

beforeAll(async () => {
  const nats = owned.use(await startNats());
  js = owned.use(await connectJetStream({ url: nats.url, log: pino({ level: "silent" }) }));
});
afterAll(() => owned.disposeAsync());

/** Goes on with `request` until the stream is gone and it has failed of it. */
async function failureOf(request: () => Promise<unknown>): Promise<unknown> {
  for (;;) {
    try {
      await request();
    } catch (error) {
      return error;
    }
  }
}

test("what a stream's deletion does to requests on its consumers is told as unavailable", async () => {
  for (let round = 0; round < ROUNDS; round++) {
    const name = `gone-${round}`;
    await js.jsm.streams.add({ name, subjects: [name] });
    for (const durable of DURABLES) await createDurable(js, name, durable, 30_000, deadlineIn(5000));
    const failures = DURABLES.flatMap((durable) => [
      failureOf(() => resetDurable(js, name, durable, 1, deadlineIn(100))),
      failureOf(() => createDurable(js, name, `${durable}-new`, 30_000, deadlineIn(100))),
      failureOf(async () => (await durableState(js, name, durable, deadlineIn(100))) ?? Promise.reject(undefined)),
    ]);
    await js.nc.flush();
    await js.jsm.streams.delete(name);
    for (const failure of await Promise.all(failures)) {
      if (failure === undefined) continue; // the consumer went before its stream
      expect(failure).toMatchObject({
        code: expect.toBeOneOf([ErrorCode.UNAVAILABLE, ErrorCode.TIMEOUT]),
      });
    }
  }
});
