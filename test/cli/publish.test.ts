import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { beforeEach, describe, expect, onTestFinished, test } from "vitest";
import { millrace, type RunOptions, shell, start } from "../support/cli.ts";
import { startServiceProcess } from "../support/process.ts";
import { freshName, startService, useService } from "../support/service.ts";
import { eventually } from "../support/wait.ts";

const service = useService();
const run = (...args: string[]) => millrace(service.url, ...args);
const runWith = (options: RunOptions, ...args: string[]) => start(args, { url: service.url, ...options }).ended;
const read = async (stream: string) => (await run("consume", stream)).json;

let stream: string;
beforeEach(async () => {
  stream = freshName();
  await run("streams", "create", stream, "--partitions", "2");
});

function file(text: string | Uint8Array): string {
  const folder = mkdtempSync(join(tmpdir(), "millrace-cli-"));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  const path = join(folder, "events.jsonl");
  writeFileSync(path, text);
  return path;
}

describe("publish", () => {
  test("takes values as arguments, with key and headers", async () => {
    const args = ["--key", "k", "--header", "a=1", "--header", "b=x=y"];
    const { code, json } = await run("publish", stream, '{"n":1.00}', "[2]", ...args);
    expect(code).toBe(0);
    expect(json).toMatchObject([
      { eventId: expect.stringMatching(/^evt_/), offset: 0 },
      { eventId: expect.stringMatching(/^evt_/), offset: 1 },
    ]);
    expect(await read(stream)).toMatchObject([
      { key: "k", value: { n: 1 }, headers: { a: "1", b: "x=y" } },
      { key: "k", value: [2], headers: { a: "1", b: "x=y" } },
    ]);
    expect((await run("consume", stream, "--values")).stdout).toBe('{"n":1.00}\n[2]\n');
  });

  test("takes lines of files and of standard input, with keys and ids from their fields", async () => {
    const lines = '{"user":{"id":"a"},"id":1}\n\n{"user":{"id":"b"},"id":2}';
    const args = ["--key-field", "user.id", "--id-field", "id"];
    const first = await run("publish", stream, "--file", file(lines), ...args);
    expect(first.json).toMatchObject([{ eventId: "1" }, { eventId: "2" }]);
    const again = await runWith({ input: `${lines}\r\n` }, "publish", stream, ...args);
    expect(again.json).toMatchObject([
      { eventId: "1", duplicate: true },
      { eventId: "2", duplicate: true },
    ]);
    expect((await read(stream)).map(({ key }) => key).sort()).toEqual(["a", "b"]);
  });

  test("tells which lines failed, stores the others, and ends with 7", async () => {
    const input = '{"k":1}\nno json\n{"other":1}\n{"k":"2"}\n';
    const { code, json } = await runWith({ input }, "publish", stream, "--key-field", "k");
    expect(code).toBe(7);
    expect(json).toMatchObject([
      { offset: 0 },
      { at: "standard input, line 2", error: { code: 1004, description: expect.stringContaining("no JSON") } },
      { at: "standard input, line 3", error: { description: 'its "k" is missing' } },
      { eventId: expect.any(String) },
    ]);
    const told = await runWith({ input }, "publish", stream, "--key-field", "k", "--table");
    expect(told.stderr).toContain("standard input, line 2: it is no JSON");
    expect(told.stdout).toMatch(/^2 events are stored in .*, 2 failed, in \d+\.\d s\.\n$/);
  });

  test("tells what the service refuses of a batch, event by event", async () => {
    await run("streams", "update", stream, "--max-message-bytes", "100");
    const { code, json } = await run("publish", stream, "1", JSON.stringify("x".repeat(200)));
    expect(code).toBe(7);
    expect(json).toMatchObject([{ offset: 0 }, { at: "value 2", error: { code: 1004 } }]);
    expect((await run("publish", stream, JSON.stringify("x".repeat(200)))).code).toBe(4);
  });

  test("takes text, whole events and bytes", async () => {
    expect((await runWith({ input: 'a "b"\n' }, "publish", stream, "--text", "--partition", "0")).code).toBe(0);
    const event = { key: "k", value: { n: 1 }, headers: { h: "1" }, partition: 1, eventId: "mine", offset: 7 };
    const whole = await run("publish", stream, "--events", JSON.stringify(event), "--header", "i=2");
    expect(whole.json).toMatchObject([{ eventId: "mine", partition: 1 }]);
    const bytes = file(Uint8Array.of(0, 255, 10));
    const args = ["--bytes", "-f", bytes, "--content-type", "image/png", "--partition", "1"];
    expect((await run("publish", stream, ...args)).code).toBe(0);
    const stored = (await read(stream)).sort((a, b) => a.partition - b.partition);
    expect(stored).toMatchObject([
      { value: 'a "b"' },
      { key: "k", value: { n: 1 }, headers: { h: "1", i: "2" } },
      { data: "AP8K", contentType: "image/png" },
    ]);
  });

  test.each([
    ["a field that there is not", '{"value":1,"colour":"red"}', "colour"],
    ["headers that are none", '{"value":1,"headers":"abc"}', "headers"],
    ["a key that is no text", '{"value":1,"key":{}}', "key"],
    ["two payloads", '{"value":1,"data":"AA=="}', "payload"],
    ["no payload", '{"key":"k"}', "is required"],
    ["no object", "[1]", "no object"],
  ])("names what is wrong with a whole event: %s", async (_name, event, words) => {
    const { code, json } = await run("publish", stream, "--events", event);
    expect([code, json[0].error.description]).toEqual([4, expect.stringContaining(words)]);
  });

  test("sends what is there when input pauses", async () => {
    const running = start(["publish", stream], { url: service.url });
    running.write("1\n");
    await eventually("the first event is stored", () => running.stdout.includes('"offset":0'));
    running.write("2\n");
    await eventually("the second one too", () => running.stdout.trim().split("\n").length === 2);
    running.kill("SIGINT");
    expect((await running.ended).code).toBe(130);
  });

  test("ends by the first signal while it waits for bytes", async () => {
    const files = ["-f", file("a"), "-f", "-"];
    const running = start(["publish", stream, "--bytes", ...files, "--batch-size", "1"], { url: service.url });
    running.write("half a pict");
    await eventually("the file before it is stored", () => running.stdout.includes('"offset":0'));
    running.kill("SIGTERM");
    expect((await running.ended).code).toBe(143);
    expect(await read(stream)).toMatchObject([{ data: "YQ==" }]);
  });

  test("copies a stream with keys, headers and ids by a pipe", async () => {
    await run("publish", stream, '{"a":12345678901234567890.0}', '{"a":1e2}', "--key", "k", "--header", "h=1");
    const copy = freshName();
    const line = `millrace streams create ${copy} --partitions 2 && millrace consume ${stream} | millrace publish ${copy} --events`;
    expect((await shell(service.url, line)).code).toBe(0);
    const bare = (events: { timestamp?: string }[]) => events.map(({ timestamp: _, ...rest }) => rest);
    expect(bare(await read(copy))).toEqual(bare(await read(stream)));
    expect((await run("consume", copy, "--values")).stdout).toBe('{"a":12345678901234567890.0}\n{"a":1e2}\n');
  });

  test("sends many events in batches", async () => {
    const input = Array.from({ length: 2345 }, (_, n) => `{"n":${n}}\n`).join("");
    const { code, stdout } = await runWith(
      { input },
      "publish",
      stream,
      "--key",
      "k",
      "--table",
      "--batch-size",
      "1000",
    );
    expect([code, stdout]).toEqual([0, expect.stringContaining("2,345 events are stored")]);
    const values = (await run("consume", stream, "--values")).stdout;
    expect(values).toBe(input);
  });

  test("sends again what met a service that was away, and stores it once", async () => {
    const other = await startService(service.nats.url);
    let disposed = false;
    onTestFinished(async () => {
      if (!disposed) await other[Symbol.asyncDispose]();
    });
    const running = start(["publish", stream, "--url", other.url, "--partition", "0"]);
    running.write("1\n");
    await eventually("the first event is stored", () => running.stdout.includes('"offset":0'));
    await other[Symbol.asyncDispose]();
    disposed = true;
    running.write("2\n");
    await eventually("it tries again", () => running.stderr.includes("trying again"));
    await using _next = await startService(service.nats.url, { PORT: String(other.port) });
    await eventually("the second event is stored", () => running.stdout.includes('"offset":1'));
    running.kill("SIGTERM");
    expect((await running.ended).code).toBe(143);
    expect(await read(stream)).toHaveLength(2);
  });

  test("sends again what a killed service left unanswered, and stores it once", async () => {
    const env = { NATS_URL: service.nats.url };
    const other = await startServiceProcess(env);
    onTestFinished(() => other[Symbol.asyncDispose]());
    const running = start(["publish", stream, "--url", other.url, "--partition", "0", "--batch-size", "10"]);
    const publish = (from: number, to: number) => {
      for (let n = from; n < to; n++) running.write(`${n}\n`);
    };
    publish(0, 1000);
    await eventually("events are stored", () => running.stdout.includes('"offset":100'));
    other.kill("SIGKILL");
    await other.exited;
    await using _next = await startServiceProcess({ ...env, PORT: new URL(other.url).port });
    publish(1000, 1100);
    await eventually("all events are stored", () => running.stdout.includes('"offset":1099'));
    running.kill("SIGTERM");
    await running.ended;
    const values = (await run("consume", stream, "--values")).stdout.trim().split("\n").map(Number);
    expect(values).toEqual(Array.from({ length: 1100 }, (_, n) => n));
  });

  test.each([
    ["a stream that there is not", ["publish", "nowhere", "1"], 3, "does not exist"],
    ["a file that there is not", ["publish", "a", "-f", "/no/such/file"], 2, "no such file"],
    ["two sources of keys", ["publish", "a", "1", "--key", "a", "--key-field", "b"], 2, "exclude each other"],
    ["an input that can't be read", ["publish", "a", "-f", "/"], 2, "/: EISDIR"],
    ["a key of text", ["publish", "a", "1", "--text", "--key-field", "b"], 2, "cannot be used with"],
    ["an id of bytes", ["publish", "a", "-f", "/", "--bytes", "--id-field", "b"], 2, "cannot be used with"],
    ["a header without a name", ["publish", "a", "1", "--header", "=1"], 2, "A header such as"],
  ])("refuses %s", async (_name, args, code, words) => {
    const ended = await run(...args);
    expect([ended.code, ended.stderr]).toEqual([code, expect.stringContaining(words)]);
  });
});
