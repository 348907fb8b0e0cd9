import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { mapLimit } from "../../src/domain/map-limit.ts";
import { startNats } from "../support/nats.ts";
import { startServiceProcess } from "../support/process.ts";

const caller =
  (url: string) =>
  async <T>(path: string, body?: unknown): Promise<T> => {
    const json = { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
    const response = await fetch(`${url}/api/v1${path}`, body === undefined ? {} : json);
    expect(response.status).toBeLessThan(300);
    return (await response.json()) as T;
  };

test("a stream of 1000 partitions is created, described, published to and polled", async () => {
  await using nats = await startNats();
  await using service = await startServiceProcess({ NATS_URL: nats.url });
  const call = caller(service.url);
  await call("/streams", { name: "wide", partitions: 1000 });
  const events = Array.from({ length: 1000 }, (_, partition) => ({ partition, value: partition }));
  const { successCount } = await call<{ successCount: number }>("/streams/wide/events/batch", { events });
  expect(successCount).toBe(1000);

  const described = await call<{ partitionDetails: { partition: number; endOffset: number }[] }>("/streams/wide");
  expect(described.partitionDetails.map(({ partition, endOffset }) => [partition, endOffset])).toEqual(
    events.map(({ partition }) => [partition, 1]),
  );

  const seen: number[] = [];
  let lag = 1000;
  while (lag > 0) {
    const page = await call<{ events: { value: number }[]; metadata: { lag: number } }>(
      "/streams/wide/events?consumerGroup=g&limit=300",
    );
    seen.push(...page.events.map(({ value }) => value));
    lag = page.metadata.lag;
  }
  expect(seen.sort((a, b) => a - b)).toEqual(events.map(({ value }) => value));
});

test("1100 groups read one stream of the embedded server", async () => {
  const dataDir = await mkdtemp(join(tmpdir(), "millrace-groups-"));
  onTestFinished(() => rm(dataDir, { recursive: true, force: true }));
  await using service = await startServiceProcess({ MILLRACE_DATA_DIR: dataDir });
  const call = caller(service.url);
  await call("/streams", { name: "popular", partitions: 1 });
  await call("/streams/popular/events", { value: "seen" });
  const groups = Array.from({ length: 1100 }, (_, i) => `group-${i}`);
  const read = await mapLimit(groups, 50, (group) =>
    call<{ events: unknown[] }>(`/streams/popular/events?consumerGroup=${group}`),
  );
  expect(read.map(({ events }) => events.length)).toEqual(groups.map(() => 1));
});
