import { expect, test } from "vitest";
import { startNats } from "../support/nats.ts";
import { startServiceProcess } from "../support/process.ts";

test("a stream of 1000 partitions is created, described, published to and polled", async () => {
  await using nats = await startNats();
  await using service = await startServiceProcess({ NATS_URL: nats.url });
  const call = async <T>(path: string, body?: unknown): Promise<T> => {
    const json = { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
    const response = await fetch(`${service.url}/api/v1${path}`, body === undefined ? {} : json);
    expect(response.status).toBeLessThan(300);
    return (await response.json()) as T;
  };
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
