import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { partitionOf } from "../../src/log/partitioner.ts";
import {
  type Api,
  bidiProtocols,
  failureOf,
  type NewEvent,
  type PublishResult,
  protocols,
  rawRequest,
  type StreamedEvent,
} from "../support/clients.ts";
import { freshName, useService } from "../support/service.ts";

const service = useService();

describe.each(protocols)("publish over $name", ({ connect, isRest }) => {
  let api: Api;
  beforeAll(() => {
    api = connect(service.url);
  });
  afterAll(() => api[Symbol.asyncDispose]());

  const notSerializable = { code: 1004, name: "SERIALIZATION_ERROR" };
  const invalid = { code: 1100, name: "INVALID_ARGUMENT", httpOrGrpcStatus: isRest ? 400 : 3 };

  const streamOf = async (settings: object = {}): Promise<string> => {
    const name = freshName();
    await api.createStream({ name, ...settings });
    return name;
  };
  /** What a reader gets of an event that is published alone. */
  const roundTrip = async (event: NewEvent) => {
    const stream = await streamOf();
    await api.publish(stream, event);
    return (await api.readPartition(stream, 0)).events[0]!;
  };

  test("answers id, place and time of the stored event", async () => {
    const stream = await streamOf();
    const answer = await api.publish(stream, { key: "k", value: { n: 1 } });
    expect(answer).toEqual({
      eventId: expect.stringMatching(/^evt_/),
      partition: 0,
      offset: 0,
      timestamp: expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/),
      status: "published",
    });
    const { events } = await api.readPartition(stream, 0);
    expect(events).toEqual([
      { eventId: answer.eventId, partition: 0, offset: 0, timestamp: expect.any(String), key: "k", value: { n: 1 } },
    ]);
  });

  test("gives the events of one partition consecutive offsets from 0", async () => {
    const stream = await streamOf({ partitions: 4 });
    const answers = [];
    for (let n = 0; n < 5; n++) answers.push(await api.publish(stream, { key: "same", value: n }));
    expect(answers.map(({ offset }) => offset)).toEqual([0, 1, 2, 3, 4]);
    expect(new Set(answers.map(({ partition }) => partition)).size).toBe(1);
  });

  describe("chooses the partition", () => {
    test.each(["user-123", "", " ", "Zürich", "😀", "a.b.*", "x".repeat(1024)])(
      "of key %j as Kafka does",
      async (key) => {
        const stream = await streamOf({ partitions: 10 });
        expect((await api.publish(stream, { key, value: 1 })).partition).toBe(partitionOf(key, 10));
      },
    );

    test("of user-123 among ten: 8", async () => {
      const stream = await streamOf({ partitions: 10 });
      expect((await api.publish(stream, { key: "user-123", value: 1 })).partition).toBe(8);
    });

    test("by partitionKey before key, and keeps the key", async () => {
      const stream = await streamOf({ partitions: 10 });
      const { partition } = await api.publish(stream, { key: "a", partitionKey: "user-123", value: 1 });
      expect(partition).toBe(8);
      expect((await api.readPartition(stream, 8)).events[0]).toMatchObject({ key: "a" });
    });

    test("that is named, before any key", async () => {
      const stream = await streamOf({ partitions: 10 });
      const event = { key: "user-123", partitionKey: "user-123", partition: 3, value: 1 };
      expect((await api.publish(stream, event)).partition).toBe(3);
    });

    test("in turn for events without any key", async () => {
      const stream = await streamOf({ partitions: 4 });
      const partitions = [];
      for (let n = 0; n < 8; n++) partitions.push((await api.publish(stream, { value: n })).partition);
      expect(partitions.toSorted()).toEqual([0, 0, 1, 1, 2, 2, 3, 3]);
    });

    test.each([2, 999])("and refuses number %d of a stream with two", async (partition) => {
      const stream = await streamOf({ partitions: 2 });
      const failure = await failureOf(api.publish(stream, { partition, value: 1 }));
      expect(failure).toMatchObject(invalid);
      expect(failure.details[0]).toMatchObject({ field: "partition" });
    });
  });

  describe("keeps", () => {
    test.each([
      ["null", null],
      ["true", true],
      ["false", false],
      ["zero", 0],
      ["a negative number", -1.5],
      ["a large double", 1.7976931348623157e308],
      ["the largest exact integer", Number.MAX_SAFE_INTEGER],
      ["an empty text", ""],
      ["Unicode", "Zürich 日本 😀 \u2028 \ufeff"],
      ["control characters", "\u0000\u001f\n\r\t"],
      ["an empty object", {}],
      ["an empty array", []],
      ["nested values", { a: [{ b: [null, 1, "x"] }], "": {}, "a.b": 1 }],
      ["hostile names", JSON.parse('{"__proto__":{"x":1},"constructor":1,"toString":null}')],
      ["40 levels", JSON.parse(`${"[".repeat(40)}${"]".repeat(40)}`)],
    ])("%s as a value", async (_what, value) => {
      const event = await roundTrip({ value });
      expect(JSON.stringify(event.value)).toBe(JSON.stringify(value));
      expect(event.data).toBeUndefined();
      expect(event.contentType).toBeUndefined();
    });

    test.each([
      ["no bytes", new Uint8Array(0), undefined, "application/octet-stream"],
      ["every byte", Uint8Array.from({ length: 256 }, (_, i) => i), undefined, "application/octet-stream"],
      ["bytes of a type", Uint8Array.of(1, 2), "image/png", "image/png"],
      ["text", new TextEncoder().encode("é"), "text/plain; charset=utf-8", "text/plain; charset=utf-8"],
      ["bytes of the type json, which is no media type", Uint8Array.of(0x7b, 0xff), "json", "json"],
      ["a percent sign in the type", Uint8Array.of(1), "text/plain; q=50%", "text/plain; q=50%"],
    ])("%s as data", async (_what, data, contentType, readType) => {
      const event = await roundTrip({ data, ...(contentType === undefined ? {} : { contentType }) });
      expect(event.data).toEqual(data);
      expect(event.contentType).toBe(readType);
      expect(event.value).toBeUndefined();
    });

    test("JSON sent as data, and readers see a value", async () => {
      const text = ' { "id" : 12345678901234567890, "x": [1.0, 1e2] } ';
      const stream = await streamOf();
      await api.publish(stream, {
        data: new TextEncoder().encode(text),
        contentType: "application/json; charset=utf-8",
      });
      const [asValue] = (await api.readPartition(stream, 0)).events;
      expect(asValue!.value).toEqual({ id: Number("12345678901234567890"), x: [1, 100] });
      const [asData] = (await api.readPartition(stream, 0, { payload: "data" })).events;
      expect(new TextDecoder().decode(asData!.data)).toBe('{"id":12345678901234567890,"x":[1.0,1e2]}');
      expect(asData!.contentType).toBe("application/json");
    });

    test("headers of any text", async () => {
      const headers: Record<string, string> = {
        plain: "x",
        empty: "",
        " both ends ": " both ends ",
        "a:b": "c:d",
        "100%": "%41 %",
        "Zürich 日本 😀": "é\u2028😀",
        "line\r\nNats-Rollup: all": "line\r\nNats-Rollup: all",
        "\u0000": "\u0000\u007f",
        "Nats-Msg-Id": "mine",
        "Nats-TTL": "1s",
        "Mr-Key": "mine",
        "Content-Type": "text/x",
        constructor: "c",
        toString: "t",
      };
      const event = await roundTrip({ headers, value: 1 });
      expect(event.headers).toEqual(headers);
      expect(event.key).toBeUndefined();
    });

    test("a header named __proto__", async () => {
      const headers = JSON.parse('{"__proto__":"x","a":"b"}') as Record<string, string>;
      const { headers: read } = await roundTrip({ headers, value: 1 });
      expect(Object.entries(read!).toSorted()).toEqual([
        ["__proto__", "x"],
        ["a", "b"],
      ]);
    });

    test("header names that differ in case only", async () => {
      expect((await roundTrip({ headers: { A: "1", a: "2" }, value: 1 })).headers).toEqual({ A: "1", a: "2" });
    });

    test("64 headers, and refuses one more", async () => {
      const many = (count: number) => Object.fromEntries(Array.from({ length: count }, (_, i) => [`h${i}`, `${i}`]));
      expect((await roundTrip({ headers: many(64), value: 1 })).headers).toEqual(many(64));
      expect(await failureOf(roundTrip({ headers: many(65), value: 1 }))).toMatchObject(invalid);
    });

    test("16 KiB of headers, and refuses one byte more", async () => {
      const headers = (bytes: number) => ({ h: "é".repeat((bytes - 2) / 2), x: "" });
      expect((await roundTrip({ headers: headers(16 * 1024), value: 1 })).headers).toEqual(headers(16 * 1024));
      expect(await failureOf(roundTrip({ headers: { ...headers(16 * 1024), x: "1" }, value: 1 }))).toMatchObject(
        invalid,
      );
    });

    test("an empty key apart from none", async () => {
      expect((await roundTrip({ key: "", value: 1 })).key).toBe("");
      expect(await roundTrip({ value: 1 })).not.toHaveProperty("key");
    });
  });

  describe("refuses", () => {
    test.each<[string, NewEvent, string]>([
      ["neither value nor data", { key: "k" }, "value"],
      ["a key of 1025 bytes", { key: "é".repeat(513), value: 1 }, "key"],
      ["a partitionKey of 1025 bytes", { partitionKey: "x".repeat(1025), value: 1 }, "partitionKey"],
      ["an event id of 129 bytes", { eventId: "x".repeat(129), value: 1 }, "eventId"],
      ["an empty event id", { eventId: "", value: 1 }, "eventId"],
      ["a negative partition", { partition: -1, value: 1 }, "partition"],
      ["partition 1000", { partition: 1000, value: 1 }, "partition"],
      [
        "an expected offset of 2^53",
        { expectedOffset: Number.MAX_SAFE_INTEGER + 1, partition: 0, value: 1 },
        "expectedOffset",
      ],
      ["a negative expected offset", { expectedOffset: -1, partition: 0, value: 1 }, "expectedOffset"],
      ["a header without name", { headers: { "": "x" }, value: 1 }, "headers"],
      ["a content type that is not ASCII", { data: Uint8Array.of(1), contentType: "é" }, "contentType"],
      ["a content type with a line break", { data: Uint8Array.of(1), contentType: "a\r\nb" }, "contentType"],
      ["a content type of 129 characters", { data: Uint8Array.of(1), contentType: "x".repeat(129) }, "contentType"],
      ["a value of another content type", { value: 1, contentType: "text/plain" }, "contentType"],
    ])("%s, and names the field", async (_what, event, field) => {
      const stream = await streamOf();
      const failure = await failureOf(api.publish(stream, event));
      expect(failure).toMatchObject(invalid);
      // Not `events[0].` or `event.` where the caller wrote no such thing.
      const inRpc = isRest ? [field] : [field, `event.${field}`, "event.payload"];
      expect(failure.details.some((detail) => inRpc.some((name) => detail.field?.startsWith(name)))).toBe(true);
      expect((await api.getStream(stream)).totalMessages).toBe(0);
    });

    test("data that is said to be JSON and is not", async () => {
      const stream = await streamOf();
      for (const text of ["", "{", "{'a':1}", "1 2", "\ufeff1", "NaN", `${"[".repeat(65)}${"]".repeat(65)}`]) {
        const event = { data: new TextEncoder().encode(text), contentType: "application/json" };
        expect(await failureOf(api.publish(stream, event))).toMatchObject(notSerializable);
      }
    });

    test("a value that is nested deeper than 64 levels", async () => {
      const stream = await streamOf();
      const value = JSON.parse(`${"[".repeat(65)}${"]".repeat(65)}`);
      expect(await failureOf(api.publish(stream, { value }))).toMatchObject(notSerializable);
    });

    test("what is larger than the stream takes, with 413 over HTTP", async () => {
      const stream = await streamOf({ config: { maxMessageBytes: 100 } });
      await api.publish(stream, { value: "x".repeat(98) });
      const failure = await failureOf(api.publish(stream, { value: "x".repeat(99) }));
      expect(failure).toMatchObject({ ...notSerializable, httpOrGrpcStatus: isRest ? 413 : 3 });
      expect(await failureOf(api.publish(stream, { data: new Uint8Array(101) }))).toMatchObject(notSerializable);
    });
  });

  describe("a stream's maxBytes", () => {
    const value = (bytes: number) => "x".repeat(bytes);
    const tooLarge = { code: 1004, httpOrGrpcStatus: isRest ? 413 : 3 };

    test("refuses an event that alone is beyond it, and keeps what is there", async () => {
      const stream = await streamOf({ config: { maxBytes: 1024 } });
      await api.publish(stream, { value: "kept" });
      let bytes = 512;
      for (let more = 512; more >= 1; more /= 2)
        if (await api.publish(stream, { value: value(bytes) }).catch(() => undefined)) bytes += more;
        else bytes -= more;
      expect(await failureOf(api.publish(stream, { value: value(bytes + 2) }))).toMatchObject(tooLarge);
      const { offset } = await api.publish(stream, { value: value(bytes - 2) });
      const { events } = await api.readPartition(stream, 0, { offset });
      expect(events).toMatchObject([{ offset, value: value(bytes - 2) }]);
    });

    test("refuses an atomic batch that is beyond it, and stores the events of another one in turn", async () => {
      const stream = await streamOf({ config: { maxBytes: 1024 } });
      await api.publish(stream, { value: "kept" });
      const events = Array.from({ length: 5 }, () => ({ value: value(400) }));
      expect(await failureOf(api.publishBatch(stream, events, { atomic: true }))).toMatchObject(tooLarge);
      expect((await api.readPartition(stream, 0)).events).toMatchObject([{ value: "kept" }]);
      expect(await api.publishBatch(stream, events)).toMatchObject({ successCount: 5 });
      expect((await api.readPartition(stream, 0)).events.at(-1)).toMatchObject({ offset: 5 });
    });
  });

  // What one protocol let in must not stop the readers of another.
  test.each([
    ["a number beyond doubles", "1e400"],
    ["a number below doubles", "-1e400"],
    ["more digits than a double has", "12345678901234567890.123"],
    ["half a surrogate pair", '"\\ud800"'],
    ["half a surrogate pair in a name", '{"\\udc00":1}'],
    ["a name twice", '{"a":1,"a":2}'],
    ["the name __proto__", '{"__proto__":{"a":1}}'],
    ["the deepest nesting", `${"[".repeat(64)}${"]".repeat(64)}`],
    ["the deepest nesting of objects", `${'{"a":'.repeat(64)}1${"}".repeat(64)}`],
  ])("hands out %s that came over REST, and what follows it", async (_what, value) => {
    const stream = await streamOf();
    const body = `{"events":[{"value":${value}},{"value":"next"}]}`;
    const answer = await rawRequest(service.url, "POST", `/api/v1/streams/${stream}/events/batch`, body);
    expect(answer.json<{ successCount: number }>().successCount).toBe(2);
    for (const { events } of [await api.poll(stream, "g", { timeout: 0 }), await api.readPartition(stream, 0)]) {
      expect(events).toHaveLength(2);
      expect(events[1]).toMatchObject({ value: "next" });
      expect(JSON.stringify(events[0])).not.toContain("\ufffd");
    }
  });

  test("takes events up to the default of 1 MiB", async () => {
    const stream = await streamOf();
    const data = new Uint8Array(1024 * 1024).fill(7);
    await api.publish(stream, { data });
    expect(Buffer.compare((await api.readPartition(stream, 0)).events[0]!.data!, data)).toBe(0);
  });

  describe("an event id", () => {
    test.each([
      ["with a key", { key: "user-123" }],
      ["without a key", {}],
      ["with a partition", { partition: 5 }],
    ])("published again %s stores nothing and answers the first one's place", async (_what, more) => {
      const stream = await streamOf({ partitions: 10 });
      const first = await api.publish(stream, { eventId: "id-1", value: "first", ...more });
      expect(first).not.toHaveProperty("duplicate");
      for (let n = 0; n < 3; n++) {
        const again = await api.publish(stream, { eventId: "id-1", value: "again", ...more });
        expect(again).toMatchObject({
          eventId: "id-1",
          partition: first.partition,
          offset: first.offset,
          duplicate: true,
        });
      }
      expect((await api.getStream(stream)).totalMessages).toBe(1);
      expect((await api.readPartition(stream, first.partition)).events[0]).toMatchObject({
        eventId: "id-1",
        value: "first",
      });
    });

    test.each(["Zürich 😀", "a:b", "100%", " ends ", "line\r\nx", "\u0000", "x".repeat(128), "__proto__"])(
      "of %j comes back as it is and is found again",
      async (eventId) => {
        const stream = await streamOf();
        expect((await api.publish(stream, { eventId, value: 1 })).eventId).toBe(eventId);
        expect(await api.publish(stream, { eventId, value: 1 })).toMatchObject({ eventId, duplicate: true });
        expect((await api.readPartition(stream, 0)).events.map((event) => event.eventId)).toEqual([eventId]);
      },
    );

    test("is a duplicate for one event only when it is the same", async () => {
      const stream = await streamOf();
      for (const eventId of ["a", "a ", "A", "%61", "a%"]) {
        expect(await api.publish(stream, { eventId, value: 1 })).not.toHaveProperty("duplicate");
      }
    });

    test("published by many at once is stored once", async () => {
      const stream = await streamOf({ partitions: 3 });
      const answers = await Promise.all(
        Array.from({ length: 20 }, () => api.publish(stream, { eventId: "one", value: 1 })),
      );
      expect(answers.filter(({ duplicate }) => !duplicate)).toHaveLength(1);
      expect(new Set(answers.map(({ partition, offset }) => `${partition}/${offset}`)).size).toBe(1);
    });

    test("is forgotten after the duplicate window", async () => {
      const stream = await streamOf({ config: { duplicateWindowMs: 100 } });
      await api.publish(stream, { eventId: "id", value: 1 });
      let answer = await api.publish(stream, { eventId: "id", value: 1 });
      const limit = performance.now() + 15_000;
      while (answer.duplicate && performance.now() < limit)
        answer = await api.publish(stream, { eventId: "id", value: 1 });
      expect(answer.duplicate).toBeUndefined();
    });
  });

  describe("the header Idempotency-Key", () => {
    test.each([
      ["as it is", "order-1", "order-1"],
      ["quoted", '"order-1"', "order-1"],
      ["with escapes", '"a\\"b\\\\c"', 'a"b\\c'],
    ])("names the event, %s", async (_what, header, eventId) => {
      const stream = await streamOf({ partitions: 4 });
      const headers = { "idempotency-key": header };
      const first = await api.publish(stream, { value: 1 }, { headers });
      expect(first.eventId).toBe(eventId);
      expect(await api.publish(stream, { value: 1 }, { headers })).toMatchObject({
        eventId,
        partition: first.partition,
        offset: first.offset,
        duplicate: true,
      });
    });

    test("is refused when the event has another id", async () => {
      const stream = await streamOf();
      const headers = { "idempotency-key": "a" };
      expect((await api.publish(stream, { eventId: "a", value: 1 }, { headers })).eventId).toBe("a");
      expect(await failureOf(api.publish(stream, { eventId: "b", value: 1 }, { headers }))).toMatchObject(invalid);
    });

    test.each(['""', "x".repeat(129)])("of %j is refused", async (header) => {
      const stream = await streamOf();
      const failure = await failureOf(api.publish(stream, { value: 1 }, { headers: { "idempotency-key": header } }));
      expect(failure).toMatchObject(invalid);
    });

    test("makes a batch repeatable", async () => {
      const stream = await streamOf({ partitions: 4 });
      const headers = { "idempotency-key": "batch-7" };
      const events = [{ value: 1 }, { key: "a", value: 2 }, { eventId: "own", value: 3 }];
      const first = await api.publishBatch(stream, events, undefined, { headers });
      const again = await api.publishBatch(stream, events, undefined, { headers });
      expect(again.results).toEqual(first.results.map((result) => ({ ...result, duplicate: true })));
      expect(first.results[2]!.eventId).toBe("own");
      expect((await api.getStream(stream)).totalMessages).toBe(3);
    });
  });

  describe("expectedOffset", () => {
    const failed = { code: 1104, name: "PRECONDITION_FAILED", httpOrGrpcStatus: isRest ? 412 : 9 };

    test("lets an event in when it is the end offset", async () => {
      const stream = await streamOf({ partitions: 3 });
      for (let n = 0; n < 3; n++)
        expect(await api.publish(stream, { partition: 1, expectedOffset: n, value: n })).toMatchObject({ offset: n });
    });

    test.each([0, 1, 3, 4_000_000_000])(
      "of %d is refused at end offset 2, which the details tell",
      async (expectedOffset) => {
        const stream = await streamOf();
        await api.publish(stream, { value: 0 });
        await api.publish(stream, { value: 1 });
        const failure = await failureOf(api.publish(stream, { partition: 0, expectedOffset, value: 2 }));
        expect(failure).toMatchObject(failed);
        expect(failure.details).toContainEqual(expect.objectContaining({ endOffset: 2 }));
        expect((await api.getStream(stream)).totalMessages).toBe(2);
      },
    );

    test("lets one of several at once in", async () => {
      const stream = await streamOf();
      const ends = await Promise.allSettled(
        Array.from({ length: 8 }, (_, n) => api.publish(stream, { partition: 0, expectedOffset: 0, value: n })),
      );
      expect(ends.filter(({ status }) => status === "fulfilled")).toHaveLength(1);
      expect((await api.getStream(stream)).totalMessages).toBe(1);
    });

    test("of an event that is repeated gives its first place", async () => {
      const stream = await streamOf();
      const event = { eventId: "id", partition: 0, expectedOffset: 0, value: 1 };
      await api.publish(stream, event);
      await api.publish(stream, { value: 2 });
      expect(await api.publish(stream, event)).toMatchObject({ eventId: "id", offset: 0, duplicate: true });
      expect((await api.getStream(stream)).totalMessages).toBe(2);
    });

    test("needs to know of which partition", async () => {
      const stream = await streamOf({ partitions: 3 });
      const failure = await failureOf(api.publish(stream, { expectedOffset: 0, value: 1 }));
      expect(failure).toMatchObject(invalid);
      expect(await api.publish(stream, { key: "k", expectedOffset: 0, value: 1 })).toMatchObject({ offset: 0 });
    });
  });

  describe("texts that UTF-8 can't carry", () => {
    const half = "a\ud800b";
    test.each([
      ["key", { key: half, value: 1 }],
      ["partitionKey", { partitionKey: half, value: 1 }],
      ["eventId", { eventId: half, value: 1 }],
      ["header name", { headers: { [half]: "x" }, value: 1 }],
      ["header value", { headers: { x: half }, value: 1 }],
    ])("in the %s are refused", async (_what, event) => {
      const stream = await streamOf();
      // The generated messages' own clients refuse them before anything is sent.
      if (isRest) expect(await failureOf(api.publish(stream, event))).toMatchObject(invalid);
      else await expect(api.publish(stream, event)).rejects.toThrow("invalid UTF8");
      expect((await api.getStream(stream)).totalMessages).toBe(0);
    });
  });
});

describe("publish over REST", () => {
  const publish = (stream: string, body: string) =>
    rawRequest(service.url, "POST", `/api/v1/streams/${stream}/events`, body);
  const poll = (stream: string) =>
    rawRequest(service.url, "GET", `/api/v1/streams/${stream}/events?consumerGroup=${freshName("g")}&timeout=0`);

  test.each([
    "12345678901234567890",
    "-0.1000000000000000055511151231257827",
    "1e400",
    "1.0",
    "100E-2",
    '"\\ud800"',
    '{"b":1,"a":2,"b":3}',
    '"\\u0041/\\/"',
  ])("keeps the value %s as it was sent", async (value) => {
    const stream = freshName();
    await rawRequest(service.url, "POST", "/api/v1/streams", { name: stream });
    expect((await publish(stream, `{"value": ${value} }`)).status).toBe(200);
    expect((await poll(stream)).text).toContain(`"value":${value}}`);
  });

  test.each([
    ["UTF-8", Buffer.from("Zoë").toString("latin1")],
    ["no UTF-8", "Zoë"],
  ])("names the event by an Idempotency-Key in %s", async (_what, key) => {
    const stream = freshName();
    await rawRequest(service.url, "POST", "/api/v1/streams", { name: stream });
    const path = `/api/v1/streams/${stream}/events`;
    const answer = await rawRequest(service.url, "POST", path, { value: 1 }, { "idempotency-key": key });
    expect(answer.json<{ eventId: string }>().eventId).toBe("Zoë");
    const again = await rawRequest(service.url, "POST", path, { value: 1, eventId: "Zoë" });
    expect(again.json()).toMatchObject({ offset: 0, duplicate: true });
  });

  test.each([63, 64])("keeps a value of %d levels", async (levels) => {
    const stream = freshName();
    await rawRequest(service.url, "POST", "/api/v1/streams", { name: stream });
    const value = `${"[".repeat(levels)}${"]".repeat(levels)}`;
    expect((await publish(stream, `{"value":${value}}`)).status).toBe(200);
    expect((await poll(stream)).text).toContain(`"value":${value}}`);
  });

  test("data of the type json can't break the answer's JSON", async () => {
    const stream = freshName();
    await rawRequest(service.url, "POST", "/api/v1/streams", { name: stream });
    const data = Buffer.from('},"injected":{').toString("base64");
    expect((await publish(stream, JSON.stringify({ data, contentType: "json" }))).status).toBe(200);
    const { events } = (await poll(stream)).json<{ events: object[] }>();
    expect(events).toEqual([expect.objectContaining({ data, contentType: "json" })]);
  });
});

describe("publish over Connect JSON, as no client writes it", () => {
  const publish = (stream: string, event: string) =>
    rawRequest(
      service.url,
      "POST",
      "/millrace.v1.EventService/Publish",
      `{"streamName":${JSON.stringify(stream)},"event":${event}}`,
    );

  test.each([
    ["half a surrogate pair in the key", '{"key":"\\ud800","value":1}'],
    ["half a surrogate pair in a header", '{"headers":{"a":"\\udc00"},"value":1}'],
    ["a partition that is no number", '{"value":1,"partition":"x"}'],
    ["value and data", '{"value":1,"data":"AA=="}'],
    ["data that is no base64", '{"data":"*"}'],
    ["no JSON", "{"],
  ])("%s is refused as the caller's fault", async (_what, event) => {
    const stream = freshName();
    await rawRequest(service.url, "POST", "/api/v1/streams", { name: stream });
    const answer = await publish(stream, event);
    expect(answer.status).toBe(400);
    const { code, details } = answer.json<{
      code: string;
      details: { type: string; debug?: { metadata: object } }[];
    }>();
    expect(code).toBe("invalid_argument");
    expect(details?.map(({ type }) => type)).toContain("google.rpc.ErrorInfo");
    const { totalMessages } = (await rawRequest(service.url, "GET", `/api/v1/streams/${stream}`)).json<{
      totalMessages: number;
    }>();
    expect(totalMessages).toBe(0);
  });
});

describe.each(bidiProtocols)("a publish stream over $name", ({ connect }) => {
  let api: Api;
  beforeAll(() => {
    api = connect(service.url);
  });
  afterAll(() => api[Symbol.asyncDispose]());

  async function* each(requests: readonly StreamedEvent[]) {
    yield* requests;
  }
  async function all(requests: readonly StreamedEvent[]): Promise<PublishResult[]> {
    const results: PublishResult[] = [];
    for await (const result of api.publishStream!(each(requests))) results.push(result);
    return results;
  }

  test("answers every event in order with its place", async () => {
    const stream = freshName();
    await api.createStream({ name: stream, partitions: 3 });
    const requests = Array.from({ length: 500 }, (_, n) => ({
      ...(n === 0 ? { streamName: stream } : {}),
      event: { eventId: `e${n}`, key: `k${n % 7}`, value: n },
    }));
    const results = await all(requests);
    expect(results.map(({ eventId }) => eventId)).toEqual(requests.map(({ event }) => event.eventId));
    expect(results.every(({ error, offset }) => error === undefined && offset !== undefined)).toBe(true);
    expect((await api.getStream(stream)).totalMessages).toBe(500);
    // The events of one key stay in their order.
    for (let partition = 0; partition < 3; partition++) {
      const { events } = await api.readPartition(stream, partition, { limit: 1000 });
      const last = new Map<string, number>();
      for (const { key, value } of events) {
        expect(value).toBeGreaterThan(last.get(key!) ?? -1);
        last.set(key!, value as number);
      }
    }
  });

  test("answers a bad event in its place and goes on", async () => {
    const stream = freshName();
    await api.createStream({ name: stream });
    const results = await all([
      { streamName: stream, event: { value: 1 } },
      { event: { key: "without payload" } },
      { event: { eventId: "ok", value: 2 } },
      { event: { key: "x".repeat(2000), eventId: "long", value: 3 } },
      { event: { partition: 5, value: 4 } },
      {},
      { streamName: freshName("unknown"), event: { value: 5 } },
      { streamName: stream, event: { value: 6 } },
    ]);
    expect(results.map(({ error, offset }) => error?.code ?? offset)).toEqual([0, 1100, 1, 1100, 1100, 1100, 1001, 2]);
    expect(results[3]!.eventId).toBe("long");
  });

  test("finds a repeated id", async () => {
    const stream = freshName();
    await api.createStream({ name: stream });
    const event = { eventId: "id", value: 1 };
    const results = await all([{ streamName: stream, event }, { event }]);
    expect(results).toEqual([
      { eventId: "id", partition: 0, offset: 0 },
      { eventId: "id", partition: 0, offset: 0, duplicate: true },
    ]);
  });

  test("answers an event before the next one is sent", async () => {
    const stream = freshName();
    await api.createStream({ name: stream });
    let answered = Promise.withResolvers<void>();
    async function* requests() {
      for (let n = 0; n < 3; n++) {
        yield { streamName: stream, event: { value: n } };
        await answered.promise;
        answered = Promise.withResolvers();
      }
    }
    const offsets: unknown[] = [];
    for await (const { offset } of api.publishStream!(requests())) {
      offsets.push(offset);
      answered.resolve();
    }
    expect(offsets).toEqual([0, 1, 2]);
  });

  test("that names no stream is refused", async () => {
    expect(await failureOf(all([{ event: { value: 1 } }]))).toMatchObject({ code: 1100 });
  });

  test("that is empty is answered with nothing", async () => {
    expect(await all([])).toEqual([]);
  });

  test("that names no possible stream is refused", async () => {
    expect(await failureOf(all([{ streamName: "a.b", event: { value: 1 } }]))).toMatchObject({ code: 1100 });
  });
});
