import { randomUUID } from "node:crypto";
import { pino } from "pino";
import { afterAll, beforeAll, expect, test } from "vitest";
import { deadlineIn } from "../../src/domain/deadline.ts";
import { partitionStream } from "../../src/jetstream/names.ts";
import { PartitionReader } from "../../src/log/partition-reader.ts";
import { Tails } from "../../src/log/tail.ts";
import { type Log, openLog, TESTER } from "../support/log.ts";
import { startNats, type TestNats } from "../support/nats.ts";
import { eventually } from "../support/wait.ts";

const EVENTS = 20_000;

let nats: TestNats;
let log: Log;
let stream: string;
let tails: Tails;
let tail: ReturnType<Tails["acquire"]>;
beforeAll(async () => {
  nats = await startNats();
  log = await openLog(nats.url, 30_000);
  const { record } = await log.catalog.create(randomUUID(), { partitions: 1 }, TESTER, deadlineIn(10_000));
  stream = record.name;
  const event = { payload: Buffer.from("1"), contentType: "application/json" };
  for (let from = 0; from < EVENTS; from += 5000)
    await log.appender.appendAll(record, Array(5000).fill(event), { deadline: deadlineIn(10_000) });
  tails = new Tails(log.js, pino({ level: "silent" }));
  tail = tails.acquire(stream, record.id, 0, EVENTS);
});
afterAll(async () => {
  tails.close();
  await log[Symbol.asyncDispose]();
  await nats[Symbol.asyncDispose]();
});

/** A reader from the beginning on, far behind the tail. */
function reader() {
  tail.acquire();
  return new PartitionReader(log.js, stream, 0, tail, 0, () => {});
}

/** Takes what comes up to an offset. */
async function takeTo(of: PartitionReader, end: number, offsets: number[]): Promise<void> {
  await eventually(`offset ${end}`, () => {
    of.take(({ offset }) => {
      if (offset >= end) return false;
      offsets.push(offset);
      return true;
    });
    return of.next >= end;
  });
}

/** Those of readers; the tail's own comes and goes as it likes. */
const consumers = async (): Promise<string[]> => {
  const names: string[] = [];
  for await (const { name } of log.js.jsm.consumers.list(partitionStream(stream, 0)))
    if (!name.startsWith("f-")) names.push(name);
  return names;
};
const all = Array.from({ length: EVENTS }, (_, offset) => offset);

test("a reader far behind has a consumer until it reaches the tail", async () => {
  const one = reader();
  const offsets: number[] = [];
  await takeTo(one, 3000, offsets);
  expect(await consumers()).toHaveLength(1);
  await takeTo(one, EVENTS, offsets);
  expect(offsets).toEqual(all);
  one.take(() => true);
  await eventually("no consumer", async () => (await consumers()).length === 0);
  one.close();
});

test("it misses nothing when the consumer is taken away, nor when it is moved", async () => {
  const one = reader();
  const offsets: number[] = [];
  await takeTo(one, 3000, offsets);
  for (const name of await consumers()) await log.js.jsm.consumers.delete(partitionStream(stream, 0), name);
  await takeTo(one, 9000, offsets);
  one.move(4000);
  await takeTo(one, EVENTS, offsets);
  expect(offsets).toEqual([...all.slice(0, 9000), ...all.slice(4000)]);
  one.close();
});

test("any number of readers read all, and those that are closed on the way leave no consumer", async () => {
  const readers = Array.from({ length: 10 }, () => ({ reader: reader(), offsets: [] as number[] }));
  await Promise.all(readers.map(({ reader, offsets }) => takeTo(reader, 2000, offsets)));
  expect((await consumers()).length).toBeLessThanOrEqual(4);
  for (const { reader } of readers.slice(5)) reader.close();
  await Promise.all(readers.slice(0, 5).map(({ reader, offsets }) => takeTo(reader, EVENTS, offsets)));
  for (const { reader, offsets } of readers.slice(0, 5)) {
    expect(offsets).toEqual(all);
    reader.close();
  }
  await eventually("no consumer", async () => (await consumers()).length === 0);
});
