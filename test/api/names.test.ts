import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type Api, ApiFailure, protocols } from "../support/clients.ts";
import { freshName, useService } from "../support/service.ts";

const service = useService();

const HALF = ["\ud800", "a\udc00b"];
const CONTROLS = ["\u0000", "a\u0000b", "\t", "a\nb", "\r\nX: y", "\u001f", "\u007f", "\u0085", "\u009f"];
/** Steps of a path, which never leave a client that resolves paths. */
const STEPS = [".", ".."];
const TEXTS = [
  ...["...", "a.b", ".a", "a.", "*", ">", "a.*", "a.>", "$SYS", "$JS.API.>", "_INBOX.x", "$KV.mr_groups.x"],
  ...[" ", " a ", "a b", "a/b", "/", "\\", "a\\b", "../../etc", "%2e%2e", "%", "%00", "a%20b", "+", "a+b", "=", "=2e"],
  ...[
    "a&b=c",
    "a?b",
    "a#b",
    "a;b",
    "a:b",
    "a@b",
    "[a]",
    "{a}",
    "'",
    '"',
    "`",
    "~",
    "|",
    "^",
    "<a>",
    "é",
    "e\u0301",
    "日本",
  ],
  ...[
    "😀",
    "\u200b",
    "\u202eabc",
    "\ufeffa",
    "\uffff",
    "\u2028",
    "constructor",
    "__proto__",
    "CON",
    "null",
    "true",
    "-",
    "_",
  ],
];
const LONG = "x".repeat(128);
const TOO_LONG = ["x".repeat(129), "é".repeat(65), "x".repeat(3000)];

describe.each(protocols)("names over $name", ({ connect, isRest }) => {
  let api: Api;
  beforeAll(() => {
    api = connect(service.url);
  });
  afterAll(() => api[Symbol.asyncDispose]());

  /** What became of a call: its answer or its failure; an error of the client itself is given as that. */
  const ended = <T>(call: Promise<T>): Promise<T | ApiFailure | "refused by the client"> =>
    call.catch((error: unknown) => {
      if (error instanceof ApiFailure) return error;
      expect(String(error)).toContain("invalid UTF8");
      expect(isRest).toBe(false);
      return "refused by the client" as const;
    });
  const refused = (outcome: unknown, codes = [1100]) => {
    if (outcome === "refused by the client") return;
    expect(outcome).toBeInstanceOf(ApiFailure);
    expect(codes).toContain((outcome as ApiFailure).code);
  };
  /** In a path `.` and `..` are steps to some clients, and an empty part makes another path. */
  const pathCodes = isRest ? [1100, 1108, 1109] : [1100];

  describe("of streams", () => {
    const plain = /^[A-Za-z0-9_-]{1,128}$/;
    const hostile = ["", ...STEPS, ...TEXTS.filter((text) => !plain.test(text)), ...CONTROLS, ...HALF, ...TOO_LONG];

    test.each(hostile.map((text) => [text]))("can't be %j", async (name) => {
      refused(await ended(api.createStream({ name })));
      if (!(isRest && name === "")) refused(await ended(api.getStream(name)), pathCodes);
      refused(await ended(api.publish(name, { value: 1 })), pathCodes);
      refused(await ended(api.commit("g", [{ stream: name, partition: 0, offset: 0 }])));
    });

    test.each(["-", "_", "0", "A-b_9", `${freshName()}-CON`, LONG])("may be %j", async (text) => {
      // Streams are for the whole file, hence a name of the same form for each protocol.
      const unique = `${freshName()}${text}`.slice(-128);
      await api.createStream({ name: unique });
      await api.publish(unique, { value: 1 });
      expect((await api.getStream(unique)).totalMessages).toBe(1);
      expect((await api.poll(unique, "g", { timeout: 0 })).events).toHaveLength(1);
      await api.deleteStream(unique);
    });

    test("differ by case", async () => {
      const name = freshName("case");
      await api.createStream({ name });
      await api.createStream({ name: name.toUpperCase(), partitions: 2 });
      expect((await api.getStream(name)).partitions).toBe(1);
    });
  });

  describe("of groups", () => {
    const stream = freshName();
    beforeAll(async () => {
      await api.createStream({ name: stream });
      await api.publish(stream, { value: 1 });
    });

    test.each([...TEXTS, LONG, "é".repeat(64), "a", "A"].map((text) => [text]))("may be %j", async (group) => {
      const { events, metadata } = await api.poll(stream, group, { timeout: 0 });
      expect(metadata.consumerGroup).toBe(group);
      expect(events).toHaveLength(1); // no other group's position
      await api.commit(group, [{ stream, partition: 0, offset: 0 }]);
      const again = await api.poll(stream, group, { timeout: 0 });
      expect(again.metadata.partitions[0]).toMatchObject({ committedOffset: 0 });
    });

    test.each(["", ...STEPS, ...CONTROLS, ...TOO_LONG].map((text) => [text]))("can't be %j", async (group) => {
      refused(await ended(api.poll(stream, group, { timeout: 0 })));
      if (isRest && group === "") return;
      refused(await ended(api.commit(group, [{ stream, partition: 0, offset: 0 }])), pathCodes);
    });

    test.each(HALF)("can't be %j", async (group) => {
      const outcome = await ended(api.poll(stream, group, { timeout: 0 }));
      // In a query and in UTF-8 the client has replaced it.
      if (!(outcome instanceof ApiFailure) && outcome !== "refused by the client")
        expect(outcome.metadata.consumerGroup).toBe(group.toWellFormed());
      else refused(outcome);
    });
  });

  test("of keys and headers may be any text", async () => {
    const stream = freshName();
    await api.createStream({ name: stream });
    const texts = [...STEPS, ...TEXTS, ...CONTROLS, LONG];
    const events = texts.map((text, n) => ({ key: text, headers: { [text]: text }, value: n }));
    expect(await api.publishBatch(stream, events)).toMatchObject({ failureCount: 0 });
    const read = (await api.readPartition(stream, 0, { limit: 1000 })).events;
    expect(read.map(({ key }) => key)).toEqual(texts);
    expect(read.map(({ headers }) => Object.entries(headers!))).toEqual(texts.map((text) => [[text, text]]));
    const polled = (await api.poll(stream, "g", { timeout: 0, limit: 1000 })).events;
    expect(polled.map(({ key, headers }) => [key, Object.entries(headers!)])).toEqual(
      texts.map((text) => [text, [[text, text]]]),
    );
  });
});
