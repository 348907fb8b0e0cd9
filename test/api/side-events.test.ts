import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type Api, failureOf, protocols } from "../support/clients.ts";
import type { ProcessorApi, SideEventsAnswer } from "../support/processor-clients.ts";
import { freshName, useService } from "../support/service.ts";
import { eventually } from "../support/wait.ts";

const service = useService();
const TIME = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/;

describe.each(protocols)("side events over $name", ({ connect, isRest }) => {
  let api: Api;
  let calls: ProcessorApi;
  beforeAll(() => {
    api = connect(service.url);
    calls = api.processors;
  });
  afterAll(() => api[Symbol.asyncDispose]());

  async function create(): Promise<{ source: string; processorId: string }> {
    const source = freshName("in");
    await api.createStream({ name: source });
    const { processorId } = await calls.create({
      name: "p",
      source,
      sink: `${source}-out`,
      operations: [
        { type: "filter", predicate: "value.n >= 0" },
        { type: "window", windowType: "tumbling", duration: 1000, timestampField: "t", grace: 0 },
        { type: "aggregate", aggregation: "count" },
        { type: "filter", predicate: 'value.windowStart != "x" && value.nothing' },
      ],
    });
    return { source, processorId };
  }

  const whenThere = (processorId: string, count: number): Promise<SideEventsAnswer> =>
    eventually(`${count} side events`, async () => {
      const found = await calls.sideEvents(processorId, { pageSize: 1000 });
      return found.events.length >= count ? found : undefined;
    });

  test("late, malformed and failed ones are there as they were, with origin and reason", async () => {
    const { source, processorId } = await create();
    const published: { key?: string; value?: unknown; data?: Uint8Array; headers?: Record<string, string> }[] = [
      { key: "k0", value: { n: 1, t: 10_000 }, headers: { a: "b" } },
      { key: "k1", value: { n: 1, t: "never" } },
      { key: "k2", value: { n: "text", t: 10_000 }, headers: { constructor: "__proto__" } },
      { data: Uint8Array.of(0, 255) },
      { value: { n: 1, t: Date.UTC(2099, 0, 1) } },
      { value: { n: 1, t: 20_000 } },
      { value: { n: 1, t: 1 } },
    ];
    await api.publishBatch(
      source,
      published.map((event) => ({ partition: 0, ...event })),
    );
    // One of them is the result of the window that the sixth closed.
    const { events } = await whenThere(processorId, 6);
    const origin = { stream: source, partition: 0, generation: 1, setAsideAt: expect.stringMatching(TIME) };
    const byOffset = (offset: number) => events.find((event) => event.offset === offset);
    const dlq = { ...origin, kind: "dlq", eventId: expect.stringMatching(/^evt_/) };
    expect(byOffset(1)).toMatchObject({ ...dlq, operation: 1, key: "k1", value: published[1]!.value });
    expect(byOffset(1)!.reason).toMatch(/event time/);
    expect(byOffset(2)).toMatchObject({ ...dlq, operation: 0, headers: { constructor: "__proto__" } });
    expect(byOffset(3)).toMatchObject({ ...dlq, operation: 0, contentType: "application/octet-stream" });
    expect(byOffset(3)).toHaveProperty("data");
    expect(byOffset(4)).toMatchObject({ ...dlq, operation: 1, reason: expect.stringMatching(/future/) });
    expect(byOffset(6)).toMatchObject({ ...origin, kind: "late", operation: 1, value: { n: 1, t: 1 } });
    const result = events.find((event) => event.offset === undefined);
    expect(result).toMatchObject({ kind: "dlq", operation: 3, value: { count: 1 } });
    expect(result).not.toHaveProperty("partition");
    const { counters } = await calls.metrics(processorId);
    expect([counters.deadLetters, counters.late]).toEqual([5, 1]);
    const late = await calls.sideEvents(processorId, { kind: "late" });
    expect(late.events.map(({ offset }) => offset)).toEqual([6]);
  });

  test("come page by page, and those that follow come by the same token", async () => {
    const { source, processorId } = await create();
    const bad = (from: number, count: number) =>
      api.publishBatch(
        source,
        Array.from({ length: count }, (_, i) => ({ partition: 0, value: { n: `bad ${from + i}` } })),
      );
    expect(await calls.sideEvents(processorId)).toEqual({ events: [], nextPageToken: "0" });
    await bad(0, 5);
    await whenThere(processorId, 5);
    const first = await calls.sideEvents(processorId, { pageSize: 3 });
    expect(first.events.map(({ offset }) => offset)).toEqual([0, 1, 2]);
    const second = await calls.sideEvents(processorId, { pageSize: 3, pageToken: first.nextPageToken });
    expect(second.events.map(({ offset }) => offset)).toEqual([3, 4]);
    const waiting = calls.sideEvents(processorId, { pageToken: second.nextPageToken, timeout: 20_000 });
    await bad(5, 1);
    expect((await waiting).events.map(({ offset }) => offset)).toEqual([5]);
  });

  test("thousands at once stop nothing", async () => {
    const source = freshName("in");
    await api.createStream({ name: source, partitions: 4 });
    await api.publishBatch(
      source,
      Array.from({ length: 4000 }, (_, i) => ({ partition: i % 4, value: { i } })),
    );
    const request = { name: "p", source, sink: `${source}-out`, operations: [{ predicate: "value.nothing" }] };
    const { processorId } = await calls.create({ ...request, config: { parallelism: 1 } });
    await eventually("all set aside", async () => {
      const { counters } = await calls.metrics(processorId);
      return counters.deadLetters === 4000;
    });
    const seen = new Set<string>();
    let pageToken = "0";
    for (let page = 0; page < 4; page++) {
      const answer = await calls.sideEvents(processorId, { pageSize: 1000, pageToken });
      for (const { partition, offset } of answer.events) seen.add(`${partition}/${offset}`);
      pageToken = answer.nextPageToken;
    }
    expect(seen.size).toBe(4000);
  });

  test("a result that the sink refuses for its size is set aside", async () => {
    const source = freshName("in");
    await api.createStream({ name: source });
    await api.createStream({ name: `${source}-out`, config: { maxMessageBytes: 2000 } });
    const window = { windowType: "tumbling", duration: 1000, timestampField: "t", grace: 0 } as const;
    const operations = [window, { aggregation: "last", field: "text" }] as const;
    const { processorId } = await calls.create({ name: "p", source, sink: `${source}-out`, operations });
    const events = [
      { t: 1, text: "x".repeat(4000) },
      { t: 1000, text: "" },
    ].map((value) => ({ value }));
    await api.publishBatch(source, events);
    const { events: found } = await whenThere(processorId, 1);
    expect(found[0]).toMatchObject({ kind: "dlq", operation: 1, value: { last: "x".repeat(4000) } });
    expect(found[0]!.reason).toMatch(/2000/);
  });

  test("the largest event is set aside, without the headers that do not fit beside it", async () => {
    const source = freshName("in");
    await api.createStream({ name: source });
    const large = (await api.getStream(source)).config.maxMessageBytes!;
    const request = { name: "p", source, sink: `${source}-out`, operations: [{ predicate: "value.nothing" }] };
    const { processorId } = await calls.create(request);
    const headers = Object.fromEntries(Array.from({ length: 60 }, (_, i) => [`h${i}`, "\u0001".repeat(250)]));
    await api.publish(source, { value: "x".repeat(large - 2), headers });
    const { events } = await whenThere(processorId, 1);
    expect(events[0]).toMatchObject({ partition: 0, offset: 0, headersLeftOut: true });
    expect((events[0]!.value as string).length).toBe(large - 2);
    expect(events[0]!.headers ?? {}).toEqual({});
  });

  test("a bad token or an unknown processor is refused", async () => {
    const { processorId } = await create();
    const failure = await failureOf(calls.sideEvents(processorId, { pageToken: "x" }));
    expect(failure).toMatchObject({ code: 1100, details: [expect.objectContaining({ field: "pageToken" })] });
    expect(failure.httpOrGrpcStatus).toBe(isRest ? 400 : 3);
    expect(await failureOf(calls.sideEvents("proc_0000000000000000"))).toMatchObject({ code: 1102 });
  });
});
