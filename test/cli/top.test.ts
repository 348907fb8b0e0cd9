import { expect, test } from "vitest";
import { millrace, start } from "../support/cli.ts";
import { freshName, useService } from "../support/service.ts";
import { eventually } from "../support/wait.ts";

const service = useService();
const run = (...args: string[]) => millrace(service.url, ...args);

test("shows rates and lag, look after look", async () => {
  const [stream, group] = [freshName(), freshName("g")];
  await run("streams", "create", stream);
  await run("publish", stream, "1", "2", "3");
  await run("consume", stream, "--group", group, "--commit", "--max", "2");
  const running = start(["top", "--interval", "1", "--json"], { url: service.url });
  await eventually("the first look", () => running.stdout.includes("\n"));
  await run("publish", stream, "4", "5");
  const lines = () => running.stdout.trim().split("\n");
  await eventually("a rate", () =>
    lines().some((line) =>
      JSON.parse(line).streams.some((row: { publishedPerSecond?: number }) => row.publishedPerSecond! > 0),
    ),
  );
  running.kill("SIGINT");
  const { code, json } = await running.ended;
  expect(code).toBe(0);
  expect(json[0]).toMatchObject({
    streams: [{ stream, partitions: 1, events: 3 }],
    groups: [{ group, stream, state: "empty", members: 0, lag: 1 }],
  });
  expect(json.at(-1)).toMatchObject({ streams: [{ events: 5 }], groups: [{ lag: 3, readPerSecond: 0 }] });
});

test("shows tables, of one stream, and ends after --count", async () => {
  const stream = freshName();
  await run("streams", "create", stream);
  const { code, stdout } = await run("top", "--stream", stream, "--count", "1", "--table");
  expect(code).toBe(0);
  expect(stdout).toBe(
    `STREAM${" ".repeat(stream.length - 6)}  PARTITIONS  EVENTS  SIZE  PUBLISHED/S\n${stream}           1       0  0 B   -\n\nThere are no consumer groups.\n\n`,
  );
  expect((await run("top", "--stream", "nowhere")).code).toBe(3);
});
