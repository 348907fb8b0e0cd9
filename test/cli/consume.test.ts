import { beforeEach, describe, expect, onTestFinished, test } from "vitest";
import { millrace, shell, start } from "../support/cli.ts";
import { startServiceProcess } from "../support/process.ts";
import { freshName, startService, useService } from "../support/service.ts";
import { eventually } from "../support/wait.ts";

const service = useService();
const run = (...args: string[]) => millrace(service.url, ...args);
const publish = (...values: unknown[]) =>
  run("publish", stream, "--key", "k", ...values.map((value) => JSON.stringify(value)));
const values = (stdout: string) => stdout.split("\n").filter(Boolean).map(Number);

let stream: string;
beforeEach(async () => {
  stream = freshName();
  await run("streams", "create", stream);
});

describe("consume without a group", () => {
  test("writes what there is and ends; --max, --from and --filter choose", async () => {
    expect((await run("consume", stream)).stdout).toBe("");
    await publish(1, 2, 3, 4);
    const all = await run("consume", stream);
    expect(all.code).toBe(0);
    expect(all.json).toMatchObject([1, 2, 3, 4].map((value, offset) => ({ partition: 0, offset, key: "k", value })));
    const at = all.json[2].timestamp;
    const of = async (...args: string[]) => values((await run("consume", stream, "--values", ...args)).stdout);
    expect(await of("--max", "2")).toEqual([1, 2]);
    expect(await of("--from", "2")).toEqual([3, 4]);
    expect(await of("--from", "latest")).toEqual([]);
    expect(await of("--from", at)).toContain(3);
    expect(await of("--filter", "value > 2.0", "--max", "1")).toEqual([3]);
    expect(await of("--partition", "0")).toEqual([1, 2, 3, 4]);
  });

  test("writes a line for people with --table, without what a terminal would obey", async () => {
    await run("publish", stream, '"\u009b31m"', "--key", "a\u001b[2Jb", "--header", "h=1");
    const { stdout } = await run("consume", stream, "--table");
    expect(stdout).toMatch(/^0:0 +\d{4}-\S+Z {2}ab {2}"" {2}\[h=1\]\n$/);
  });

  test("follows until Ctrl-C, which ends it with 0", async () => {
    await publish(1);
    const running = start(["consume", stream, "--follow", "--values"], { url: service.url });
    await eventually("the first event comes", () => running.stdout === "1\n");
    await publish(2);
    await eventually("the second one too", () => running.stdout === "1\n2\n");
    running.kill("SIGINT");
    expect((await running.ended).code).toBe(0);
  });

  test("goes on behind the last event when the service was away", async () => {
    await publish(1);
    const other = await startService(service.nats.url);
    const running = start(["consume", stream, "--follow", "--values"], { url: other.url });
    await eventually("the first event comes", () => running.stdout === "1\n");
    await other[Symbol.asyncDispose]();
    await publish(2);
    await eventually("it tries again", () => running.stderr.includes("connecting again"));
    await using _next = await startService(service.nats.url, { PORT: String(other.port) });
    await eventually("the second event comes", () => running.stdout === "1\n2\n");
    running.kill("SIGTERM");
    expect((await running.ended).code).toBe(0);
  });

  test("goes on behind the last event when the service was killed", async () => {
    await publish(1);
    const env = { NATS_URL: service.nats.url };
    const other = await startServiceProcess(env);
    onTestFinished(() => other[Symbol.asyncDispose]());
    const running = start(["consume", stream, "--follow", "--values"], { url: other.url });
    await eventually("the first event comes", () => running.stdout === "1\n");
    other.kill("SIGKILL");
    await other.exited;
    await publish(2);
    await using _next = await startServiceProcess({ ...env, PORT: new URL(other.url).port });
    await eventually("the second event comes", () => running.stdout === "1\n2\n");
    running.kill("SIGINT");
    expect((await running.ended).code).toBe(0);
  });

  test("ends quietly when its reader has enough", async () => {
    await publish(...Array.from({ length: 50 }, (_, n) => n));
    const line = `millrace consume ${stream} --follow --values | head -3; echo "$\{PIPESTATUS[0]}"`;
    const running = shell(service.url, line);
    // The closed pipe shows at the next write.
    let done = false;
    void running.finally(() => {
      done = true;
    });
    await eventually("it ends", async () => {
      if (!done) await publish(0);
      return done;
    });
    expect((await running).stdout).toBe("0\n1\n2\n0\n");
  });

  test.each([
    ["a stream that there is not", ["nowhere"], 3, "STREAM_NOT_FOUND"],
    ["an offset beyond the end", ["--from", "7"], 4, "INVALID_OFFSET"],
    ["a position that is none", ["--from", "noon"], 2, '"noon" is not earliest'],
    ["a partition that there is not", ["--partition", "7"], 4, 'partition: "'],
    ["a filter that is no CEL", ["--filter", "value >"], 4, "filter"],
    ["a commit without a group", ["--commit"], 2, "--commit goes with --group"],
    ["an offset for a group", ["--group", "g", "--from", "3"], 2, "millrace groups seek g"],
  ])("refuses %s", async (_name, args, code, words) => {
    const ended = await run("consume", ...(args[0]!.startsWith("-") ? [stream] : []), ...args);
    expect([ended.code, ended.stdout, ended.stderr]).toEqual([code, "", expect.stringContaining(words)]);
  });
});

describe("consume in a group", () => {
  const committed = async (group: string) =>
    (await run("groups", "describe", group)).json[0].streams[0].partitions[0].committedOffset;

  test("goes on where the group was, and commits only what it was told to", async () => {
    const group = freshName("g");
    await publish(1, 2, 3);
    const read = async (...args: string[]) =>
      values((await run("consume", stream, "--group", group, "--values", ...args)).stdout);
    expect(await read()).toEqual([1, 2, 3]);
    expect(await committed(group)).toBeUndefined();
    expect(await read("--commit", "--max", "2")).toEqual([1, 2]);
    expect(await committed(group)).toBe(1);
    expect(await read("--commit")).toEqual([3]);
    expect(await committed(group)).toBe(2);
    expect(await read("--commit")).toEqual([]);
  });

  test("commits what it wrote when Ctrl-C ends it", async () => {
    const group = freshName("g");
    const running = start(["consume", stream, "--group", group, "--follow", "--commit", "--values"], {
      url: service.url,
    });
    await publish(1, 2, 3);
    await eventually("the events come", () => running.stdout === "1\n2\n3\n");
    running.kill("SIGINT");
    expect((await running.ended).code).toBe(0);
    expect(await committed(group)).toBe(2);
  });

  test("commits while it follows", async () => {
    const group = freshName("g");
    const running = start(["consume", stream, "--group", group, "--follow", "--commit"], { url: service.url });
    await publish(1);
    await eventually("the event is committed", async () => {
      const { code, json } = await run("groups", "describe", group);
      return code === 0 && json[0].streams[0].partitions[0].committedOffset === 0;
    });
    running.kill("SIGKILL");
  });

  test("two members share the partitions and lose nothing", async () => {
    const group = freshName("g");
    await run("streams", "update", stream, "--partitions", "4");
    const member = () => start(["consume", stream, "-g", group, "-f", "--commit", "--values"], { url: service.url });
    const members = [member(), member()];
    await eventually("both have partitions", async () => {
      const { json } = await run("groups", "describe", group);
      return (
        json[0]?.streams[0].members.filter(({ partitions }: { partitions: number[] }) => partitions.length === 2)
          .length === 2
      );
    });
    const all = Array.from({ length: 40 }, (_, n) => n);
    await run("publish", stream, ...all.map(String));
    const got = () => members.flatMap(({ stdout }) => values(stdout)).sort((a, b) => a - b);
    await eventually("all events come", () => got().length >= all.length);
    for (const one of members) one.kill("SIGINT");
    for (const one of members) expect((await one.ended).code).toBe(0);
    expect(got()).toEqual(all);
    expect((await run("groups", "describe", group)).json[0].lag).toBe(0);
  });

  test("commits a returned event by itself", async () => {
    const group = freshName("g");
    await publish(1, 2);
    await run("consume", stream, "--group", group, "--max", "2");
    const events = [{ stream, partition: 0, offset: 0 }];
    const answer = await fetch(`${service.url}/api/v1/consumers/${group}/nack`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ events }),
    });
    expect(answer.status).toBe(200);
    await eventually("it comes again and is done", async () => {
      const { json } = await run("consume", stream, "--group", group, "--commit");
      return json.some((event) => event.deliveryAttempt === 2 && event.value === 1);
    });
    const { json } = await run("groups", "describe", group);
    expect(json[0].streams[0].partitions[0]).toMatchObject({ committedOffset: 1, returned: 0, lag: 0 });
  });

  test("ends when it has no partition to read", async () => {
    const group = freshName("g");
    const first = start(["consume", stream, "-g", group, "-f"], { url: service.url });
    await eventually("the first has the partition", async () => {
      const { json } = await run("groups", "describe", group);
      return json[0]?.streams[0].members.length === 1;
    });
    expect(await run("consume", stream, "-g", group)).toMatchObject({ code: 0, stdout: "" });
    first.kill("SIGINT");
    await first.ended;
  });
});
