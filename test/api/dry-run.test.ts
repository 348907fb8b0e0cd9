import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type Api, failureOf, protocols } from "../support/clients.ts";
import type { DryRunRequest, OperationRequest, ProcessorApi } from "../support/processor-clients.ts";
import { freshName, useService } from "../support/service.ts";

const service = useService();
const START_MS = Date.UTC(2025, 0, 1);
const at = (ms: number): string => new Date(START_MS + ms).toISOString();

const OPERATIONS: OperationRequest[] = [
  { type: "filter", predicate: "value.amount > 10" },
  { type: "map", project: { merge: { cents: "value.amount * 100" } } },
  { type: "window", windowType: "tumbling", duration: 1000, timestampField: "t", grace: 0 },
  { type: "aggregate", aggregation: "sum", field: "cents", groupBy: "user", as: "total" },
  { type: "filter", predicate: "value.total > 3000" },
];

describe.each(protocols)("a dry run over $name", ({ connect, isRest }) => {
  let api: Api;
  let calls: ProcessorApi;
  beforeAll(() => {
    api = connect(service.url);
    calls = api.processors;
  });
  afterAll(() => api[Symbol.asyncDispose]());
  const invalid = { code: 1100, name: "INVALID_ARGUMENT", httpOrGrpcStatus: isRest ? 400 : 3 };

  const events = [
    { value: { user: "ann", amount: 20, t: START_MS + 100 } },
    { value: { user: "bob", amount: 5, t: START_MS + 200 } },
    { value: { user: "ann", t: START_MS } },
    { value: { user: "ann", amount: 15, t: START_MS + 300 } },
    { value: { user: "bob", amount: 30, t: START_MS + 5000 } },
    { value: { user: "eve", amount: 40, t: START_MS + 400 } },
  ];

  test("shows the value after every step, what is dropped, fails, falls into windows or is late, and the results", async () => {
    const answer = await calls.dryRun({ operations: OPERATIONS, events });
    expect(answer).not.toHaveProperty("incomplete");
    expect(answer.events.map(({ steps }) => steps.map(({ operation, outcome }) => [operation, outcome]))).toEqual([
      [
        [0, "passed"],
        [1, "passed"],
        [2, "windowed"],
      ],
      [[0, "dropped"]],
      [[0, "failed"]],
      [
        [0, "passed"],
        [1, "passed"],
        [2, "windowed"],
      ],
      [
        [0, "passed"],
        [1, "passed"],
        [2, "windowed"],
      ],
      [
        [0, "passed"],
        [1, "passed"],
        [2, "late"],
      ],
    ]);
    const [first] = answer.events;
    expect(first!.steps[0]!.value).toEqual(events[0]!.value);
    expect(first!.steps[1]!.value).toEqual({ ...events[0]!.value, cents: 2000 });
    expect(first!.steps[2]).toMatchObject({
      eventTime: at(100),
      group: "ann",
      windows: [{ windowStart: at(0), windowEnd: at(1000) }],
    });
    expect(answer.events[2]!.steps[0]!.error).toMatch(/amount/);
    const span = (start: number) => ({ windowStart: at(start), windowEnd: at(start + 1000) });
    expect(answer.results).toEqual([
      {
        ...span(0),
        group: "ann",
        eventsCount: 2,
        value: { ...span(0), user: "ann", total: 3500 },
        steps: [expect.objectContaining({ operation: 4, outcome: "passed" })],
      },
      {
        ...span(5000),
        group: "bob",
        eventsCount: 1,
        value: { ...span(5000), user: "bob", total: 3000 },
        steps: [expect.objectContaining({ operation: 4, outcome: "dropped" })],
      },
    ]);
  });

  test("runs a processor's operations on a piece of its source, and writes nothing", async () => {
    const source = freshName("in");
    const sink = `${source}-out`;
    await api.createStream({ name: source, partitions: 2 });
    await api.createStream({ name: sink });
    const request = { name: "p", source, sink, operations: [{ expression: "value.n * 2" }] };
    const { processorId } = await calls.create({ ...request, config: { startFrom: "latest" } });
    await calls.pause(processorId);
    for (let n = 0; n < 5; n++) await api.publish(source, { partition: 1, value: { n } });
    const before = await calls.metrics(processorId);
    const piece = { partition: 1, offset: "1", limit: 2 };
    const expected = [1, 2].map((offset) => ({
      partition: 1,
      offset,
      steps: [expect.objectContaining({ operation: 0, outcome: "passed", value: offset * 2 })],
    }));
    expect((await calls.dryRun({ processorId, source: piece })).events).toEqual(expected);
    const inline = await calls.dryRun({ operations: request.operations, source: { ...piece, stream: source } });
    expect(inline.events).toEqual(expected);
    expect(await calls.metrics(processorId)).toEqual(before);
    expect((await api.getStream(sink)).totalMessages).toBe(0);
  });

  test("looks rows up, and passes binary events by", async () => {
    const userId = freshName("u");
    await calls.putRow("users", userId, { name: "Ann" });
    const operations = [{ function: "enrichWithUserData" }];
    const answer = await calls.dryRun({ operations, events: [{ value: { userId } }] });
    expect(answer.events[0]!.steps[0]!.value).toEqual({ userId, user: { name: "Ann" } });
  });

  test("sessions and hopping windows are those that a processor makes", async () => {
    const count: OperationRequest = { type: "aggregate", aggregation: "count" };
    const session: OperationRequest = { type: "window", windowType: "session", gap: 1000, timestampField: "t" };
    const times = [0, 500, 4000];
    const given = times.map((ms) => ({ value: { t: START_MS + ms } }));
    const { results } = await calls.dryRun({ operations: [session, count], events: given });
    expect(results.map(({ windowStart, windowEnd, eventsCount }) => [windowStart, windowEnd, eventsCount])).toEqual([
      [at(0), at(1500), 2],
      [at(4000), at(5000), 1],
    ]);
    const hopping: OperationRequest = { type: "window", windowType: "hopping", duration: 2000, advance: 1000 };
    const stored = times.map((ms) => ({ value: 1, timestamp: at(ms) }));
    const hops = await calls.dryRun({ operations: [hopping, count], events: stored });
    expect(hops.events[0]!.steps[0]!.windows).toEqual([
      { windowStart: at(0), windowEnd: at(2000) },
      { windowStart: at(-1000), windowEnd: at(1000) },
    ]);
    expect(hops.results.map(({ eventsCount }) => eventsCount)).toEqual([2, 2, 1, 1]);
  });

  test.each<[string, DryRunRequest, string]>([
    ["without operations", { events: [{ value: 1 }] }, "operations"],
    ["with a processor and operations", { processorId: "p", operations: OPERATIONS, events: [] }, "operations"],
    ["without events", { operations: OPERATIONS }, "events"],
    ["with events and a source", { operations: OPERATIONS, events: [{ value: 1 }], source: { stream: "s" } }, "events"],
    ["with a source without a stream", { operations: OPERATIONS, source: {} }, "source.stream"],
    ["with a bad offset", { operations: OPERATIONS, source: { stream: "s", offset: "-1" } }, "source.offset"],
    ["with an event without payload", { operations: OPERATIONS, events: [{ key: "k" }] }, "events[0].payload"],
    ["with a bad operation", { operations: [{ predicate: "1 +" }], events: [{ value: 1 }] }, "operations[0].predicate"],
    ["with a time-out of 0", { operations: OPERATIONS, events: [{ value: 1 }], timeout: 0 }, "timeout"],
    [
      "with a time beyond all windows",
      { operations: OPERATIONS, events: [{ value: 1, timestamp: "9999-12-31T23:59:59Z" }] },
      "events[0].timestamp",
    ],
  ])("%s is refused, the field named", async (_what, request, field) => {
    const failure = await failureOf(calls.dryRun(request));
    expect(failure).toMatchObject(invalid);
    expect(failure.details.map((detail) => detail.field)).toContain(field);
  });

  test("of what there is not is not found", async () => {
    const events = [{ value: 1 }];
    expect(await failureOf(calls.dryRun({ processorId: "proc_0000000000000000", events }))).toMatchObject({
      code: 1102,
    });
    const source = { stream: freshName() };
    expect(await failureOf(calls.dryRun({ operations: OPERATIONS, source }))).toMatchObject({ code: 1001 });
  });
});
