import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type Api, failureOf, type PollAnswer, protocols, rawRequest } from "../support/clients.ts";
import { freshName, startService, type TestService, useService } from "../support/service.ts";
import { eventually } from "../support/wait.ts";

/** Short, so that what is not committed comes again within a test. */
const ACK_WAIT_MS = 1000;
const service = useService();

const now = { timeout: 0 };
const valuesOf = ({ events }: { events: readonly { value?: unknown }[] }) => events.map(({ value }) => value);
const range = (from: number, to: number) => Array.from({ length: to - from }, (_, n) => from + n);

describe.each(protocols)("offsets over $name", ({ connect, isRest }) => {
  let api: Api;
  beforeAll(() => {
    api = connect(service.url);
  });
  afterAll(() => api[Symbol.asyncDispose]());

  const invalid = { code: 1100, name: "INVALID_ARGUMENT", httpOrGrpcStatus: isRest ? 400 : 3 };
  const badOffset = { code: 1002, name: "INVALID_OFFSET", httpOrGrpcStatus: isRest ? 400 : 11 };
  const noGroup = { code: 1003, name: "CONSUMER_GROUP_NOT_FOUND", httpOrGrpcStatus: isRest ? 404 : 5 };

  /** A stream whose partition p holds the first `counts[p]` numbers. */
  const streamOf = async (...counts: number[]): Promise<string> => {
    const name = freshName();
    await api.createStream({ name, partitions: counts.length });
    const events = counts.flatMap((count, partition) => range(0, count).map((value) => ({ partition, value })));
    if (events.length > 0) expect((await api.publishBatch(name, events)).failureCount).toBe(0);
    return name;
  };
  /** A stream of three events for all calls that are refused and change nothing. */
  let untouched: Promise<string> | undefined;
  const refusing = (): Promise<string> => {
    untouched ??= streamOf(3);
    return untouched;
  };
  const placesOf = ({ metadata }: PollAnswer) =>
    metadata.partitions.map(({ partition, nextOffset, lag, committedOffset }) => [
      partition,
      nextOffset,
      lag,
      committedOffset,
    ]);

  describe("a commit", () => {
    test("takes the last event processed and echoes it", async () => {
      const stream = await streamOf(5);
      await api.poll(stream, "g", now);
      const offsets = [{ stream, partition: 0, offset: 2 }];
      expect(await api.commit("g", offsets)).toEqual({ status: "committed", committedOffsets: offsets });
      expect(placesOf(await api.poll(stream, "g", now))).toEqual([[0, 5, 0, 2]]);
    });

    test("of several streams and partitions is one call", async () => {
      const [one, two] = [await streamOf(3, 3), await streamOf(2)];
      await api.poll(one, "g", now);
      await api.poll(two, "g", now);
      await api.commit("g", [
        { stream: two, partition: 0, offset: 0 },
        { stream: one, partition: 1, offset: 2 },
        { stream: one, partition: 0, offset: 1 },
      ]);
      expect(placesOf(await api.poll(one, "g", now)).map(([, , , committed]) => committed)).toEqual([1, 2]);
      expect(placesOf(await api.poll(two, "g", now)).map(([, , , committed]) => committed)).toEqual([0]);
    });

    test("applies nothing when one entry is bad", async () => {
      const stream = await streamOf(3, 3);
      await api.poll(stream, "g", now);
      const good = { stream, partition: 0, offset: 2 };
      const bad = [
        [{ stream, partition: 1, offset: 3 }, badOffset],
        [{ stream: freshName("none"), partition: 0, offset: 0 }, { code: 1001 }],
        [{ stream, partition: 2, offset: 0 }, invalid],
        [{ stream, partition: 0, offset: 1 }, invalid],
      ] as const;
      for (const [entry, failure] of bad)
        expect(await failureOf(api.commit("g", [good, entry]))).toMatchObject(failure);
      expect(placesOf(await api.poll(stream, "g", now)).map(([, , , committed]) => committed)).toEqual([
        undefined,
        undefined,
      ]);
    });

    test("of an unknown group is refused", async () => {
      const stream = await streamOf(1);
      expect(await failureOf(api.commit(freshName("g"), [{ stream, partition: 0, offset: 0 }]))).toMatchObject(noGroup);
    });

    test.each([3, 4, Number.MAX_SAFE_INTEGER])("of offset %d at end offset 3 is refused", async (offset) => {
      const stream = await streamOf(3);
      await api.poll(stream, "g", now);
      expect(await failureOf(api.commit("g", [{ stream, partition: 0, offset }]))).toMatchObject(badOffset);
    });

    test.runIf(isRest)("that names no partition is refused", async () => {
      const stream = await streamOf(3);
      await api.poll(stream, "g", now);
      for (const entry of [
        { stream, offset: 0 },
        { stream, partition: null, offset: 0 },
      ]) {
        const body = JSON.stringify({ offsets: [entry] });
        const answer = await rawRequest(service.url, "POST", "/api/v1/consumers/g/commit", body);
        expect(answer.status).toBe(400);
        expect(answer.json().error).toMatchObject({ code: 1100, details: [{ field: "offsets[0].partition" }] });
      }
      expect(placesOf(await api.poll(stream, "g", now))).toEqual([[0, 3, 0, undefined]]);
    });

    test("of a negative offset is refused", async () => {
      const stream = await streamOf(3);
      await api.poll(stream, "g", now);
      const failure = await failureOf(api.commit("g", [{ stream, partition: 0, offset: -1 }]));
      expect(failure.code).toSatisfy((code) => code === 1002 || code === 1100);
    });

    test("ahead of the position skips", async () => {
      const stream = await streamOf(10);
      await api.poll(stream, "g", { ...now, limit: 2 });
      await api.commit("g", [{ stream, partition: 0, offset: 6 }]);
      const answer = await api.poll(stream, "g", now);
      expect(valuesOf(answer)).toEqual([7, 8, 9]);
      expect(placesOf(answer)).toEqual([[0, 10, 0, 6]]);
    });

    test("behind the committed offset goes back", async () => {
      const stream = await streamOf(6);
      await api.poll(stream, "g", now);
      await api.commit("g", [{ stream, partition: 0, offset: 5 }]);
      await api.commit("g", [{ stream, partition: 0, offset: 1 }]);
      expect(valuesOf(await api.poll(stream, "g", now))).toEqual([2, 3, 4, 5]);
    });

    test("repeated is the same commit", async () => {
      const stream = await streamOf(3);
      await api.poll(stream, "g", now);
      const offsets = [{ stream, partition: 0, offset: 2 }];
      await api.commit("g", offsets);
      await api.commit("g", offsets);
      expect(valuesOf(await api.poll(stream, "g", now))).toEqual([]);
    });

    test("of a partition that was never polled is honoured", async () => {
      const stream = await streamOf(3, 4);
      await api.poll(stream, "g", { ...now, partition: [0] });
      await api.commit("g", [{ stream, partition: 1, offset: 1 }]);
      expect(valuesOf(await api.poll(stream, "g", { ...now, partition: [1] }))).toEqual([2, 3]);
    });

    test.each([
      ["no entries", [], "offsets"],
      ["a stream name that is none", [{ stream: "a.b", partition: 0, offset: 0 }], "offsets[0].stream"],
      ["a negative partition", [{ stream: "s", partition: -1, offset: 0 }], "offsets[0].partition"],
      ["no offset", [{ stream: "s", partition: 0, offset: undefined as never }], "offsets[0].offset"],
    ])("with %s is refused", async (_what, offsets, field) => {
      const failure = await failureOf(api.commit("g", offsets));
      expect(failure).toMatchObject(invalid);
      expect(failure.details[0]).toMatchObject({ field });
    });

    test("by a member is refused while groups have none", async () => {
      const stream = await streamOf(1);
      await api.poll(stream, "g", now);
      const failure = await failureOf(api.commit("g", [{ stream, partition: 0, offset: 0 }], { consumerId: "m" }));
      expect(failure).toMatchObject({ code: 1103, httpOrGrpcStatus: isRest ? 409 : 10 });
    });
  });

  describe("reading a partition", () => {
    test("begins at an offset and says where to go on", async () => {
      const stream = await streamOf(6);
      expect(valuesOf(await api.readPartition(stream, 0))).toEqual(range(0, 6));
      const { events, metadata } = await api.readPartition(stream, 0, { offset: 2, limit: 3 });
      expect(valuesOf({ events })).toEqual([2, 3, 4]);
      expect(metadata).toEqual({ startOffset: 0, endOffset: 6, nextOffset: 5 });
      expect(valuesOf(await api.readPartition(stream, 0, { offset: metadata.nextOffset }))).toEqual([5]);
      expect(await api.readPartition(stream, 0, { offset: 6 })).toMatchObject({
        events: [],
        metadata: { nextOffset: 6 },
      });
      expect(await api.readPartition(stream, 0, { offset: "latest" })).toMatchObject({ events: [] });
      expect(valuesOf(await api.readPartition(stream, 0, { offset: "earliest", limit: 1 }))).toEqual([0]);
    });

    test("changes nothing for a group", async () => {
      const stream = await streamOf(3);
      await api.poll(stream, "g", { ...now, limit: 1 });
      await api.readPartition(stream, 0);
      expect(valuesOf(await api.poll(stream, "g", now))).toEqual([1, 2]);
    });

    test("with a filter goes on behind what it passed over", async () => {
      const stream = await streamOf(1500);
      const { events, metadata } = await api.readPartition(stream, 0, { filter: "value >= 1400.0", limit: 5 });
      expect(valuesOf({ events })).toEqual(range(1400, 1405));
      expect(metadata.nextOffset).toBe(1405);
      const none = await api.readPartition(stream, 0, { filter: "false" });
      expect(none).toMatchObject({ events: [], metadata: { nextOffset: 1500 } });
    });

    test("in steps of maxBytes gives every event once", async () => {
      const name = freshName();
      await api.createStream({ name });
      const value = "x".repeat(500);
      await api.publishBatch(
        name,
        Array.from({ length: 7 }, () => ({ value })),
      );
      const offsets: number[] = [];
      for (let offset = 0; offset < 7; ) {
        const { events, metadata } = await api.readPartition(name, 0, { offset, maxBytes: 1200 });
        expect(events.length).toBeGreaterThan(0);
        expect(events.length).toBeLessThan(3);
        offsets.push(...events.map((event) => event.offset));
        offset = metadata.nextOffset;
      }
      expect(offsets).toEqual(range(0, 7));
    });

    test.each([7, Number.MAX_SAFE_INTEGER, "-1", "x"])("at %j of three is refused", async (offset) => {
      expect(await failureOf(api.readPartition(await refusing(), 0, { offset }))).toMatchObject(badOffset);
    });

    test.each([1, 999])("of partition %d of one is refused", async (partition) => {
      expect(await failureOf(api.readPartition(await refusing(), partition))).toMatchObject(invalid);
    });
  });

  describe("after a restart of the service", () => {
    test("a group goes on behind what it committed", async () => {
      const stream = await streamOf(10);
      {
        await using second = await startService(service.nats.url);
        await using client = connect(second.url);
        expect(valuesOf(await client.poll(stream, "g", { ...now, limit: 6 }))).toEqual(range(0, 6));
        await client.commit("g", [{ stream, partition: 0, offset: 3 }]);
      }
      await using third = await startService(service.nats.url, { MILLRACE_ACK_WAIT_MS: String(ACK_WAIT_MS) });
      await using client = connect(third.url);
      const next = await client.poll(stream, "g", { ...now, offset: "earliest" });
      // What was handed out before is the group's until its ackWait ends; what was committed never comes again.
      expect(Math.min(...(valuesOf(next) as number[]))).toBeGreaterThan(3);
      expect(placesOf(next)).toEqual([[0, 10, 0, 3]]);
    });
  });
});

describe("what was handed out and is not committed", () => {
  let quick: TestService;
  beforeAll(async () => {
    quick = await startService(service.nats.url, { MILLRACE_ACK_WAIT_MS: String(ACK_WAIT_MS) });
  });
  afterAll(() => quick[Symbol.asyncDispose]());

  // At once, since each waits for the same time.
  test.concurrent.each(protocols)("comes again in order after the group's ackWait, over $name", async ({ connect }) => {
    await using api = connect(quick.url);
    const stream = freshName();
    await api.createStream({ name: stream });
    await api.publishBatch(
      stream,
      range(0, 5).map((value) => ({ value })),
    );
    expect(valuesOf(await api.poll(stream, "g", now))).toEqual(range(0, 5));
    await api.commit("g", [{ stream, partition: 0, offset: 1 }]);
    const again = await eventually("the events come again", async () => {
      const answer = await api.poll(stream, "g", { timeout: 500 });
      return answer.events.length > 0 && valuesOf(answer);
    });
    expect(again).toEqual([2, 3, 4]);
  });
});
