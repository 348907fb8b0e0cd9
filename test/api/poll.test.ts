import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type Api, failureOf, type PollAnswer, type PollOptions, protocols } from "../support/clients.ts";
import { freshName, useService } from "../support/service.ts";
import { eventually } from "../support/wait.ts";

const service = useService();

const now = { timeout: 0 };
const valuesOf = ({ events }: { events: readonly { value?: unknown }[] }) => events.map(({ value }) => value);
const range = (from: number, to: number) => Array.from({ length: to - from }, (_, n) => from + n);

describe.each(protocols)("groups over $name", ({ connect, isRest }) => {
  let api: Api;
  beforeAll(() => {
    api = connect(service.url);
  });
  afterAll(() => api[Symbol.asyncDispose]());

  const invalid = { code: 1100, name: "INVALID_ARGUMENT", httpOrGrpcStatus: isRest ? 400 : 3 };
  const badOffset = { code: 1002, name: "INVALID_OFFSET", httpOrGrpcStatus: isRest ? 400 : 11 };

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
  /** Polls until `count` events have come. */
  const pollAll = async (stream: string, group: string, count: number, options: PollOptions = {}) => {
    const events: PollAnswer["events"] = [];
    await eventually(`${count} events`, async () => {
      const answer = await api.poll(stream, group, { ...now, ...options });
      events.push(...answer.events);
      return events.length >= count;
    });
    return events;
  };

  describe("a poll", () => {
    test("creates its group, which starts at the earliest event", async () => {
      const stream = await streamOf(3);
      const answer = await api.poll(stream, "g", now);
      expect(valuesOf(answer)).toEqual([0, 1, 2]);
      expect(answer.metadata).toEqual({
        consumerGroup: "g",
        lag: 0,
        nextOffset: 3,
        partitions: [{ partition: 0, nextOffset: 3, lag: 0 }],
      });
    });

    test("of a new group at latest begins with what comes after it", async () => {
      const stream = await streamOf(3, 2);
      const first = await api.poll(stream, "g", { ...now, offset: "latest" });
      expect(first.events).toEqual([]);
      expect(placesOf(first)).toEqual([
        [0, 3, 0, undefined],
        [1, 2, 0, undefined],
      ]);
      await api.publish(stream, { partition: 0, value: "new" });
      expect(valuesOf(await api.poll(stream, "g", { offset: "latest" }))).toEqual(["new"]);
    });

    test("at earliest or latest changes nothing for a group that has a position", async () => {
      const stream = await streamOf(6);
      expect(valuesOf(await api.poll(stream, "g", { ...now, limit: 2 }))).toEqual([0, 1]);
      expect(valuesOf(await api.poll(stream, "g", { ...now, limit: 2, offset: "latest" }))).toEqual([2, 3]);
      expect(valuesOf(await api.poll(stream, "g", { ...now, limit: 2, offset: "earliest" }))).toEqual([4, 5]);
    });

    test("hands each event out once", async () => {
      const stream = await streamOf(5);
      expect(valuesOf(await api.poll(stream, "g", { ...now, limit: 3 }))).toEqual([0, 1, 2]);
      expect(valuesOf(await api.poll(stream, "g", now))).toEqual([3, 4]);
      expect(valuesOf(await api.poll(stream, "g", now))).toEqual([]);
    });

    test("of one group says nothing to another", async () => {
      const stream = await streamOf(2);
      await api.poll(stream, "a", now);
      expect(valuesOf(await api.poll(stream, "b", now))).toEqual([0, 1]);
    });

    test("of a group in one stream says nothing to the same group in another", async () => {
      const [one, two] = [await streamOf(2), await streamOf(2)];
      await api.poll(one, "g", now);
      expect(valuesOf(await api.poll(two, "g", now))).toEqual([0, 1]);
    });

    test("at once with others hands each event to one of them", async () => {
      const stream = await streamOf(40, 40, 40);
      const answers = await Promise.all(range(0, 6).map(() => api.poll(stream, "g", { ...now, limit: 20 })));
      const places = answers.flatMap(({ events }) => events.map(({ partition, offset }) => `${partition}/${offset}`));
      expect(new Set(places).size).toBe(places.length);
      const rest = await api.poll(stream, "g", { ...now, limit: 1000 });
      expect(places.length + rest.events.length).toBe(120);
    });

    describe("with a number", () => {
      test("moves the position there, back and forth", async () => {
        const stream = await streamOf(10);
        const at = async (offset: number | string) =>
          valuesOf(await api.poll(stream, "g", { ...now, offset, limit: 2 }));
        expect(await at(4)).toEqual([4, 5]);
        expect(await at(0)).toEqual([0, 1]);
        expect(await at("8")).toEqual([8, 9]);
        expect(await at(10)).toEqual([]);
        expect(await at(9)).toEqual([9]);
      });

      test("moves a partition that ends before it to its end", async () => {
        const stream = await streamOf(2, 6);
        const answer = await api.poll(stream, "g", { ...now, offset: 4 });
        expect(answer.events.map(({ partition, offset }) => [partition, offset])).toEqual([
          [1, 4],
          [1, 5],
        ]);
        expect(placesOf(answer)).toEqual([
          [0, 2, 0, undefined],
          [1, 6, 0, undefined],
        ]);
      });

      test.each([4, 1_000_000, Number.MAX_SAFE_INTEGER])("of %d beyond every end is refused", async (offset) => {
        const stream = await streamOf(3, 1);
        expect(await failureOf(api.poll(stream, "g", { ...now, offset }))).toMatchObject(badOffset);
      });

      test("that is refused moves nothing", async () => {
        const stream = await streamOf(3);
        await api.poll(stream, "g", { ...now, limit: 1 });
        await failureOf(api.poll(stream, "g", { ...now, offset: 100 }));
        expect(valuesOf(await api.poll(stream, "g", now))).toEqual([1, 2]);
      });

      test.each([
        ["beyond the end", { offset: 100 }],
        ["of a partition that is none", { partition: [3] }],
      ])("that is refused, %s, makes no group", async (_what, options) => {
        const stream = await streamOf(3);
        await failureOf(api.poll(stream, stream, { ...now, ...options }));
        const noGroup = { code: 1003, name: "CONSUMER_GROUP_NOT_FOUND" };
        const failure = await failureOf(api.commit(stream, [{ stream, partition: 0, offset: 0 }]));
        expect(failure).toMatchObject(noGroup);
        expect(valuesOf(await api.poll(stream, stream, { ...now, offset: 1 }))).toEqual([1, 2]);
      });

      test("looks at the polled partitions only", async () => {
        const stream = await streamOf(5, 1);
        expect(await failureOf(api.poll(stream, "g", { ...now, offset: 3, partition: [1] }))).toMatchObject(badOffset);
        expect(valuesOf(await api.poll(stream, "g", { ...now, offset: 3, partition: [0] }))).toEqual([3, 4]);
        expect(valuesOf(await api.poll(stream, "g", now))).toEqual([0]);
      });

      test("before what retention kept is refused", async () => {
        const name = freshName();
        await api.createStream({ name, config: { retentionMs: 200 } });
        await api.publish(name, { value: 0 });
        await eventually("retention", async () => (await api.getStream(name)).totalMessages === 0);
        expect(await failureOf(api.poll(name, "g", { ...now, offset: 0 }))).toMatchObject(badOffset);
        expect((await api.poll(name, "g", { ...now, offset: 1 })).events).toEqual([]);
      });

      test.each(["-1", "1.5", "1e3", "0x10", " 1", "+1", "NaN", "first", "LATEST", "9007199254740992", "9".repeat(32)])(
        "that is none, %j, is refused",
        async (offset) => {
          const stream = await refusing();
          expect(await failureOf(api.poll(stream, "g", { ...now, offset }))).toMatchObject(badOffset);
        },
      );
    });

    describe("hands out", () => {
      test("at most its limit", async () => {
        const stream = await streamOf(30, 30);
        expect((await api.poll(stream, "g", { ...now, limit: 1 })).events).toHaveLength(1);
        expect((await api.poll(stream, "g", { ...now, limit: 25 })).events).toHaveLength(25);
        expect((await api.poll(stream, "g", { ...now, limit: 10_000 })).events).toHaveLength(34);
      });

      test("a hundred events when no limit is given", async () => {
        expect((await api.poll(await streamOf(150), "g", now)).events).toHaveLength(100);
      });

      test("each partition's events in order, without gap", async () => {
        const stream = await streamOf(70, 3, 0, 40);
        const next = new Map<number, number>();
        let count = 0;
        while (count < 113) {
          const { events } = await api.poll(stream, "g", { ...now, limit: 17 });
          expect(events.length).toBeGreaterThan(0);
          for (const { partition, offset } of events) {
            expect(offset).toBe(next.get(partition) ?? 0);
            next.set(partition, offset + 1);
          }
          count += events.length;
        }
        expect([...next].toSorted((a, b) => a[0] - b[0])).toEqual([
          [0, 70],
          [1, 3],
          [3, 40],
        ]);
      });

      test("at least one event whatever maxBytes says", async () => {
        const name = freshName();
        await api.createStream({ name });
        const value = "x".repeat(1000);
        await api.publishBatch(name, [{ value }, { value }, { value }]);
        expect((await api.poll(name, "g", { ...now, maxBytes: 1 })).events).toHaveLength(1);
        expect((await api.poll(name, "g", { ...now, maxBytes: 2500 })).events.length).toBeLessThanOrEqual(2);
        await pollAll(name, "h", 3, { maxBytes: 1500 });
      });

      test("the bytes as they are stored when it asks for data", async () => {
        const name = freshName();
        await api.createStream({ name });
        await api.publish(name, { value: { a: 1 } });
        const [event] = (await api.poll(name, "g", { ...now, payload: "data" })).events;
        expect(Buffer.from(event!.data!).toString()).toBe('{"a":1}');
        expect(event).toMatchObject({ contentType: "application/json" });
        expect(event).not.toHaveProperty("value");
      });
    });

    describe("of some partitions", () => {
      test("hands out theirs only and tells of them only", async () => {
        const stream = await streamOf(2, 3, 4);
        const answer = await api.poll(stream, "g", { ...now, partition: [2, 0] });
        expect(answer.events.map(({ partition }) => partition)).toEqual([0, 0, 2, 2, 2, 2]);
        expect(placesOf(answer).map(([partition]) => partition)).toEqual([0, 2]);
        expect(valuesOf(await api.poll(stream, "g", now))).toEqual([0, 1, 2]);
      });

      test("takes one that is named twice once", async () => {
        const stream = await streamOf(2, 1);
        const answer = await api.poll(stream, "g", { ...now, partition: [0, 0] });
        expect(valuesOf(answer)).toEqual([0, 1]);
        expect(answer.metadata.partitions).toHaveLength(1);
      });

      test.each([[[2]], [[0, 2]], [[999]], [[-1]], [[1000]]])("%j of two is refused", async (partition) => {
        const failure = await failureOf(api.poll(await streamOf(1, 1), "g", { ...now, partition }));
        expect(failure).toMatchObject(invalid);
        expect(failure.details[0]!.field).toMatch(/^partition/);
      });
    });

    describe("when there is nothing", () => {
      test("is answered without events", async () => {
        const answer = await api.poll(await streamOf(0, 0), "g", now);
        expect(answer).toEqual({
          events: [],
          metadata: {
            consumerGroup: "g",
            lag: 0,
            nextOffset: 0,
            partitions: [
              { partition: 0, nextOffset: 0, lag: 0 },
              { partition: 1, nextOffset: 0, lag: 0 },
            ],
          },
        });
      });

      test("is answered without events when its wait ends", async () => {
        expect((await api.poll(await streamOf(0), "g", { timeout: 20 })).events).toEqual([]);
      });

      test.each([0, 1, 2])("waits, and is answered with the first event, of partition %d", async (partition) => {
        const stream = await streamOf(0, 0, 0);
        let answered = false;
        const polling = api.poll(stream, "g", { timeout: 30_000 }).finally(() => {
          answered = true;
        });
        polling.catch(() => {});
        // The group is there before its poll is answered: nothing but an event ends its wait now.
        await eventually("the group exists", async () => {
          const failure = await failureOf(api.commit("g", [{ stream, partition: 0, offset: 0 }]));
          return failure.code === 1002;
        });
        expect(answered).toBe(false);
        await api.publish(stream, { partition, value: "came" });
        const { events, metadata } = await polling;
        expect(events).toMatchObject([{ partition, offset: 0, value: "came" }]);
        expect(metadata.lag).toBe(0);
        expect((await api.poll(stream, "g", now)).events).toEqual([]);
      });

      test("may be given up without losing what comes after", async () => {
        const stream = await streamOf(0);
        const over = new AbortController();
        const polling = api.poll(stream, "g", { timeout: 30_000 }, { signal: over.signal });
        polling.catch(() => {});
        await eventually("the group exists", async () => {
          const failure = await failureOf(api.commit("g", [{ stream, partition: 0, offset: 0 }]));
          return failure.code === 1002;
        });
        over.abort();
        await expect(polling).rejects.toThrow();
        await api.publish(stream, { value: 1 });
        expect((await pollAll(stream, "g", 1)).map(({ value }) => value)).toEqual([1]);
      });
    });

    describe("with a filter", () => {
      test("hands out what fits and passes over the rest", async () => {
        const name = freshName();
        await api.createStream({ name });
        await api.publishBatch(
          name,
          range(0, 10).map((n) => ({ key: n % 2 ? "odd" : "even", headers: { n: `${n}` }, value: { n } })),
        );
        const fits = async (group: string, filter: string) =>
          (await api.poll(name, group, { ...now, filter })).events.map(({ offset }) => offset);
        expect(await fits("a", "value.n >= 7")).toEqual([7, 8, 9]);
        expect(await fits("a", "true")).toEqual([]);
        expect(await fits("b", 'key == "odd" && offset < 5')).toEqual([1, 3]);
        expect(await fits("c", 'headers["n"] == "4"')).toEqual([4]);
        expect(await fits("d", "partition == 1")).toEqual([]);
      });

      test("that nothing fits counts all as handed out", async () => {
        const stream = await streamOf(5);
        const answer = await api.poll(stream, "g", { ...now, filter: "value > 100" });
        expect(answer.events).toEqual([]);
        expect(placesOf(answer)).toEqual([[0, 5, 0, undefined]]);
      });

      test("passes over an event it can't be evaluated for", async () => {
        const name = freshName();
        await api.createStream({ name });
        await api.publishBatch(name, [{ value: "text" }, { value: { n: 1 } }, { data: Uint8Array.of(1) }]);
        expect(valuesOf(await api.poll(name, "g", { ...now, filter: "value.n == 1" }))).toEqual([{ n: 1 }]);
      });

      test("finds its limit of events behind many that do not fit", async () => {
        const stream = await streamOf(300);
        const filter = "int(value) % 100 == 99";
        const answer = await api.poll(stream, "g", { ...now, filter, limit: 2 });
        expect(valuesOf(answer)).toEqual([99, 199]);
      });

      test.each(["value.", "1 +", "nope == 1", "value.n", '"text"', "x".repeat(4097), "true; false"])(
        "that is no predicate, %.20s, is refused",
        async (filter) => {
          const stream = await streamOf(1);
          const ended = await api.poll(stream, "g", { ...now, filter }).catch((error: unknown) => error);
          // `value.n` may be a boolean for some event, so only running it can tell.
          if (filter !== "value.n") expect(ended).toMatchObject(invalid);
          expect(valuesOf(await api.poll(stream, "g", now)).length).toBeLessThanOrEqual(1);
        },
      );
    });

    describe("tells where the group is", () => {
      test("partition by partition, with what is left", async () => {
        const stream = await streamOf(5, 0, 3);
        const answer = await api.poll(stream, "g", { ...now, limit: 3, partition: [0] });
        expect(placesOf(answer)).toEqual([[0, 3, 2, undefined]]);
        expect(answer.metadata).toMatchObject({ lag: 2, nextOffset: 3 });
        const all = await api.poll(stream, "g", { ...now, limit: 1, partition: [1, 2] });
        expect(placesOf(all)).toEqual([
          [1, 0, 0, undefined],
          [2, 1, 2, undefined],
        ]);
        expect(all.metadata.lag).toBe(2);
      });

      test("with events that came since", async () => {
        const stream = await streamOf(1);
        await api.poll(stream, "g", now);
        await api.publishBatch(stream, [{ value: 1 }, { value: 2 }]);
        const answer = await api.poll(stream, "g", { ...now, limit: 1 });
        expect(placesOf(answer)).toEqual([[0, 2, 1, undefined]]);
      });

      test("and what it has committed", async () => {
        const stream = await streamOf(4);
        await api.poll(stream, "g", now);
        await api.commit("g", [{ stream, partition: 0, offset: 1 }]);
        expect(placesOf(await api.poll(stream, "g", now))).toEqual([[0, 4, 0, 1]]);
      });
    });

    test("with autoCommit commits what it hands out", async () => {
      const stream = await streamOf(2, 1);
      const answer = await api.poll(stream, "g", { ...now, autoCommit: true });
      expect(answer.events).toHaveLength(3);
      expect(placesOf(await api.poll(stream, "g", now))).toEqual([
        [0, 2, 0, 1],
        [1, 1, 0, 0],
      ]);
    });

    test("finds partitions that were added", async () => {
      const stream = await streamOf(1);
      await api.poll(stream, "g", now);
      await api.updateStream(stream, { partitions: 3 });
      await api.publish(stream, { partition: 2, value: "there" });
      const answer = await api.poll(stream, "g", now);
      expect(answer.events).toMatchObject([{ partition: 2, value: "there" }]);
      expect(answer.metadata.partitions).toHaveLength(3);
    });

    test.each([
      ["limit", { limit: 0 }],
      ["limit", { limit: 10_001 }],
      ["limit", { limit: -1 }],
      ["timeout", { timeout: -1 }],
      ["timeout", { timeout: 30_001 }],
      ["maxBytes", { maxBytes: 0 }],
      ["maxBytes", { maxBytes: 33_554_433 }],
      ["consumerId", { consumerId: "" }],
    ])("with a %s outside its bounds is refused", async (field, options) => {
      const failure = await failureOf(api.poll(await refusing(), "g", options));
      expect(failure).toMatchObject(invalid);
      expect(failure.details[0]).toMatchObject({ field });
    });
  });
});
