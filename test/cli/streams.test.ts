import { expect, test } from "vitest";
import { millrace, onTerminal } from "../support/cli.ts";
import { freshName, useService } from "../support/service.ts";
import { eventually } from "../support/wait.ts";

const service = useService();
const run = (...args: string[]) => millrace(service.url, ...args);

test("creates, describes, changes, lists and deletes a stream", async () => {
  const name = freshName();
  const created = await run(
    "streams",
    "create",
    name,
    "--partitions",
    "2",
    "--retention",
    "1h30m",
    "--max-bytes",
    "1GiB",
  );
  expect(created.code).toBe(0);
  expect(created.json[0]).toMatchObject({
    name,
    partitions: 2,
    config: { retentionMs: 5_400_000, maxBytes: 2 ** 30, compressionType: "none" },
  });
  expect((await run("streams", "create", name, "--partitions", "3")).code).toBe(4);

  const updated = await run("streams", "update", name, "--partitions", "3");
  expect(updated.json[0].partitionDetails).toHaveLength(3);
  expect((await run("streams", "describe", name)).json[0].partitions).toBe(3);
  expect((await run("streams", "list", "--prefix", name)).json).toMatchObject([{ name, partitions: 3 }]);

  const asked = await run("streams", "delete", name);
  expect([asked.code, asked.stderr]).toEqual([2, expect.stringContaining("--yes")]);
  expect((await run("streams", "delete", name, "--yes")).json[0]).toMatchObject({
    status: "deleted",
    streamName: name,
  });
  const gone = await run("streams", "describe", name);
  expect([gone.code, gone.stdout, gone.stderr]).toEqual([
    3,
    "",
    `millrace: stream "${name}" does not exist (STREAM_NOT_FOUND, 1001)\n`,
  ]);
});

test("writes tables with --table", async () => {
  const name = freshName();
  const created = await run("streams", "create", name, "--partitions", "2", "--retention", "7d", "--table");
  expect(created.stdout).toMatch(new RegExp(`^Stream +${name}\\n`));
  expect(created.stdout).toMatch(/^Events kept +7d$/m);
  expect(created.stdout).toMatch(/^PARTITION +LEADER +REPLICAS +FIRST +END +EVENTS$/m);
  const listed = await run("streams", "list", "--prefix", name, "--table");
  expect(listed.stdout).toMatch(new RegExp(`^STREAM .*\\n${name} +2 +1 +0 +0 B +7d\\n$`));
});

test.each([
  ["a span that is none", ["streams", "create", "a", "--retention", "soon"], "A span such as"],
  ["a size that is none", ["streams", "create", "a", "--max-bytes", "-1"], "A size such as"],
  ["a number beyond its bounds", ["streams", "create", "a", "--partitions", "1001"], "from 1 to 1000"],
  ["a word that is no choice", ["streams", "create", "a", "--compression", "zip"], "none, gzip, s2"],
  ["an update of nothing", ["streams", "update", "a"], "nothing to change"],
  ["a missing name", ["streams", "describe"], "missing required argument"],
])("refuses %s with exit code 2", async (_name, args, words) => {
  const { code, stdout, stderr } = await run(...args);
  expect([code, stdout, stderr]).toEqual([2, "", expect.stringContaining(words)]);
});

test("tells what the service refuses, field by field, with exit code 4", async () => {
  const { code, stderr } = await run("streams", "create", "no/name");
  expect([code, stderr]).toEqual([4, expect.stringMatching(/^millrace: name: .*\(INVALID_ARGUMENT, 1100\)\n$/)]);
  const asJson = await run("streams", "create", "no/name", "--json");
  expect(JSON.parse(asJson.stderr).error).toMatchObject({ code: 1100, message: "INVALID_ARGUMENT" });
});

test.each([
  ["y", "y\n", 0],
  ["n", "n\n", 1],
  ["Ctrl-D", "\x04", 1],
  ["Ctrl-C", "\x03", 130],
])("the question on a terminal ends with %s", async (_, typed, code) => {
  const name = freshName();
  await run("streams", "create", name);
  const asking = onTerminal(service.url, "streams", "delete", name);
  await eventually("the question", () => asking.stdout.includes("[y/N]"));
  asking.write(typed);
  expect((await asking.ended).code).toBe(code);
  expect((await run("streams", "describe", name)).code).toBe(code === 0 ? 3 : 0);
});
