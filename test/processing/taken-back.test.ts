import { cpSync, globSync, rmSync } from "node:fs";
import { join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { startNats } from "../support/nats.ts";
import { freshName, startService } from "../support/service.ts";
import { eventually } from "../support/wait.ts";
import { Calls } from "./calls.ts";

const PARTITIONS = 4;
const KEYS = 10;
const LIMIT_MS = 60_000;

/** Events of one window in every partition. */
const events = (count: number, t: number) =>
  Array.from({ length: count * PARTITIONS }, (_, n) => ({
    partition: n % PARTITIONS,
    value: { k: `k${n % KEYS}`, t: t + (n % 900) },
  }));

test("a processor that goes on counts once what a crash takes back of its journal", {
  timeout: 2 * LIMIT_MS,
}, async () => {
  const nats = await startNats();
  onTestFinished(() => nats[Symbol.asyncDispose]());
  const service = await startService(nats.url);
  onTestFinished(() => service[Symbol.asyncDispose]());
  const calls = new Calls(service.url);
  const source = freshName("in");
  const sink = `${source}-out`;
  await calls.ok("POST", "/streams", { name: source, partitions: PARTITIONS });
  const { processorId } = await calls.ok<{ processorId: string }>("POST", "/processors", {
    name: "counts",
    source,
    sink,
    operations: [
      { type: "window", windowType: "tumbling", duration: 1000, timestampField: "t" },
      { type: "aggregate", aggregation: "count", as: "n", groupBy: "k" },
    ],
    config: { parallelism: PARTITIONS, idleTimeout: 86_400_000 },
  });
  let published = 0;
  const process = async (batch: readonly object[]) => {
    await eventually("the storage is back", () => calls.publish(source, batch).catch(() => undefined), LIMIT_MS);
    published += batch.length;
    const isDone = async () => (await calls.metrics(processorId)).metrics.eventsProcessed >= published;
    await eventually(`${published} events are processed`, () => isDone().catch(() => false), LIMIT_MS);
  };
  const journal = () => globSync(join(nats.dataDir, `**/streams/KV_px-*`))[0]!;
  const copy = join(nats.dataDir, "copy-of-the-journal");

  await process(events(50, 0));
  await nats.kill();
  cpSync(journal(), copy, { recursive: true });
  await nats.restart();
  await process(events(50, 0));
  // All that the lanes have told each other and committed since the copy is gone; what they write next takes its places.
  await nats.kill();
  const place = journal();
  rmSync(place, { recursive: true });
  cpSync(copy, place, { recursive: true });
  await nats.restart();
  await process(events(20, 0));
  await process(events(1, 60_000));

  const rows = await calls.whenHolds(sink, KEYS, LIMIT_MS);
  const counts = new Map(rows.map(({ value }) => [(value as { k: string }).k, (value as { n: number }).n]));
  expect(rows).toHaveLength(KEYS);
  expect(counts).toEqual(new Map(Array.from({ length: KEYS }, (_, k) => [`k${k}`, (120 * PARTITIONS) / KEYS])));
});
