import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { startNats } from "../support/nats.ts";
import { freshName, startService, type TestService } from "../support/service.ts";
import { eventually } from "../support/wait.ts";
import { Calls } from "./calls.ts";

/** A directory of modules that is removed after the test. */
async function directoryOf(files: Record<string, string>): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), "millrace-functions-"));
  onTestFinished(() => rm(directory, { recursive: true, force: true }));
  for (const [name, text] of Object.entries(files)) await writeFile(join(directory, name), text);
  return directory;
}

async function create(calls: Calls, operations: object[]): Promise<{ id: string; status: string; source: string }> {
  const source = freshName("in");
  await calls.ok("POST", "/streams", { name: source });
  const request = { name: "p", source, sink: `${source}-out`, operations };
  const { processorId, status } = await calls.ok<Record<string, string>>("POST", "/processors", request);
  return { id: processorId!, status: status!, source };
}

test("modules in MILLRACE_FUNCTIONS_DIR are functions: a value, several, none, later, or an error", async () => {
  const directory = await directoryOf({
    "twice.mjs": `export default ({ value }) => {
      if (value === 0) return null;
      if (value === 1) return ["a", "b"];
      if (value === 2) return Promise.resolve("later");
      if (value === 3) throw new Error("not three");
      return value * 2;
    };`,
    "notes.txt": "no module",
  });
  await using nats = await startNats();
  await using service = await startService(nats.url, { MILLRACE_FUNCTIONS_DIR: directory });
  const calls = new Calls(service.url);
  const { id, source } = await create(calls, [{ type: "map", function: "twice" }]);
  await calls.publish(
    source,
    [0, 1, 2, 3, 4].map((value) => ({ value })),
  );
  const events = await calls.whenHolds(`${source}-out`, 4);
  expect(events.map(({ value }) => value)).toEqual(["a", "b", "later", 8]);
  const { counters } = await eventually("all counted", async () => {
    const found = await calls.metrics(id);
    return found.metrics.eventsProcessed === 5 && found;
  });
  expect(counters).toMatchObject({ filtered: 1, errors: 1, deadLetters: 1, emitted: 4 });
  expect(service.errors).toEqual([]);
});

test("a processor whose module can't be loaded has failed, and says why", async () => {
  const directory = await directoryOf({ "broken.mjs": "export default (", "none.mjs": "export const value = 1;" });
  await using nats = await startNats();
  await using service = await startService(nats.url, { MILLRACE_FUNCTIONS_DIR: directory });
  const calls = new Calls(service.url);
  for (const [name, reason] of [
    ["broken", 'the module of "broken" can\'t be loaded'],
    ["none", 'the module of "none" has no default function'],
  ]) {
    const { id, status } = await create(calls, [{ type: "map", function: name }]);
    expect(status).toBe("failed");
    expect((await calls.metrics(id)).statusReason).toContain(reason);
  }
});

test("a MILLRACE_FUNCTIONS_DIR that can't be read is told at the start", async () => {
  await using nats = await startNats();
  const missing = join(await directoryOf({}), "missing");
  await expect(startService(nats.url, { MILLRACE_FUNCTIONS_DIR: missing })).rejects.toThrow("MILLRACE_FUNCTIONS_DIR");
});

test("a gateway runs no processors; they run as soon as a process of the role processor is there", async () => {
  await using nats = await startNats();
  await using gateway = await startService(nats.url, { MILLRACE_ROLE: "gateway" });
  const calls = new Calls(gateway.url);
  const { id, status, source } = await create(calls, [{ type: "filter", predicate: "true" }]);
  expect(status).toBe("stopped");
  await calls.publish(source, [{ value: 1 }]);
  await using worker: TestService = await startService(nats.url, {
    MILLRACE_ROLE: "processor",
    MILLRACE_PROCESSOR_THREADS: "1",
  });
  await calls.whenHolds(`${source}-out`, 1);
  expect((await calls.metrics(id)).status).toBe("running");
  expect([...gateway.errors, ...worker.errors]).toEqual([]);
});
