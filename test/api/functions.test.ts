import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type Api, failureOf, protocols } from "../support/clients.ts";
import type { FunctionRequest, ProcessorApi } from "../support/processor-clients.ts";
import { freshName, useService } from "../support/service.ts";
import { eventually } from "../support/wait.ts";

const service = useService();
const LOOKUP = { table: "users", key: "userId", into: "user" };

describe.each(protocols)("functions over $name", ({ connect, isRest }) => {
  let api: Api;
  let calls: ProcessorApi;
  beforeAll(() => {
    api = connect(service.url);
    calls = api.processors;
  });
  afterAll(() => api[Symbol.asyncDispose]());

  const invalid = { code: 1100, name: "INVALID_ARGUMENT", httpOrGrpcStatus: isRest ? 400 : 3 };
  const notFound = { code: 1110, name: "RESOURCE_NOT_FOUND", httpOrGrpcStatus: isRest ? 404 : 5 };

  /** Runs one event through a map and gives what came out. */
  async function mapped(operation: { function?: string; project?: object }, value: unknown): Promise<unknown> {
    const source = freshName("in");
    await api.createStream({ name: source });
    await calls.create({ name: "p", source, sink: `${source}-out`, operations: [operation as never] });
    await api.publish(source, { value });
    const { events } = await eventually("a result", async () => {
      const page = await api.readPartition(`${source}-out`, 0);
      return page.events.length > 0 ? page : undefined;
    });
    return events[0]!.value;
  }

  test("a function is put, read, listed, used and deleted", async () => {
    const name = freshName("f");
    const body: FunctionRequest = { cel: { merge: { total: "value.a + value.b", a: '"gone"' } } };
    const made = await calls.putFunction(name, body);
    expect(made).toMatchObject({ name, ...body, origin: "installed", version: expect.stringMatching(/^[\w-]{16}$/) });
    expect(await calls.getFunction(name)).toEqual(made);
    expect((await calls.listFunctions({ pageSize: 1000 })).functions).toContainEqual(made);
    expect(await mapped({ function: name }, { a: 1, b: 2 })).toEqual({ a: "gone", b: 2, total: 3 });
    await calls.deleteFunction(name);
    expect(await failureOf(calls.getFunction(name))).toMatchObject(notFound);
    expect(await failureOf(calls.deleteFunction(name))).toMatchObject(notFound);
  });

  test("equal content has an equal version, and the same again changes nothing", async () => {
    const name = freshName("f");
    const first = await calls.putFunction(name, { cel: { expression: "value" } });
    expect(await calls.putFunction(name, { cel: { expression: "value" } })).toEqual(first);
    const other = await calls.putFunction(name, { cel: { expression: "value.a" } });
    expect(other.version).not.toBe(first.version);
    const twin = await calls.putFunction(freshName("f"), { cel: { expression: "value" } });
    expect(twin.version).toBe(first.version);
  });

  test("a processor keeps the version that it was created with, until it is updated", async () => {
    const name = freshName("f");
    const source = freshName("in");
    await api.createStream({ name: source });
    await calls.putFunction(name, { cel: { replace: { version: "1", n: "value.n" } } });
    const operations = [{ function: name }];
    const { processorId } = await calls.create({ name: "p", source, sink: `${source}-out`, operations });
    await calls.putFunction(name, { cel: { replace: { version: "2" } } });
    const results = (count: number) =>
      eventually(`${count} results`, async () => {
        const { events } = await api.readPartition(`${source}-out`, 0);
        return events.length >= count ? events.map(({ value }) => value) : undefined;
      });
    await api.publish(source, { value: { n: 1 } });
    expect(await results(1)).toEqual([{ version: 1, n: 1 }]);
    await calls.update(processorId, { operations });
    await calls.deleteFunction(name);
    await api.publish(source, { value: { n: 2 } });
    expect(await results(2)).toEqual([{ version: 1, n: 1 }, { version: 2 }]);
  });

  test("a lookup does with a missing row what it was told", async () => {
    const table = freshName("t");
    await calls.putRow(table, "u", { name: "Ann" });
    const [pass, toNull] = [freshName("f"), freshName("f")];
    const made = await calls.putFunction(pass, { lookup: { ...LOOKUP, table } });
    expect(made.lookup).toEqual({ ...LOOKUP, table, onMissing: "pass" });
    await calls.putFunction(toNull, { lookup: { ...LOOKUP, table, onMissing: "null" } });
    expect(await mapped({ function: pass }, { userId: "u" })).toEqual({ userId: "u", user: { name: "Ann" } });
    expect(await mapped({ function: pass }, { userId: "x" })).toEqual({ userId: "x" });
    expect(await mapped({ function: toNull }, { userId: "x" })).toEqual({ userId: "x", user: null });
  });

  test("a map may project by itself", async () => {
    expect(await mapped({ project: { replace: { n: "value.n + 1", k: "key" } } }, { n: 1, x: 2 })).toEqual({
      n: 2,
      k: null,
    });
    expect(await mapped({ project: { merge: { n: "value.n + 1" } } }, { n: 1, x: 2 })).toEqual({ n: 2, x: 2 });
  });

  test("the shipped function is listed, and not deleted", async () => {
    const shipped = await calls.getFunction("enrichWithUserData");
    expect(shipped).toMatchObject({ origin: "shipped", lookup: { table: "users", key: "value.userId", into: "user" } });
    const failure = await failureOf(calls.deleteFunction("enrichWithUserData"));
    expect(failure).toMatchObject({ ...invalid, details: [expect.objectContaining({ field: "name" })] });
  });

  test("the list comes in pages", async () => {
    const names = [freshName("page"), freshName("page"), freshName("page")];
    for (const name of names) await calls.putFunction(name, { cel: { expression: "value" } });
    const found: string[] = [];
    let pageToken: string | undefined;
    do {
      const page = await calls.listFunctions({ pageSize: 2, ...(pageToken === undefined ? {} : { pageToken }) });
      found.push(...page.functions.map(({ name }) => name));
      pageToken = page.nextPageToken;
    } while (pageToken !== undefined);
    expect(found).toEqual([...new Set(found)].sort());
    expect(found).toEqual(expect.arrayContaining(names));
  });

  test.each<[string, string, FunctionRequest, string]>([
    ["a name with a space", "a b", { cel: { expression: "value" } }, "name"],
    ["no body", "f", {}, "body"],
    ["an empty cel", "f", { cel: {} }, "cel"],
    ["two kinds of cel", "f", { cel: { expression: "value", merge: { a: "1" } } }, "cel"],
    ["an expression that does not parse", "f", { cel: { expression: "value." } }, "cel.expression"],
    ["a member that does not parse", "f", { cel: { merge: { a: "1 +", b: "1" } } }, "cel.merge.a"],
    ["an unknown variable", "f", { cel: { replace: { a: "valeu" } } }, "cel.replace.a"],
    ["a member without a name", "f", { cel: { replace: { "": "1" } } }, "cel.replace."],
    ["a table that can't be", "f", { lookup: { ...LOOKUP, table: "a.b" } }, "lookup.table"],
    ["a key that does not parse", "f", { lookup: { ...LOOKUP, key: "a b" } }, "lookup.key"],
    ["nothing to join into", "f", { lookup: { ...LOOKUP, into: "" } }, "lookup.into"],
  ])("%s is refused, the field named", async (_what, name, body, field) => {
    const failure = await failureOf(calls.putFunction(name, body));
    expect(failure).toMatchObject(invalid);
    expect(failure.details.map((detail) => detail.field)).toContain(field);
  });
});
