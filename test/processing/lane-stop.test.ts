import { pino } from "pino";
import { expect, onTestFinished, test, vi } from "vitest";
import { deadlineIn } from "../../src/domain/deadline.ts";
import { checkOperations, type OperationFields } from "../../src/domain/topology.ts";
import type { JetStream } from "../../src/jetstream/connection.ts";
import { Journal } from "../../src/jetstream/journal.ts";
import { readPartition } from "../../src/log/read.ts";
import { type Checkpoint, JournalNames } from "../../src/processing/checkpoint.ts";
import { KeyWindows } from "../../src/processing/key-windows.ts";
import { Lane } from "../../src/processing/lane.ts";
import type { LaneSpec } from "../../src/processing/lane-spec.ts";
import type { ProcessorRecord } from "../../src/processing/record.ts";
import { type Log, openLog, TESTER } from "../support/log.ts";
import { startNats } from "../support/nats.ts";
import { eventually } from "../support/wait.ts";

const log = pino({ level: "silent" });
const EVENTS = 10;
const FUNCTIONS = {
  functions: {
    table: () => ({ get: () => undefined }),
    module: () => {
      throw new Error("there are no modules");
    },
  },
  whenCurrent: undefined,
};

/** A connection whose writes of results wait at a gate, once they are on their way. */
function gated(js: JetStream, sink: string) {
  const { promise: opened, resolve: open } = Promise.withResolvers<void>();
  let waiting = 0;
  const publisher = new Proxy(js.publisher, {
    get(target, name) {
      const member = Reflect.get(target, name, target) as unknown;
      if (typeof member !== "function") return member;
      return (...args: unknown[]) => {
        const goes = () => Reflect.apply(member as (...all: unknown[]) => unknown, target, args);
        if (typeof args[0] !== "string" || !args[0].includes(`.${sink}.`)) return goes();
        waiting++;
        void opened.then(goes);
        return undefined;
      };
    },
  });
  const proxy = new Proxy(js, {
    get(target, name) {
      if (name === "publisher") return publisher;
      const member = Reflect.get(target, name, target) as unknown;
      return typeof member === "function" ? (member as () => unknown).bind(target) : member;
    },
  });
  return { js: proxy, open, waiting: () => waiting };
}

/** A processor of one lane that reads stream `in` of one partition and writes to `out`, its journal, and what the tests ask of it. */
async function prepare({ js, catalog, appender }: Log, operations: OperationFields[]) {
  const deadline = deadlineIn(30_000);
  const settings = { partitions: 1, replicationFactor: 1 };
  const { record: source } = await catalog.create("in", settings, TESTER, deadline);
  const { record: sink } = await catalog.create("out", settings, TESTER, deadline);
  const record: ProcessorRecord = {
    id: "proc_stop",
    name: "p",
    source: "in",
    sourceId: source.id,
    sink: "out",
    operations,
    topology: checkOperations(operations, new Set()),
    functions: [],
    settings: {
      parallelism: 1,
      checkpointIntervalMs: 60_000,
      startFrom: "earliest",
      idleTimeoutMs: 86_400_000,
      onTruncation: "fail",
    },
    lanes: 1,
    desired: "running",
    generation: 1,
    incarnation: 1,
    start: "earliest",
    revision: 1,
    replicas: 1,
    createdAtMs: Date.now(),
  };
  const names = new JournalNames(record.id);
  const journal = new Journal(js, names.stream);
  await journal.create(names.subjects, 1, deadline);
  const spec: LaneSpec = { record, lane: 0, source, sink, owner: "first", poison: [] };
  return {
    lane: (owner: string, by = js) => new Lane(by, { ...spec, owner }, FUNCTIONS, log),
    publish: async (n: number, t: number) => {
      const payload = Buffer.from(JSON.stringify({ n, t }));
      await appender.append(source, { payload, contentType: "application/json", partition: 0 }, { deadline });
    },
    checkpoint: async () => {
      const entry = await journal.last(names.checkpoint(0), deadlineIn(5000));
      return entry && (JSON.parse(Buffer.from(entry.data).toString("utf8")) as Checkpoint);
    },
    results: async () => {
      const options = { from: "earliest", limit: 1000, maxBytes: 1 << 20, filter: undefined, deadline } as const;
      return (await readPartition(js, sink, 0, options)).events;
    },
  };
}

test.each<[string, OperationFields[], number]>([
  ["without windows", [{ type: "filter", predicate: "value.n >= 0" }], 40],
  [
    "with windows",
    [
      { type: "window", windowType: "tumbling", duration: 1000, timestampField: "t", grace: 0 },
      { type: "aggregate", aggregation: "count", groupBy: "n" },
    ],
    30,
  ],
])("a stop exactly while results are written loses and repeats none, %s", async (_what, operations, expected) => {
  await using nats = await startNats();
  await using storage = await openLog(nats.url);
  const { publish, checkpoint, results, lane } = await prepare(storage, operations);
  for (let n = 0; n < 30; n++) await publish(n, 0);
  for (let n = 0; n < 10; n++) await publish(n, 5000);

  const gate = gated(storage.js, "out");
  const first = lane("first", gate.js);
  const running = first.run();
  running.catch(() => {});
  onTestFinished(() => first.kill(new Error("the test is over")));
  await eventually("results are on their way", () => gate.waiting() > 0);
  let isOver = false;
  void running.then(() => {
    isOver = true;
  });
  first.stop();
  // The last commit waits for the results: nothing says yet that they are written.
  expect(isOver).toBe(false);
  expect(await checkpoint()).toMatchObject({ clean: false, counts: { emitted: 0 } });
  gate.open();
  await running;
  expect(await checkpoint()).toMatchObject({ clean: true, counts: { processed: 40, emitted: expected } });

  const second = lane("second");
  const ended = second.run();
  await eventually("the second one is at work", async () => (await checkpoint())?.owner === "second");
  second.stop();
  await ended;
  expect(await results()).toHaveLength(expected);
  expect(await checkpoint()).toMatchObject({ counts: { processed: 40, emitted: expected } });
});

test("a stop while an owner reads again what the one before it has done loses nothing of it", async () => {
  await using nats = await startNats();
  await using storage = await openLog(nats.url);
  const { publish, checkpoint, results, lane } = await prepare(storage, [
    { type: "window", windowType: "tumbling", duration: 1000, timestampField: "t", grace: 0 },
    { type: "aggregate", aggregation: "count", groupBy: "n" },
  ]);
  const first = lane("first");
  const killed = expect(first.run()).rejects.toThrow("killed");
  let done = 0;
  for (let n = 0; n < EVENTS; n++) {
    await publish(n, 0);
    // So that each has a message of its own.
    await eventually("the event is in the windows", async () => {
      const { counts, keys } = (await checkpoint()) ?? {};
      if (counts?.processed !== n + 1 || keys!.doneSeq <= done) return false;
      done = keys!.doneSeq;
      return true;
    });
  }
  first.kill(new Error("killed"));
  await killed;
  expect((await checkpoint())!.keys!.snapshot.seq).toBe(0);

  const second = lane("second");
  let again = 0;
  const { apply } = KeyWindows.prototype;
  const spy = vi.spyOn(KeyWindows.prototype, "apply").mockImplementation(function (this: KeyWindows, message) {
    if (++again === EVENTS / 2) second.stop();
    return apply.call(this, message);
  });
  await second.run();
  spy.mockRestore();
  expect(await checkpoint()).toMatchObject({ owner: "second", clean: true });

  const third = lane("third");
  const ended = third.run();
  await publish(-1, 5000);
  await eventually("the window is closed", async () => (await checkpoint())!.counts.emitted === EVENTS);
  third.stop();
  await ended;
  const counts = (await results()).map(({ payload }) => JSON.parse(payload.toString()) as { n: number; count: number });
  expect(counts.map(({ n, count }) => [n, count])).toEqual(Array.from({ length: EVENTS }, (_, n) => [n, 1]));
});
