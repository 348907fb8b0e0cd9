import { randomUUID } from "node:crypto";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { deadlineIn, pause } from "../../src/domain/deadline.ts";
import { partitionStates } from "../../src/jetstream/partitions.ts";
import { type Log, openLog, TESTER } from "../support/log.ts";
import { startNats } from "../support/nats.ts";

let nats: Awaited<ReturnType<typeof startNats>>;
let log: Log;
let other: Log;
beforeAll(async () => {
  nats = await startNats();
  log = await openLog(nats.url);
  other = await openLog(nats.url);
});
afterAll(async () => {
  await log[Symbol.asyncDispose]();
  await other[Symbol.asyncDispose]();
  await nats[Symbol.asyncDispose]();
});

const soon = () => deadlineIn(10_000);
const create = ({ catalog }: Log, name: string) => catalog.create(name, { partitions: 3 }, TESTER, soon());

describe.each([
  ["the same gateway", () => log],
  ["another gateway", () => other],
])("a stream that is made anew by %s while its last life is being deleted", (_where, next) => {
  test("comes after it and is whole", async () => {
    const name = randomUUID();
    const { record: former } = await create(log, name);
    // The deletion is slow.
    const { promise: released, resolve: release } = Promise.withResolvers<void>();
    const { promise: begun, resolve: begin } = Promise.withResolvers<void>();
    const real = log.groups.forgetStream.bind(log.groups);
    const slow = vi.spyOn(log.groups, "forgetStream").mockImplementationOnce(async (...args) => {
      begin();
      await released;
      return real(...args);
    });
    const deleting = log.catalog.delete(name, soon());
    await begun;
    let isMade = false;
    const making = create(next(), name).finally(() => {
      isMade = true;
    });
    // Who only asks is not kept waiting, and a second deletion finds nothing when the first is over.
    await expect(next().catalog.find(name, soon())).rejects.toThrow("does not exist");
    const again = next()
      .catalog.delete(name, soon())
      .catch((error: Error) => error.message);
    await pause(100);
    expect(isMade).toBe(false);
    release();
    await deleting;
    const { record, created } = await making;
    slow.mockRestore();
    expect(created).toBe(true);
    expect(record.id).not.toBe(former.id);
    expect(await again).toMatch("does not exist");
    expect((await log.catalog.refresh(name, soon())).id).toBe(record.id);
    expect(await partitionStates(log.js, record, soon())).toMatchObject([0, 1, 2].map(() => ({ endOffset: 0 })));
  });
});

test("a deletion whose gateway has ended is ended by the next call", async () => {
  const gone = await openLog(nats.url);
  const name = randomUUID();
  await create(gone, name);
  vi.spyOn(gone.groups, "forgetStream").mockRejectedValueOnce(new Error("killed"));
  await expect(gone.catalog.delete(name, soon())).rejects.toThrow("killed");
  await gone.js.nc.close();
  expect((await create(log, name)).created).toBe(true);
  gone.js.publisher.close();
});
