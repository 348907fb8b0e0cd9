import { expect, test } from "vitest";
import { protocols } from "../support/clients.ts";
import { startNats } from "../support/nats.ts";
import { startServiceProcess } from "../support/process.ts";
import { subscribers } from "../support/subscribers.ts";
import { newStream, publish, Reading } from "../support/subscribing.ts";
import { eventually } from "../support/wait.ts";

/** Longer than the test waits: only that the gateway is gone frees them. */
const SESSION_TIMEOUT_MS = 30_000;
const PARTITIONS = 4;

test.each(subscribers)("the partitions of a killed gateway's streams move to the other's, by $name", async (by) => {
  await using nats = await startNats();
  const env = { NATS_URL: nats.url, MILLRACE_SESSION_TIMEOUT_MS: String(SESSION_TIMEOUT_MS), MILLRACE_ROLE: "gateway" };
  await using doomed = await startServiceProcess(env);
  await using other = await startServiceProcess(env);
  await using api = protocols[0]!.connect(other.url);
  const stream = await newStream(api, PARTITIONS, 40);
  const consumerGroup = "g";
  await using lost = new Reading(by, doomed.url, stream, { consumerGroup, consumerId: "lost" });
  await lost.until("all partitions", ({ assigned }) => assigned?.length === PARTITIONS);
  await using kept = new Reading(by, other.url, stream, { consumerGroup, consumerId: "kept" });
  await kept.until("its share", ({ assigned }) => assigned?.length === PARTITIONS / 2);
  await lost.until("the rest", ({ assigned }) => assigned?.length === PARTITIONS / 2);
  await lost.until("its events", (reading) =>
    reading.assigned!.every(
      (partition) => reading.events.filter((event) => event.partition === partition).length >= 10,
    ),
  );
  const [committed, open] = lost.assigned!;
  await api.commit(consumerGroup, [{ stream, partition: committed!, offset: 6 }], { consumerId: "lost" });
  const seenBefore = kept.events.length;

  doomed.kill("SIGKILL");
  await publish(api, stream, PARTITIONS, 40, 60);
  await eventually("all partitions", () => kept.assigned?.length === PARTITIONS);
  const moved = (partition: number | undefined) =>
    kept.events
      .slice(seenBefore)
      .filter((event) => event.partition === partition)
      .map(({ offset }) => offset);
  await kept.until("what nobody committed", () => moved(committed).includes(14) && moved(open).includes(14));
  expect(moved(committed)[0]).toBe(7);
  expect(moved(open)[0]).toBe(0);
  expect(Math.min(...moved(committed))).toBe(7);
});
