import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type Api, failureOf, protocols, rawRequest } from "../support/clients.ts";
import type { MetricsAnswer, NewProcessor, OperationRequest, ProcessorApi } from "../support/processor-clients.ts";
import { freshName, useService } from "../support/service.ts";
import { eventually } from "../support/wait.ts";

const service = useService();

const FILTER: OperationRequest = { type: "filter", predicate: "value.amount > 0" };
const MINUTE_MS = 60_000;
const START_MS = Date.UTC(2025, 0, 1);
const at = (ms: number): string => new Date(START_MS + ms).toISOString();
const TIME = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/;

describe.each(protocols)("processors over $name", ({ connect, isRest }) => {
  let api: Api;
  let calls: ProcessorApi;
  beforeAll(() => {
    api = connect(service.url);
    calls = api.processors;
  });
  afterAll(() => api[Symbol.asyncDispose]());

  const failing = (code: number, name: string, http: number, grpc: number) => ({
    code,
    name,
    httpOrGrpcStatus: isRest ? http : grpc,
  });
  const invalid = failing(1100, "INVALID_ARGUMENT", 400, 3);
  const notFound = failing(1102, "PROCESSOR_NOT_FOUND", 404, 5);
  const noResource = failing(1110, "RESOURCE_NOT_FOUND", 404, 5);

  /** A processor's request for a fresh source of two partitions. */
  async function newRequest(more: Partial<NewProcessor> = {}): Promise<NewProcessor> {
    const source = freshName("in");
    await api.createStream({ name: source, partitions: 2 });
    return { name: "p", source, sink: `${source}-out`, operations: [FILTER], ...more };
  }

  const whenDone = (id: string, processed: number) =>
    eventually(`${processed} events processed`, async () => {
      const found = await calls.metrics(id);
      return found.metrics.eventsProcessed === processed && found.metrics.lag === 0 ? found : undefined;
    });

  /** The values in a stream, partition by partition. */
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

  describe("the life cycle", () => {
    test("a created processor runs, with its settings and a sink like its source", async () => {
      const request = await newRequest({ config: { parallelism: 2, checkpointInterval: 60_000 } });
      const made = await calls.create(request);
      expect(made).toMatchObject({
        ...request,
        processorId: expect.stringMatching(/^proc_[0-9a-f]{16}$/),
        status: "running",
        config: {
          parallelism: 2,
          checkpointInterval: 60_000,
          startFrom: "earliest",
          idleTimeout: 30_000,
          onTruncation: "fail",
        },
        generation: 1,
        createdAt: expect.stringMatching(TIME),
        metrics: { eventsProcessed: 0, throughput: 0, avgLatency: 0, lag: 0, errorRate: 0 },
      });
      expect(made).not.toHaveProperty("statusReason");
      expect(await api.getStream(request.sink)).toMatchObject({ partitions: 2, replicationFactor: 1 });
      expect(await calls.get(made.processorId)).toMatchObject(request);
    });

    test("a paused processor leaves events alone until it is resumed, and none is lost or repeated", async () => {
      const request = await newRequest();
      const { processorId } = await calls.create(request);
      await api.publish(request.source, { partition: 0, value: { amount: 1 } });
      await whenHolds(request.sink, 1);
      expect((await calls.pause(processorId)).status).toBe("paused");
      expect((await calls.pause(processorId)).status).toBe("paused");
      await api.publish(request.source, { partition: 1, value: { amount: 2 } });
      const { metrics, status } = await calls.metrics(processorId);
      expect([status, metrics.eventsProcessed, metrics.lag]).toEqual(["paused", 1, 1]);
      expect((await calls.resume(processorId)).status).toBe("running");
      await whenDone(processorId, 2);
      expect(await valuesOf(request.sink)).toEqual([{ amount: 1 }, { amount: 2 }]);
    });

    test("an update changes what it names, and its generation grows", async () => {
      const request = await newRequest();
      const { processorId } = await calls.create(request);
      await api.publish(request.source, { value: { amount: 5 } });
      await whenDone(processorId, 1);
      const operations: OperationRequest[] = [{ type: "map", expression: '{"twice": value.amount + value.amount}' }];
      const changed = await calls.update(processorId, { operations });
      expect(changed).toMatchObject({ operations, sink: request.sink, generation: 2 });
      await api.publish(request.source, { value: { amount: 6 } });
      expect(await whenHolds(request.sink, 2)).toEqual(expect.arrayContaining([{ amount: 5 }, { twice: 12 }]));
    });

    test("an update to other windows needs to be told where they begin", async () => {
      const operations: OperationRequest[] = [
        { type: "window", windowType: "tumbling", duration: MINUTE_MS },
        { type: "aggregate", aggregation: "count" },
      ];
      const { processorId } = await calls.create(await newRequest({ operations }));
      const longer = [{ ...operations[0]!, duration: 2 * MINUTE_MS }, operations[1]!];
      const failure = await failureOf(calls.update(processorId, { operations: longer }));
      expect(failure).toMatchObject({ ...invalid, details: [expect.objectContaining({ field: "start" })] });
      expect((await calls.get(processorId)).generation).toBe(1);
      expect((await calls.update(processorId, { operations: longer, start: "latest" })).generation).toBe(2);
    });

    test("a reset begins anew with the oldest event, or the next one", async () => {
      const request = await newRequest();
      const { processorId } = await calls.create(request);
      await api.publish(request.source, { value: { amount: 1 } });
      await whenHolds(request.sink, 1);
      await calls.reset(processorId);
      expect(await whenHolds(request.sink, 2)).toEqual([{ amount: 1 }, { amount: 1 }]);
      await calls.reset(processorId, "latest");
      await api.publish(request.source, { value: { amount: 3 } });
      expect(await whenHolds(request.sink, 3)).toHaveLength(3);
      expect((await failureOf(calls.reset(processorId, "checkpoint"))).details[0]).toMatchObject({ field: "start" });
    });

    test("a deletion while other calls are made ends them, or they do not find it", async () => {
      const operations: OperationRequest[] = [
        { type: "window", windowType: "tumbling", duration: 1000, timestampField: "t" },
        { type: "aggregate", aggregation: "count" },
      ];
      for (let round = 0; round < 3; round++) {
        const { processorId: id, source } = await calls.create(await newRequest({ operations }));
        const savepoint = freshName("save");
        await calls.createSavepoint(id, savepoint);
        await api.publish(source, { value: { t: START_MS } });
        let isGone = false;
        const repeat = async (call: () => Promise<unknown>) => {
          for (let isLast = false; !isLast; ) {
            isLast = isGone;
            try {
              await call();
            } catch (failure) {
              // There is no window where it has begun anew, and a savepoint waits until it has.
              expect(failure).toMatchObject({ code: expect.toBeOneOf([1102, 1104, 1110]) });
            }
          }
        };
        const ends = [
          () => calls.get(id),
          () => calls.metrics(id),
          () => calls.list(),
          () => calls.window(id, at(0)),
          () => calls.sideEvents(id),
          () => calls.pause(id),
          () => calls.resume(id),
          () => calls.reset(id),
          () => calls.restore(id, savepoint),
          () => calls.createSavepoint(id, freshName("save")),
          () => calls.update(id, { operations: [...operations, FILTER] }),
        ].map(repeat);
        await eventually("some calls were made", async () => (await calls.get(id)).generation > 1);
        await calls.delete(id);
        isGone = true;
        await Promise.all(ends);
      }
    });

    test("a deleted processor is gone, its streams stay", async () => {
      const request = await newRequest();
      const { processorId } = await calls.create(request);
      expect(await calls.delete(processorId)).toEqual({
        status: "deleted",
        processorId,
        deletedAt: expect.stringMatching(TIME),
      });
      expect(await failureOf(calls.get(processorId))).toMatchObject(notFound);
      expect(await failureOf(calls.delete(processorId))).toMatchObject(notFound);
      expect((await api.getStream(request.source)).name).toBe(request.source);
      expect((await api.getStream(request.sink)).name).toBe(request.sink);
    });

    test("the list comes in pages, each processor once", async () => {
      const request = await newRequest();
      const made = [await calls.create(request), await calls.create(request), await calls.create(request)];
      const found: string[] = [];
      let pageToken: string | undefined;
      do {
        const page = await calls.list({ pageSize: 2, ...(pageToken === undefined ? {} : { pageToken }) });
        expect(page.processors.length).toBeLessThanOrEqual(2);
        found.push(...page.processors.map(({ processorId }) => processorId));
        pageToken = page.nextPageToken;
      } while (pageToken !== undefined);
      expect(found).toEqual([...new Set(found)].sort());
      expect(found).toEqual(expect.arrayContaining(made.map(({ processorId }) => processorId)));
    });

    test("a creation repeated under one Idempotency-Key makes one processor", async () => {
      const request = await newRequest();
      const key = freshName("key");
      const first = await calls.create(request, key);
      expect((await calls.create(request, key)).processorId).toBe(first.processorId);
      expect(await failureOf(calls.create({ ...request, name: "other" }, key))).toMatchObject(
        failing(1101, "ALREADY_EXISTS", 409, 6),
      );
    });

    test("an unknown processor is not found by any call", async () => {
      for (const id of ["proc_0000000000000000", "no such/../id", "ü"]) {
        const failures = [
          calls.get(id),
          calls.update(id, { sink: "s" }),
          calls.delete(id),
          calls.pause(id),
          calls.resume(id),
          calls.reset(id),
          calls.metrics(id),
          calls.window(id, "0"),
        ];
        for (const failure of await Promise.all(failures.map(failureOf))) expect(failure).toMatchObject(notFound);
      }
    });
  });

  describe("a job with windows", () => {
    const operations: OperationRequest[] = [
      { type: "filter", predicate: "value.amount > 10" },
      { type: "map", expression: '{"user": value.user, "cents": value.amount * 100, "t": value.t}' },
      { type: "window", windowType: "tumbling", duration: MINUTE_MS, timestampField: "t", grace: 0 },
      { type: "aggregate", aggregation: "count", groupBy: "user" },
      { type: "aggregate", aggregation: "sum", groupBy: "user", field: "cents", as: "total" },
      { type: "aggregate", aggregation: "avg", groupBy: "user", field: "cents", as: "mean" },
      { type: "aggregate", aggregation: "min", groupBy: "user", field: "cents", as: "least" },
      { type: "aggregate", aggregation: "max", groupBy: "user", field: "cents", as: "most" },
      { type: "aggregate", aggregation: "first", groupBy: "user", field: "cents", as: "opening" },
      { type: "aggregate", aggregation: "last", groupBy: "user", field: "cents", as: "closing" },
      { type: "aggregate", aggregation: "distinct_count", groupBy: "user", field: "cents", as: "kinds" },
      { type: "filter", predicate: 'value.user != "end"' },
    ];
    /** Partition, user, amount, event time after the start. */
    const events: readonly (readonly [number, string, number, number])[] = [
      [0, "ann", 20, 1000],
      [1, "ann", 40, 2000],
      [0, "ann", 20, 3000],
      [1, "bob", 30, 59_999],
      [0, "bob", 5, 30_000],
      [1, "ann", 50, 60_000],
    ];
    const row = (user: string, start: number, amounts: readonly number[]) => {
      const cents = amounts.map((amount) => amount * 100);
      const total = cents.reduce((sum, each) => sum + each, 0);
      return {
        windowStart: at(start),
        windowEnd: at(start + MINUTE_MS),
        user,
        count: cents.length,
        total,
        mean: total / cents.length,
        least: Math.min(...cents),
        most: Math.max(...cents),
        opening: cents[0],
        closing: cents.at(-1),
        kinds: new Set(cents).size,
      };
    };
    const publish = async (source: string, list: typeof events) => {
      const answer = await api.publishBatch(
        source,
        list.map(([partition, user, amount, t]) => ({ partition, value: { user, amount, t: START_MS + t } })),
      );
      expect(answer.failureCount).toBe(0);
    };
    const summary = ({ windows }: MetricsAnswer) => windows.map((each) => [each.windowStart, each.eventsCount]);

    test("writes each window's rows once it is over, and tells of it before", async () => {
      const request = await newRequest({ operations, config: { parallelism: 2, idleTimeout: 3_600_000 } });
      const { processorId } = await calls.create(request);
      await publish(request.source, events);
      const open = await eventually("all events in windows", async () => {
        const found = await calls.metrics(processorId);
        return found.windows.reduce((sum, { eventsCount }) => sum + eventsCount, 0) === 5 ? found : undefined;
      });
      expect(summary(open)).toEqual([
        [at(0), 4],
        [at(MINUTE_MS), 1],
      ]);
      expect(open.windows.map(({ closed }) => closed)).toEqual([false, false]);
      expect(open.partitions.map(({ partition, nextOffset, lag }) => [partition, nextOffset, lag])).toEqual([
        [0, 3, 0],
        [1, 3, 0],
      ]);
      // Partition 0 has not come as far as partition 1.
      expect(open.partitions.map(({ holdsWatermark }) => holdsWatermark)).toEqual([true, false]);
      expect(open.partitions.map(({ watermark }) => watermark)).toEqual([at(3000), at(60_000)]);
      expect(await valuesOf(request.sink)).toEqual([]);

      const { windowEnd, eventsCount, closed, groups } = await calls.window(processorId, at(0));
      expect({ windowEnd, eventsCount, closed }).toEqual({ windowEnd: at(MINUTE_MS), eventsCount: 4, closed: false });
      expect(groups.map(({ group, eventsCount }) => [group, eventsCount])).toEqual([
        ["ann", 3],
        ["bob", 1],
      ]);
      const { user: _user, windowStart: _start, windowEnd: _end, ...values } = row("ann", 0, [20, 40, 20]);
      expect(groups[0]!.values).toEqual(values);

      await publish(request.source, [
        [0, "end", 100, 10 * MINUTE_MS],
        [1, "end", 100, 10 * MINUTE_MS],
        [1, "ann", 70, 4000],
      ]);
      const rows = await whenHolds(request.sink, 3);
      expect(rows).toHaveLength(3);
      expect(rows).toEqual(
        expect.arrayContaining([row("ann", 0, [20, 40, 20]), row("bob", 0, [30]), row("ann", MINUTE_MS, [50])]),
      );
      const done = await eventually("all of it counted", async () => {
        const found = await calls.metrics(processorId);
        return found.counters.emitted === 3 && found.counters.late === 1 ? found : undefined;
      });
      expect(done.metrics).toMatchObject({ eventsProcessed: 9, lag: 0, errorRate: 0 });
      expect(done.counters).toEqual({ filtered: 1, errors: 0, deadLetters: 0, late: 1, emitted: 3 });
    });

    test("counts sessions and hopping windows by their own bounds", async () => {
      const count: OperationRequest = { type: "aggregate", aggregation: "count", groupBy: "user" };
      const session: OperationRequest = {
        type: "window",
        windowType: "session",
        gap: 5000,
        timestampField: "t",
        grace: 0,
      };
      const hopping: OperationRequest = {
        type: "window",
        windowType: "hopping",
        duration: 2 * MINUTE_MS,
        advance: MINUTE_MS,
        timestampField: "t",
        grace: 0,
      };
      const request = await newRequest({ operations: [session, count] });
      const hops = await calls.create({ ...request, sink: `${request.sink}-hops`, operations: [hopping, count] });
      const sessions = await calls.create(request);
      await publish(request.source, [
        [0, "ann", 1, 1000],
        [0, "ann", 1, 4000],
        [0, "ann", 1, 20_000],
        [0, "end", 1, 60 * MINUTE_MS],
        [1, "end", 1, 60 * MINUTE_MS],
      ]);
      const result = (start: number, end: number, n: number) => ({
        windowStart: at(start),
        windowEnd: at(end),
        user: "ann",
        count: n,
      });
      expect(await whenHolds(request.sink, 2)).toEqual([result(1000, 9000, 2), result(20_000, 25_000, 1)]);
      expect(await whenHolds(`${request.sink}-hops`, 2)).toEqual([
        result(-MINUTE_MS, MINUTE_MS, 3),
        result(0, 2 * MINUTE_MS, 3),
      ]);
      for (const { processorId } of [hops, sessions]) expect((await calls.get(processorId)).status).toBe("running");
    });

    test("the last window closes when nothing more comes", async () => {
      const request = await newRequest({ operations, config: { idleTimeout: 100 } });
      await calls.create(request);
      await publish(request.source, [
        [0, "ann", 20, 1000],
        [1, "ann", 40, 2000],
      ]);
      expect(await whenHolds(request.sink, 1)).toEqual([row("ann", 0, [20, 40])]);
    });

    test("an unknown window is not found, and one that is no time is refused", async () => {
      const request = await newRequest({ operations: operations.slice(2, 4) });
      const { processorId } = await calls.create(request);
      expect(await failureOf(calls.window(processorId, at(0)))).toMatchObject(noResource);
      const failure = await failureOf(calls.window(processorId, "yesterday"));
      expect(failure).toMatchObject({ ...invalid, details: [expect.objectContaining({ field: "windowStart" })] });
    });
  });

  describe("errors of events", () => {
    test("a failed event is set aside or skipped, counted, and stops nothing", async () => {
      const request = await newRequest({
        operations: [
          { type: "filter", predicate: "value.amount > 0" },
          { type: "filter", predicate: 'value.kind != "x"', onError: "skip" },
        ],
      });
      const { processorId } = await calls.create(request);
      const answer = await api.publishBatch(request.source, [
        { partition: 0, value: { other: 1 } },
        { partition: 0, value: { amount: 1 } },
        { partition: 0, data: Uint8Array.of(0, 1, 2), contentType: "application/octet-stream" },
        { partition: 0, value: { amount: 2, kind: "y" } },
      ]);
      expect(answer.failureCount).toBe(0);
      const { counters, metrics, status } = await whenDone(processorId, 4);
      expect(counters).toMatchObject({ errors: 3, deadLetters: 2 });
      expect([metrics.errorRate, status]).toEqual([0.75, "running"]);
      expect(await valuesOf(request.sink)).toEqual([{ amount: 2, kind: "y" }]);
    });
  });

  describe("the policy fail", () => {
    test("stops at the event, says which, and goes on with it once changed", async () => {
      const config = { parallelism: 1 };
      const request = await newRequest({ operations: [{ ...FILTER, onError: "fail" }], config });
      const { processorId } = await calls.create(request);
      await api.publish(request.source, { partition: 1, value: { other: 1 } });
      const failed = await eventually("the processor failed", async () => {
        const found = await calls.get(processorId);
        return found.status === "failed" ? found : undefined;
      });
      expect(failed.statusReason).toMatch(/operations\[0\].*offset 0 of partition 1/);
      expect(failed.metrics.eventsProcessed).toBe(0);
      const changed = await calls.update(processorId, { operations: [{ type: "filter", predicate: "true" }] });
      expect(changed.status).toBe("running");
      expect(await whenHolds(request.sink, 1)).toEqual([{ other: 1 }]);
    });
  });

  describe("a topology that can't run", () => {
    const window: OperationRequest = { type: "window", windowType: "tumbling", duration: 1000 };
    const count: OperationRequest = { type: "aggregate", aggregation: "count" };
    test.each<[string, readonly OperationRequest[], readonly string[]]>([
      ["has no operation", [], ["operations"]],
      ["has an operation without type or fields", [{}], ["operations[0].type"]],
      ["has a predicate that does not parse", [FILTER, { predicate: "value.amount >" }], ["operations[1].predicate"]],
      ["has a filter without predicate", [{ type: "filter" }], ["operations[0].predicate"]],
      ["names a function that there is not", [{ function: "nope" }], ["operations[0].function"]],
      ["maps by a function and an expression", [{ function: "f", expression: "value" }], ["operations[0].function"]],
      ["has an unknown variable", [FILTER, FILTER, { expression: "valeu.a" }], ["operations[2].expression"]],
      ["has a field of another type", [{ ...FILTER, duration: 5 }], ["operations[0].duration"]],
      ["aggregates before a window", [count, window], ["operations[0].type"]],
      ["has a window without aggregate", [FILTER, window], ["operations[1].type"]],
      ["has two windows", [window, count, window, count], ["operations[2].type"]],
      ["has a window of no length", [{ ...window, duration: 0 }, count], ["operations[0].duration"]],
      ["has a window of a negative length", [{ ...window, duration: -1 }, count], ["operations[0].duration"]],
      ["has a window without its type", [{ type: "window", duration: 1 }, count], ["operations[0].windowType"]],
      ["has a session without gap", [{ type: "window", windowType: "session" }, count], ["operations[0].gap"]],
      ["hops without advance", [{ ...window, windowType: "hopping" }, count], ["operations[0].advance"]],
      [
        "hops further than a window is long",
        [{ ...window, windowType: "hopping", advance: 1001 }, count],
        ["operations[0].advance"],
      ],
      ["has a grace below 0", [{ ...window, grace: -1 }, count], ["operations[0].grace"]],
      ["has a bad timestampField", [{ ...window, timestampField: "(" }, count], ["operations[0].timestampField"]],
      ["has a bad groupBy", [window, { ...count, groupBy: "a b" }], ["operations[1].groupBy"]],
      ["sums nothing", [window, { type: "aggregate", aggregation: "sum" }], ["operations[1].field"]],
      ["has no aggregation", [window, { type: "aggregate", groupBy: "a" }], ["operations[1].aggregation"]],
      ["gives two results one name", [window, count, count], ["operations[2].as"]],
      [
        "groups in two ways",
        [window, { ...count, groupBy: "a" }, { ...count, groupBy: "b", as: "n" }],
        ["operations[2].groupBy"],
      ],
      [
        "has several faults",
        [{ predicate: "((" }, { function: "nope" }, count],
        ["operations[0].predicate", "operations[1].function", "operations[2].type"],
      ],
    ])("is refused when it %s, and the operation is named", async (_what, operations, fields) => {
      const request = await newRequest({ operations });
      const failure = await failureOf(calls.create(request));
      expect(failure).toMatchObject(invalid);
      expect(failure.details.map(({ field }) => field)).toEqual(expect.arrayContaining([...fields]));
      for (const field of fields) expect(failure.description).toContain(field);
      for (const { description } of failure.details) expect(description).toMatch(/\w/);
      // Nothing is made of what is refused.
      expect(await failureOf(api.getStream(request.sink))).toMatchObject({ code: 1001 });
    });

    test("is refused in an update too, which changes nothing", async () => {
      const { processorId } = await calls.create(await newRequest());
      const failure = await failureOf(calls.update(processorId, { operations: [{ predicate: "1 +" }] }));
      expect(failure).toMatchObject({ ...invalid, details: [{ field: "operations[0].predicate" }] });
      expect(await calls.get(processorId)).toMatchObject({ operations: [FILTER], generation: 1 });
    });
  });

  describe("a request", () => {
    test("with an unknown source is STREAM_NOT_FOUND", async () => {
      const failure = await failureOf(
        calls.create({ name: "p", source: freshName(), sink: freshName(), operations: [FILTER] }),
      );
      expect(failure).toMatchObject(failing(1001, "STREAM_NOT_FOUND", 404, 5));
    });

    test.each<[string, Partial<NewProcessor>]>([
      ["name", { name: "" }],
      ["name", { name: "x".repeat(129) }],
      ["name", { name: "a\nb" }],
      ["source", { source: "a.b" }],
      ["sink", { sink: "" }],
      ["config.parallelism", { config: { parallelism: 0 } }],
      ["config.parallelism", { config: { parallelism: 65 } }],
      ["config.checkpointInterval", { config: { checkpointInterval: 99 } }],
      ["config.idleTimeout", { config: { idleTimeout: 0 } }],
      ["config.startFrom", { config: { startFrom: "checkpoint" } }],
      ["operations", { operations: Array.from({ length: 65 }, () => FILTER) }],
    ])("with a bad %s is refused, the field named", async (field, change) => {
      const failure = await failureOf(calls.create({ ...(await newRequest()), ...change }));
      expect(failure).toMatchObject(invalid);
      expect(failure.details.map((detail) => detail.field)).toContain(field);
    });

    test("to write into its own source is refused", async () => {
      const request = await newRequest();
      const failure = await failureOf(calls.create({ ...request, sink: request.source }));
      expect(failure).toMatchObject({ ...invalid, details: [expect.objectContaining({ field: "sink" })] });
    });
  });

  describe("tables", () => {
    test("a row is put, read, replaced, listed and deleted", async () => {
      const table = freshName("t");
      const first = await calls.putRow(table, "a", { name: "Ann", list: [1, null, "x"] });
      expect(first).toEqual({
        key: "a",
        value: { name: "Ann", list: [1, null, "x"] },
        updatedAt: expect.stringMatching(TIME),
      });
      expect(await calls.getRow(table, "a")).toEqual(first);
      expect((await calls.putRow(table, "a", 7)).value).toBe(7);
      expect((await calls.getRow(table, "a")).value).toBe(7);
      expect((await calls.listRows(table)).rows.map(({ key, value }) => [key, value])).toEqual([["a", 7]]);
      await calls.deleteRow(table, "a");
      await calls.deleteRow(table, "a");
      expect(await failureOf(calls.getRow(table, "a"))).toMatchObject(noResource);
      expect((await calls.listRows(table)).rows).toEqual([]);
    });

    test("keys are any text", async () => {
      const table = freshName("t");
      const keys = ["constructor", "__proto__", "a.b", "a/b", "*", ">", " ", "ü", "😀", "%", "x".repeat(256)];
      for (const key of keys) await calls.putRow(table, key, key);
      for (const key of keys) expect((await calls.getRow(table, key)).value).toBe(key);
      const listed = (await calls.listRows(table)).rows;
      expect(listed.map(({ key }) => key).sort()).toEqual(keys.toSorted());
    });

    test("many rows are put at once and listed in pages", async () => {
      const table = freshName("t");
      const rows = Array.from({ length: 25 }, (_, n) => ({ key: `k${n}`, value: n }));
      expect(await calls.putRows(table, [...rows, { key: "k0", value: "last" }])).toEqual({ rowCount: 26 });
      const found = new Map<string, unknown>();
      let pageToken: string | undefined;
      do {
        const page = await calls.listRows(table, { pageSize: 10, ...(pageToken === undefined ? {} : { pageToken }) });
        for (const { key, value } of page.rows) found.set(key, value);
        pageToken = page.nextPageToken;
      } while (pageToken !== undefined);
      expect(found.size).toBe(25);
      expect([found.get("k0"), found.get("k24")]).toEqual(["last", 24]);
    });

    test("a row is joined into the events published after it", async () => {
      const request = await newRequest({ operations: [{ type: "map", function: "enrichWithUserData" }] });
      await calls.create(request);
      const userId = freshName("u");
      await calls.putRow("users", userId, { name: "Ann" });
      await api.publish(request.source, { partition: 0, value: { userId } });
      await api.publish(request.source, { partition: 0, value: { userId: "nobody" } });
      expect(await whenHolds(request.sink, 2)).toEqual([{ userId, user: { name: "Ann" } }, { userId: "nobody" }]);
    });

    test("names and sizes outside their bounds are refused", async () => {
      expect(await failureOf(calls.putRow("a.b", "k", 1))).toMatchObject(invalid);
      expect(await failureOf(calls.putRow("t", "x".repeat(257), 1))).toMatchObject(invalid);
      expect(await failureOf(calls.putRows("t", []))).toMatchObject(invalid);
      expect((await failureOf(calls.putRow("t", "large", "x".repeat(600_000)))).code).toBe(1004);
      expect(await failureOf(calls.listRows("t", { pageSize: 0 }))).toMatchObject(invalid);
    });
  });
});

describe("processors over REST", () => {
  test("a creation is 201 with the body of GET, its repeat 200", async () => {
    const source = freshName("in");
    await rawRequest(service.url, "POST", "/api/v1/streams", { name: source });
    const create = () =>
      rawRequest(
        service.url,
        "POST",
        "/api/v1/processors",
        { name: "p", source, sink: `${source}-out`, operations: [FILTER] },
        { "idempotency-key": source },
      );
    const first = await create();
    expect(first.status).toBe(201);
    const { processorId } = first.json<{ processorId: string }>();
    const got = await rawRequest(service.url, "GET", `/api/v1/processors/${processorId}`);
    expect(got.json()).toEqual(first.json());
    expect((await create()).status).toBe(200);
  });

  test("an operation's unknown field or word is refused and named", async () => {
    const source = freshName("in");
    await rawRequest(service.url, "POST", "/api/v1/streams", { name: source });
    for (const [operation, field] of [
      [{ type: "filter", predicat: "true" }, "operations[0].predicat"],
      [{ type: "explode" }, "operations[0].type"],
      [{ type: "window", windowType: "sliding", duration: 5 }, "operations[0].windowType"],
    ] as const) {
      const request = { name: "p", source, sink: `${source}-out`, operations: [operation] };
      const answer = await rawRequest(service.url, "POST", "/api/v1/processors", request);
      expect(answer.status).toBe(400);
      expect(answer.text).toContain(field);
    }
  });
});
