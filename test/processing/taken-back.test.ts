import { cpSync, globSync, rmSync } from "node:fs";
import { join } from "node:path";
import { pino } from "pino";
import { expect, onTestFinished, test } from "vitest";
import { deadlineIn } from "../../src/domain/deadline.ts";
import { connectJetStream } from "../../src/jetstream/connection.ts";
import { Journal } from "../../src/jetstream/journal.ts";
import { JournalNames } from "../../src/processing/checkpoint.ts";
import { startNats } from "../support/nats.ts";
import { startServiceProcess } from "../support/process.ts";
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

/** A processor that counts by key in windows, and keeps no snapshot for now. */
async function counting(calls: Calls): Promise<{ processorId: string; source: string; sink: string }> {
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
    config: { parallelism: PARTITIONS, idleTimeout: 86_400_000, checkpointInterval: 600_000 },
  });
  return { processorId, source, sink };
}

test("a message that the journal has lost is noticed, and no result lacks it", { timeout: 2 * LIMIT_MS }, async () => {
  const nats = await startNats();
  onTestFinished(() => nats[Symbol.asyncDispose]());
  await using js = await connectJetStream({ url: nats.url, log: pino({ level: "silent" }) });
  let service = await startServiceProcess({ NATS_URL: nats.url });
  onTestFinished(() => service[Symbol.asyncDispose]());
  const calls = new Calls(service.url);
  const { processorId, source, sink } = await counting(calls);
  await calls.publish(source, events(50, 0));
  const isDone = async () => (await calls.metrics(processorId)).metrics.eventsProcessed === 50 * PARTITIONS;
  await eventually("they are processed", isDone, LIMIT_MS);
  service.kill("SIGKILL");
  await service.exited;

  const names = new JournalNames(processorId);
  const journal = new Journal(js, names.stream);
  const data = await Promise.all(
    (await journal.subjects(names.exchanges(0), deadlineIn(LIMIT_MS))).map(async (subject) => ({
      subject,
      text: Buffer.from((await journal.last(subject, deadlineIn(LIMIT_MS)))!.data).toString(),
    })),
  );
  const lost = data.find(({ text }) => text.includes('"d":[['))!;
  await journal.purge(lost.subject, {}, deadlineIn(LIMIT_MS));

  service = await startServiceProcess({ NATS_URL: nats.url });
  calls.url = service.url;
  await calls.publish(source, events(1, 60_000));
  await eventually(
    "it is told",
    async () => (await calls.metrics(processorId)).statusReason?.includes("came in place of"),
    LIMIT_MS,
  );
  const rows = await calls.readAll(sink);
  const whole = (50 * PARTITIONS) / KEYS;
  for (const { value } of rows) expect(value).toMatchObject({ n: whole });
});

test("a processor that goes on counts once what a crash takes back of its journal", {
  timeout: 2 * LIMIT_MS,
}, async () => {
  const nats = await startNats();
  onTestFinished(() => nats[Symbol.asyncDispose]());
  const service = await startService(nats.url);
  onTestFinished(() => service[Symbol.asyncDispose]());
  const calls = new Calls(service.url);
  const { processorId, source, sink } = await counting(calls);
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
