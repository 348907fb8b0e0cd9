import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { connect, headers as natsHeaders } from "@nats-io/transport-node";
import { afterAll, expect, onTestFinished, test } from "vitest";
import { partitionSubject } from "../../src/jetstream/names.ts";
import type { OperationRequest, SideEventsAnswer } from "../support/processor-clients.ts";
import { freshName, useService } from "../support/service.ts";
import { eventually } from "../support/wait.ts";
import { Calls } from "./calls.ts";

const LIMIT_MS = 60_000;
const directory = mkdtempSync(join(tmpdir(), "millrace-hostile-"));
const MODULE = `export default ({ value }) => {
  switch (value.bad) {
    case "endless": for (;;);
    case "exit": process.exit(3);
    case "later endless": return new Promise((resolve) => setTimeout(resolve, 10)).then(() => { for (;;); });
    case "later throws": { setTimeout(() => { throw new Error("too late"); }, 10); return value; }
    case "later rejects": { Promise.reject(new Error("too late")); return value; }
    case "later": return new Promise((resolve) => setTimeout(resolve, 30, value));
    case "slow": { const end = Date.now() + 900; while (Date.now() < end); return null; }
    case "textless": throw Object.create(null);
    case "odd message": throw Object.assign(new Error(), { message: 7 });
    case "symbol": throw Symbol("no text");
    case "function": return () => {};
    case "bigint": return 1n;
    case "circle": { const circle = {}; circle.circle = circle; return circle; }
    case "hostile toJSON": return { toJSON() { throw new Error("no JSON of this"); } };
    case "deep": { let deep = []; for (let i = 0; i < 100_000; i++) deep = [deep]; return deep; }
    default: return value;
  }
};`;
writeFileSync(join(directory, "strange.mjs"), MODULE);
afterAll(() => rmSync(directory, { recursive: true, force: true }));

// One thread: whatever a hostile event does to it, it does to every processor here.
const service = useService({ MILLRACE_PROCESSOR_THREADS: "1", MILLRACE_FUNCTIONS_DIR: directory });

type Value = Record<string, unknown>;
/** An event that can't be processed, and what its side event says. */
type Hostile = readonly [value: unknown, reason: RegExp];

/** A processor under attack, and one beside it that is not. */
async function underAttack(operations: readonly OperationRequest[], sink: object = {}) {
  const calls = new Calls(service.url);
  const source = freshName("in");
  const calm = freshName("calm");
  const create = async (name: string, its: readonly OperationRequest[]) => {
    const config = { idleTimeout: 300, checkpointInterval: 1000 };
    const request = { name, source: name, sink: `${name}-out`, operations: its, config };
    const { processorId } = await calls.ok<{ processorId: string }>("POST", "/processors", request);
    onTestFinished(async () => void (await calls.ok("DELETE", `/processors/${processorId}`)));
    return processorId;
  };
  await calls.ok("POST", "/streams", { name: source });
  await calls.ok("POST", "/streams", { name: calm });
  await calls.ok("POST", "/streams", { name: `${source}-out`, ...sink });
  const id = await create(source, operations);
  await create(calm, [{ type: "filter", predicate: "true" }]);
  let beside = 0;
  return {
    calls,
    id,
    source,
    sink: `${source}-out`,
    publish: (values: readonly unknown[]) =>
      calls.publish(
        source,
        values.map((value) => ({ value })),
      ),
    /** Has the processor beside it process an event. */
    async beside(): Promise<void> {
      await calls.publish(calm, [{ value: beside++ }]);
      const events = await calls.whenHolds(`${calm}-out`, beside, LIMIT_MS);
      expect(events.map(({ value }) => value)).toEqual(Array.from({ length: beside }, (_, n) => n));
    },
    processed: (count: number) =>
      eventually(
        `${count} events processed`,
        async () => {
          const found = await calls.metrics(id);
          return found.metrics.eventsProcessed >= count && found;
        },
        LIMIT_MS,
      ),
    sideEvents: (count: number) =>
      eventually(
        `${count} side events`,
        async () => {
          const found = await calls.ok<SideEventsAnswer>("GET", `/processors/${id}/sideEvents?pageSize=1000`);
          return found.events.length >= count && found.events;
        },
        LIMIT_MS,
      ),
  };
}

/** Publishes ordinary events, hostile ones and ordinary ones, and looks at what became of each. */
async function attack(
  operations: readonly OperationRequest[],
  hostile: readonly Hostile[],
  ordinary: { before: Value; after: Value; results: readonly Value[] },
  operation = 0,
): Promise<void> {
  const { calls, id, source, sink, publish, beside, processed, sideEvents } = await underAttack(operations);
  await beside();
  await publish([ordinary.before]);
  await publish(hostile.map(([value]) => value));
  await publish([ordinary.after]);
  await beside();
  const set = await sideEvents(hostile.length);
  expect(set.map(({ reason }) => reason)).toEqual(hostile.map(([, reason]) => expect.stringMatching(reason)));
  for (const [at, event] of set.entries())
    expect(event).toMatchObject({
      stream: source,
      partition: 0,
      offset: at + 1,
      operation: expect.any(Number),
      value: JSON.parse(JSON.stringify(hostile[at]![0])) as unknown,
    });
  expect(set.every((event) => event.operation >= operation)).toBe(true);
  const { status, counters, metrics } = await processed(hostile.length + 2);
  expect(status).toBe("running");
  expect(metrics.lag).toBe(0);
  expect(counters.deadLetters + counters.late).toBe(hostile.length);
  const results = await calls.whenHolds(sink, ordinary.results.length, LIMIT_MS);
  expect(results.map(({ value }) => value)).toEqual(ordinary.results);
  expect((await calls.metrics(id)).status).toBe("running");
}

const COUNT: readonly OperationRequest[] = [
  { type: "window", windowType: "tumbling", duration: 1000, timestampField: "t", grace: 0 },
  { type: "aggregate", aggregation: "count", groupBy: "k", as: "n" },
  { type: "aggregate", aggregation: "sum", field: "x", as: "x" },
];
const windowOf = (start: number, k: unknown, n: number, x: number) => ({
  windowStart: new Date(start).toISOString(),
  windowEnd: new Date(start + 1000).toISOString(),
  k,
  n,
  x,
});
const ORDINARY = {
  before: { t: 10_000, k: "a", x: 1 },
  after: { t: 10_500, k: "a", x: 2 },
  results: [windowOf(10_000, "a", 2, 3)],
};

test("event times that are none, far ahead, before 1970 or late are set aside", async () => {
  const times: readonly Hostile[] = [
    ["never", /event time is neither/],
    ["NaN", /event time is neither/],
    ["", /event time is neither/],
    ["2001-01-01", /event time is neither/],
    ["2001-13-45T99:00:00Z", /event time is neither/],
    ["2001-02-29T00:00:00Z", /event time is neither/],
    ["2001-02-28T24:00:00Z", /event time is neither/],
    [null, /event time is neither/],
    [true, /event time is neither/],
    [[], /event time is neither/],
    [[10_000], /event time is neither/],
    [{}, /event time is neither/],
    ["2099-01-01T00:00:00Z", /more than 5 minutes in the future/],
    [4_070_908_800_000, /more than 5 minutes in the future/],
    [1e300, /more than 5 minutes in the future/],
    [-1, /before 1970/],
    ["1969-12-31T23:59:59Z", /before 1970/],
  ];
  const hostile = times.map(([t, reason]): Hostile => [{ t, k: "a", x: 1 }, reason]);
  await attack(COUNT, [...hostile, [{ k: "a", x: 1 }, /no member t/]], ORDINARY);
});

test("an event for a window that is closed is late, with its origin", async () => {
  const { publish, processed, sideEvents, source, beside } = await underAttack(COUNT);
  await publish([
    { t: 10_000, k: "a", x: 1 },
    { t: 20_000, k: "a", x: 1 },
    { t: 1, k: "late", x: 1 },
    { t: 20_001, k: "a", x: 1 },
  ]);
  const [late] = await sideEvents(1);
  expect(late).toMatchObject({ kind: "late", stream: source, partition: 0, offset: 2, value: { t: 1, k: "late" } });
  const { status, counters } = await processed(4);
  expect([status, counters.late, counters.deadLetters]).toEqual(["running", 1, 0]);
  await beside();
});

test("groups and fields of the wrong type, missing or too long are set aside", async () => {
  const bad: readonly Hostile[] = [
    [{ k: {}, x: 1 }, /no text, number, bool or null/],
    [{ k: ["a"], x: 1 }, /no text, number, bool or null/],
    [{ k: "k".repeat(1025), x: 1 }, /longer than 1024 bytes/],
    [{ k: "\u20ac".repeat(342), x: 1 }, /longer than 1024 bytes/],
    [{ x: 1 }, /no member k/],
    [{ k: "a", x: "1" }, /a text, not a number/],
    [{ k: "a", x: { valueOf: 1 } }, /an object, not a number/],
    [{ k: "a" }, /no member x/],
  ];
  const hostile = bad.map(([value, reason]): Hostile => [{ t: 10_000, ...(value as object) }, reason]);
  await attack(COUNT, [...hostile, [null, /no member t/], [[1], /no member t/], ["text", /no member t/]], ORDINARY);
});

test("groups named like members of objects are groups like any other", async () => {
  const groups = [
    "constructor",
    "__proto__",
    "toString",
    "hasOwnProperty",
    "",
    " ",
    "\0\r\n",
    "ü\u{1f600}",
    "k".repeat(1024),
    '"'.repeat(1024),
    null,
    0,
    false,
  ];
  const { calls, publish, sink } = await underAttack(COUNT);
  await publish([...groups, ...groups].map((k) => ({ t: 10_000, k, x: 1 })));
  const results = await calls.whenHolds(sink, groups.length, LIMIT_MS);
  const byText = (a: unknown, b: unknown) => (JSON.stringify(a) < JSON.stringify(b) ? -1 : 1);
  expect(results.map(({ value }) => value.k).sort(byText)).toEqual([...groups].sort(byText));
  for (const { value } of results) expect(value).toMatchObject({ n: 2, x: 2 });
});

test("hostile members pass unharmed, and are the keys of rows like any other", async () => {
  const operations: readonly OperationRequest[] = [
    { type: "filter", predicate: "!has(value.absent)" },
    { type: "map", function: "enrichWithUserData" },
  ];
  const { calls, publish, sink } = await underAttack(operations);
  await calls.ok("PUT", "/tables/users/rows/__proto__", { value: { name: "odd" } });
  const text = '{"userId":"__proto__","__proto__":{"admin":true},"constructor":{"prototype":{}},"toString":1}';
  const plain = [{ userId: "constructor" }, { userId: "toString" }, { userId: ["x"] }, { userId: {} }, 7, null, []];
  await publish([JSON.parse(text), ...plain]);
  const results = await calls.whenHolds(sink, 1 + plain.length, LIMIT_MS);
  expect(JSON.stringify(results[0]!.value)).toBe(`${text.slice(0, -1)},"user":{"name":"odd"}}`);
  expect(results.slice(1).map(({ value }) => value)).toEqual(plain);
});

test("what somebody wrote past Millrace is set aside when it is no event", async () => {
  const { calls, id, source, publish, beside, sideEvents, processed } = await underAttack(COUNT);
  const { user, pass, port } = service.nats;
  const nats = await connect({ servers: `127.0.0.1:${port}`, user, pass });
  onTestFinished(() => nats.close());
  const write = async (data: string | Uint8Array, fields: Record<string, string> = {}) => {
    const headers = natsHeaders();
    for (const [name, value] of Object.entries(fields)) headers.set(name, value);
    await nats.request(partitionSubject(source, 0), data, { headers, timeout: 5000 });
  };
  await publish([ORDINARY.before]);
  await write("{not json");
  await write("{not json", { "Mr-Type": "application/json" });
  await write("not gzip", { "Mr-Type": "application/json", "Mr-Encoding": "gzip" });
  // Its first bytes announce 4 GiB.
  await write(Uint8Array.of(0xff, 0xff, 0xff, 0xff, 0x0f, 0), {
    "Mr-Type": "application/json",
    "Mr-Encoding": "snappy",
  });
  await write('{"t":10000,"k":"a","x":1}', { "Mr-Type": "application/json", "Mr-Key": "%zz" });
  await publish([ORDINARY.after]);
  await beside();
  const { status, metrics } = await processed(7);
  expect([status, metrics.lag]).toEqual(["running", 0]);
  const set = await sideEvents(4);
  for (const [at, event] of set.entries())
    expect(event).toMatchObject({ kind: "dlq", stream: source, partition: 0, offset: at + 1 });
  expect((await calls.metrics(id)).status).toBe("running");
});

test("results that the sink does not take are set aside, with and without windows", async () => {
  const wide = "x".repeat(8000);
  const small = { config: { maxMessageBytes: 4096 } };
  const direct = await underAttack([{ type: "map", expression: "value.text + value.text" }], small);
  await direct.publish([{ text: "a" }, { text: wide }, { text: "b" }]);
  const [refused] = await direct.sideEvents(1);
  expect(refused).toMatchObject({
    kind: "dlq",
    partition: 0,
    offset: 1,
    value: { text: wide },
    reason: expect.stringMatching("4096"),
  });
  expect((await direct.calls.whenHolds(direct.sink, 2)).map(({ value }) => value)).toEqual(["aa", "bb"]);
  const windowed = await underAttack(
    [
      { type: "window", windowType: "tumbling", duration: 1000, timestampField: "t", grace: 0 },
      { type: "aggregate", aggregation: "last", field: "text", groupBy: "k", as: "text" },
    ],
    small,
  );
  await windowed.publish([
    { t: 1, k: "a", text: "a" },
    { t: 2, k: "wide", text: wide },
    { t: 3, k: "b", text: "b" },
  ]);
  const [result] = await windowed.sideEvents(1);
  expect(result).toMatchObject({ kind: "dlq", stream: windowed.source, operation: 1, value: { k: "wide" } });
  expect(result).not.toHaveProperty("offset");
  const results = await windowed.calls.whenHolds(windowed.sink, 2);
  expect(results.map(({ value }) => value.text).sort()).toEqual(["a", "b"]);
  for (const { calls, id } of [direct, windowed]) expect((await calls.metrics(id)).status).toBe("running");
});

test("an event larger than a batch of reading is processed in its turn, or set aside", async () => {
  const large = { config: { maxMessageBytes: 8_000_000 } };
  const source = freshName("large");
  const calls = new Calls(service.url);
  await calls.ok("POST", "/streams", { name: source, ...large });
  await calls.ok("POST", "/streams", { name: `${source}-out` });
  const { processorId } = await calls.ok<{ processorId: string }>("POST", "/processors", {
    name: "large",
    source,
    sink: `${source}-out`,
    operations: [{ type: "map", expression: "value.keep" }],
  });
  const text = "x".repeat(5_000_000);
  for (const value of [{ keep: 1 }, { keep: 2, text }, { keep: text }, { keep: 4 }])
    await calls.publish(source, [{ value }]);
  const results = await calls.whenHolds(`${source}-out`, 3, LIMIT_MS);
  expect(results.map(({ value }) => value)).toEqual([1, 2, 4]);
  const { events } = await calls.ok<SideEventsAnswer>("GET", `/processors/${processorId}/sideEvents?timeout=20000`);
  expect(events).toEqual([
    expect.objectContaining({ kind: "dlq", offset: 2, reason: expect.stringMatching("takes at") }),
  ]);
});

test("however long other processors hold the thread, no event is late in windows of the storage's time", async () => {
  const count: readonly OperationRequest[] = [
    { type: "window", windowType: "tumbling", duration: 100 },
    { type: "aggregate", aggregation: "count" },
  ];
  const slow = await underAttack([{ type: "map", function: "strange" }]);
  const { publish, processed, sideEvents } = await underAttack(count);
  const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));
  const rounds = 3;
  for (let round = 1; round <= rounds; round++) {
    await publish([{}]);
    await sleep(20);
    // It waits for the window's end, the storage answers that there is nothing, and more comes before it hears of that.
    await slow.publish([{ bad: "slow" }]);
    for (let more = 0; more < 2; more++) {
      await sleep(300);
      await publish([{}]);
    }
    await slow.processed(round);
  }
  const { counters } = await processed(3 * rounds);
  expect([counters.late, await sideEvents(0)]).toEqual([0, []]);
});

test("a pattern that ruins other engines takes its time and no more", async () => {
  const { calls, publish, beside, processed, sink } = await underAttack([
    { type: "filter", predicate: 'value.text.matches("^(a+)+$")' },
  ]);
  const ruin = `${"a".repeat(5000)}!`;
  await publish([{ text: "a" }, ...Array.from({ length: 20 }, () => ({ text: ruin })), { text: "aa" }]);
  await beside();
  const { status, counters } = await processed(22);
  expect([status, counters.filtered + counters.deadLetters]).toEqual(["running", 20]);
  expect((await calls.whenHolds(sink, 2)).map(({ value }) => value)).toEqual([{ text: "a" }, { text: "aa" }]);
});

test("loops that would not end are ended, and the other processors of the thread have their turns meanwhile", async () => {
  const sum = Array.from({ length: 200 }, () => "x").join(" + ");
  const { calls, id, publish, beside, processed, sideEvents, sink } = await underAttack([
    { type: "filter", predicate: `value.list.all(x, ${sum} == 0.0)` },
  ]);
  const endless = { list: new Array<number>(20_000).fill(0) };
  const count = 20;
  await beside();
  await publish([{ list: [0] }, ...new Array<object>(count).fill(endless), { list: [] }]);
  await beside();
  const meanwhile = await calls.metrics(id);
  expect(meanwhile.metrics.eventsProcessed).toBeLessThan(count + 2);
  const { status } = await processed(count + 2);
  expect(status).toBe("running");
  const set = await sideEvents(count);
  expect(set.map(({ offset }) => offset)).toEqual(Array.from({ length: count }, (_, n) => n + 1));
  for (const { reason } of set) expect(reason).toMatch(/needs more than \d+ steps/);
  expect((await calls.whenHolds(sink, 2)).map(({ value }) => value)).toEqual([{ list: [0] }, { list: [] }]);
});

test("a module that throws, gives or does what it likes has its event set aside", async () => {
  const reasons: Readonly<Record<string, RegExp>> = {
    textless: /no text/,
    "odd message": /7/,
    symbol: /no text/,
    function: /not JSON/,
    bigint: /BigInt/,
    circle: /circular/,
    "hostile toJSON": /no JSON of this/,
    deep: /stack|deep/,
    endless: /did not come to an end/,
    exit: /did not come to an end/,
  };
  const hostile = Object.entries(reasons).map(([bad, reason]): Hostile => [{ bad }, reason]);
  const before = { n: 1 };
  const after = { n: 2 };
  await attack([{ type: "map", function: "strange" }], hostile, { before, after, results: [before, after] });
});

test("what a module does after it has given its answer changes nothing", async () => {
  const { calls, publish, beside, processed, sink } = await underAttack([{ type: "map", function: "strange" }]);
  const values = [{ bad: "later throws" }, { bad: "later rejects" }, { n: 1 }];
  await publish(values);
  await beside();
  expect((await processed(3)).counters).toMatchObject({ emitted: 3, errors: 0 });
  expect((await calls.readAll(sink)).map(({ value }) => value)).toEqual(values);
});

test("a module that holds its thread when its promise goes on has that event set aside, and no other", async () => {
  const calls = new Calls(service.url);
  const source = freshName("later");
  await calls.ok("POST", "/streams", { name: source, partitions: 2 });
  const { processorId: id } = await calls.ok<{ processorId: string }>("POST", "/processors", {
    name: "later",
    source,
    sink: `${source}-out`,
    operations: [{ type: "map", function: "strange" }],
    config: { parallelism: 2 },
  });
  onTestFinished(async () => void (await calls.ok("DELETE", `/processors/${id}`)));
  const later = Array.from({ length: 20 }, (_, n) => ({ partition: n % 2, value: { bad: "later", n } }));
  await calls.publish(source, [...later, { partition: 0, value: { bad: "later endless" } }, ...later]);
  await eventually("all processed", async () => (await calls.metrics(id)).metrics.eventsProcessed === 41, LIMIT_MS);
  expect(await calls.readAll(`${source}-out`)).toHaveLength(40);
  const { events } = await calls.ok<SideEventsAnswer>("GET", `/processors/${id}/sideEvents`);
  expect(events).toEqual([expect.objectContaining({ partition: 0, offset: 10, value: { bad: "later endless" } })]);
});

test("events that open a thousand windows each are committed a few at a time, and a pause does not wait for all", async () => {
  const { calls, id, publish, processed, beside } = await underAttack([
    { type: "window", windowType: "hopping", duration: 1_000_000, advance: 1000, timestampField: "t", grace: 0 },
    { type: "aggregate", aggregation: "count", groupBy: "k" },
    { type: "filter", predicate: "value.count < 0" },
  ]);
  const count = 150;
  await publish(Array.from({ length: count }, (_, n) => ({ t: 10_000_000, k: `${n}-${"k".repeat(500)}` })));
  await processed(1);
  const { status } = await calls.ok<{ status: string }>("POST", `/processors/${id}/pause`);
  const { eventsProcessed, lag } = (await calls.metrics(id)).metrics;
  expect([status, eventsProcessed + lag]).toEqual(["paused", count]);
  await beside();
  await calls.ok("POST", `/processors/${id}/resume`);
  expect((await processed(count)).counters).toMatchObject({ late: 0, errors: 0 });
});
