import { expect, test } from "vitest";
import { startNats } from "../support/nats.ts";
import { startServiceProcess } from "../support/process.ts";
import { eventually } from "../support/wait.ts";
import { Calls, type Metrics } from "./calls.ts";

const START_MS = Date.UTC(2026, 0, 1);
const at = (ms: number): string => new Date(START_MS + ms).toISOString();

/** What of the metrics says where the processor is; rates belong to the moment. */
const placeOf = ({ metrics, counters, windows, partitions }: Metrics) => ({
  processed: metrics.eventsProcessed,
  lag: metrics.lag,
  errorRate: metrics.errorRate,
  counters,
  windows,
  partitions,
});

test("metrics say the same in every process, after restarts and kills too", async () => {
  await using nats = await startNats();
  const env = { NATS_URL: nats.url, MILLRACE_PROCESSOR_THREADS: "1" };
  const first = await startServiceProcess(env);
  await using second = await startServiceProcess(env);
  const calls = new Calls(second.url);
  await calls.ok("POST", "/streams", { name: "in", partitions: 3 });
  const { processorId: id } = await calls.ok<{ processorId: string }>("POST", "/processors", {
    name: "p",
    source: "in",
    sink: "out",
    operations: [
      { type: "filter", predicate: "value.n != 13" },
      { type: "window", windowType: "tumbling", duration: 1000, timestampField: "t", grace: 0 },
      { type: "aggregate", aggregation: "count", groupBy: "g" },
    ],
    config: { parallelism: 3, checkpointInterval: 60_000, idleTimeout: 86_400_000 },
  });
  const event = (partition: number, t: number | string, n = 0) => ({
    partition,
    value: { t: typeof t === "number" ? START_MS + t : t, g: `g${partition}`, n },
  });
  // The first window is closed, the second one waits for partition 1; one event each is filtered, bad and late.
  const events = [
    ...[0, 1, 2].flatMap((partition) => [event(partition, 100), event(partition, 200)]),
    event(0, 1500),
    event(1, 1100),
    event(2, 2500),
    event(0, 1500, 13),
    event(0, "never"),
    event(2, 50),
  ];
  await calls.publish("in", events);
  const expected = {
    processed: events.length,
    lag: 0,
    errorRate: 1 / events.length,
    counters: { filtered: 1, errors: 1, deadLetters: 1, late: 1, emitted: 3 },
    windows: [
      { windowStart: at(0), windowEnd: at(1000), eventsCount: 6, closed: true },
      { windowStart: at(1000), windowEnd: at(2000), eventsCount: 2, closed: false },
      { windowStart: at(2000), windowEnd: at(3000), eventsCount: 1, closed: false },
    ],
    partitions: [
      { partition: 0, nextOffset: 5, lag: 0, watermark: at(1500), idle: false, holdsWatermark: false },
      { partition: 1, nextOffset: 3, lag: 0, watermark: at(1100), idle: false, holdsWatermark: true },
      { partition: 2, nextOffset: 4, lag: 0, watermark: at(2500), idle: false, holdsWatermark: false },
    ],
  };
  const settled = async (from: Calls) => {
    let last: unknown;
    await eventually(
      "the metrics are those of all events",
      async () => {
        const found = await from.metrics(id);
        last = placeOf(found);
        return found.status === "running" && JSON.stringify(last) === JSON.stringify(expected);
      },
      20_000,
    ).catch(() => expect(last).toEqual(expected));
  };
  await settled(calls);
  await settled(new Calls(first.url));

  // One process is killed: the other one takes its lanes over, and counts nothing twice.
  first.kill("SIGKILL");
  await first.exited;
  await settled(calls);

  // Paused, what is published is lag.
  await calls.ok("POST", `/processors/${id}/pause`);
  await calls.publish("in", [event(0, 2600), event(1, 2700)]);
  const paused = await calls.metrics(id);
  expect([paused.status, paused.metrics.lag, paused.partitions[1]!.lag]).toEqual(["paused", 2, 1]);
  second.kill("SIGTERM");
  await second.exited;
  await using third = await startServiceProcess(env);
  const again = new Calls(third.url);
  const { status, metrics, windows } = await again.metrics(id);
  expect([status, metrics.eventsProcessed, metrics.lag]).toEqual(["paused", events.length, 2]);
  expect(windows).toEqual(expected.windows);
  await again.ok("POST", `/processors/${id}/resume`);
  const moved = await eventually("the second window is closed", async () => {
    const found = await again.metrics(id);
    return found.windows[1]?.closed && found.counters.emitted === 5 && found;
  });
  expect(moved.windows.map(({ eventsCount, closed }) => [eventsCount, closed])).toEqual([
    [6, true],
    [2, true],
    [3, false],
  ]);
  // Now partition 2 is the one that is behind.
  expect(moved.partitions.map(({ holdsWatermark }) => holdsWatermark)).toEqual([false, false, true]);
});

test("an idle partition is said to be idle, until it has something again", async () => {
  await using nats = await startNats();
  await using service = await startServiceProcess({ NATS_URL: nats.url });
  const calls = new Calls(service.url);
  await calls.ok("POST", "/streams", { name: "in", partitions: 2 });
  const { processorId: id } = await calls.ok<{ processorId: string }>("POST", "/processors", {
    name: "p",
    source: "in",
    sink: "out",
    operations: [
      { type: "window", windowType: "tumbling", duration: 1000, timestampField: "t", grace: 0 },
      { type: "aggregate", aggregation: "count" },
    ],
    config: { parallelism: 2, idleTimeout: 1000 },
  });
  await calls.publish("in", [{ partition: 0, value: { t: START_MS } }]);
  await eventually("both are idle and the window closed", async () => {
    const { partitions, windows } = await calls.metrics(id);
    return partitions.every(({ idle }) => idle) && windows[0]?.closed;
  });
  await calls.publish("in", [{ partition: 1, value: { t: Date.now() } }]);
  await eventually("one of them is not idle", async () => {
    const { partitions } = await calls.metrics(id);
    return partitions[0]!.idle && !partitions[1]!.idle;
  });
});
