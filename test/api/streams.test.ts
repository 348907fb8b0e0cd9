import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type Api, failureOf, protocols, rawRequest, type StreamConfig } from "../support/clients.ts";
import { freshName, useService } from "../support/service.ts";
import { eventually } from "../support/wait.ts";

const service = useService();

describe.each(protocols)("streams over $name", ({ connect, isRest }) => {
  let api: Api;
  beforeAll(() => {
    api = connect(service.url);
  });
  afterAll(() => api[Symbol.asyncDispose]());

  const notFound = { code: 1001, name: "STREAM_NOT_FOUND", httpOrGrpcStatus: isRest ? 404 : 5 };
  const invalid = { code: 1100, name: "INVALID_ARGUMENT", httpOrGrpcStatus: isRest ? 400 : 3 };
  const exists = { code: 1101, name: "ALREADY_EXISTS", httpOrGrpcStatus: isRest ? 409 : 6 };

  test("a created stream has its defaults and one empty partition", async () => {
    const name = freshName();
    const stream = await api.createStream({ name });
    expect(stream).toEqual({
      name,
      partitions: 1,
      replicationFactor: 1,
      totalMessages: 0,
      totalSize: 0,
      config: { compressionType: "none", maxMessageBytes: 1_048_576, duplicateWindowMs: 120_000 },
      createdAt: expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/),
      partitionDetails: [
        {
          partition: 0,
          leader: service.nats.serverName,
          replicas: [service.nats.serverName],
          startOffset: 0,
          endOffset: 0,
        },
      ],
    });
    expect(await api.getStream(name)).toEqual(stream);
  });

  test("a created stream has the settings asked for", async () => {
    const name = freshName();
    const config: StreamConfig = {
      retentionMs: 3_600_000,
      compressionType: "s2",
      maxMessageBytes: 2000,
      maxBytes: 1_000_000,
      duplicateWindowMs: 60_000,
    };
    const stream = await api.createStream({ name, partitions: 5, replicationFactor: 1, config });
    expect(stream.config).toEqual(config);
    expect(stream.partitionDetails.map(({ partition }) => partition)).toEqual([0, 1, 2, 3, 4]);
  });

  test("the same settings again answer the existing stream", async () => {
    const request = { name: freshName(), partitions: 2, config: { compressionType: "gzip" } } as const;
    const first = await api.createStream(request);
    await api.publish(request.name, { value: 1 });
    const second = await api.createStream(request);
    expect(second).toMatchObject({ createdAt: first.createdAt, totalMessages: 1 });
  });

  test("a default that is spelled out is the same setting", async () => {
    const name = freshName();
    await api.createStream({ name });
    await api.createStream({
      name,
      partitions: 1,
      replicationFactor: 1,
      config: { compressionType: "none", maxMessageBytes: 1_048_576, duplicateWindowMs: 120_000 },
    });
  });

  test.each([
    ["partitions", { partitions: 3 }],
    ["compression", { config: { compressionType: "gzip" } }],
    ["retention", { config: { retentionMs: 86_400_000 } }],
    ["duplicate window", { config: { duplicateWindowMs: 1000 } }],
  ] as const)("other %s for an existing name are refused and change nothing", async (_what, other) => {
    const name = freshName();
    const stream = await api.createStream({ name, partitions: 2 });
    expect(await failureOf(api.createStream({ name, partitions: 2, ...other }))).toMatchObject(exists);
    expect(await api.getStream(name)).toEqual(stream);
  });

  test("two callers at once create one stream", async () => {
    const name = freshName();
    const made = await Promise.all([1, 2, 3, 4].map(() => api.createStream({ name, partitions: 3 })));
    expect(new Set(made.map(({ createdAt }) => createdAt)).size).toBe(1);
  });

  test.each([
    ["no partitions", { partitions: 0 }, "partitions"],
    ["1001 partitions", { partitions: 1001 }, "partitions"],
    ["negative partitions", { partitions: -1 }, "partitions"],
    ["two replicas", { replicationFactor: 2 }, "replicationFactor"],
    ["no replicas", { replicationFactor: 0 }, "replicationFactor"],
    ["more replicas than the cluster has servers", { replicationFactor: 3 }, "replicationFactor"],
    ["a retention below 100 ms", { config: { retentionMs: 99 } }, "config.retentionMs"],
    ["a negative retention", { config: { retentionMs: -1 } }, "config.retentionMs"],
    ["messages of no bytes", { config: { maxMessageBytes: 0 } }, "config.maxMessageBytes"],
    ["messages larger than NATS takes", { config: { maxMessageBytes: 8_323_073 } }, "config.maxMessageBytes"],
    ["less than 1 KiB", { config: { maxBytes: 1023 } }, "config.maxBytes"],
    ["a duplicate window below 100 ms", { config: { duplicateWindowMs: 99 } }, "config.duplicateWindowMs"],
    [
      "a duplicate window above the retention",
      { config: { retentionMs: 1000, duplicateWindowMs: 2000 } },
      "config.duplicateWindowMs",
    ],
  ])("a stream with %s is refused, the field named, and the name stays free", async (_what, settings, field) => {
    const name = freshName();
    const failure = await failureOf(api.createStream({ name, ...settings }));
    expect(failure).toMatchObject(invalid);
    expect(failure.details).toContainEqual(expect.objectContaining({ field }));
    expect(await failureOf(api.getStream(name))).toMatchObject(notFound);
    await api.createStream({ name });
  });

  test("a short retention shortens the default duplicate window", async () => {
    const stream = await api.createStream({ name: freshName(), config: { retentionMs: 5000 } });
    expect(stream.config).toMatchObject({ retentionMs: 5000, duplicateWindowMs: 5000 });
  });

  test("the description counts what is stored, partition by partition", async () => {
    const name = freshName();
    await api.createStream({ name, partitions: 3 });
    for (const partition of [0, 2, 2]) await api.publish(name, { partition, value: "x".repeat(100) });
    const { totalMessages, totalSize, partitionDetails } = await api.getStream(name);
    expect(totalMessages).toBe(3);
    expect(totalSize).toBeGreaterThan(300);
    expect(partitionDetails.map(({ startOffset, endOffset }) => [startOffset, endOffset])).toEqual([
      [0, 1],
      [0, 0],
      [0, 2],
    ]);
  });

  test("what retention removes moves the start offset, and the end offset stays", async () => {
    const name = freshName();
    await api.createStream({ name, config: { retentionMs: 300 } });
    for (let n = 0; n < 3; n++) await api.publish(name, { value: n });
    const emptied = await eventually("retention removes the events", async () => {
      const stream = await api.getStream(name);
      return stream.totalMessages === 0 && stream;
    });
    expect(emptied.partitionDetails[0]).toMatchObject({ startOffset: 3, endOffset: 3 });
    expect((await api.publish(name, { value: 3 })).offset).toBe(3);
  });

  test("an unknown stream is not found by any call", async () => {
    const name = freshName();
    const calls = [
      api.getStream(name),
      api.updateStream(name, { partitions: 2 }),
      api.deleteStream(name),
      api.publish(name, { value: 1 }),
      api.publishBatch(name, [{ value: 1 }]),
      api.poll(name, "g"),
      api.readPartition(name, 0),
      api.commit("g", [{ stream: name, partition: 0, offset: 0 }]),
    ];
    for (const failure of await Promise.all(calls.map(failureOf))) expect(failure).toMatchObject(notFound);
  });

  describe("the list", () => {
    const prefix = freshName("list");
    const names = ["a", "b", "c", "d", "e"].map((last) => `${prefix}-${last}`);
    beforeAll(async () => {
      // Not in the order of their names.
      for (const name of names.toReversed()) await api.createStream({ name, partitions: 2 });
    });

    test("is by name and leaves out the partitions' details", async () => {
      await api.publish(names[0]!, { value: 1 });
      const { streams, nextPageToken } = await api.listStreams({ prefix });
      expect(streams.map(({ name }) => name)).toEqual(names);
      expect(nextPageToken).toBeUndefined();
      expect(streams[0]).toMatchObject({ partitions: 2, totalMessages: 1, config: { compressionType: "none" } });
      expect(streams[0]).not.toHaveProperty("partitionDetails");
    });

    test.each([1, 2, 3, 5, 6])("comes in pages of %d, each stream once", async (pageSize) => {
      const found: string[] = [];
      let pageToken: string | undefined;
      do {
        const page = await api.listStreams({ prefix, pageSize, ...(pageToken ? { pageToken } : {}) });
        expect(page.streams.length).toBeGreaterThan(0);
        expect(page.streams.length).toBeLessThanOrEqual(pageSize);
        found.push(...page.streams.map(({ name }) => name));
        pageToken = page.nextPageToken;
      } while (pageToken);
      expect(found).toEqual(names);
    });

    test("is empty where no name begins so", async () => {
      expect(await api.listStreams({ prefix: freshName("none") })).toEqual({ streams: [] });
    });

    test.each([
      ["pageSize", { pageSize: 0 }],
      ["pageSize", { pageSize: 1001 }],
      ["prefix", { prefix: "a.b" }],
      ["pageToken", { pageToken: "a b" }],
    ])("refuses a %s outside its bounds", async (field, request) => {
      const failure = await failureOf(api.listStreams(request));
      expect(failure).toMatchObject(invalid);
      expect(failure.details[0]).toMatchObject({ field });
    });
  });

  describe("a change", () => {
    test("sets what it names and leaves the rest", async () => {
      const name = freshName();
      const config: StreamConfig = { retentionMs: 3_600_000, compressionType: "gzip", maxMessageBytes: 5000 };
      await api.createStream({ name, partitions: 2, config });
      const changed = await api.updateStream(name, { config: { retentionMs: 7_200_000, maxBytes: 2_000_000 } });
      expect(changed).toMatchObject({
        partitions: 2,
        config: { ...config, retentionMs: 7_200_000, maxBytes: 2_000_000, duplicateWindowMs: 120_000 },
      });
      expect(await api.getStream(name)).toEqual(changed);
    });

    test("adds partitions, which start at offset 0", async () => {
      const name = freshName();
      await api.createStream({ name, partitions: 2 });
      await api.publish(name, { partition: 1, value: 1 });
      const { partitions, partitionDetails } = await api.updateStream(name, { partitions: 4 });
      expect(partitions).toBe(4);
      expect(partitionDetails.map(({ endOffset }) => endOffset)).toEqual([0, 1, 0, 0]);
      expect(await api.publish(name, { partition: 3, value: 2 })).toMatchObject({ partition: 3, offset: 0 });
    });

    test("to fewer partitions is refused", async () => {
      const name = freshName();
      const stream = await api.createStream({ name, partitions: 3 });
      const failure = await failureOf(api.updateStream(name, { partitions: 2 }));
      expect(failure).toMatchObject(invalid);
      expect(failure.details[0]).toMatchObject({ field: "partitions" });
      expect(await api.getStream(name)).toEqual(stream);
    });

    test("to the same settings changes nothing", async () => {
      const name = freshName();
      const stream = await api.createStream({ name, partitions: 3 });
      expect(await api.updateStream(name, { partitions: 3, config: { compressionType: "none" } })).toEqual(stream);
      expect(await api.updateStream(name, {})).toEqual(stream);
    });

    test("of the largest message holds for the next publish", async () => {
      const name = freshName();
      await api.createStream({ name, config: { maxMessageBytes: 10 } });
      expect((await failureOf(api.publish(name, { value: "x".repeat(100) }))).code).toBe(1004);
      await api.updateStream(name, { config: { maxMessageBytes: 1000 } });
      await api.publish(name, { value: "x".repeat(100) });
    });

    test("of the retention removes what is older", async () => {
      const name = freshName();
      await api.createStream({ name, config: { duplicateWindowMs: 100 } });
      await api.publish(name, { value: 1 });
      await api.updateStream(name, { config: { retentionMs: 100 } });
      await eventually("retention removes the event", async () => (await api.getStream(name)).totalMessages === 0);
    });
  });

  describe("a deletion", () => {
    test("ends the stream and says when", async () => {
      const name = freshName();
      await api.createStream({ name, partitions: 3 });
      const answer = await api.deleteStream(name);
      expect(answer).toEqual({
        status: "deleted",
        streamName: name,
        deletedAt: expect.stringMatching(/^\d{4}-.*\.\d{3}Z$/),
      });
      expect(await failureOf(api.getStream(name))).toMatchObject(notFound);
      expect(await failureOf(api.publish(name, { value: 1 }))).toMatchObject(notFound);
      expect(await failureOf(api.poll(name, "g"))).toMatchObject(notFound);
      expect(await failureOf(api.deleteStream(name))).toMatchObject(notFound);
      expect((await api.listStreams({ prefix: name })).streams).toEqual([]);
    });

    test("frees the name for a stream that knows nothing of the first", async () => {
      const name = freshName();
      const event = { eventId: "same", key: "k", value: "old" };
      await api.createStream({ name, partitions: 2 });
      await api.publish(name, event);
      await api.poll(name, "g", { autoCommit: true });
      await api.deleteStream(name);
      await api.createStream({ name, partitions: 3, config: { compressionType: "gzip" } });
      expect((await api.publish(name, { ...event, value: "new" })).duplicate).toBeUndefined();
      const { events, metadata } = await api.poll(name, "g");
      expect(events.map(({ value, offset }) => [value, offset])).toEqual([["new", 0]]);
      expect(metadata.partitions.every(({ committedOffset }) => committedOffset === undefined)).toBe(true);
    });

    test("takes the groups' positions with it", async () => {
      const name = freshName();
      const group = freshName("g");
      await api.createStream({ name });
      await api.publish(name, { value: 1 });
      await api.poll(name, group);
      await api.commit(group, [{ stream: name, partition: 0, offset: 0 }]);
      await api.deleteStream(name);
      await api.createStream({ name });
      await api.publish(name, { value: 1 });
      const failure = await failureOf(api.commit(group, [{ stream: name, partition: 0, offset: 0 }]));
      expect(failure.code).toBe(1003);
    });

    test("while other calls are made ends them, or they do not find it", async () => {
      for (let round = 0; round < 5; round++) {
        const name = freshName();
        await api.createStream({ name, partitions: 3 });
        await api.publishBatch(name, [{ value: 1 }, { value: 2 }, { value: 3 }]);
        await api.poll(name, "old");
        const group = [0, 1, 2].flatMap((n) => [
          api.getConsumerGroup("old", name),
          api.seek("old", name, { offset: n % 2 }),
          api.nack("old", [{ stream: name, partition: n, offset: 0 }]),
        ]);
        const groupEnds = group.map((call) => call.then(() => undefined, failureOf.bind(undefined, call)));
        const calls = [0, 1, 2].flatMap((n) => [
          api.poll(name, "old", { timeout: 2000 }),
          api.poll(name, `new-${n}`, { timeout: 100 }),
          api.poll(name, `from-${n}`, { timeout: 0, offset: n % 2 }),
          api.commit("old", [{ stream: name, partition: n, offset: 0 }]),
          api.readPartition(name, n),
          api.getStream(name),
          api.publish(name, { value: n }),
          api.publishBatch(name, [{ value: n, partition: n }], { atomic: true }),
          api.updateStream(name, { config: { retentionMs: 1_000_000 + n } }),
        ]);
        const listing = api.listStreams({ prefix: name });
        const ends = calls.map((call) => call.then(() => undefined, failureOf.bind(undefined, call)));
        await api.deleteStream(name);
        for (const failure of await Promise.all(ends)) if (failure) expect(failure).toMatchObject(notFound);
        // The group goes with its stream; an event may be done by a commit of the other calls.
        for (const failure of await Promise.all(groupEnds))
          if (failure) expect(failure.code).toBeOneOf([1001, 1002, 1003]);
        expect((await listing).streams.length).toBeLessThanOrEqual(1);
      }
    });

    test("leaves a stream alone whose name only begins alike", async () => {
      const name = freshName();
      await api.createStream({ name });
      await api.createStream({ name: `${name}-0` });
      await api.publish(`${name}-0`, { value: 1 });
      await api.deleteStream(name);
      expect((await api.getStream(`${name}-0`)).totalMessages).toBe(1);
    });
  });
});

describe("streams over REST", () => {
  test("creation is 201 with the body of GET, repetition 200", async () => {
    const name = freshName();
    const create = () => rawRequest(service.url, "POST", "/api/v1/streams", { name, partitions: 2 });
    const first = await create();
    expect(first.status).toBe(201);
    expect(first.headers["content-type"]).toBe("application/json; charset=utf-8");
    const got = await rawRequest(service.url, "GET", `/api/v1/streams/${name}`);
    expect(got.status).toBe(200);
    expect(first.json()).toEqual(got.json());
    expect((await create()).status).toBe(200);
  });

  test("two creations at once are one 201 and 200s", async () => {
    const name = freshName();
    const answers = await Promise.all(
      [1, 2, 3, 4].map(() => rawRequest(service.url, "POST", "/api/v1/streams", { name })),
    );
    expect(answers.map(({ status }) => status).sort()).toEqual([200, 200, 200, 201]);
  });
});
