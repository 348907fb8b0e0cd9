import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import type { DryRunAnswer } from "../support/processor-clients.ts";
import { useService } from "../support/service.ts";
import { Calls } from "./calls.ts";

const directory = mkdtempSync(join(tmpdir(), "millrace-functions-"));
afterAll(() => rmSync(directory, { recursive: true }));
const MODULES = {
  endless: "export default ({ value }) => { while (value === 1); return value; };",
  greedy: "export default () => { const all = []; for (;;) all.push(new Array(100_000).fill(all)); };",
  quitter: "export default () => process.exit(3);",
  split: "export default ({ value }) => value.map((n) => ({ n }));",
  waits: "export default async ({ value }) => { await null; return { waited: value }; };",
};
for (const [name, text] of Object.entries(MODULES)) writeFileSync(join(directory, `${name}.mjs`), text);

const service = useService({ MILLRACE_FUNCTIONS_DIR: directory });
const dryRun = (request: object) => new Calls(service.url).ok<DryRunAnswer>("POST", "/processors:dryRun", request);
const through = (name: string, ...values: unknown[]) => ({
  operations: [{ function: name }],
  events: values.map((value) => ({ value })),
});

test("an event that does not come to an end is named, and what was done before is shown", async () => {
  const answer = await dryRun({ ...through("endless", 0, 1, 2), timeout: 500 });
  expect(answer.events.map(({ steps }) => steps[0]!.value)).toEqual([0]);
  expect(answer.incomplete).toMatch(/event 1 did not come to an end within 500 ms/);
  // The service goes on.
  expect((await dryRun(through("endless", 2))).events).toHaveLength(1);
});

test("a module that takes all memory or ends its thread ends nothing else", async () => {
  expect((await dryRun({ ...through("greedy", 1), timeout: 10_000 })).incomplete).toMatch(/memory|end/);
  expect((await dryRun(through("quitter", 1))).incomplete).toMatch(/ended/);
});

test("several values of one event are shown each, also those that come later", async () => {
  const operations = [{ function: "split" }, { predicate: "value.n > 1" }, { function: "waits" }];
  const { events } = await dryRun({ operations, events: [{ value: [1, 2] }] });
  expect(events[0]!.steps).toEqual([
    expect.objectContaining({ operation: 0, outcome: "passed", part: 0, value: { n: 1 } }),
    expect.objectContaining({ operation: 1, outcome: "dropped" }),
    expect.objectContaining({ operation: 0, outcome: "passed", part: 1, value: { n: 2 } }),
    expect.objectContaining({ operation: 1, outcome: "passed" }),
    expect.objectContaining({ operation: 2, outcome: "passed", value: { waited: { n: 2 } } }),
  ]);
});

test("an answer has a bound", async () => {
  const big = "x".repeat(300_000);
  const answer = await dryRun({
    operations: [{ expression: "value" }, { expression: "value" }],
    events: Array.from({ length: 10 }, () => ({ value: big })),
  });
  expect(answer.incomplete).toMatch(/larger/);
  expect(answer.events.length).toBeLessThan(10);
});

test("no more than a few run at once", async () => {
  const calls = new Calls(service.url);
  const request = { ...through("endless", 1), timeout: 3000 };
  const answers = await Promise.all(Array.from({ length: 8 }, () => calls.any("POST", "/processors:dryRun", request)));
  const statuses = answers.map(({ status }) => status).sort();
  expect(statuses).toEqual([200, 200, 200, 200, 429, 429, 429, 429]);
});

test("modules are listed, and no call changes them", async () => {
  const calls = new Calls(service.url);
  expect(await calls.ok("GET", "/functions/split")).toMatchObject({ origin: "module", module: { file: "split.mjs" } });
  const put = await calls.any("PUT", "/functions/split", { cel: { expression: "value" } });
  const gone = await calls.any("DELETE", "/functions/split");
  expect([put.status, gone.status]).toEqual([400, 400]);
});
