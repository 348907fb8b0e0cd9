import { setTimeout as span } from "node:timers/promises";
import { expect, test } from "vitest";
import { Calls } from "../processing/calls.ts";
import { startNats } from "../support/nats.ts";
import { startServiceProcess } from "../support/process.ts";
import { eventually } from "../support/wait.ts";

const SLEEPS = 2;
const EVENTS = 15;
const PARTITIONS = 2;

/** Windows that close without events behind them: by the storage's clock, and when partitions count as idle. */
const WINDOWS = [
  { windowType: "tumbling", duration: 500 },
  { windowType: "tumbling", duration: 500, timestampField: "t", grace: 1000 },
] as const;

test("a process that stood still takes nothing for late that came meanwhile", async () => {
  await using nats = await startNats();
  await using gateway = await startServiceProcess({ NATS_URL: nats.url, MILLRACE_ROLE: "gateway" });
  await using worker = await startServiceProcess({ NATS_URL: nats.url, MILLRACE_ROLE: "processor" });
  const calls = new Calls(gateway.url);
  await calls.ok("POST", "/streams", { name: "in", partitions: PARTITIONS });
  const ids: string[] = [];
  for (const [i, window] of WINDOWS.entries()) {
    const { processorId } = await calls.ok<{ processorId: string }>("POST", "/processors", {
      name: "slept",
      source: "in",
      sink: `out-${i}`,
      operations: [
        { type: "window", ...window },
        { type: "aggregate", aggregation: "count" },
      ],
      config: { parallelism: 1, idleTimeout: 500 },
    });
    ids.push(processorId);
  }
  let published = 0;
  const publish = async () => {
    const events = Array.from({ length: PARTITIONS }, (_, partition) => ({ partition, value: { t: Date.now() } }));
    published += (await calls.publish("in", events)).successCount;
  };
  const processed = (id: string) =>
    eventually("all processed", async () => (await calls.metrics(id)).metrics.eventsProcessed === published);
  for (let sleep = 0; sleep < SLEEPS; sleep++) {
    await publish();
    await Promise.all(ids.map(processed));
    worker.kill("SIGSTOP");
    // How long it stands still, and when events come, is the input here.
    await span(1200);
    for (let event = 0; event < EVENTS; event++) {
      await publish();
      await span(150);
    }
    worker.kill("SIGCONT");
    await Promise.all(ids.map(processed));
  }
  for (const [i, id] of ids.entries()) {
    const count = async () =>
      (await calls.readAll(`out-${i}`)).reduce((sum, { value }) => sum + Number(value.count), 0);
    expect((await calls.metrics(id)).counters.late, JSON.stringify(WINDOWS[i])).toBe(0);
    await eventually("all counted", async () => (await count()) >= published);
    expect(await count()).toBe(published);
  }
});
