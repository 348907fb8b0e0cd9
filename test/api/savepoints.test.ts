import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type Api, failureOf, protocols } from "../support/clients.ts";
import type { OperationRequest, ProcessorApi } from "../support/processor-clients.ts";
import { freshName, useService } from "../support/service.ts";
import { eventually } from "../support/wait.ts";

const service = useService();
const START_MS = Date.UTC(2025, 0, 1);
const at = (ms: number): string => new Date(START_MS + ms).toISOString();
const TIME = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/;

const OPERATIONS: OperationRequest[] = [
  { type: "window", windowType: "tumbling", duration: 1000, timestampField: "t", grace: 0 },
  { type: "aggregate", aggregation: "count", groupBy: "user" },
  { type: "aggregate", aggregation: "sum", field: "n" },
];

describe.each(protocols)("savepoints over $name", ({ connect, isRest }) => {
  let api: Api;
  let calls: ProcessorApi;
  beforeAll(() => {
    api = connect(service.url);
    calls = api.processors;
  });
  afterAll(() => api[Symbol.asyncDispose]());

  const failing = (code: number, http: number, grpc: number) => ({ code, httpOrGrpcStatus: isRest ? http : grpc });

  /** Partition, user, number, event time after the start. */
  type Given = readonly [partition: number, user: string, n: number, t: number];
  const publish = (source: string, ...events: readonly Given[]) =>
    api.publishBatch(
      source,
      events.map(([partition, user, n, t]) => ({ partition, value: { user, n, t: START_MS + t } })),
    );
  const row = (user: string, start: number, count: number, sum: number) => ({
    windowStart: at(start),
    windowEnd: at(start + 1000),
    user,
    count,
    sum,
  });

  async function valuesOf(stream: string): Promise<unknown[]> {
    const { partitions } = await api.getStream(stream);
    const values: unknown[] = [];
    for (let partition = 0; partition < partitions; partition++)
      for (const { value } of (await api.readPartition(stream, partition)).events) values.push(value);
    return values;
  }
  const whenHolds = (stream: string, count: number) =>
    eventually(`${count} events in ${stream}`, async () => {
      const values = await valuesOf(stream);
      return values.length >= count ? values : undefined;
    });
  const whenDone = (id: string, processed: number, windowed = processed) =>
    eventually(`${processed} events processed`, async () => {
      const found = await calls.metrics(id);
      const inWindows = found.windows.reduce((sum, { eventsCount }) => sum + eventsCount, 0);
      return found.metrics.eventsProcessed === processed && inWindows === windowed ? found : undefined;
    });

  /** A processor that has closed the first window and has the second one open, with two events. */
  async function started() {
    const source = freshName("in");
    await api.createStream({ name: source, partitions: 2 });
    const config = { parallelism: 2, idleTimeout: 86_400_000 };
    const request = { name: "p", source, sink: `${source}-out`, operations: OPERATIONS, config };
    const { processorId } = await calls.create(request);
    await publish(source, [0, "ann", 1, 0], [1, "bob", 2, 1], [0, "ann", 4, 1000], [1, "ann", 8, 1001]);
    expect(await whenHolds(request.sink, 2)).toEqual(
      expect.arrayContaining([row("ann", 0, 1, 1), row("bob", 0, 1, 2)]),
    );
    await whenDone(processorId, 4);
    return { request, processorId };
  }
  const END: readonly Given[] = [
    [0, "end", 0, 9000],
    [1, "end", 0, 9000],
  ];

  test("a processor goes back to one with its positions and open windows, and runs on after it was made", async () => {
    const { request, processorId } = await started();
    const name = freshName("sp");
    const made = await calls.createSavepoint(processorId, name);
    expect(made).toEqual({
      name,
      processorId,
      generation: 1,
      source: request.source,
      parallelism: 2,
      createdAt: expect.stringMatching(TIME),
      partitions: [
        { partition: 0, nextOffset: 2 },
        { partition: 1, nextOffset: 2 },
      ],
      size: expect.any(Number),
    });
    expect(made.size).toBeGreaterThan(0);
    await publish(request.source, [0, "bob", 16, 1500], ...END);
    const rows = [row("ann", 1000, 2, 12), row("bob", 1000, 1, 16)];
    expect(await whenHolds(request.sink, 4)).toEqual(expect.arrayContaining(rows));

    expect((await calls.restore(processorId, name)).status).toBe("running");
    // What was written after the savepoint is written again, what was before is not.
    const all = await whenHolds(request.sink, 6);
    expect(all).toHaveLength(6);
    for (const each of rows)
      expect(all.filter((value) => JSON.stringify(value) === JSON.stringify(each))).toHaveLength(2);
    // All seven events are in windows: those of the savepoint, and those that were read again.
    await whenDone(processorId, 10, 7);
    expect(await valuesOf(request.sink)).toHaveLength(6);
  });

  test("it outlives its processor, and another one begins with it", async () => {
    const { request, processorId } = await started();
    const name = freshName("sp");
    await calls.pause(processorId);
    await calls.createSavepoint(processorId, name);
    expect((await calls.get(processorId)).status).toBe("paused");
    await calls.delete(processorId);
    const sink = `${request.sink}-2`;
    const { config: _config, ...rest } = request;
    const config = { idleTimeout: 86_400_000 };
    const next = await calls.create({ ...rest, sink, config, savepoint: name });
    expect(next).toMatchObject({ status: "running", config: { parallelism: 2 }, metrics: { eventsProcessed: 0 } });
    const open = await calls.window(next.processorId, at(1000));
    expect(open.groups.map(({ group, values }) => [group, values])).toEqual([["ann", { count: 2, sum: 12 }]]);
    await publish(request.source, [1, "ann", 1, 1600], ...END);
    expect(await whenHolds(sink, 1)).toEqual([row("ann", 1000, 3, 13)]);
    await calls.deleteSavepoint(name);
    expect(await valuesOf(sink)).toEqual([row("ann", 1000, 3, 13)]);
  });

  test("without windows the positions come back", async () => {
    const source = freshName("in");
    await api.createStream({ name: source });
    const operations = [{ expression: "value" }];
    const { processorId } = await calls.create({ name: "p", source, sink: `${source}-out`, operations });
    await api.publish(source, { value: 1 });
    await whenHolds(`${source}-out`, 1);
    const name = freshName("sp");
    const { partitions, size } = await eventually("the event is counted", async () => {
      const { metrics } = await calls.metrics(processorId);
      return metrics.eventsProcessed === 1 && calls.createSavepoint(processorId, name);
    });
    expect([partitions, size]).toEqual([[{ partition: 0, nextOffset: 1 }], 0]);
    await api.publish(source, { value: 2 });
    await whenHolds(`${source}-out`, 2);
    await calls.restore(processorId, name);
    expect(await whenHolds(`${source}-out`, 3)).toEqual([1, 2, 2]);
  });

  test("they are listed, described and deleted; a name is used once", async () => {
    const { processorId } = await started();
    const names = [freshName("sp"), freshName("sp"), freshName("sp")].sort();
    for (const name of names) await calls.createSavepoint(processorId, name);
    const first = await calls.listSavepoints({ processorId, pageSize: 2 });
    expect(first.savepoints.map(({ name }) => name)).toEqual(names.slice(0, 2));
    const second = await calls.listSavepoints({ processorId, pageSize: 2, pageToken: first.nextPageToken! });
    expect(second.savepoints.map(({ name }) => name)).toEqual(names.slice(2));
    expect(second).not.toHaveProperty("nextPageToken");
    expect(await calls.getSavepoint(names[0]!)).toEqual(first.savepoints[0]);
    expect(await failureOf(calls.createSavepoint(processorId, names[0]!))).toMatchObject(failing(1101, 409, 6));
    await calls.deleteSavepoint(names[0]!);
    const notFound = failing(1110, 404, 5);
    expect(await failureOf(calls.getSavepoint(names[0]!))).toMatchObject(notFound);
    expect(await failureOf(calls.deleteSavepoint(names[0]!))).toMatchObject(notFound);
    expect(await failureOf(calls.restore(processorId, names[0]!))).toMatchObject(notFound);
    expect((await calls.createSavepoint(processorId, names[0]!)).name).toBe(names[0]);
  });

  test("several at once of a processor that was just made all come to their end", async () => {
    const source = freshName("in");
    await api.createStream({ name: source, partitions: 2 });
    const names = [freshName("sp"), freshName("sp"), freshName("sp")];
    const { processorId } = await calls.create({ name: "p", source, sink: `${source}-out`, operations: OPERATIONS });
    const made = await Promise.all(names.map((name) => calls.createSavepoint(processorId, name)));
    expect(made.map(({ name }) => name)).toEqual(names);
    await publish(source, [0, "ann", 1, 0], ...END);
    expect(await whenHolds(`${source}-out`, 1)).toEqual([row("ann", 0, 1, 1)]);
  });

  test("of a processor that lacks a stream is refused, and says which", async () => {
    const { request, processorId } = await started();
    for (const [stream, words] of [
      [request.sink, /the sink/],
      [request.source, /the source/],
    ] as const) {
      await api.deleteStream(stream);
      const failure = await failureOf(calls.createSavepoint(processorId, freshName("sp")));
      expect(failure).toMatchObject(failing(1104, 412, 9));
      expect(failure.description).toMatch(words);
    }
  });

  test("one that does not fit is refused, and says why", async () => {
    const { request, processorId } = await started();
    const savepoint = freshName("sp");
    await calls.createSavepoint(processorId, savepoint);
    const longer = [{ ...OPERATIONS[0]!, duration: 2000 }, ...OPERATIONS.slice(1)];
    const other = freshName("in");
    await api.createStream({ name: other, partitions: 2 });
    for (const [change, words] of [
      [{ operations: longer }, /window/],
      [{ config: { parallelism: 1 } }, /parallelism 2/],
      [{ source: other }, /another stream/],
    ] as const) {
      const failure = await failureOf(calls.create({ ...request, sink: `${other}-out`, ...change, savepoint }));
      expect(failure).toMatchObject({ ...failing(1100, 400, 3), details: [{ field: "savepoint" }] });
      expect(failure.description).toMatch(words);
    }
    await calls.update(processorId, { operations: longer, start: "earliest" });
    expect(await failureOf(calls.restore(processorId, savepoint))).toMatchObject({ details: [{ field: "savepoint" }] });
    expect((await failureOf(calls.createSavepoint(processorId, "a.b"))).details[0]!.field).toBe("name");
    expect(await failureOf(calls.restore(processorId, ""))).toMatchObject({
      ...failing(1100, 400, 3),
      details: [{ field: "savepoint" }],
    });
    expect(await failureOf(calls.createSavepoint("proc_0000000000000000", freshName()))).toMatchObject({ code: 1102 });
  });
});
