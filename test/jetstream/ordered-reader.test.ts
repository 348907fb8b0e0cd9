import { setTimeout as span } from "node:timers/promises";
import { pino } from "pino";
import { afterAll, beforeAll, expect, test } from "vitest";
import { connectJetStream, type JetStream } from "../../src/jetstream/connection.ts";
import { OrderedReader } from "../../src/jetstream/ordered-reader.ts";
import { startNats } from "../support/nats.ts";
import { eventually } from "../support/wait.ts";

const MESSAGES = 4;
const FOREVER = new AbortController().signal;
const owned = new AsyncDisposableStack();
let js: JetStream;

beforeAll(async () => {
  const nats = owned.use(await startNats());
  js = owned.use(await connectJetStream({ url: nats.url, log: pino({ level: "silent" }) }));
  await js.jsm.streams.add({ name: "kept", subjects: ["kept"] });
  for (let i = 0; i < MESSAGES; i++) await js.nc.request("kept", "");
});
afterAll(() => owned.disposeAsync());

const open = (from: number, batch: number) =>
  new OrderedReader(js, { jsStream: "kept", filter: "kept", from, dense: true, batch });

test("a read that is broken off does not take what it did not wait for as the end", async () => {
  for (let attempt = 0; attempt < 20; attempt++) {
    const reader = open(1, 10);
    const breaking = new AbortController();
    const reading = reader.read(0, breaking.signal);
    if (attempt % 2 === 0) breaking.abort();
    else setTimeout(() => breaking.abort(), attempt / 4);
    const { messages, atEnd } = await reading;
    expect(messages.length === MESSAGES || !atEnd, `${messages.length} messages, attempt ${attempt}`).toBe(true);
    await reader.close();
  }
});

test("what a read says of the end is as of the moment when the storage said it", async () => {
  const ahead = open(1, MESSAGES / 2);
  expect((await ahead.read(0, FOREVER)).atEnd).toBe(false);
  // The rest is on its way, however late somebody asks for it.
  const beforeMs = Date.now();
  await span(100);
  const rest = await ahead.read(0, FOREVER);
  expect(rest).toMatchObject({ atEnd: true, asOfMs: expect.toSatisfy((ms: number) => ms <= beforeMs) });
  await ahead.close();

  const behind = open(MESSAGES + 1, 1);
  const waiting = behind.read(1000, FOREVER);
  await eventually("the pull waits", async () => {
    const consumers = await js.jsm.consumers.list("kept").next();
    return consumers.some(({ num_waiting }) => num_waiting > 0);
  });
  // The process stands still while the answer comes.
  const stillMs = Date.now();
  while (Date.now() < stillMs + 1500);
  const { atEnd, asOfMs } = await waiting;
  expect(atEnd).toBe(true);
  expect(asOfMs).toBeLessThanOrEqual(stillMs + 1000);
  await behind.close();
});

test("a batch of large messages has no more bytes than the server gives one connection at once", async () => {
  const [large, messages] = [900_000, 12];
  await js.jsm.streams.add({ name: "large", subjects: ["large"] });
  for (let i = 0; i < messages; i++) await js.nc.request("large", new Uint8Array(large));
  const reader = new OrderedReader(js, { jsStream: "large", filter: "large", from: 1, dense: true, batch: 500 });
  const batches: number[] = [];
  for (let atEnd = false; !atEnd; ) {
    const read = await reader.read(0, FOREVER);
    batches.push(read.messages.length);
    ({ atEnd } = read);
  }
  expect(batches.reduce((sum, length) => sum + length)).toBe(messages);
  expect(Math.max(...batches) * large).toBeLessThanOrEqual(4 * 1024 * 1024);
  await reader.close();
});
