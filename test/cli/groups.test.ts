import { beforeEach, expect, test } from "vitest";
import { millrace } from "../support/cli.ts";
import { freshName, useService } from "../support/service.ts";

const service = useService();
const run = (...args: string[]) => millrace(service.url, ...args);

let stream: string;
let group: string;
beforeEach(async () => {
  [stream, group] = [freshName(), freshName("g")];
  await run("streams", "create", stream);
  await run("publish", stream, "1", "2", "3");
});

const DEAD = ["--max-deliveries", "5", "--dead-letters", "dead"];

test("creates, lists, describes and deletes a group", async () => {
  const created = await run("groups", "create", group, stream, "--from", "1", "--ack-wait", "5s", ...DEAD);
  expect(created.json[0]).toMatchObject({
    consumerGroup: group,
    streams: [{ stream, config: { ackWait: 5000, maxDeliveries: 5 } }],
  });
  expect((await run("groups", "create", group, stream, "--ack-wait", "6s")).code).toBe(4);
  const listed = await run("groups", "list", "--stream", stream);
  expect(listed.json).toEqual([{ consumerGroup: group, streams: [stream], members: 0 }]);
  await run("consume", stream, "--group", group, "--commit", "--max", "1");
  const described = await run("groups", "describe", group);
  expect(described.json[0]).toMatchObject({
    state: "empty",
    lag: 1,
    streams: [{ partitions: [{ committedOffset: 1, endOffset: 3, lag: 1 }] }],
  });
  expect((await run("groups", "delete", group)).code).toBe(2);
  expect((await run("groups", "delete", group, "--yes")).json).toEqual([{ status: "deleted", consumerGroup: group }]);
  const gone = await run("groups", "describe", group);
  expect([gone.code, gone.stderr]).toEqual([3, expect.stringContaining("CONSUMER_GROUP_NOT_FOUND")]);
});

test("shows the lag in a table", async () => {
  await run("consume", stream, "--group", group, "--commit", "--max", "1");
  const { stdout } = await run("groups", "describe", group, "--table");
  expect(stdout).toMatch(/^Lag +2$/m);
  expect(stdout).toMatch(/^PARTITION +MEMBER +COMMITTED +NEXT +END +LAG +RETURNED +BEHIND\n +0 +0 +\d +3 +2 +0 +\S+$/m);
  expect((await run("groups", "list", "--stream", stream, "--table")).stdout).toMatch(
    new RegExp(`^GROUP +MEMBERS +STREAMS\\n${group} +0 +${stream}\\n$`),
  );
});

test.each([
  ["earliest", "1\n2\n3\n"],
  ["latest", ""],
  ["2", "3\n"],
  ["2001-01-01T00:00:00Z", "1\n2\n3\n"],
])("moves a group to %s", async (to, expected) => {
  await run("consume", stream, "--group", group, "--commit");
  const moved = await run("groups", "seek", group, stream, "--to", to, "--partition", "0");
  expect(moved.json).toMatchObject([{ consumerGroup: group, stream, partitions: [{ partition: 0 }] }]);
  expect((await run("consume", stream, "--group", group, "--values")).stdout).toBe(expected);
});

test("refuses a place that there is not, and a seek to nowhere", async () => {
  await run("consume", stream, "--group", group);
  expect((await run("groups", "seek", group, stream, "--to", "99")).code).toBe(4);
  expect((await run("groups", "seek", group, stream)).code).toBe(2);
  expect((await run("groups", "seek", "nobody", stream, "--to", "0")).code).toBe(3);
});
