import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type Api, failureOf, type NewEvent, protocols } from "../support/clients.ts";
import { freshName, useService } from "../support/service.ts";

const service = useService();

describe.each(protocols)("a batch over $name", ({ connect, isRest }) => {
  let api: Api;
  beforeAll(() => {
    api = connect(service.url);
  });
  afterAll(() => api[Symbol.asyncDispose]());

  const invalid = { code: 1100, name: "INVALID_ARGUMENT", httpOrGrpcStatus: isRest ? 400 : 3 };

  const streamOf = async (settings: object = {}): Promise<string> => {
    const name = freshName();
    await api.createStream({ name, ...settings });
    return name;
  };
  const numbered = (count: number, more: NewEvent = {}): NewEvent[] =>
    Array.from({ length: count }, (_, n) => ({ ...more, value: n }));

  test("answers every event in the order of the request", async () => {
    const stream = await streamOf({ partitions: 4 });
    const events = Array.from({ length: 50 }, (_, n) => ({ eventId: `e${n}`, key: `k${n % 9}`, value: n }));
    const answer = await api.publishBatch(stream, events);
    expect(answer).toMatchObject({ totalEvents: 50, successCount: 50, failureCount: 0 });
    expect(answer.batchId).toMatch(/^batch_/);
    expect(answer.results.map(({ eventId }) => eventId)).toEqual(events.map(({ eventId }) => eventId));
    for (const [n, { partition, offset }] of answer.results.entries()) {
      const [event] = (await api.readPartition(stream, partition!, { offset: offset!, limit: 1 })).events;
      expect(event).toMatchObject({ eventId: `e${n}`, value: n });
    }
  });

  test("gives the events of one partition consecutive offsets", async () => {
    const stream = await streamOf();
    const { results } = await api.publishBatch(stream, numbered(100));
    expect(results.map(({ offset }) => offset)).toEqual(Array.from({ length: 100 }, (_, n) => n));
  });

  test("stores the good events beside bad ones, each with its error", async () => {
    const stream = await streamOf({ partitions: 2, config: { maxMessageBytes: 100 } });
    const { results, ...counts } = await api.publishBatch(stream, [
      { eventId: "a", partition: 0, value: 1 },
      { eventId: "no-payload" },
      { eventId: "key", key: "x".repeat(1025), value: 1 },
      { eventId: "large", value: "x".repeat(200) },
      { eventId: "no-json", data: Uint8Array.of(0x7b), contentType: "application/json" },
      { eventId: "partition", partition: 2, value: 1 },
      { eventId: "expected", partition: 0, expectedOffset: 7, value: 1 },
      { eventId: "b", partition: 0, value: 2 },
    ]);
    expect(counts).toMatchObject({ totalEvents: 8, successCount: 2, failureCount: 6 });
    expect(results.map(({ eventId }) => eventId)).toEqual([
      ...["a", "no-payload", "key", "large", "no-json", "partition", "expected", "b"],
    ]);
    expect(results.map(({ error, offset }) => error?.code ?? offset)).toEqual([
      ...[0, 1100, 1100, 1004, 1004, 1100, 1104, 1],
    ]);
    for (const { error, offset, partition } of results) {
      if (!error) continue;
      expect(offset).toBeUndefined();
      expect(partition).toBeUndefined();
      expect(error.message).toMatch(/^[A-Z_]+$/);
      expect(error.description).not.toBe("");
    }
    expect(results[1]!.error!.details).toContainEqual(expect.objectContaining({ field: "events[1].value" }));
    expect(results[2]!.error!.details).toContainEqual(expect.objectContaining({ field: "events[2].key" }));
    expect(results[5]!.error!.description).toMatch(/^events\[5\]\.partition: /);
    expect(results[5]!.error!.details).toContainEqual(expect.objectContaining({ field: "events[5].partition" }));
    expect(results[6]!.error!.details).toContainEqual(
      expect.objectContaining({ field: "events[6].expectedOffset", endOffset: expect.any(Number) }),
    );
    expect((await api.getStream(stream)).totalMessages).toBe(2);
  });

  test("in which all fail is answered with their errors", async () => {
    const stream = await streamOf();
    const answer = await api.publishBatch(stream, [{}, { key: "k" }]);
    expect(answer).toMatchObject({ totalEvents: 2, successCount: 0, failureCount: 2 });
  });

  test("with an id twice stores it once", async () => {
    const stream = await streamOf();
    const { results, successCount } = await api.publishBatch(stream, [
      { eventId: "id", value: 1 },
      { eventId: "other", value: 2 },
      { eventId: "id", value: 3 },
    ]);
    expect(successCount).toBe(3);
    expect(results).toEqual([
      { eventId: "id", partition: 0, offset: 0 },
      { eventId: "other", partition: 0, offset: 1 },
      { eventId: "id", partition: 0, offset: 0, duplicate: true },
    ]);
  });

  test("repeated answers the same places", async () => {
    const stream = await streamOf({ partitions: 3 });
    const events = Array.from({ length: 10 }, (_, n) => ({ eventId: `e${n}`, value: n }));
    const first = await api.publishBatch(stream, events);
    const again = await api.publishBatch(stream, events);
    expect(again.results).toEqual(first.results.map((result) => ({ ...result, duplicate: true })));
    expect((await api.getStream(stream)).totalMessages).toBe(10);
  });

  test("with expected offsets is a chain", async () => {
    const stream = await streamOf();
    const events = [0, 1, 1, 2].map((expectedOffset) => ({ partition: 0, expectedOffset, value: 1 }));
    const { results } = await api.publishBatch(stream, events);
    expect(results.map(({ error, offset }) => error?.code ?? offset)).toEqual([0, 1, 1104, 2]);
  });

  test("of 10000 events is stored, one more is refused", async () => {
    const stream = await streamOf({ partitions: 2 });
    const events = numbered(10_000, { key: "k" });
    expect(await api.publishBatch(stream, events)).toMatchObject({ totalEvents: 10_000, successCount: 10_000 });
    expect(await failureOf(api.publishBatch(stream, [...events, { value: 1 }]))).toMatchObject(invalid);
    expect((await api.getStream(stream)).totalMessages).toBe(10_000);
  });

  test("without events is refused", async () => {
    const failure = await failureOf(api.publishBatch(await streamOf(), []));
    expect(failure).toMatchObject(invalid);
    expect(failure.details[0]).toMatchObject({ field: "events" });
  });

  test.each([0, -1, 120_001])("with a timeout of %d ms is refused", async (timeout) => {
    const failure = await failureOf(api.publishBatch(await streamOf(), numbered(1), { timeout }));
    expect(failure).toMatchObject(invalid);
    expect(failure.details[0]).toMatchObject({ field: "options.timeout" });
  });

  test("with the longest timeout is stored", async () => {
    expect(await api.publishBatch(await streamOf(), numbered(3), { timeout: 120_000 })).toMatchObject({
      successCount: 3,
    });
  });

  test("with a compression that batches do not have is refused", async () => {
    const failure = await failureOf(api.publishBatch(await streamOf(), numbered(1), { compression: "s2" }));
    expect(failure).toMatchObject(invalid);
    expect(failure.details[0]).toMatchObject({ field: "options.compression" });
  });

  describe("with compression gzip", () => {
    const text = "the same words again and again, ".repeat(200);
    const bytes = new TextEncoder().encode(text.repeat(5)); // over the size that is compressed aside

    test("is stored smaller and read back equal", async () => {
      const [plain, packed] = [await streamOf(), await streamOf()];
      const events: NewEvent[] = [
        { key: "k", headers: { a: "b" }, value: { text } },
        { data: bytes, contentType: "text/plain" },
        { value: "small" },
      ];
      await api.publishBatch(plain, events, { compression: "none" });
      await api.publishBatch(packed, events, { compression: "gzip" });
      const sizes = await Promise.all([plain, packed].map(async (name) => (await api.getStream(name)).totalSize));
      expect(sizes[1]).toBeLessThan(sizes[0]! / 5);
      const read = (await api.readPartition(packed, 0)).events;
      expect(read[0]).toMatchObject({ key: "k", headers: { a: "b" }, value: { text } });
      expect(read[1]).toMatchObject({ data: bytes, contentType: "text/plain" });
      expect(read[2]).toMatchObject({ value: "small" });
      const { events: polled } = await api.poll(packed, "g");
      expect(polled.map(({ eventId, value, data }) => ({ eventId, value, data }))).toEqual(
        read.map(({ eventId, value, data }) => ({ eventId, value, data })),
      );
    });

    test.each(["gzip", "s2"] as const)("of the stream, %s, holds for single events too", async (compressionType) => {
      const [plain, packed] = [await streamOf(), await streamOf({ config: { compressionType } })];
      const events: NewEvent[] = [{ value: text }, { data: bytes, contentType: "text/plain" }, { value: "small" }];
      for (const stream of [plain, packed]) for (const event of events) await api.publish(stream, event);
      const sizes = await Promise.all([plain, packed].map(async (name) => (await api.getStream(name)).totalSize));
      expect(sizes[1]).toBeLessThan(sizes[0]! / 5);
      expect((await api.readPartition(packed, 0)).events).toMatchObject(events);
    });

    test("does not let a larger event in", async () => {
      const stream = await streamOf({ config: { maxMessageBytes: 1000 } });
      const { results } = await api.publishBatch(stream, [{ value: text }], { compression: "gzip" });
      expect(results[0]!.error).toMatchObject({ code: 1004 });
    });
  });

  describe("that is atomic", () => {
    const atomic = { atomic: true };

    test("is stored as one run of one partition", async () => {
      const stream = await streamOf({ partitions: 3 });
      const { results, successCount } = await api.publishBatch(stream, numbered(20, { key: "user-123" }), atomic);
      expect(successCount).toBe(20);
      expect(new Set(results.map(({ partition }) => partition)).size).toBe(1);
      expect(results.map(({ offset }) => offset)).toEqual(Array.from({ length: 20 }, (_, n) => n));
      expect((await api.getStream(stream)).totalMessages).toBe(20);
    });

    test("takes events without key to where the others go", async () => {
      const stream = await streamOf({ partitions: 3 });
      const { results } = await api.publishBatch(stream, [{ value: 1 }, { partition: 2, value: 2 }], atomic);
      expect(results.map(({ partition }) => partition)).toEqual([2, 2]);
      const alone = await api.publishBatch(stream, numbered(5), atomic);
      expect(new Set(alone.results.map(({ partition }) => partition)).size).toBe(1);
    });

    test.each<[string, NewEvent]>([
      ["has no payload", { key: "k" }],
      ["names a partition that is none", { partition: 7, value: 1 }],
      ["is too large", { key: "k", value: "x".repeat(200) }],
      ["is no JSON as it says", { key: "k", data: Uint8Array.of(0x7b), contentType: "application/json" }],
    ])("stores nothing when an event %s", async (_what, bad) => {
      const stream = await streamOf({ config: { maxMessageBytes: 100 } });
      const answer = await api.publishBatch(stream, [{ key: "k", value: 1 }, bad, { key: "k", value: 2 }], atomic);
      expect(answer).toMatchObject({ totalEvents: 3, successCount: 0, failureCount: 3 });
      const codes = answer.results.map(({ error }) => error?.code);
      expect(codes[1]).toSatisfy((code) => code === 1100 || code === 1004);
      expect([codes[0], codes[2]]).toEqual([1104, 1104]);
      expect((await api.getStream(stream)).totalMessages).toBe(0);
    });

    test("for several partitions is refused", async () => {
      const stream = await streamOf({ partitions: 3 });
      const events = [0, 1].map((partition) => ({ partition, value: 1 }));
      const failure = await failureOf(api.publishBatch(stream, events, atomic));
      expect(failure).toMatchObject(invalid);
      expect(failure.details[0]).toMatchObject({ field: "options.atomic" });
      expect((await api.getStream(stream)).totalMessages).toBe(0);
    });

    test("of 1000 events is stored, of 1001 refused", async () => {
      const stream = await streamOf();
      expect(await api.publishBatch(stream, numbered(1000), atomic)).toMatchObject({ successCount: 1000 });
      expect(await failureOf(api.publishBatch(stream, numbered(1001), atomic))).toMatchObject(invalid);
      expect((await api.getStream(stream)).totalMessages).toBe(1000);
    });

    test("repeated is a duplicate as a whole", async () => {
      const stream = await streamOf();
      const events = ["a", "b", "c"].map((eventId) => ({ eventId, value: eventId }));
      const first = await api.publishBatch(stream, events, atomic);
      const again = await api.publishBatch(stream, events, atomic);
      expect(again.results).toEqual(first.results.map((result) => ({ ...result, duplicate: true })));
      expect((await api.getStream(stream)).totalMessages).toBe(3);
    });

    test("in which an id comes twice is refused", async () => {
      const stream = await streamOf();
      const events = ["a", "b", "a"].map((eventId) => ({ eventId, value: eventId }));
      const failure = await failureOf(api.publishBatch(stream, events, atomic));
      expect(failure).toMatchObject(invalid);
      expect(failure.details[0]).toMatchObject({ field: "events[2].eventId" });
      expect((await api.getStream(stream)).totalMessages).toBe(0);
    });

    test("in which only some ids are new is refused", async () => {
      const stream = await streamOf();
      await api.publish(stream, { eventId: "a", value: 1 });
      const events = ["a", "b"].map((eventId) => ({ eventId, value: eventId }));
      const failure = await failureOf(api.publishBatch(stream, events, atomic));
      expect(failure).toMatchObject({ code: 1101, httpOrGrpcStatus: isRest ? 409 : 6 });
      expect((await api.getStream(stream)).totalMessages).toBe(1);
    });

    test("begins at the expected offset or not at all", async () => {
      const stream = await streamOf();
      const from = (start: number) =>
        api.publishBatch(
          stream,
          [0, 1, 2].map((n) => ({ partition: 0, expectedOffset: start + n, value: n })),
          atomic,
        );
      expect((await from(0)).results.map(({ offset }) => offset)).toEqual([0, 1, 2]);
      const failure = await failureOf(from(1));
      expect(failure).toMatchObject({ code: 1104, httpOrGrpcStatus: isRest ? 412 : 9 });
      expect(failure.details).toContainEqual(expect.objectContaining({ endOffset: 3 }));
      expect((await api.getStream(stream)).totalMessages).toBe(3);
    });

    test("with compression is stored smaller and read back equal", async () => {
      const stream = await streamOf();
      const value = "again and again ".repeat(2000);
      await api.publishBatch(stream, [{ value }, { value }], { ...atomic, compression: "gzip" });
      expect((await api.getStream(stream)).totalSize).toBeLessThan(value.length / 5);
      expect((await api.readPartition(stream, 0)).events.map((event) => event.value)).toEqual([value, value]);
    });
  });
});
