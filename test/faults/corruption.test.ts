import { readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import { startNats } from "../support/nats.ts";
import { startServiceProcess } from "../support/process.ts";

interface Answer {
  events?: { offset: number }[];
  error?: { code: number; description: string };
}

/** Damages the first block file of a partition, in its middle. */
async function damage(dataDir: string, jsStream: string): Promise<void> {
  const files = await readdir(dataDir, { recursive: true });
  const block = files.find((file) => file.includes(join(jsStream, "msgs")) && file.endsWith("1.blk"));
  if (!block) throw new Error(`no block of ${jsStream} in ${dataDir}`);
  const bytes = await readFile(join(dataDir, block));
  const middle = Math.floor(bytes.length / 2);
  bytes[middle] = bytes[middle]! ^ 1;
  await writeFile(join(dataDir, block), bytes);
  // What nats-server would otherwise believe without looking at the blocks.
  for (const index of files.filter((file) => file.includes(join(jsStream, "msgs")) && file.endsWith("index.db")))
    await writeFile(join(dataDir, index), "");
}

test("events that the storage lost are never passed over in silence: a poll says so, a seek goes on behind them", async () => {
  await using nats = await startNats();
  await using service = await startServiceProcess({ NATS_URL: nats.url });
  const call = async (path: string, body?: unknown): Promise<Answer> => {
    const init =
      body === undefined
        ? {}
        : { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
    return (await (await fetch(`${service.url}/api/v1${path}`, init)).json()) as Answer;
  };
  await call("/streams", { name: "damaged" });
  const value = "x".repeat(900_000);
  for (let n = 0; n < 24; n++) expect((await call("/streams/damaged/events", { value })).error).toBeUndefined();
  const poll = (query: string) => call(`/streams/damaged/events?consumerGroup=g&timeout=0&maxBytes=32000000&${query}`);
  expect((await poll("limit=1")).events).toHaveLength(1);

  await nats.kill("SIGTERM");
  await damage(nats.dataDir, "mr-damaged-0");
  await nats.restart();

  const seen: number[] = [0];
  let told: Answer["error"];
  for (let i = 0; i < 100 && !told; i++) {
    const { events, error } = await poll("limit=24");
    if (error?.code === 1002) told = error;
    for (const { offset } of events ?? []) {
      expect(offset).toBeLessThanOrEqual(seen.at(-1)! + 1);
      seen.push(offset);
    }
  }
  const readiness = await (await fetch(`${service.url}/readyz`)).json();
  expect(readiness).toMatchObject({
    status: "degraded",
    partitions: [{ stream: "damaged", partition: 0, problem: "lost_events", lostEvents: expect.any(Number) }],
  });
  const behind = Number(/seek to (\d+)/.exec(told?.description ?? "")?.[1]);
  expect(told?.description).toContain(`offsets ${seen.at(-1)! + 1} to ${behind - 1}`);
  expect((await poll(`limit=24&offset=${behind}`)).events!.map(({ offset }) => offset)).toEqual(
    Array.from({ length: 24 - behind }, (_, i) => behind + i),
  );
});
