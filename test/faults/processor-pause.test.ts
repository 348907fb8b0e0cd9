import { expect, test } from "vitest";
import { Calls } from "../processing/calls.ts";
import { expectedRows, type OracleEvent, rowText } from "../processing/oracle.ts";
import { startNats } from "../support/nats.ts";
import { startServiceProcess } from "../support/process.ts";
import { eventually } from "../support/wait.ts";

const PARTITIONS = 3;
const START_MS = Date.UTC(2026, 0, 1);
const WINDOW = { windowType: "tumbling", duration: 1000 } as const;

const eventAt = (i: number): OracleEvent => ({ timeMs: START_MS + i * 7, amount: i % 50, group: `g${i % 5}` });
const toNew = ({ timeMs, amount, group }: OracleEvent, partition: number) => ({
  partition,
  value: { t: timeMs, amount, g: group },
});

test("paused, everything killed, started again and resumed: nothing is lost or counted twice", async () => {
  await using nats = await startNats();
  const env = { NATS_URL: nats.url, MILLRACE_PROCESSOR_THREADS: "1" };
  await using first = await startServiceProcess(env);
  await using second = await startServiceProcess(env);
  const calls = new Calls(first.url);
  await calls.ok("POST", "/streams", { name: "in", partitions: PARTITIONS });
  const { processorId } = await calls.ok<{ processorId: string }>("POST", "/processors", {
    name: "paused",
    source: "in",
    sink: "out",
    operations: [
      { type: "window", ...WINDOW, timestampField: "t", grace: 500 },
      { type: "aggregate", aggregation: "count", groupBy: "g" },
      { type: "aggregate", aggregation: "sum", field: "amount", as: "total" },
    ],
    config: { parallelism: 2, checkpointInterval: 60_000, idleTimeout: 86_400_000 },
  });
  const published: OracleEvent[] = [];
  const publish = async (count: number) => {
    const from = published.length;
    const events = Array.from({ length: count }, (_, i) => eventAt(from + i));
    await calls.publish(
      "in",
      events.map((event, i) => toNew(event, (from + i) % PARTITIONS)),
    );
    published.push(...events);
  };
  for (let batch = 0; batch < 10; batch++) await publish(300);
  await eventually("some events processed", async () => (await calls.metrics(processorId)).metrics.eventsProcessed > 0);
  await calls.ok("POST", `/processors/${processorId}/pause`);
  const before = await calls.metrics(processorId);

  for (const service of [first, second]) service.kill("SIGKILL");
  await Promise.all([first.exited, second.exited]);
  await nats.kill("SIGKILL");
  await nats.restart();
  await using again = await startServiceProcess(env);
  calls.url = again.url;

  const restarted = await calls.metrics(processorId);
  expect(restarted.status).toBe("paused");
  expect(restarted.metrics.eventsProcessed).toBe(before.metrics.eventsProcessed);
  expect(restarted.counters).toEqual(before.counters);
  await publish(300);
  await calls.ok("POST", `/processors/${processorId}/resume`);
  // One event far ahead in each partition closes all windows before it.
  const last = { timeMs: START_MS + 120_000, amount: 0, group: "last" };
  await calls.publish(
    "in",
    Array.from({ length: PARTITIONS }, (_, partition) => toNew(last, partition)),
  );
  const expected = expectedRows(published, WINDOW);
  const { counters, metrics } = await eventually("all rows counted", async () => {
    const found = await calls.metrics(processorId);
    return found.counters.emitted >= expected.length && found;
  });
  expect(metrics.eventsProcessed).toBe(published.length + PARTITIONS);
  expect(counters).toMatchObject({ late: 0, errors: 0, emitted: expected.length });
  const rows = (await calls.readAll("out")).map(({ value }) => {
    const { windowStart, windowEnd, g, count, total } = value as Record<string, string & number>;
    return rowText(g!, { start: Date.parse(windowStart!), end: Date.parse(windowEnd!), count: count!, sum: total! });
  });
  expect(rows.sort()).toEqual(expected);
});
