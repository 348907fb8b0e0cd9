import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type Api, type ApiFailure, failureOf, type PollOptions, protocols, rawRequest } from "../support/clients.ts";
import { freshName, startService, type TestService, useService } from "../support/service.ts";
import { eventually } from "../support/wait.ts";

const service = useService();
let other: TestService;
beforeAll(async () => {
  other = await startService(service.nats.url);
});
afterAll(async () => {
  await other[Symbol.asyncDispose]();
  expect(other.errors).toEqual([]);
});

const range = (from: number, to: number) => Array.from({ length: to - from }, (_, n) => from + n);
const valuesOf = ({ events }: { events: readonly { value?: unknown }[] }) => events.map(({ value }) => value);

/** What does not differ with the form of a message runs over these only. */
const FEW = new Set(["REST over HTTP/1.1", "gRPC"]);

const ALONE: [string, { consumerId?: string }] = ["without members", {}];
const AS_MEMBER: [string, { consumerId?: string }] = ["with a live member", { consumerId: "a" }];

describe.each(protocols)("administration of groups over $name", ({ name: protocol, connect, isRest }) => {
  const isFull = FEW.has(protocol);
  let api: Api;
  /** The same API by another gateway. */
  let api2: Api;
  beforeAll(() => {
    api = connect(service.url);
    api2 = connect(other.url);
  });
  afterAll(async () => {
    await api[Symbol.asyncDispose]();
    await api2[Symbol.asyncDispose]();
  });

  const invalid = { code: 1100, name: "INVALID_ARGUMENT", httpOrGrpcStatus: isRest ? 400 : 3 };
  const badOffset = { code: 1002, name: "INVALID_OFFSET", httpOrGrpcStatus: isRest ? 400 : 11 };
  const noStream = { code: 1001, name: "STREAM_NOT_FOUND", httpOrGrpcStatus: isRest ? 404 : 5 };
  const noGroup = { code: 1003, name: "CONSUMER_GROUP_NOT_FOUND", httpOrGrpcStatus: isRest ? 404 : 5 };
  const exists = { code: 1101, name: "ALREADY_EXISTS", httpOrGrpcStatus: isRest ? 409 : 6 };
  const notOwner = { code: 1103, name: "NOT_PARTITION_OWNER", httpOrGrpcStatus: isRest ? 409 : 10 };

  /** A stream whose partition p holds the first `counts[p]` numbers. */
  const streamOf = async (...counts: number[]): Promise<string> => {
    const name = freshName();
    await api.createStream({ name, partitions: counts.length });
    await append(name, ...counts);
    return name;
  };
  const append = async (stream: string, ...counts: number[]) => {
    const events = counts.flatMap((count, partition) => range(0, count).map((value) => ({ partition, value })));
    if (events.length > 0) expect((await api.publishBatch(stream, events)).failureCount).toBe(0);
  };
  const take = async (stream: string, group: string, options: PollOptions = {}, by = api) =>
    valuesOf(await by.poll(stream, group, { timeout: 0, ...options }));
  const positionsOf = async (stream: string, group: string, by = api) =>
    (await by.getConsumerGroup(group, stream)).streams[0]!.partitions.map(({ position }) => position);

  describe("creating a group", () => {
    test("makes it with the defaults", async () => {
      const stream = await streamOf(3, 0);
      const group = await api.createConsumerGroup("g", stream);
      const { createdAt } = group.streams[0]!;
      expect(Date.parse(createdAt)).toBeGreaterThan(0);
      const place = { position: 0, startOffset: 0, lagSeconds: 0, returned: 0 };
      expect(group).toEqual({
        consumerGroup: "g",
        state: "empty",
        lag: 3,
        streams: [
          {
            stream,
            state: "empty",
            generation: 0,
            config: { ackWait: 30_000, sessionTimeout: 30_000 },
            createdAt,
            lag: 3,
            members: [],
            partitions: [
              { ...place, partition: 0, endOffset: 3, lag: 3, lagSeconds: expect.any(Number) },
              { ...place, partition: 1, endOffset: 0, lag: 0 },
            ],
          },
        ],
      });
      expect(await api2.getConsumerGroup("g", stream)).toMatchObject({ streams: [{ createdAt }] });
    });

    test("once more is the same, with other settings it is refused", async () => {
      const stream = await streamOf(0);
      const config = { ackWait: 5000, sessionTimeout: 7000 };
      const made = await api.createConsumerGroup("g", stream, { config });
      expect(made.streams[0]!.config).toEqual(config);
      expect(await api2.createConsumerGroup("g", stream, { config })).toEqual(made);
      expect(await api2.createConsumerGroup("g", stream)).toEqual(made);
      expect(await failureOf(api2.createConsumerGroup("g", stream, { config: { ackWait: 5001 } }))).toMatchObject(
        exists,
      );
    });

    test("at once with different settings makes one and refuses the others", async () => {
      const stream = await streamOf(0);
      const settled = await Promise.allSettled(
        range(0, 6).map((n) =>
          (n % 2 ? api : api2).createConsumerGroup("g", stream, { config: { ackWait: 1000 + n } }),
        ),
      );
      const made = settled.filter(({ status }) => status === "fulfilled");
      expect(made).toHaveLength(1);
      const { config } = (await api.getConsumerGroup("g", stream)).streams[0]!;
      expect(made[0]).toMatchObject({ value: { streams: [{ config }] } });
    });

    test.each([
      ["earliest", [0, 1, 2, 3]],
      ["latest", []],
      [2, [2, 3]],
      [4, []],
    ])("at %j begins there", async (offset, expected) => {
      const stream = await streamOf(4);
      await api.createConsumerGroup("g", stream, { offset });
      await append(stream, 1);
      expect(await take(stream, "g", { offset: "earliest" }, api2)).toEqual([...expected, 0]);
    });

    test("at a time begins with the first event stored then or later", async () => {
      const stream = await streamOf(2);
      const { timestamp } = (await api.readPartition(stream, 0, { offset: 1 })).events[0]!;
      const first = (await api.readPartition(stream, 0)).events.findIndex((event) => event.timestamp >= timestamp);
      expect(await positionOfNew(stream, timestamp)).toEqual([first]);
      expect(await positionOfNew(stream, "1999-12-31T23:59:59+01:00")).toEqual([0]);
      expect(await positionOfNew(stream, "2999-01-01T00:00:00.5Z")).toEqual([2]);
    });
    const positionOfNew = async (stream: string, offset: string) => {
      const group = freshName("g");
      await api.createConsumerGroup(group, stream, { offset });
      return positionsOf(stream, group);
    };

    test("at an offset that some partitions end before begins at their ends", async () => {
      const stream = await streamOf(1, 5);
      await api.createConsumerGroup("g", stream, { offset: 3 });
      expect(await positionsOf(stream, "g")).toEqual([1, 3]);
    });

    test.each([5, "-1", "LATEST", "1.5", "2026-01-01", "yesterday", "9007199254740992"])(
      "at %j of four events is refused and makes nothing",
      async (offset) => {
        const stream = await streamOf(4);
        expect(await failureOf(api.createConsumerGroup("g", stream, { offset }))).toMatchObject(badOffset);
        expect(await failureOf(api.getConsumerGroup("g", stream))).toMatchObject(noGroup);
      },
    );

    test.each([
      ["ackWait", 99],
      ["ackWait", 86_400_001],
      ["sessionTimeout", 99],
      ["sessionTimeout", 3_600_001],
    ])("with %s %d is refused", async (setting, value) => {
      const failure = await failureOf(api.createConsumerGroup("g", "any", { config: { [setting]: value } }));
      expect(failure).toMatchObject(invalid);
      expect(failure.details).toMatchObject([{ field: `config.${setting}` }]);
    });

    test.each([
      ["an empty name", "", "s", "consumerGroup"],
      ["a name of 129 bytes", "x".repeat(129), "s", "consumerGroup"],
      ["a name with a control character", "a\u0001", "s", "consumerGroup"],
      ["a stream name that is none", "g", "a.b", "stream"],
    ])("with %s is refused", async (_what, group, stream, field) => {
      const failure = await failureOf(api.createConsumerGroup(group, stream));
      expect(failure).toMatchObject(invalid);
      expect(failure.details).toMatchObject([{ field }]);
    });

    test("in a stream that is none is refused", async () => {
      expect(await failureOf(api.createConsumerGroup("g", freshName("none")))).toMatchObject(noStream);
    });

    test.runIf(isFull)("sets how long what was handed out waits for its commit", async () => {
      const stream = await streamOf(2);
      await api.createConsumerGroup("g", stream, { config: { ackWait: 100 } });
      expect(await take(stream, "g")).toEqual([0, 1]);
      const again = await eventually("it comes again", async () => {
        const values = await take(stream, "g", {}, api2);
        return values.length > 0 && values;
      });
      expect(again).toEqual([0, 1]);
    });
  });

  describe("listing groups", () => {
    test("gives those with a prefix, by name, page by page", async () => {
      const stream = await streamOf(0);
      const prefix = freshName("list");
      const names = ["a", "b", "c", "d/é", "e"].map((name) => `${prefix}-${name}`);
      for (const name of names.toReversed()) await api.createConsumerGroup(name, stream);
      const found: string[] = [];
      let pages = 0;
      for (let pageToken: string | undefined; pages === 0 || pageToken !== undefined; pages++) {
        const page = await api2.listConsumerGroups({ prefix, pageSize: 2, ...(pageToken ? { pageToken } : {}) });
        expect(page.consumerGroups.length).toBeLessThanOrEqual(2);
        found.push(...page.consumerGroups.map(({ consumerGroup }) => consumerGroup));
        pageToken = page.nextPageToken;
      }
      expect(found).toEqual(names);
      expect(pages).toBe(3);
      expect((await api.listConsumerGroups({ prefix })).nextPageToken).toBeUndefined();
    });

    test("tells their streams and members", async () => {
      const [one, two] = [await streamOf(0), await streamOf(0)].toSorted() as [string, string];
      const group = freshName("list");
      await api.poll(two, group, { timeout: 0, consumerId: "a" });
      await api.poll(one, group, { timeout: 0, consumerId: "a" });
      await api.poll(one, group, { timeout: 0, consumerId: "b" });
      const of = async (request: object) =>
        (await api2.listConsumerGroups({ prefix: group, ...request })).consumerGroups;
      const summary = { consumerGroup: group, streams: [one, two], members: 3 };
      expect(await of({})).toEqual([summary]);
      expect(await of({ stream: two })).toEqual([summary]);
      expect(await of({ stream: await streamOf(0) })).toEqual([]);
    });

    test.each([
      ["pageSize", { pageSize: 0 }],
      ["pageSize", { pageSize: 1001 }],
      ["stream", { stream: "a.b" }],
      ["prefix", { prefix: "x".repeat(129) }],
    ])("with a %s outside its bounds is refused", async (field, request) => {
      const failure = await failureOf(api.listConsumerGroups(request));
      expect(failure).toMatchObject(invalid);
      expect(failure.details).toMatchObject([{ field }]);
    });
  });

  describe("describing a group", () => {
    test("tells who has what and where it is", async () => {
      const stream = await streamOf(4, 2);
      const group = freshName("g");
      await api.poll(stream, group, { timeout: 0, consumerId: "a", limit: 3, partition: [0] });
      await api.commit(group, [{ stream, partition: 0, offset: 0 }], { consumerId: "a" });
      const { generation } = (await api.poll(stream, group, { timeout: 0, consumerId: "b" })).metadata;
      const moving = await api2.getConsumerGroup(group);
      expect(moving).toMatchObject({ consumerGroup: group, state: "rebalancing", lag: 5 });
      expect(moving.streams).toMatchObject([{ stream, state: "rebalancing", generation, lag: 5 }]);
      const [first, second] = moving.streams[0]!.members;
      expect(first).toMatchObject({ consumerId: "a", partitions: [0, 1], subscribed: false });
      expect(first!.generation).toBeLessThan(generation!);
      expect(second).toMatchObject({ consumerId: "b", partitions: [], generation, subscribed: false });
      expect(Math.abs(Date.parse(second!.lastSeen) - Date.now())).toBeLessThan(60_000);

      await api.poll(stream, group, { timeout: 0, consumerId: "a", limit: 1, partition: [1] });
      const stable = await api2.getConsumerGroup(group, stream);
      expect(stable.state).toBe("stable");
      expect(stable.streams[0]!.partitions).toMatchObject([
        { partition: 0, consumerId: "a", position: 3, committedOffset: 0, startOffset: 0, endOffset: 4, lag: 3 },
        { partition: 1, consumerId: "b", position: 0, startOffset: 0, endOffset: 2, lag: 2 },
      ]);
      await api.leave(group, "a");
      await api.leave(group, "b");
      const empty = await api2.getConsumerGroup(group);
      expect(empty).toMatchObject({ state: "empty", streams: [{ members: [] }] });
      expect(empty.streams[0]!.partitions[0]).not.toHaveProperty("consumerId");
    });

    test("tells the lag in seconds: the age of the oldest event that is not committed", async () => {
      const stream = await streamOf(2);
      await api.poll(stream, "g", { timeout: 0 });
      const lagSeconds = async () => (await api.getConsumerGroup("g", stream)).streams[0]!.partitions[0]!.lagSeconds;
      const early = await eventually("the events age", async () => {
        const seconds = await lagSeconds();
        return seconds > 0.05 && seconds;
      });
      expect(await lagSeconds()).toBeGreaterThan(early);
      await append(stream, 1);
      await api.commit("g", [{ stream, partition: 0, offset: 1 }]);
      const { timestamp } = (await api.readPartition(stream, 0, { offset: 2 })).events[0]!;
      expect(await lagSeconds()).toBeLessThanOrEqual((Date.now() - Date.parse(timestamp)) / 1000);
      await api.commit("g", [{ stream, partition: 0, offset: 2 }]);
      expect(await lagSeconds()).toBe(0);
    });

    test("of which there is none, or in a stream of which there is none, is refused", async () => {
      const stream = await streamOf(0);
      expect(await failureOf(api.getConsumerGroup(freshName("g")))).toMatchObject(noGroup);
      expect(await failureOf(api.getConsumerGroup(freshName("g"), stream))).toMatchObject(noGroup);
      expect(await failureOf(api.getConsumerGroup("g", freshName("none")))).toMatchObject(noStream);
      expect(await failureOf(api.getConsumerGroup("g", "a.b"))).toMatchObject(invalid);
    });
  });

  describe.each(isFull ? [ALONE, AS_MEMBER] : [ALONE])("seeking a group %s", (_what, as) => {
    const isMember = "consumerId" in as;

    test.each([
      ["earliest", [0, 0], [0, 1, 2, 3, 0, 1]],
      ["latest", [4, 2], []],
      [1, [1, 1], [1, 2, 3, 1]],
      ["3", [3, 2], [3]],
      [4, [4, 2], []],
    ])("to %j moves every partition there", async (offset, positions, values) => {
      const stream = await streamOf(4, 2);
      await take(stream, "g", { ...as, limit: 5 });
      await api.commit("g", [{ stream, partition: 0, offset: 1 }], as);
      expect(await api2.seek("g", stream, { offset })).toEqual({
        consumerGroup: "g",
        stream,
        partitions: positions.map((position, partition) => ({ partition, position })),
      });
      expect(await positionsOf(stream, "g")).toEqual(positions);
      expect(await positionsOf(stream, "g", api2)).toEqual(positions);
      expect(await take(stream, "g", as)).toEqual(values);
      await append(stream, 1);
      expect(await take(stream, "g", as, api2)).toEqual([0]);
    });

    test("to a time moves to the first event stored then or later", async () => {
      const stream = await streamOf(3);
      await eventually("a later millisecond", async () => {
        const { events } = await api.readPartition(stream, 0);
        return Date.now() > Date.parse(events.at(-1)!.timestamp) + 1;
      });
      await append(stream, 2);
      const { timestamp } = (await api.readPartition(stream, 0, { offset: 3 })).events[0]!;
      await take(stream, "g", as);
      for (const to of [{ timestamp }, { offset: timestamp }]) {
        expect((await api.seek("g", stream, to)).partitions).toEqual([{ partition: 0, position: 3 }]);
        expect(await take(stream, "g", as)).toEqual([0, 1]);
      }
      expect((await api.seek("g", stream, { timestamp: "2999-01-01T00:00:00Z" })).partitions[0]!.position).toBe(5);
    });

    test.each([
      ["partition", { partition: 1 }],
      ["partitions", { partitions: [1, 1] }],
    ])("of one %s leaves the others", async (_name, which) => {
      const stream = await streamOf(2, 2, 2);
      await take(stream, "g", as);
      const moved = await api2.seek("g", stream, { offset: "earliest", ...which });
      expect(moved.partitions).toEqual([{ partition: 1, position: 0 }]);
      const { events } = await api.poll(stream, "g", { timeout: 0, ...as });
      expect(events.map(({ partition, offset }) => `${partition}/${offset}`)).toEqual(["1/0", "1/1"]);
    });

    test("takes in partitions that were added", async () => {
      const stream = await streamOf(2);
      await take(stream, "g", as);
      await api2.updateStream(stream, { partitions: 3 });
      await append(stream, 0, 3, 3);
      await eventually("this gateway knows of them", async () => (await api.getStream(stream)).partitions === 3);
      await api2.seek("g", stream, { offset: 1 });
      await append(stream, 0, 0, 1);
      const events = await eventually("all have been polled", async () => {
        const answer = await api2.poll(stream, "g", { timeout: 0, ...as });
        return answer.metadata.partitions.length === 3 && answer.events;
      });
      expect(events.map(({ partition, offset }) => `${partition}/${offset}`)).toEqual([
        ...["0/1", "1/1", "1/2"],
        ...["2/1", "2/2", "2/3"],
      ]);
    });

    test.each([5, "-1", "first", "1e1"])("to %j of four events is refused and moves nothing", async (offset) => {
      const stream = await streamOf(4, 1);
      await take(stream, "g", { ...as, limit: 2, partition: [0] });
      expect(await failureOf(api.seek("g", stream, { offset }))).toMatchObject(badOffset);
      expect(await failureOf(api.seek("g", stream, { offset: 2, partition: 1 }))).toMatchObject(badOffset);
      expect(await positionsOf(stream, "g")).toEqual([2, 0]);
      expect(await take(stream, "g", { ...as, partition: [0] })).toEqual([2, 3]);
    });

    test.runIf(isFull)("before what retention kept is refused", async () => {
      const name = freshName();
      await api.createStream({ name, config: { retentionMs: 200 } });
      await append(name, 2);
      await take(name, "g", as);
      await eventually("retention", async () => (await api.getStream(name)).totalMessages === 0);
      expect(await failureOf(api.seek("g", name, { offset: 1 }))).toMatchObject(badOffset);
      expect((await api.seek("g", name, { offset: "earliest" })).partitions).toEqual([{ partition: 0, position: 2 }]);
    });

    test(`${isMember ? "voids commits" : "lets anybody commit"} of what was handed out before`, async () => {
      const stream = await streamOf(4, 4);
      const { metadata } = await api.poll(stream, "g", { timeout: 0, ...as });
      await api2.seek("g", stream, { offset: 1, partition: 0 });
      const commit = (partition: number, more: object = {}) =>
        api.commit("g", [{ stream, partition, offset: 3 }], { ...as, ...more });
      if (isMember) {
        const { generation } = await api2.heartbeat("g", stream, "a");
        expect(await failureOf(commit(0))).toMatchObject(notOwner);
        expect(await failureOf(commit(0, { generation: metadata.generation }))).toMatchObject(notOwner);
        expect(await failureOf(commit(0, { generation }))).toMatchObject(notOwner);
        await commit(1, { generation: metadata.generation });
        expect(await take(stream, "g", as)).toEqual([1, 2, 3]);
        await commit(0);
      } else {
        await commit(0);
        expect(await take(stream, "g")).toEqual([]);
      }
    });
  });

  describe("seeking", () => {
    test("ends the wait of a member's poll, which goes on from there", async () => {
      const stream = await streamOf(3);
      await take(stream, "g", { consumerId: "a" });
      const waiting = api2.poll(stream, "g", { consumerId: "a", timeout: 25_000 });
      waiting.catch(() => {});
      await api.seek("g", stream, { offset: 1 });
      expect(valuesOf(await waiting)).toEqual([1, 2]);
    });

    test.each([
      ["nothing", {}, "offset"],
      ["both an offset and a time", { offset: "latest", timestamp: "2026-01-01T00:00:00Z" }, "offset"],
      ["an empty offset", { offset: "" }, "offset"],
      ["a partition that is none", { offset: "latest", partition: 2 }, "partition"],
      ["a negative partition", { offset: "latest", partition: -1 }, "partition"],
      ["partitions of which one is none", { offset: "latest", partitions: [0, 2] }, "partition"],
    ])("to %s is refused", async (_what, to, field) => {
      const stream = await streamOf(1, 1);
      await take(stream, "g");
      const failure = await failureOf(api.seek("g", stream, to));
      expect(failure).toMatchObject(invalid);
      expect(failure.details[0]!.field).toBe(field);
    });

    test("a group or in a stream that is none is refused", async () => {
      const stream = await streamOf(1);
      expect(await failureOf(api.seek(freshName("g"), stream, { offset: 0 }))).toMatchObject(noGroup);
      expect(await failureOf(api.seek("g", freshName("none"), { offset: 0 }))).toMatchObject(noStream);
    });
  });

  describe("deleting a group", () => {
    test("forgets all of it", async () => {
      const [one, two] = [await streamOf(2), await streamOf(2)];
      const group = freshName("g");
      for (const stream of [one, two]) {
        await take(stream, group, { consumerId: "a" });
        await api.commit(group, [{ stream, partition: 0, offset: 1 }], { consumerId: "a" });
      }
      expect(await api2.deleteConsumerGroup(group)).toEqual({ status: "deleted", consumerGroup: group });
      expect(await failureOf(api.getConsumerGroup(group))).toMatchObject(noGroup);
      expect((await api.listConsumerGroups({ prefix: group })).consumerGroups).toEqual([]);
      expect(await failureOf(api.deleteConsumerGroup(group))).toMatchObject(noGroup);
      const commit = api.commit(group, [{ stream: one, partition: 0, offset: 1 }], { consumerId: "a" });
      expect((await failureOf(commit)).code).toBe(1003);
      const again = await eventually("it begins anew by every gateway", async () => {
        const values = [await take(one, group, {}, api), await take(two, group, {}, api2)];
        return values.flat().length > 0 && values;
      });
      expect(again).toEqual([
        [0, 1],
        [0, 1],
      ]);
    });

    test("in one stream leaves the others", async () => {
      const [one, two] = [await streamOf(2), await streamOf(2)];
      const group = freshName("g");
      for (const stream of [one, two]) await take(stream, group, { autoCommit: true });
      await api.deleteConsumerGroup(group, one);
      expect((await api.getConsumerGroup(group)).streams.map(({ stream }) => stream)).toEqual([two]);
      expect(await failureOf(api.getConsumerGroup(group, one))).toMatchObject(noGroup);
      expect(await take(two, group)).toEqual([]);
    });

    test.each([
      ["a member's", { consumerId: "a" }],
      ["a nameless", {}],
    ])("ends %s waiting poll, and nothing of it stays", async (_what, as) => {
      const stream = await streamOf(2);
      await take(stream, "g", { ...as, autoCommit: true });
      const waiting = failureOf(api2.poll(stream, "g", { ...as, timeout: 25_000 }));
      waiting.catch(() => {});
      await eventually("the other gateway knows the group", () =>
        api2.getConsumerGroup("g", stream).then(
          () => true,
          () => false,
        ),
      );
      await api.deleteConsumerGroup("g", stream);
      expect(await waiting).toMatchObject(noGroup);
      const made = await api.createConsumerGroup("g", stream, { offset: 1 });
      expect(made.streams).toMatchObject([{ members: [], lag: 1 }]);
      const values = await eventually("the other gateway has the new one", async () => {
        const found = await take(stream, "g", { consumerId: "b" }, api2);
        return found.length > 0 && found;
      });
      expect(values).toEqual([1]);
    });

    test.runIf(isFull)("while other calls are made ends them, or they do not find it", async () => {
      for (let round = 0; round < 3; round++) {
        const stream = await streamOf(2, 2);
        for (const group of ["g", "m", "s"]) await api.createConsumerGroup(group, stream);
        await take(stream, "g", {}, api2);
        let isGone = false;
        const ends: Promise<void>[] = [];
        const repeat = (call: () => Promise<unknown>) =>
          ends.push(
            (async () => {
              for (let isLast = false; !isLast; ) {
                isLast = isGone;
                try {
                  await call();
                } catch (failure) {
                  // Gone, or as the other calls have left it.
                  const { code, message } = failure as ApiFailure;
                  expect(code, message).toBeOneOf([1002, 1003, 1103]);
                }
              }
            })(),
          );
        for (const [by, id] of [
          [api, "a"],
          [api2, "b"],
        ] as const) {
          repeat(() => by.poll(stream, "g", { timeout: 20 }));
          repeat(() => by.commit("g", [{ stream, partition: 0, offset: 0 }]));
          repeat(() => by.nack("g", [{ stream, partition: 1, offset: 0 }]));
          repeat(() => by.poll(stream, "m", { consumerId: id, timeout: 20 }));
          repeat(() => by.leave("m", id, stream));
          repeat(() => by.poll(stream, "s", { timeout: 0, offset: 1 }));
          repeat(() => by.seek("s", stream, { offset: 0 }));
          repeat(() => by.getConsumerGroup("g", stream));
        }
        for (const by of [api, api2, api])
          for (const group of ["g", "m", "s"]) await by.deleteConsumerGroup(group, stream).catch(() => {});
        isGone = true;
        await Promise.all(ends);
      }
    });

    test("that is none, or in a stream that is none, is refused", async () => {
      const stream = await streamOf(0);
      expect(await failureOf(api.deleteConsumerGroup(freshName("g")))).toMatchObject(noGroup);
      expect(await failureOf(api.deleteConsumerGroup(freshName("g"), stream))).toMatchObject(noGroup);
      expect(await failureOf(api.deleteConsumerGroup("g", freshName("none")))).toMatchObject(noStream);
    });

    test("with its stream leaves nothing of it", async () => {
      const stream = await streamOf(1);
      const group = freshName("g");
      await take(stream, group, { consumerId: "a" });
      await api.deleteStream(stream);
      expect(await failureOf(api2.getConsumerGroup(group))).toMatchObject(noGroup);
      await api.createStream({ name: stream });
      await append(stream, 1);
      expect(await take(stream, group)).toEqual([0]);
    });
  });
});

describe("over HTTP", () => {
  test("a group that is made is 201, one that is there is 200", async () => {
    const stream = freshName();
    await rawRequest(service.url, "POST", "/api/v1/streams", { name: stream });
    const create = () => rawRequest(service.url, "POST", "/api/v1/consumers", { consumerGroup: "g", stream });
    const made = await create();
    expect(made.status).toBe(201);
    const again = await create();
    expect(again.status).toBe(200);
    expect(again.json<object>()).toEqual(made.json<object>());
  });

  test("an offset to seek to is text", async () => {
    const stream = freshName();
    await rawRequest(service.url, "POST", "/api/v1/streams", { name: stream });
    await rawRequest(service.url, "POST", "/api/v1/consumers", { consumerGroup: "g", stream });
    const seek = (offset: unknown) => rawRequest(service.url, "POST", "/api/v1/consumers/g/seek", { stream, offset });
    expect((await seek("0")).status).toBe(200);
    expect((await seek(0)).status).toBe(200);
    expect((await seek("0".repeat(65))).status).toBe(400);
  });
});
