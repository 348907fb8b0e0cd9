/**
 * Nanoseconds per event to read a publish request, beside JSON.parse of the same body.
 *
 *     node bench/json-scan.ts
 */
import { Buffer } from "node:buffer";
import { parseBatchBody, parsePublishBody } from "../src/transport/publish-body.ts";

const ROUNDS = 301;
const BATCH_EVENTS = 1000;
const VALUE_BYTES = 256;

/** A value of mixed members, padded to its size. */
function value(i: number): Record<string, unknown> {
  const members = {
    orderId: `o-${i}`,
    customer: { id: 70_000 + i, name: "Ada Example", vip: i % 2 === 0 },
    items: [
      { sku: "A-1", quantity: 2, price: 19.99 },
      { sku: "B-22", quantity: 1, price: 5 },
    ],
    total: 44.98,
    note: "",
  };
  const padding = VALUE_BYTES - JSON.stringify(members).length;
  return { ...members, note: "n".repeat(Math.max(0, padding)) };
}

const events = Array.from({ length: BATCH_EVENTS }, (_, i) => ({ key: `user-${i}`, value: value(i) }));
const full = events.map((event, i) => ({
  ...event,
  eventId: `evt-${i}`,
  headers: { trace: `t${i}`, source: "bench" },
}));

interface Case {
  readonly name: string;
  readonly body: Buffer;
  readonly eventCount: number;
  readonly parse: (body: Buffer) => unknown;
}

const cases: Case[] = [
  { name: "single", body: json(events[0]), eventCount: 1, parse: parsePublishBody },
  { name: "batch", body: json({ events }), eventCount: BATCH_EVENTS, parse: parseBatchBody },
  { name: "batch, id and headers", body: json({ events: full }), eventCount: BATCH_EVENTS, parse: parseBatchBody },
  { name: "batch, white space", body: json({ events }, 1), eventCount: BATCH_EVENTS, parse: parseBatchBody },
];

function json(body: unknown, indent?: number): Buffer {
  return Buffer.from(JSON.stringify(body, null, indent));
}

function nanosecondsPerEvent(parse: (body: Buffer) => unknown, { body, eventCount }: Case): number {
  const calls = BATCH_EVENTS / eventCount;
  const start = process.hrtime.bigint();
  for (let i = 0; i < calls; i++) parse(body);
  return Number(process.hrtime.bigint() - start) / BATCH_EVENTS;
}

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[values.length >> 1]!;
}

for (const each of cases) {
  const ours: number[] = [];
  const native: number[] = [];
  for (let round = 0; round < ROUNDS; round++) {
    ours.push(nanosecondsPerEvent(each.parse, each));
    native.push(nanosecondsPerEvent((body) => JSON.parse(body.toString()), each));
  }
  const bytes = Math.round(each.body.length / each.eventCount);
  console.log(
    `${each.name.padEnd(24)} ${String(bytes).padStart(4)} bytes/event` +
      `   scanner ${median(ours).toFixed(0).padStart(5)} ns` +
      `   JSON.parse ${median(native).toFixed(0).padStart(5)} ns`,
  );
}
