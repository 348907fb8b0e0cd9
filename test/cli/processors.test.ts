import { beforeEach, expect, test } from "vitest";
import { millrace, start } from "../support/cli.ts";
import { startServiceProcess } from "../support/process.ts";
import { freshName, useService } from "../support/service.ts";
import { eventually } from "../support/wait.ts";

const service = useService();
const run = (...args: string[]) => millrace(service.url, ...args);

let source: string;
let sink: string;
beforeEach(async () => {
  source = freshName();
  sink = `${source}-out`;
  await run("streams", "create", source);
});

const topology = () => ({
  name: "double",
  source,
  operations: [{ type: "filter", predicate: "value.n > 1.0" }, { expression: "{'n': value.n * 2.0}" }],
  sink,
});

async function create(): Promise<string> {
  const created = await start(["processors", "create", "--file", "-"], {
    url: service.url,
    input: JSON.stringify(topology()),
  }).ended;
  expect([created.code, created.stderr]).toEqual([0, ""]);
  return created.json[0].processorId;
}

test("creates a processor from a file, which runs until it is paused, and again when it is resumed", async () => {
  const id = await create();
  await run("publish", source, '{"n":1}', '{"n":2}', '{"n":3}');
  const results = async (wanted: number) =>
    eventually(`${wanted} results`, async () => {
      const { stdout } = await run("consume", sink, "--values");
      const lines = stdout.split("\n").filter(Boolean);
      return lines.length >= wanted && lines.map((line) => JSON.parse(line).n);
    });
  expect(await results(2)).toEqual([4, 6]);

  expect((await run("processors", "pause", id)).json[0].status).toBe("paused");
  await run("publish", source, '{"n":4}');
  expect((await run("processors", "describe", id)).json[0]).toMatchObject({ status: "paused", name: "double", source });
  expect((await run("processors", "resume", id)).code).toBe(0);
  expect(await results(3)).toEqual([4, 6, 8]);

  const shown = await eventually("all is counted", async () => {
    const { json } = await run("processors", "metrics", id);
    return json[0].metrics.eventsProcessed === 4 && json[0];
  });
  expect(shown).toMatchObject({
    processorId: id,
    counters: { filtered: 1, emitted: 3 },
    partitions: [{ partition: 0 }],
  });
  expect((await run("processors", "list")).json.map(({ processorId }) => processorId)).toContain(id);

  expect((await run("processors", "reset", id)).code).toBe(2);
  expect((await run("processors", "reset", id, "--yes")).code).toBe(0);
  await eventually("it writes its results again", async () => (await run("consume", sink)).json.length === 6);

  expect((await run("processors", "delete", id, "--yes")).code).toBe(0);
  const gone = await run("processors", "describe", id);
  expect([gone.code, gone.stderr]).toEqual([3, expect.stringContaining("PROCESSOR_NOT_FOUND")]);
});

test("shows processors as tables, alone and in top", async () => {
  const id = await create();
  const described = await run("processors", "describe", id, "--table");
  expect(described.stdout).toMatch(new RegExp(`^Processor +${id}\\nName +double\\nStatus +(starting|running)\\n`));
  expect(described.stdout).toMatch(/^Operation 1 +filter predicate="value\.n > 1\.0"$/m);
  expect((await run("processors", "list", "--table")).stdout).toMatch(/^PROCESSOR +NAME +STATUS +SOURCE +SINK/);
  expect((await run("processors", "metrics", id, "--table")).stdout).toMatch(/^PARTITION +NEXT +LAG/m);
  const top = await run("top", "--stream", source, "--count", "1", "--table");
  expect(top.stdout).toMatch(new RegExp(`^${id} +double`, "m"));
});

test("tries operations out, from a file and on a processor's source", async () => {
  const request = { operations: topology().operations, events: [{ value: { n: 2 } }, { value: { n: 1 } }] };
  const options = { url: service.url, input: JSON.stringify(request) };
  const tried = await start(["processors", "dry-run", "--file", "-"], options).ended;
  expect([tried.code, tried.stderr]).toEqual([0, ""]);
  expect(tried.json[0].events[0].steps[1]).toMatchObject({ operation: 1, outcome: "passed", value: { n: 4 } });
  const id = await create();
  await run("publish", source, '{"n":5}');
  const shown = await run("processors", "dry-run", "--processor", id, "--limit", "1", "--table");
  expect(shown.stdout).toBe('event 0:0\n  0 passed {"n":5}\n  1 passed {"n":10}\n');
  expect((await run("processors", "dry-run")).code).toBe(2);
});

test("shows what was set aside", async () => {
  const id = await create();
  await run("publish", source, '{"x":1}');
  const found = await eventually("it is set aside", async () => {
    const { json } = await run("processors", "side-events", id);
    return json.length === 1 && json[0];
  });
  expect(found).toMatchObject({ kind: "dlq", operation: 0, stream: source, partition: 0, offset: 0, value: { x: 1 } });
  const shown = await run("processors", "side-events", id, "--kind", "dlq", "--table");
  expect(shown.stdout).toMatch(new RegExp(`dlq  ${source} 0:0  operation 0: .*\\{"x":1\\}\n$`));
  expect((await run("processors", "side-events", id, "--kind", "late")).json).toEqual([]);
});

test("makes savepoints, lists them, goes back to one and deletes it", async () => {
  const id = await create();
  const name = freshName();
  const made = await run("processors", "savepoint", id, name);
  expect([made.code, made.json[0].processorId]).toEqual([0, id]);
  expect((await run("processors", "savepoints", "--processor", id)).json.map((each) => each.name)).toEqual([name]);
  expect((await run("processors", "savepoints", "--table")).stdout).toMatch(/^SAVEPOINT +PROCESSOR/);
  await run("publish", source, '{"n":2}');
  const holds = (count: number) =>
    eventually(`${count}`, async () => (await run("consume", sink)).json.length === count);
  await holds(1);
  expect((await run("processors", "restore", id, name)).code).toBe(2);
  expect((await run("processors", "restore", id, name, "--yes")).json[0].processorId).toBe(id);
  await holds(2);
  expect((await run("processors", "delete-savepoint", name, "--yes")).code).toBe(0);
  expect((await run("processors", "delete-savepoint", name, "--yes")).code).toBe(3);
});

test("puts functions, lists, describes and deletes them", async () => {
  const name = freshName();
  const put = (input: string) => start(["functions", "put", name, "-f", "-"], { url: service.url, input }).ended;
  const made = await put('{"cel":{"merge":{"n":"value.n + 1"}}}');
  expect([made.code, made.json[0]]).toMatchObject([0, { name, origin: "installed" }]);
  expect((await run("functions", "list")).json.map((each) => each.name)).toContain(name);
  expect((await run("functions", "list", "--table")).stdout).toMatch(/^enrichWithUserData +lookup +shipped/m);
  expect((await run("functions", "describe", name, "--table")).stdout).toMatch(
    /^Body +\{"merge":\{"n":"value\.n \+ 1"\}\}$/m,
  );
  const bad = await put('{"cel":{"expression":"1 +"}}');
  expect([bad.code, bad.stderr]).toEqual([4, expect.stringContaining("cel.expression")]);
  expect((await run("functions", "delete", name, "--yes")).code).toBe(0);
  expect((await run("functions", "describe", name)).code).toBe(3);
});

test("metrics --watch goes on until Ctrl-C", async () => {
  const id = await create();
  const running = start(["processors", "metrics", id, "--watch"], { url: service.url });
  await eventually("two looks", () => running.stdout.trim().split("\n").length >= 2);
  running.kill("SIGINT");
  expect((await running.ended).code).toBe(0);
});

test("metrics --watch says when the service stops, with exit code 6", async () => {
  await using own = await startServiceProcess({ NATS_URL: service.nats.url, MILLRACE_DRAIN_MS: "1000" });
  const id = await create();
  const running = start(["processors", "metrics", id, "--watch"], { url: own.url });
  await eventually("a look", () => running.stdout.includes("\n"));
  own.kill("SIGTERM");
  const { code, stderr } = await running.ended;
  expect([code, stderr]).toEqual([6, expect.stringMatching(/^millrace: ./)]);
});

test.each([
  ["a file that is no JSON", "{", 2, "standard input: "],
  ["a field that there is not", '{"name":"a","colour":1}', 2, "colour"],
  [
    "a source that there is not",
    '{"name":"a","source":"nowhere","operations":[{"predicate":"true"}],"sink":"b"}',
    3,
    "nowhere",
  ],
])("refuses %s", async (_name, input, code, words) => {
  const ended = await start(["processors", "create", "-f", "-"], { url: service.url, input }).ended;
  expect([ended.code, ended.stderr]).toEqual([code, expect.stringContaining(words)]);
});
