import { afterAll, beforeAll, describe, expect, test } from "vitest";
import {
  type Api,
  failureOf,
  type NewGroup,
  type PollOptions,
  protocols,
  type StoredEvent,
} from "../support/clients.ts";
import { freshName, startService, type TestService, useService } from "../support/service.ts";
import { subscribers } from "../support/subscribers.ts";
import { eventually } from "../support/wait.ts";

const service = useService({ MILLRACE_ACK_WAIT_MS: "300" });
let other: TestService;
beforeAll(async () => {
  other = await startService(service.nats.url, { MILLRACE_ACK_WAIT_MS: "300" });
});
afterAll(async () => {
  await other[Symbol.asyncDispose]();
  expect(other.errors).toEqual([]);
});

const numbers = (count: number) => Array.from({ length: count }, (_, value) => value);

async function newStream(api: Api, count: number, partitions = 1): Promise<string> {
  const name = freshName();
  await api.createStream({ name, partitions });
  const events = numbers(count).map((value) => ({ value, partition: value % partitions, key: `k${value}` }));
  if (count > 0) await api.publishBatch(name, events);
  return name;
}

describe.each(protocols)("returning events over $name", ({ connect, isRest }) => {
  let api: Api;
  let api2: Api;
  beforeAll(() => {
    api = connect(service.url);
    api2 = connect(other.url);
  });
  afterAll(async () => {
    await api[Symbol.asyncDispose]();
    await api2[Symbol.asyncDispose]();
  });

  const badOffset = { code: 1002, name: "INVALID_OFFSET", httpOrGrpcStatus: isRest ? 400 : 11 };
  const take = async (stream: string, options: PollOptions = {}, by = api) =>
    (await by.poll(stream, "g", { timeout: 0, ...options })).events;
  const offsets = (events: readonly StoredEvent[]) => events.map(({ offset }) => offset);
  const at = (stream: string, offset: number, partition = 0) => ({ stream, partition, offset });
  const describeGroup = async (stream: string) => (await api.getConsumerGroup("g", stream)).streams[0]!.partitions;
  /** Polls until there is something. */
  const next = (stream: string, options: PollOptions = {}, by = api) =>
    eventually("events come", async () => {
      const events = await take(stream, { timeout: 200, ...options }, by);
      return events.length > 0 && events;
    });

  test("hands one out again by itself, after its delay, and counts", async () => {
    const stream = await newStream(api, 4);
    expect(offsets(await take(stream))).toEqual([0, 1, 2, 3]);
    expect(await api.nack("g", [at(stream, 1)], { delay: 150 })).toEqual({
      events: [{ ...at(stream, 1), outcome: "returned", deliveries: 1 }],
    });
    await api.commit("g", [at(stream, 3)]);
    expect(await describeGroup(stream)).toMatchObject([{ position: 4, committedOffset: 3, lag: 0, returned: 1 }]);
    const before = performance.now();
    const [again, ...more] = await next(stream, { timeout: 5000 });
    expect(performance.now() - before).toBeLessThan(5000);
    expect(more).toEqual([]);
    expect(again).toMatchObject({ offset: 1, value: 1, key: "k1", deliveryAttempt: 2 });
    // The last event of its partition in that answer: a commit of it says that it is done, and moves nothing.
    await api.commit("g", [at(stream, 1)]);
    expect(await describeGroup(stream)).toMatchObject([{ position: 4, committedOffset: 3, lag: 0, returned: 0 }]);
    expect(await take(stream, { timeout: 500 })).toEqual([]);
    await api.commit("g", [at(stream, 1)]);
    expect(await describeGroup(stream)).toMatchObject([{ position: 4, committedOffset: 3 }]);
  });

  test("commits what stands before it by the commit of the last one, though that was returned", async () => {
    const stream = await newStream(api, 4);
    await take(stream);
    await api.nack("g", [at(stream, 3)], { delay: 100 });
    await api.commit("g", [at(stream, 3)]);
    expect(await describeGroup(stream)).toMatchObject([{ committedOffset: 3, lag: 0, returned: 1 }]);
    expect(await next(stream)).toMatchObject([{ offset: 3, deliveryAttempt: 2 }]);
  });

  test("passes its place: what is not committed comes again without it", async () => {
    const stream = await newStream(api, 4);
    await take(stream);
    await api.nack("g", [at(stream, 0), at(stream, 2)], { delay: 60_000 });
    expect(await describeGroup(stream)).toMatchObject([{ committedOffset: 0, lag: 3, returned: 2 }]);
    expect(offsets(await next(stream))).toEqual([1, 3]);
    await api.commit("g", [at(stream, 1)]);
    expect(await describeGroup(stream)).toMatchObject([{ committedOffset: 2, lag: 1, returned: 2 }]);
  });

  test("does not hold up what comes after, in turn with what is new", async () => {
    const stream = await newStream(api, 3);
    await take(stream);
    await api.nack(
      "g",
      [0, 1, 2].map((offset) => at(stream, offset)),
    );
    await api.publishBatch(
      stream,
      numbers(3).map((value) => ({ value })),
    );
    const polls: number[][] = [];
    while (polls.flat().length < 6) {
      const events = await next(stream, { limit: 1 });
      polls.push(offsets(events));
      await api.commit("g", [at(stream, events[0]!.offset)]);
    }
    expect([...polls.flat()].sort()).toEqual([0, 1, 2, 3, 4, 5]);
    expect(polls.flat().filter((offset) => offset > 2)).toEqual([3, 4, 5]);
    expect(polls.flat().indexOf(3)).toBeLessThan(2);
    expect(await describeGroup(stream)).toMatchObject([{ lag: 0, returned: 0 }]);
  });

  test("comes again when it is not committed within ackWait, and may be returned again", async () => {
    const stream = await newStream(api, 1);
    await take(stream);
    await api.nack("g", [at(stream, 0)]);
    expect(await next(stream)).toMatchObject([{ deliveryAttempt: 2 }]);
    expect(await next(stream)).toMatchObject([{ deliveryAttempt: 3 }]);
    expect((await api.nack("g", [at(stream, 0)])).events).toMatchObject([{ outcome: "returned", deliveries: 3 }]);
    expect(await next(stream, { autoCommit: true })).toMatchObject([{ deliveryAttempt: 4 }]);
    expect(await describeGroup(stream)).toMatchObject([{ lag: 0, returned: 0 }]);
  });

  test("is known to the other gateways", async () => {
    const stream = await newStream(api, 2);
    await take(stream);
    await api.nack("g", [at(stream, 0)]);
    expect(await next(stream, {}, api2)).toMatchObject([{ offset: 0, deliveryAttempt: 2 }]);
    await api.commit("g", [at(stream, 0)]);
    expect(await describeGroup(stream)).toMatchObject([{ committedOffset: 0, lag: 1, returned: 0 }]);
    expect(offsets(await next(stream, {}, api2))).toEqual([1]);
  });

  test("gives it to the member that has its partition, which alone may say what becomes of it", async () => {
    const stream = await newStream(api, 4, 2);
    await take(stream, { consumerId: "a" });
    await api.nack("g", [at(stream, 0, 0), at(stream, 1, 1)], { consumerId: "a", generation: 1, delay: 50 });
    const isNotOwner = { code: 1103, httpOrGrpcStatus: isRest ? 409 : 10 };
    expect(await failureOf(api.nack("g", [at(stream, 1, 0)], { consumerId: "b" }))).toMatchObject(isNotOwner);
    const events = await eventually("both come again", async () => {
      const polled = await take(stream, { consumerId: "a", timeout: 200 });
      return polled.filter(({ deliveryAttempt }) => deliveryAttempt).length === 2 && polled;
    });
    expect(offsets(events)).toEqual([0, 1]);
    expect(await failureOf(api.commit("g", [at(stream, 0, 0)], { consumerId: "b" }))).toMatchObject(isNotOwner);
    await api.commit("g", [at(stream, 0, 0), at(stream, 1, 1)], { consumerId: "a" });
    expect((await describeGroup(stream)).map(({ returned }) => returned)).toEqual([0, 0]);
  });

  test("refuses what is done, what is not there and what is named twice, and takes nothing of the rest", async () => {
    const stream = await newStream(api, 3);
    await take(stream);
    await api.commit("g", [at(stream, 0)]);
    const nack = (...places: number[]) =>
      failureOf(
        api.nack(
          "g",
          places.map((offset) => at(stream, offset)),
        ),
      );
    expect(await nack(1, 0)).toMatchObject(badOffset);
    expect(await nack(1, 3)).toMatchObject(badOffset);
    expect(await nack(1, -1)).toMatchObject(badOffset);
    expect(await nack(1, 1)).toMatchObject({ code: 1100 });
    expect(await nack()).toMatchObject({ code: 1100 });
    expect(await failureOf(api.nack("g", [at(stream, 1)], { delay: -1 }))).toMatchObject({ code: 1100 });
    expect(await failureOf(api.nack("g", [at(stream, 1, 1)]))).toMatchObject({ code: 1100 });
    expect(await failureOf(api.nack("g", [at(freshName(), 1)]))).toMatchObject({ code: 1001 });
    expect(await failureOf(api.nack(freshName(), [at(stream, 1)]))).toMatchObject({ code: 1003 });
    expect(await failureOf(api.nack("g", [at(stream, 1)], { generation: 1 }))).toMatchObject({ code: 1100 });
    expect(await describeGroup(stream)).toMatchObject([{ committedOffset: 0, returned: 0 }]);
  });

  test("forgets the returned ones behind a seek, with its group and with its stream", async () => {
    const stream = await newStream(api, 3);
    await take(stream);
    await api.nack("g", [at(stream, 1)]);
    await api.seek("g", stream, { offset: "earliest" });
    expect(offsets(await next(stream))).toEqual([0, 1, 2]);
    await api.nack("g", [at(stream, 1)]);
    await api.deleteConsumerGroup("g", stream);
    expect(offsets(await next(stream))).toEqual([0, 1, 2]);
    expect(await describeGroup(stream)).toMatchObject([{ returned: 0 }]);
  });

  describe("with a dead-letter stream", () => {
    const newGroup = async (stream: string, maxDeliveries: number, more: NewGroup["config"] = {}) => {
      const deadLetterStream = freshName("dead");
      const config = { maxDeliveries, deadLetterStream, ...more };
      const { streams } = await api.createConsumerGroup("g", stream, { config });
      expect(streams[0]!.config).toMatchObject(config);
      return deadLetterStream;
    };
    const letters = async (stream: string) =>
      (await api.poll(stream, "reader", { timeout: 0, autoCommit: true })).events;

    test("does not count what was not handed out", async () => {
      const stream = await newStream(api, 3);
      const dead = await newGroup(stream, 1);
      expect(await failureOf(api.nack("g", [at(stream, 1)]))).toMatchObject(badOffset);
      expect(offsets(await take(stream, { limit: 1 }))).toEqual([0]);
      expect(await failureOf(api2.nack("g", [at(stream, 0), at(stream, 1)]))).toMatchObject(badOffset);
      expect(await api2.nack("g", [at(stream, 0)])).toMatchObject({ events: [{ outcome: "dead_lettered" }] });
      expect(offsets(await next(stream, { limit: 1 }, api2))).toEqual([1]);
      expect(await api.nack("g", [at(stream, 1)])).toMatchObject({ events: [{ outcome: "dead_lettered" }] });
      expect(await letters(dead)).toHaveLength(2);
    });

    test("ends there when it was returned often enough, with its origin", async () => {
      const stream = freshName();
      await api.createStream({ name: stream });
      const event = { key: "k", value: { a: [1] }, headers: { own: "1" } };
      const { eventId, timestamp } = await api.publish(stream, event);
      const dead = await newGroup(stream, 2);
      await take(stream);
      await api.nack("g", [at(stream, 0)], { reason: "first" });
      expect(await next(stream)).toMatchObject([{ deliveryAttempt: 2 }]);
      expect(await api.nack("g", [at(stream, 0)], { reason: "no such user: Zoë" })).toEqual({
        events: [{ ...at(stream, 0), outcome: "dead_lettered", deliveries: 2 }],
      });
      expect(await describeGroup(stream)).toMatchObject([{ lag: 0, returned: 0 }]);
      const [letter, ...more] = await letters(dead);
      expect(more).toEqual([]);
      expect(letter).toMatchObject({ key: "k", value: { a: [1] } });
      const at0 = letter!.headers!["millrace-dead-letter-timestamp"]!;
      expect(Math.abs(Date.parse(at0) - Date.parse(timestamp))).toBeLessThan(60_000);
      expect(letter!.headers).toEqual({
        own: "1",
        "millrace-dead-letter-group": "g",
        "millrace-dead-letter-stream": stream,
        "millrace-dead-letter-partition": "0",
        "millrace-dead-letter-offset": "0",
        "millrace-dead-letter-event-id": eventId,
        "millrace-dead-letter-timestamp": at0,
        "millrace-dead-letter-deliveries": "2",
        "millrace-dead-letter-reason": "no such user: Zoë",
      });
    });

    test("ends there when it was not committed in time often enough; the last time it comes alone", async () => {
      const stream = await newStream(api, 5);
      const dead = await newGroup(stream, 2, { ackWait: 150 });
      expect(offsets(await take(stream))).toEqual([0, 1, 2, 3, 4]);
      await api.commit("g", [at(stream, 0)]);
      // Not committed in time: each now comes by itself, and those that are processed are not lost.
      for (const good of [1, 2, 3]) {
        expect(offsets(await next(stream))).toEqual([good]);
        await api.commit("g", [at(stream, good)]);
      }
      expect(offsets(await next(stream))).toEqual([4]);
      await eventually("it is a dead letter", async () => {
        expect(await take(stream, { timeout: 100 })).toEqual([]);
        return (await describeGroup(stream))[0]!.lag === 0;
      });
      expect(await letters(dead)).toMatchObject([
        {
          value: 4,
          headers: {
            "millrace-dead-letter-deliveries": "2",
            "millrace-dead-letter-reason": "it was not committed in time",
          },
        },
      ]);
    });

    test("keeps the others of its partition", async () => {
      const stream = await newStream(api, 3);
      const dead = await newGroup(stream, 2, { ackWait: 150 });
      const seen: number[] = [];
      const dying = 1;
      await eventually("all others are committed", async () => {
        for (const { offset } of await take(stream, { timeout: 100 })) {
          // It dies of this one, each time.
          if (offset === dying) break;
          seen.push(offset);
          await api.commit("g", [at(stream, offset)]);
        }
        const [partition] = await describeGroup(stream);
        return partition!.lag === 0;
      });
      expect([...new Set(seen)]).toEqual([0, 2]);
      expect((await letters(dead)).map(({ value }) => value)).toEqual([dying]);
    });

    test("is stored once, though it is returned by two at once", async () => {
      const stream = await newStream(api, 1);
      const dead = await newGroup(stream, 1);
      await take(stream);
      const results = await Promise.allSettled([api, api2].map((by) => by.nack("g", [at(stream, 0)])));
      expect(results.some(({ status }) => status === "fulfilled")).toBe(true);
      expect(await letters(dead)).toHaveLength(1);
    });

    test("stays in the group while the dead-letter stream is gone", async () => {
      const stream = await newStream(api, 1);
      const dead = await newGroup(stream, 1);
      await api.deleteStream(dead);
      await take(stream);
      expect((await api.nack("g", [at(stream, 0)])).events).toMatchObject([{ outcome: "returned" }]);
      expect(await describeGroup(stream)).toMatchObject([{ returned: 1 }]);
      await api.createStream({ name: dead });
      await eventually("it is a dead letter", async () => {
        await take(stream, { timeout: 300 });
        return (await describeGroup(stream))[0]!.returned === 0;
      });
      expect(await letters(dead)).toHaveLength(1);
    });

    test("needs both settings, and another stream", async () => {
      const stream = await newStream(api, 0);
      const create = (config: NewGroup["config"]) =>
        failureOf(api.createConsumerGroup("g", stream, { config: config! }));
      const invalid = { code: 1100, httpOrGrpcStatus: isRest ? 400 : 3 };
      expect(await create({ maxDeliveries: 3 })).toMatchObject(invalid);
      expect(await create({ deadLetterStream: "d" })).toMatchObject(invalid);
      expect(await create({ maxDeliveries: 3, deadLetterStream: stream })).toMatchObject(invalid);
      expect(await create({ maxDeliveries: 0, deadLetterStream: "d" })).toMatchObject(invalid);
      expect(await create({ maxDeliveries: 3, deadLetterStream: "a b" })).toMatchObject(invalid);
    });
  });
});

describe.each(subscribers)("returned events of a subscription by $name", (by) => {
  const api = () => protocols[0]!.connect(service.url);

  test("are sent again by themselves, and end in the dead-letter stream", async () => {
    await using rest = api();
    const stream = await newStream(rest, 3);
    const deadLetterStream = freshName("dead");
    await rest.createConsumerGroup("g", stream, { config: { maxDeliveries: 2, deadLetterStream, ackWait: 30_000 } });
    const over = new AbortController();
    const seen: number[] = [];
    const outcomes: string[] = [];
    for await (const { events } of by.subscribe(service.url, stream, { consumerGroup: "g" }, over.signal)) {
      for (const { offset } of events) {
        seen.push(offset);
        const place = { stream, partition: 0, offset };
        if (offset !== 1) await rest.commit("g", [place]);
        else outcomes.push((await rest.nack("g", [place])).events[0]!.outcome);
      }
      if (outcomes.length === 2 && seen.includes(2)) break;
    }
    over.abort();
    expect(seen.filter((offset) => offset === 1)).toHaveLength(2);
    expect(seen.filter((offset) => offset !== 1)).toEqual([0, 2]);
    expect(outcomes).toEqual(["returned", "dead_lettered"]);
    const letters = await rest.poll(deadLetterStream, "reader", { timeout: 0 });
    expect(letters.events.map(({ value }) => value)).toEqual([1]);
  });

  test("do not wait for one that a filter leaves out, though it may die", async () => {
    await using rest = api();
    const stream = await newStream(rest, 4);
    const deadLetterStream = freshName("dead");
    await rest.createConsumerGroup("g", stream, { config: { maxDeliveries: 2, deadLetterStream, ackWait: 150 } });
    await rest.poll(stream, "g", { timeout: 0 });
    // Not committed in time: the next delivery of each is the last.
    await eventually("the second delivery", async () => (await rest.poll(stream, "g", { timeout: 100 })).events[0]);
    await rest.commit("g", [{ stream, partition: 0, offset: 0 }]);
    const over = new AbortController();
    const request = { consumerGroup: "g", filter: "value == 3.0" };
    const seen: number[] = [];
    for await (const { events } of by.subscribe(service.url, stream, request, over.signal)) {
      seen.push(...events.map(({ offset }) => offset));
      if (seen.length > 0) break;
    }
    over.abort();
    expect(seen).toEqual([3]);
  });

  test("are settled by autoCommit", async () => {
    await using rest = api();
    const stream = await newStream(rest, 2);
    await rest.poll(stream, "g", { timeout: 0 });
    await rest.nack("g", [{ stream, partition: 0, offset: 1 }]);
    const over = new AbortController();
    const seen: number[] = [];
    const reading = (async () => {
      const request = { consumerGroup: "g", autoCommit: true };
      for await (const { events } of by.subscribe(service.url, stream, request, over.signal))
        seen.push(...events.map(({ offset }) => offset));
    })().catch(() => {});
    await eventually("all is committed", async () => {
      const [partition] = (await rest.getConsumerGroup("g", stream)).streams[0]!.partitions;
      return partition!.lag === 0 && partition!.returned === 0;
    });
    over.abort();
    await reading;
    expect([...seen].sort()).toEqual([0, 1]);
  });
});
