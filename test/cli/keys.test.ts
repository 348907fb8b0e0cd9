import { expect, test } from "vitest";
import { start } from "../support/cli.ts";
import { freshName, useService } from "../support/service.ts";

const ADMIN = "an-admin-key-of-more-than-32-characters";
const service = useService({ MILLRACE_ADMIN_KEY: ADMIN });
const as = (key: string, ...args: string[]) =>
  start(args, { url: service.url, env: { MILLRACE_API_KEY: key }, input: "" }).ended;

test("makes, lists and revokes keys, and calls with them", async () => {
  const created = await as(ADMIN, "keys", "create", "billing", "--right", "manage:a-*", "group:b", "--expires", "90d");
  expect([created.code, created.stderr]).toEqual([0, ""]);
  const [{ key, secret }] = created.json;
  expect(key).toMatchObject({ name: "billing", rights: ["manage:a-*", "group:b"] });
  expect(Date.parse(key.expiresAt) - Date.parse(key.createdAt)).toBeGreaterThan(89 * 86_400_000);
  expect(secret).toMatch(/^mrk_[0-9a-f]{16}_/);

  expect((await as(secret, "streams", "create", "a-1")).code).toBe(0);
  const refused = await as(secret, "streams", "create", "b-1");
  expect(refused.code).not.toBe(0);
  expect(refused.stderr).toContain("no right to manage");
  const listed = await as(ADMIN, "keys", "list");
  expect(listed.json).toEqual([key]);
  expect(listed.stdout).not.toContain(secret);

  const asked = await as(ADMIN, "keys", "revoke", key.keyId);
  expect([asked.code, asked.stderr]).toEqual([2, expect.stringContaining("--yes")]);
  expect((await as(ADMIN, "keys", "revoke", key.keyId, "--yes")).json[0]).toMatchObject({ status: "revoked" });
  expect((await as(ADMIN, "keys", "list")).json).toEqual([]);
  const after = await as(secret, "streams", "list");
  expect(after.code).not.toBe(0);
  expect(after.stderr).toContain("not valid");
});

test("says what is wrong with a right", async () => {
  const answer = await as(ADMIN, "keys", "create", "x", "--right", "read:everything");
  expect(answer.code).toBe(4);
  expect(answer.stderr).toContain("rights[0]");
});

test("top shows a reader of streams what it may see, without processors", async () => {
  const name = freshName();
  await as(ADMIN, "streams", "create", name);
  const created = await as(ADMIN, "keys", "create", "reader", "--right", `consume:${name}`);
  const { code, stderr, json } = await as(created.json[0].secret, "top", "--count", "1");
  expect([code, stderr]).toEqual([0, ""]);
  expect(json).toMatchObject([{ streams: [{ stream: name }], groups: [], processors: [] }]);
});

test("a key that is set to nothing is not sent", async () => {
  const { code, stderr } = await as("", "streams", "list");
  expect(code).toBe(5);
  expect(stderr).not.toContain("header must be");
});

test.each(["mrk_\u20ac", "two words", "mrk_a\nb"])(
  "what can't be a key is exit code 2 and is not shown: %j",
  async (key) => {
    const { code, stderr } = await as(key, "streams", "list");
    expect([code, stderr]).toEqual([2, expect.stringContaining("API key")]);
    expect(stderr).not.toContain(key.slice(-3));
  },
);
