import { expect, test } from "vitest";
import { onTerminal, start } from "../support/cli.ts";
import { freshName, useService } from "../support/service.ts";

const service = useService();
const run = (args: readonly string[], input = "") => start(args, { url: service.url, input }).ended;
const lines = (rows: readonly unknown[]) => rows.map((row) => `${JSON.stringify(row)}\n`).join("");

test("puts, gets, lists and deletes rows", async () => {
  const table = freshName();
  const value = { name: "Ann", tags: ["a", null], n: 1.5 };
  const put = await run(["tables", "put", table, "u/1", JSON.stringify(value)]);
  expect([put.code, put.stderr]).toEqual([0, ""]);
  expect(put.json).toEqual([{ key: "u/1", value, updatedAt: expect.any(String) }]);
  expect((await run(["tables", "get", table, "u/1"])).json).toEqual(put.json);
  expect((await run(["tables", "list", table])).json).toEqual(put.json);
  const asTable = await run(["--table", "tables", "list", table]);
  expect(asTable.stdout).toMatch(/^KEY +VALUE +UPDATED *\nu\/1 +\{"name":"Ann".*\}/);

  const asked = await run(["tables", "delete", table, "u/1"]);
  expect([asked.code, asked.stderr]).toEqual([2, expect.stringContaining("--yes")]);
  expect((await run(["tables", "delete", table, "u/1", "--yes"])).code).toBe(0);
  const absent = await run(["tables", "get", table, "u/1"]);
  expect([absent.code, absent.stdout]).toEqual([3, ""]);
  expect((await run(["--table", "tables", "list", table])).stdout).toBe(`Table "${table}" has no rows.\n`);
});

test("stores files of rows in pages, and copies a table through a pipe", async () => {
  const table = freshName();
  const rows = Array.from({ length: 2500 }, (_, n) => ({ key: `k${n}`, value: { n, text: "é".repeat(n % 50) } }));
  const put = await run(["tables", "put", table, "-f", "-"], lines(rows));
  expect([put.code, put.stderr]).toEqual([0, ""]);
  expect(put.json).toEqual([{ table, rowCount: rows.length }]);
  const listed = await run(["tables", "list", table]);
  const byKey = new Map(listed.json.map(({ key, value }) => [key, value]));
  expect(byKey).toEqual(new Map(rows.map(({ key, value }) => [key, value])));
  const copied = await run(["tables", "put", `${table}-2`, "-f", "-"], listed.stdout);
  expect(copied.json).toEqual([{ table: `${table}-2`, rowCount: rows.length }]);
});

test("takes keys out of values, by a path", async () => {
  const table = freshName();
  const values = [{ user: { id: 7 }, name: "Ann" }, { user: { id: "b" } }];
  expect((await run(["tables", "put", table, "--key-field", "user.id", "-f", "-"], lines(values))).code).toBe(0);
  expect((await run(["tables", "get", table, "7"])).json).toMatchObject([{ key: "7", value: values[0] }]);
  expect((await run(["tables", "get", table, "b"])).json).toMatchObject([{ key: "b", value: values[1] }]);
});

test.each([
  ["what is no JSON", '{"key":"a","value":1}\n{"key":', [], 2, "standard input, line 2:"],
  ["what is no row", '\n{"key":"a"}', [], 2, "standard input, line 2: it is no row"],
  ["a value without its key", '{"id":"a"}', ["--key-field", "user.id"], 2, 'line 1: its "user.id" is missing'],
  ["a key that no row may have", `{"key":"${"k".repeat(300)}","value":1}`, [], 4, "rows[0].key"],
])("stops at %s, and says how much is stored", async (_name, input, more, code, told) => {
  const table = freshName();
  const put = await run(["tables", "put", table, "-f", "-", ...more], input);
  expect([put.code, put.stdout]).toEqual([code, ""]);
  expect(put.stderr).toContain(told);
  expect(put.stderr).toMatch(/[01] rows are stored in /);
});

test.each([
  ["neither key nor file", []],
  ["both", ["k", "1", "-f", "-"]],
  ["a key alone", ["k"]],
  ["a value that is no JSON", ["k", "{"]],
  ["a file that is not there", ["-f", "/absent/rows.jsonl"]],
  ["--key-field without a file", ["k", "1", "--key-field", "id"]],
])("refuses %s as wrong usage", async (_name, args) => {
  const answer = await run(["tables", "put", freshName(), ...args]);
  expect([answer.code, answer.stdout]).toEqual([2, ""]);
  expect(answer.stderr).not.toBe("");
});

test("asks on a terminal before it deletes", async () => {
  const table = freshName();
  await run(["tables", "put", table, "k", "1"]);
  const asking = onTerminal(service.url, "tables", "delete", table, "k");
  await expect.poll(() => asking.stdout, { timeout: 15_000 }).toContain("Delete row");
  asking.write("y\n");
  expect((await asking.ended).code).toBe(0);
  expect((await run(["tables", "get", table, "k"])).code).toBe(3);
});
