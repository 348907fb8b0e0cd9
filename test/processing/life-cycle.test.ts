import { jetstreamManager } from "@nats-io/jetstream";
import { Kvm } from "@nats-io/kv";
import { connect } from "@nats-io/transport-node";
import { expect, onTestFinished, test } from "vitest";
import { JournalNames } from "../../src/processing/checkpoint.ts";
import { startNats } from "../support/nats.ts";
import { startServiceProcess } from "../support/process.ts";
import { freshName, startService, useService } from "../support/service.ts";
import { eventually } from "../support/wait.ts";
import { Calls } from "./calls.ts";

const service = useService();

interface Info {
  processorId: string;
  status: string;
  statusReason?: string;
}

const COUNT = [
  { type: "window", windowType: "tumbling", duration: 1000, timestampField: "t", grace: 0 },
  { type: "aggregate", aggregation: "count", groupBy: "k", as: "n" },
];

const whenStatus = (calls: Calls, id: string, status: string) =>
  eventually(`status ${status}`, async () => {
    const found = await calls.ok<Info>("GET", `/processors/${id}`);
    return found.status === status ? found : undefined;
  });

async function natsOf(): Promise<Awaited<ReturnType<typeof connect>>> {
  const { user, pass, port } = service.nats;
  const nats = await connect({ servers: `127.0.0.1:${port}`, user, pass });
  onTestFinished(() => nats.close());
  return nats;
}

test("a failure under the policy fail stops all lanes, over a restart too, until it is resumed", async () => {
  const calls = new Calls(service.url);
  const source = freshName("in");
  await calls.ok("POST", "/streams", { name: source, partitions: 2 });
  const { processorId: id } = await calls.ok<Info>("POST", "/processors", {
    name: "p",
    source,
    sink: `${source}-out`,
    operations: [{ type: "filter", predicate: "value.amount > 0", onError: "fail" }],
    config: { parallelism: 2 },
  });
  await calls.publish(source, [{ partition: 0, value: { amount: 1 } }]);
  await calls.whenHolds(`${source}-out`, 1);
  await calls.publish(source, [{ partition: 1, value: { other: 1 } }]);
  const failed = await whenStatus(calls, id, "failed");
  expect(failed.statusReason).toMatch(/lane 1: operations\[0\].*offset 0 of partition 1/);
  // The lane that did not fail has stopped, too: it ends at a clean checkpoint.
  const manager = await jetstreamManager(await natsOf());
  const names = new JournalNames(id);
  await eventually("the other lane is at rest", async () => {
    const entry = await manager.streams.getMessage(names.stream, { last_by_subj: names.checkpoint(0) });
    return entry!.json<{ clean: boolean }>().clean;
  });
  await calls.publish(source, [{ partition: 0, value: { amount: 2 } }]);
  const { metrics } = await calls.metrics(id);
  expect([metrics.eventsProcessed, metrics.lag]).toEqual([1, 2]);

  // Another process that could run it leaves it alone.
  await using other = await startService(service.nats.url);
  expect((await new Calls(other.url).ok<Info>("GET", `/processors/${id}`)).status).toBe("failed");

  // Resumed it tries again: the other lane comes on, the failing one fails again.
  await calls.ok("POST", `/processors/${id}/resume`);
  await whenStatus(calls, id, "failed");
  await calls.ok("PATCH", `/processors/${id}`, { operations: [{ predicate: "true" }] });
  await calls.whenHolds(`${source}-out`, 3);
  await whenStatus(calls, id, "running");
});

test("a failure under the policy fail on a window's result loses no result", async () => {
  const calls = new Calls(service.url);
  const source = freshName("in");
  const sink = `${source}-out`;
  await calls.ok("POST", "/streams", { name: source });
  const { processorId: id } = await calls.ok<Info>("POST", "/processors", {
    name: "p",
    source,
    sink,
    operations: [...COUNT, { type: "map", expression: "10 / int(value.n - 2)", onError: "fail" }],
    config: { parallelism: 1, idleTimeout: 300, checkpointInterval: 100 },
  });
  await calls.publish(
    source,
    ["a", "b", "b", "c"].map((k) => ({ value: { t: 1, k } })),
  );
  const failed = await whenStatus(calls, id, "failed");
  expect(failed.statusReason).toMatch(
    /lane 0: operations\[2\] failed on the result for "b" of a window .*divide by zero/,
  );
  const before = await calls.metrics(id);
  expect(before.windows).toEqual([expect.objectContaining({ eventsCount: 4, closed: false })]);
  expect([before.counters.emitted, await calls.readAll(sink)]).toEqual([0, []]);
  // Tried again it fails again, and loses nothing by that either.
  await calls.ok("POST", `/processors/${id}/resume`);
  await whenStatus(calls, id, "failed");
  await calls.ok("PATCH", `/processors/${id}`, { operations: [...COUNT, { type: "map", expression: "value.n" }] });
  const results = await calls.whenHolds(sink, 3);
  expect(results.map(({ key, value }) => [key, value]).sort()).toEqual([
    ["a", 1],
    ["b", 2],
    ["c", 1],
  ]);
  await eventually("all counted", async () => (await calls.metrics(id)).counters.emitted === 3);
});

test("a deletion that was begun and not ended is finished", async () => {
  const calls = new Calls(service.url);
  const source = freshName("in");
  await calls.ok("POST", "/streams", { name: source });
  const request = { name: "p", source, sink: `${source}-out`, operations: [{ predicate: "true" }] };
  const again = () => calls.any("POST", "/processors", request, { "idempotency-key": source });
  const processorId: string = (await again()).json.processorId!;
  const nats = await natsOf();
  const manager = await jetstreamManager(nats);
  const { stream } = new JournalNames(processorId);
  await manager.streams.info(stream);
  // What a process leaves that is killed right after it has marked the record.
  const bucket = await new Kvm(nats).open("mr_processors");
  const record = (await bucket.get(processorId))!.json<{ revision: number }>();
  await bucket.put(processorId, JSON.stringify({ ...record, desired: "deleting", revision: record.revision + 1 }));
  expect((await calls.any("GET", `/processors/${processorId}`)).status).toBe(404);
  expect((await again()).status).toBe(503);
  await eventually("the journal is gone", async () => {
    const found = await manager.streams.info(stream).catch((error: Error) => error);
    return found instanceof Error;
  });
  await eventually("the record is gone", async () => (await bucket.get(processorId))?.operation === "DEL");
});

test("a processor whose sink or source is gone is degraded, and says why", async () => {
  const calls = new Calls(service.url);
  const source = freshName("in");
  const sink = `${source}-out`;
  await calls.ok("POST", "/streams", { name: source });
  const request = { name: "p", source, sink, operations: [{ predicate: "true" }] };
  const { processorId: id } = await calls.ok<Info>("POST", "/processors", request);
  await calls.ok("DELETE", `/streams/${sink}`);
  expect((await whenStatus(calls, id, "degraded")).statusReason).toMatch(`the sink "${sink}" does not exist`);
  await calls.ok("POST", "/streams", { name: sink });
  await whenStatus(calls, id, "running");
  await calls.ok("DELETE", `/streams/${source}`);
  expect((await whenStatus(calls, id, "degraded")).statusReason).toMatch(`the source "${source}" does not exist`);
  await calls.ok("POST", "/streams", { name: source });
  const again = await eventually("the other life of the source is seen", async () => {
    const found = await calls.ok<Info>("GET", `/processors/${id}`);
    return found.statusReason?.includes("reset") ? found : undefined;
  });
  expect(again.status).toBe("degraded");
  await calls.ok("POST", `/processors/${id}/reset`, {});
  await whenStatus(calls, id, "running");
});

test("it is starting while its process does not come to it, and stopped when there is none", async () => {
  await using nats = await startNats();
  await using gateway = await startServiceProcess({ NATS_URL: nats.url, MILLRACE_ROLE: "gateway" });
  const calls = new Calls(gateway.url);
  await calls.ok("POST", "/streams", { name: "in" });
  const request = { name: "p", source: "in", sink: "out", operations: [{ predicate: "true" }] };
  let id = "";
  {
    await using runner = await startServiceProcess({ NATS_URL: nats.url, MILLRACE_ROLE: "processor" });
    ({ processorId: id } = await calls.ok<Info>("POST", "/processors", request));
    await whenStatus(calls, id, "running");
    process.kill(runner.pid, "SIGSTOP");
    const resetting = calls.ok<Info>("POST", `/processors/${id}/reset`, {});
    await whenStatus(calls, id, "starting");
    process.kill(runner.pid, "SIGCONT");
    await resetting;
    await whenStatus(calls, id, "running");
  }
  expect((await whenStatus(calls, id, "stopped")).statusReason).toMatch(/no process/);
});

/** A processor on a fresh source. */
async function create(calls: Calls, request: { operations: object[]; config?: object }, partitions = 2) {
  const source = freshName("in");
  const sink = `${source}-out`;
  await calls.ok("POST", "/streams", { name: source, partitions });
  const { processorId: id } = await calls.ok<Info>("POST", "/processors", { name: "p", source, sink, ...request });
  return { id, source, sink };
}

const whenProcessed = (calls: Calls, id: string, count: number) =>
  eventually(`${count} events processed`, async () => {
    const found = await calls.metrics(id);
    return found.metrics.eventsProcessed >= count && found.metrics.lag === 0 && found;
  });

test("an update that puts steps before the window keeps the windows that are open", async () => {
  const calls = new Calls(service.url);
  const config = { idleTimeout: 1000 };
  const { id, source, sink } = await create(calls, { operations: COUNT, config }, 1);
  await calls.publish(source, [{ value: { t: 1, k: "a" } }]);
  await whenProcessed(calls, id, 1);
  await calls.ok("PATCH", `/processors/${id}`, { operations: [{ predicate: "value.t < 10" }, ...COUNT] });
  await calls.publish(source, [{ value: { t: 2, k: "a" } }, { value: { t: 11, k: "a" } }]);
  const [result] = await calls.whenHolds(sink, 1);
  expect(result!.value).toMatchObject({ k: "a", n: 2 });
});

test("what lanes have processed counts on when there are fewer of them", async () => {
  const calls = new Calls(service.url);
  const { id, source } = await create(calls, { operations: COUNT, config: { parallelism: 2 } });
  await calls.publish(
    source,
    [0, 1, 1].map((partition) => ({ partition, value: { t: 1, k: "a" } })),
  );
  await whenProcessed(calls, id, 3);
  for (const parallelism of [1, 2]) {
    await calls.ok("PATCH", `/processors/${id}`, { config: { parallelism }, start: "latest" });
    expect((await whenProcessed(calls, id, 3)).metrics.eventsProcessed).toBe(3);
  }
});

test("metrics of a paused processor that was made to begin anew are of the beginning", async () => {
  const calls = new Calls(service.url);
  const { id, source } = await create(calls, { operations: COUNT });
  await calls.publish(source, [{ partition: 1, value: { t: 1, k: "a" } }]);
  await whenProcessed(calls, id, 1);
  await calls.ok("POST", `/processors/${id}/pause`);
  await calls.ok("POST", `/processors/${id}/savepoints`, { name: id });
  await calls.publish(source, [{ partition: 1, value: { t: 2, k: "a" } }]);
  const next = async () => (await calls.metrics(id)).partitions.map(({ nextOffset, lag }) => [nextOffset, lag]);
  expect((await calls.metrics(id)).windows).toHaveLength(1);
  await calls.ok("POST", `/processors/${id}/reset`, {});
  expect([await next(), (await calls.metrics(id)).windows]).toEqual([
    [
      [0, 0],
      [0, 2],
    ],
    [],
  ]);
  await calls.ok("POST", `/processors/${id}/reset`, { start: "latest" });
  expect(await next()).toEqual([
    [0, 0],
    [2, 0],
  ]);
  await calls.ok("POST", `/processors/${id}/restore`, { savepoint: id });
  expect(await next()).toEqual([
    [0, 0],
    [1, 1],
  ]);
});

test("a processor that is created again under the Idempotency-Key of a deleted one writes all its results", async () => {
  const calls = new Calls(service.url);
  const source = freshName("in");
  const sink = `${source}-out`;
  await calls.ok("POST", "/streams", { name: source });
  await calls.publish(source, [{ value: 1 }, { value: 2 }]);
  const request = { name: "p", source, sink, operations: [{ predicate: "true" }] };
  const ids = new Set<string>();
  for (const count of [2, 4]) {
    const { status, json } = await calls.any("POST", "/processors", request, { "idempotency-key": source });
    expect(status).toBe(201);
    ids.add(json.processorId!);
    await calls.whenHolds(sink, count);
    await calls.ok("DELETE", `/processors/${json.processorId}`);
  }
  expect(ids.size).toBe(1);
});

test("partitions that a source gains are read from their beginning, whatever startFrom says", async () => {
  const calls = new Calls(service.url);
  const config = { startFrom: "latest", parallelism: 4 };
  const { source, sink } = await create(calls, { operations: [{ predicate: "true" }], config }, 1);
  await calls.ok("PATCH", `/streams/${source}`, { partitions: 6 });
  await calls.publish(
    source,
    Array.from({ length: 12 }, (_, n) => ({ partition: n % 6, value: n })),
  );
  expect(await calls.whenHolds(sink, 12)).toHaveLength(12);
});

test("once a processor is deleted nothing more is written to its sink", async () => {
  const calls = new Calls(service.url);
  await using other = await startService(service.nats.url);
  const others = new Calls(other.url);
  for (let round = 0; round < 5; round++) {
    const { id, source, sink } = await create(calls, { operations: [{ predicate: "true" }] });
    const beside = `${source}-beside`;
    const operations = [{ type: "filter", predicate: "true" }];
    await calls.ok("POST", "/processors", { name: "beside", source, sink: beside, operations });
    await calls.publish(source, [{ partition: 0, value: 1 }]);
    await calls.whenHolds(sink, 1);
    await others.ok("DELETE", `/processors/${id}`);
    await calls.publish(
      source,
      [0, 1].map((partition) => ({ partition, value: 2 })),
    );
    // One that is there has had the time to write both.
    await calls.whenHolds(beside, 3);
    expect(await calls.readAll(sink)).toHaveLength(1);
  }
});
