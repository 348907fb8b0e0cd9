import { expect, test } from "vitest";
import { freshName, useService } from "../support/service.ts";
import { eventually } from "../support/wait.ts";
import { Calls } from "./calls.ts";

const service = useService();

const OPERATIONS = [
  { type: "filter", predicate: "value.amount > 1000" },
  { type: "map", function: "enrichWithUserData" },
  { type: "window", windowType: "tumbling", duration: 300_000 },
  { type: "aggregate", aggregation: "count", groupBy: "userId" },
];
const CONFIG = { parallelism: 4, checkpointInterval: 60_000 };

test("the specification's example runs as it stands and counts by user", async () => {
  const calls = new Calls(service.url);
  const source = freshName("tx");
  await calls.ok("POST", "/streams", { name: source, partitions: 4 });
  const request = { name: "fraud", source, sink: `${source}-alerts`, operations: OPERATIONS, config: CONFIG };
  const { status, json } = await calls.any("POST", "/processors", request);
  expect(status).toBe(201);
  expect(json).toMatchObject({
    processorId: expect.stringMatching(/^proc_/),
    status: "running",
    operations: OPERATIONS,
  });
  const { processorId } = json as unknown as { processorId: string };
  const events = Array.from({ length: 100 }, (_, i) => ({
    key: `k${i}`,
    value: { amount: i * 50, userId: `u${i % 3}` },
  }));
  await calls.publish(source, events);
  const metrics = await eventually("all events counted in windows", async () => {
    const found = await calls.metrics(processorId);
    return found.windows.reduce((sum, each) => sum + each.eventsCount, 0) === 79 ? found : undefined;
  });
  expect(metrics.metrics).toMatchObject({ eventsProcessed: 100, lag: 0, errorRate: 0 });
  const path = `/processors/${processorId}/windows/${metrics.windows[0]!.windowStart}`;
  const { groups } = await calls.ok<{ groups: { group: string; values: { count: number } }[] }>("GET", path);
  for (const { group, values } of groups) expect(values.count, group).toBeGreaterThan(0);
  expect((await calls.ok("POST", `/processors/${processorId}/pause`)).status).toBe("paused");
  await calls.ok("DELETE", `/processors/${processorId}`);
  expect(await calls.any("GET", `/processors/${processorId}`)).toMatchObject({
    status: 404,
    json: { error: { code: 1102 } },
  });
});

test("a row put before an event is published is joined into it", async () => {
  const calls = new Calls(service.url);
  const source = freshName("tx");
  await calls.ok("POST", "/streams", { name: source, partitions: 2 });
  const sink = `${source}-rich`;
  await calls.ok("POST", "/processors", { name: "rich", source, sink, operations: OPERATIONS.slice(0, 2) });
  await calls.ok("PUT", "/tables/users/rows/u1", { value: { name: "Ann" } });
  await calls.publish(source, [
    { key: "a", value: { amount: 2000, userId: "u1" } },
    { key: "b", value: { amount: 3000, userId: "nobody" } },
  ]);
  const values = (await calls.whenHolds(sink, 2)).map(({ value }) => value);
  expect(values).toContainEqual({ amount: 2000, userId: "u1", user: { name: "Ann" } });
  expect(values).toContainEqual({ amount: 3000, userId: "nobody" });
});

test("a topology that can't run is refused with every operation at fault", async () => {
  const calls = new Calls(service.url);
  const source = freshName("tx");
  await calls.ok("POST", "/streams", { name: source });
  const bad = [
    { type: "filter", predicate: "value.amount >" },
    { type: "map", function: "nope" },
    { type: "aggregate", aggregation: "count" },
  ];
  const { status, json } = await calls.any("POST", "/processors", { name: "bad", source, sink: "s", operations: bad });
  expect(status).toBe(400);
  const { error } = json as unknown as { error: { code: number; details: { field: string }[] } };
  expect(error.code).toBe(1100);
  const fields = ["operations[0].predicate", "operations[1].function", "operations[2].type"];
  expect(error.details.map(({ field }) => field)).toEqual(fields);
  const missing = { name: "m", source: "missing", sink: "s", operations: OPERATIONS };
  expect(await calls.any("POST", "/processors", missing)).toMatchObject({
    status: 404,
    json: { error: { code: 1001 } },
  });
});
