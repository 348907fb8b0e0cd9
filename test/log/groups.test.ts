import { randomUUID } from "node:crypto";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { ByteBudget } from "../../src/domain/byte-budget.ts";
import { deadlineIn, pause } from "../../src/domain/deadline.ts";
import type { Delivered, PullOptions } from "../../src/jetstream/fetch.ts";
import {
  durableName,
  GROUPS_BUCKET,
  gatewaySubject,
  OFFSETS_BUCKET,
  partitionStream,
  RETURNED_BUCKET,
  returnedPrefix,
} from "../../src/jetstream/names.ts";
import type { StreamRecord } from "../../src/log/catalog.ts";
import { commit } from "../../src/log/commit.ts";
import { nack } from "../../src/log/nack.ts";
import { type PollOptions, type PollResult, poll } from "../../src/log/poll.ts";
import { type Log, openLog, TESTER } from "../support/log.ts";
import { startNats } from "../support/nats.ts";

const ACK_WAIT_MS = 400;
const never = new AbortController().signal;

let nats: Awaited<ReturnType<typeof startNats>>;
let log: Log;
beforeAll(async () => {
  nats = await startNats();
  log = await openLog(nats.url, ACK_WAIT_MS);
});
afterAll(async () => {
  await log[Symbol.asyncDispose]();
  await nats[Symbol.asyncDispose]();
});

async function streamOf(events: number, partitions = 1): Promise<StreamRecord> {
  const { record } = await log.catalog.create(randomUUID(), { partitions }, TESTER, deadlineIn(10_000));
  const payload = Buffer.from("1");
  for (let n = 0; n < events; n++)
    await log.appender.append(
      record,
      { payload, contentType: "application/json", partition: n % partitions },
      { deadline: deadlineIn(5000) },
    );
  return record;
}

const append = (stream: StreamRecord, partition: number, text: string) =>
  log.appender.append(
    stream,
    { payload: Buffer.from(text), contentType: "application/json", partition },
    { deadline: deadlineIn(5000) },
  );

async function take(
  stream: StreamRecord,
  group: string,
  options: Partial<PollOptions> = {},
  by: Log = log,
): Promise<PollResult> {
  const joined = await by.groups.join(group, stream, { start: "earliest", owner: TESTER }, deadlineIn(5000));
  return poll(by.catalog, by.groups, joined, {
    reader: {},
    seekTo: undefined,
    limit: 10,
    maxBytes: 1_000_000,
    waitMs: 0,
    filter: undefined,
    autoCommit: false,
    holding: new ByteBudget(1_000_000_000).hold(),
    deadline: deadlineIn(5000),
    signal: never,
    draining: never,
    ...options,
  });
}

const offsetsOf = (result: PollResult): number[] => result.events.map((event) => event.offset);
const committing = (stream: StreamRecord, group: string, offset: number, partition = 0) =>
  commit(
    log.catalog,
    log.groups,
    group,
    [{ stream: stream.name, partition, offset }],
    { owner: TESTER },
    deadlineIn(5000),
  );

/** Polls until something comes, within a limit. */
async function takeSome(stream: StreamRecord, group: string, options: Partial<PollOptions> = {}): Promise<number[]> {
  const limit = deadlineIn(10_000);
  while (performance.now() < limit) {
    const found = offsetsOf(await take(stream, group, options));
    if (found.length > 0) return found;
    await pause(20);
  }
  throw new Error("nothing came");
}

describe("poll", () => {
  test("hands out each event once while ackWait has not passed", async () => {
    const stream = await streamOf(5);
    expect(offsetsOf(await take(stream, "g", { limit: 3 }))).toEqual([0, 1, 2]);
    expect(offsetsOf(await take(stream, "g", { limit: 3 }))).toEqual([3, 4]);
    expect(offsetsOf(await take(stream, "g"))).toEqual([]);
  });

  test("hands out again, in order and all of it, what was not committed within ackWait", async () => {
    const stream = await streamOf(6);
    await take(stream, "g", { limit: 4 });
    await committing(stream, "g", 0);
    await take(stream, "g", { limit: 1 });
    expect(await takeSome(stream, "g", { reader: { partitions: [0] }, limit: 10, waitMs: 0 })).toEqual([5]);
    expect(await takeSome(stream, "g")).toEqual([1, 2, 3, 4, 5]);
  });

  test("gives back what a caller that went away was handed: it comes first and in order", async () => {
    const stream = await streamOf(5);
    const gone = await take(stream, "g", { limit: 3 });
    await gone.giveBack();
    expect(offsetsOf(await take(stream, "g"))).toEqual([0, 1, 2, 3, 4]);
  });

  test("goes on in order after giving back several times in a row", async () => {
    const stream = await streamOf(8);
    for (let i = 0; i < 3; i++) await (await take(stream, "g", { limit: 4 })).giveBack();
    expect(offsetsOf(await take(stream, "g", { limit: 6 }))).toEqual([0, 1, 2, 3, 4, 5]);
    await committing(stream, "g", 5);
    expect(offsetsOf(await take(stream, "g"))).toEqual([6, 7]);
  });

  test("hands out nothing twice that was committed, when nats-server crashes while a partition is made ready", async () => {
    const stream = await streamOf(3);
    await take(stream, "g", { limit: 2, autoCommit: true });
    const js = log.js as { epoch: number } & Log["js"];
    const { consumers } = js.jsm;
    const add = consumers.add.bind(consumers);
    using _crash = vi.spyOn(consumers, "add").mockImplementationOnce(async (...request) => {
      const seen = await add(...request);
      // What it has not written down is gone with it: its consumer begins anew, on a new connection.
      await consumers.reset(partitionStream(stream.name, 0), durableName("g", 0), 1);
      js.epoch++;
      return seen;
    });
    js.epoch++;
    expect(offsetsOf(await take(stream, "g"))).toEqual([2]);
  });

  test("makes the storage's consumer anew when it is gone", async () => {
    const stream = await streamOf(2);
    await take(stream, "g", { limit: 1, autoCommit: true });
    await log.js.jsm.consumers.delete(partitionStream(stream.name, 0), durableName("g", 0));
    expect(offsetsOf(await take(stream, "g", { deadline: deadlineIn(3000) }))).toEqual([1]);
  });

  test("is not held up by a returned event that went without a word", async () => {
    const stream = await streamOf(2);
    await take(stream, "g", { limit: 1 });
    await nack(log.catalog, log.groups, "g", [{ stream: stream.name, partition: 0, offset: 0 }], {
      delayMs: 0,
      reason: undefined,
      by: { owner: TESTER },
      deadline: deadlineIn(5000),
    });
    await log.js.jsm.streams.purge(`KV_${RETURNED_BUCKET}`, {
      filter: `$KV.${RETURNED_BUCKET}.${returnedPrefix("g", stream.id)}.>`,
    });
    expect(offsetsOf(await take(stream, "g"))).toEqual([1]);
  });

  test("ends the wait when its caller goes away and loses nothing by it", async () => {
    const stream = await streamOf(0);
    const caller = new AbortController();
    const waiting = take(stream, "g", { waitMs: 20_000, signal: caller.signal });
    caller.abort(new Error("gone"));
    await expect(waiting).rejects.toThrow("gone");
    const payload = Buffer.from("1");
    await log.appender.append(stream, { payload, contentType: "application/json" }, { deadline: deadlineIn(5000) });
    expect(offsetsOf(await take(stream, "g", { waitMs: 5000 }))).toEqual([0]);
  });

  test.each([
    ["", false],
    [" beside another gateway", true],
  ])("passes over nothing when an event and the end of the wait for it cross%s", async (_where, isShared) => {
    const stream = await streamOf(0, 2);
    await take(stream, "g");
    await using owned = new AsyncDisposableStack();
    if (isShared) await take(stream, "g", {}, owned.use(await openLog(nats.url)));
    // As nats-server does when the subscription of the wait has just gone: it delivers the message anew a moment later,
    // behind those that were asked for meanwhile.
    const real = log.js.fetcher.pull.bind(log.js.fetcher);
    let toNobody: Delivered | undefined;
    const pull = vi.spyOn(log.js.fetcher, "pull").mockImplementation(async (jsStream, durable, options, signal) => {
      if (jsStream !== partitionStream(stream.name, 0)) return real(jsStream, durable, options, signal);
      if (options.waitMs > 0) {
        const { arrived: _, ...unseen } = options as PullOptions;
        toNobody = (await real(jsStream, durable, unseen)).messages[0];
        await new Promise((resolve) => signal!.addEventListener("abort", resolve, { once: true }));
        return { messages: [], end: "empty" };
      }
      const result = await real(jsStream, durable, options, signal);
      if (toNobody) log.js.nc.publish(toNobody.reply, "-NAK");
      toNobody = undefined;
      return result;
    });
    owned.defer(() => pull.mockRestore());
    const waiting = take(stream, "g", { waitMs: 5000 });
    await vi.waitFor(() => expect(pull.mock.calls.filter(([, , { waitMs }]) => waitMs > 0)).toHaveLength(2));
    await append(stream, 0, "1");
    await vi.waitFor(() => expect(toNobody).toBeDefined());
    await append(stream, 0, "2");
    await append(stream, 1, "3");
    const { events, lag } = await waiting;
    expect(events.map(({ partition, offset }) => [partition, offset])).toEqual([
      [0, 0],
      [0, 1],
      [1, 0],
    ]);
    expect(lag).toBe(0);
    await committing(stream, "g", 1);
    expect(offsetsOf(await take(stream, "g"))).toEqual([]);
  });

  test("tells its place before an event that came while it waited and was more than its limit", async () => {
    const stream = await streamOf(0, 2);
    await take(stream, "g");
    const { fetcher } = log.js;
    const pull = fetcher.pull.bind(fetcher);
    const both = Promise.withResolvers<void>();
    let [waits, came] = [0, 0];
    const spy = vi.spyOn(fetcher, "pull").mockImplementation(async (...args) => {
      const isWait = args[2].waitMs > 0;
      if (isWait) waits++;
      const result = await pull(...args);
      if (!isWait) return result;
      // Neither wait ends the other one before both have their event.
      if (++came === 2) both.resolve();
      await both.promise;
      return result;
    });
    const waiting = take(stream, "g", { waitMs: 5000, limit: 1 });
    await vi.waitFor(() => expect(waits).toBe(2));
    await Promise.all([append(stream, 0, "1"), append(stream, 1, "2")]);
    const { events, lag, partitions } = await waiting;
    spy.mockRestore();
    expect(events).toHaveLength(1);
    expect(lag).toBe(1);
    const other = 1 - events[0]!.partition;
    expect(partitions[other]).toEqual({ partition: other, nextOffset: 0, lag: 1, committedOffset: undefined });
    const rest = await take(stream, "g");
    expect(rest.events).toMatchObject([{ partition: other, offset: 0 }]);
    expect(rest.lag).toBe(0);
  });

  test("ends the wait with what there is when the gateway drains", async () => {
    const stream = await streamOf(0);
    const draining = new AbortController();
    const waiting = take(stream, "g", { waitMs: 20_000, draining: draining.signal });
    draining.abort(new Error("draining"));
    expect(offsetsOf(await waiting)).toEqual([]);
  });

  test("hands out at most maxBytes, but always one event", async () => {
    const { record } = await log.catalog.create(randomUUID(), {}, TESTER, deadlineIn(5000));
    for (const size of [500, 500, 500])
      await log.appender.append(
        record,
        { payload: Buffer.alloc(size, 0x31), contentType: "application/json" },
        { deadline: deadlineIn(5000) },
      );
    expect(offsetsOf(await take(record, "g", { maxBytes: 10 }))).toEqual([0]);
    expect(offsetsOf(await take(record, "g", { maxBytes: 100_000 }))).toEqual([1, 2]);
  });

  test("bounds an answer by what compressed payloads inflate to", async () => {
    const { record } = await log.catalog.create(randomUUID(), { compression: "gzip" }, TESTER, deadlineIn(5000));
    for (let i = 0; i < 3; i++)
      await log.appender.append(
        record,
        { payload: Buffer.alloc(100_000, 0x31), contentType: "text/plain" },
        { deadline: deadlineIn(5000) },
      );
    expect(offsetsOf(await take(record, "g", { maxBytes: 250_000 }))).toEqual([0, 1]);
    expect(offsetsOf(await take(record, "g", { maxBytes: 250_000 }))).toEqual([2]);
  });

  test("shares a limit among partitions and reports position, lag and commit of each", async () => {
    const stream = await streamOf(9, 3);
    const first = await take(stream, "g", { limit: 4 });
    expect(first.events).toHaveLength(4);
    expect(first.lag).toBe(5);
    await committing(stream, "g", 0, first.events[0]!.partition);
    const second = await take(stream, "g", { limit: 100 });
    expect(second.lag).toBe(0);
    expect(second.partitions.map(({ nextOffset }) => nextOffset)).toEqual([3, 3, 3]);
    expect(second.partitions.filter(({ committedOffset }) => committedOffset === 0)).toHaveLength(1);
  });
});

describe("commit", () => {
  test("rewinds behind and skips ahead inside the partition's range", async () => {
    const stream = await streamOf(10);
    await take(stream, "g", { limit: 5 });
    await committing(stream, "g", 4);
    await committing(stream, "g", 1);
    expect(offsetsOf(await take(stream, "g", { limit: 2 }))).toEqual([2, 3]);
    await committing(stream, "g", 7);
    expect(offsetsOf(await take(stream, "g"))).toEqual([8, 9]);
  });

  test("keeps what a crash of the consumer's floor would take back", async () => {
    const stream = await streamOf(6);
    await take(stream, "g", { limit: 6 });
    await committing(stream, "g", 3);
    // What a killed nats-server does: the durable is back where it was before the commit.
    await log.js.jsm.consumers.reset(partitionStream(stream.name, 0), durableName("g"), 1);
    const other = await openLog(nats.url, ACK_WAIT_MS);
    try {
      expect(offsetsOf(await take(stream, "g", {}, other))).toEqual([4, 5]);
    } finally {
      await other[Symbol.asyncDispose]();
    }
  });

  test("that goes back holds though a crash came before the durable went back too", async () => {
    const stream = await streamOf(6);
    await take(stream, "g", { limit: 6 });
    await committing(stream, "g", 3);
    await committing(stream, "g", 1);
    await log.js.jsm.consumers.reset(partitionStream(stream.name, 0), durableName("g"), 5);
    await using other = await openLog(nats.url, ACK_WAIT_MS);
    expect(offsetsOf(await take(stream, "g", {}, other))).toEqual([2, 3, 4, 5]);
  });

  test("of a partition named twice is refused before anything is applied", async () => {
    const stream = await streamOf(4, 2);
    await take(stream, "g");
    const entries = [0, 0].map((offset) => ({ stream: stream.name, partition: 0, offset }));
    await expect(commit(log.catalog, log.groups, "g", entries, { owner: TESTER }, deadlineIn(5000))).rejects.toThrow(
      "earlier entry",
    );
    expect((await take(stream, "g")).partitions[0]!.committedOffset).toBeUndefined();
  });
});

describe("a gateway that ended without a word", () => {
  test("had taken events that the next gateway hands out again at once", async () => {
    const stream = await streamOf(6);
    const killed = await openLog(nats.url, ACK_WAIT_MS);
    await take(stream, "g", { limit: 2 }, killed);
    await commit(
      killed.catalog,
      killed.groups,
      "g",
      [{ stream: stream.name, partition: 0, offset: 0 }],
      { owner: TESTER },
      deadlineIn(5000),
    );
    await take(stream, "g", { limit: 3 }, killed);
    await killed.js.nc.close(); // no goodbye: its notes stay
    expect(offsetsOf(await take(stream, "g"))).toEqual([1, 2, 3, 4, 5]);
    killed.js.publisher.close();
  });

  test("is found to have ended also when the connection breaks in between", async () => {
    await using own = await startNats();
    await using next = await openLog(own.url, ACK_WAIT_MS);
    await using killed = await openLog(own.url, ACK_WAIT_MS);
    const { record } = await next.catalog.create("s", {}, TESTER, deadlineIn(10_000));
    for (const payload of ["1", "2", "3"])
      await next.appender.append(
        record,
        { payload: Buffer.from(payload), contentType: "application/json" },
        { deadline: deadlineIn(5000) },
      );
    await take(record, "g", { limit: 2 }, killed);
    await killed.js.nc.close();
    const { epoch } = next.js;
    const real = next.js.nc.request.bind(next.js.nc);
    let asked = 0;
    const request = vi.spyOn(next.js.nc, "request").mockImplementation(async (subject, ...rest) => {
      if (subject !== gatewaySubject(killed.groups.gateways.own) || ++asked > 1) return real(subject, ...rest);
      await own.kill();
      await own.restart();
      await vi.waitFor(() => expect(next.js.epoch).toBeGreaterThan(epoch), 10_000);
      throw new Error("timeout");
    });
    expect(offsetsOf(await take(record, "g", { deadline: deadlineIn(20_000) }, next))).toEqual([0, 1, 2]);
    request.mockRestore();
  });

  test("that lives and was taken for dead is known again", async () => {
    const stream = await streamOf(4);
    await using other = await openLog(nats.url, ACK_WAIT_MS);
    await take(stream, "g", { limit: 1 }, other);
    const lives = vi.spyOn(log.groups.gateways, "lives").mockResolvedValue(false);
    expect(offsetsOf(await take(stream, "g", { limit: 2 }))).toEqual([0, 1]);
    lives.mockRestore();
    const joined = await log.groups.join("g", stream, { start: "earliest", owner: TESTER }, deadlineIn(5000));
    await vi.waitFor(() => expect(joined.shared).toBe(true));
  });

  test("that lives keeps what it took", async () => {
    const stream = await streamOf(4);
    const other = await openLog(nats.url, ACK_WAIT_MS);
    await take(stream, "g", { limit: 2 }, other);
    expect(offsetsOf(await take(stream, "g"))).toEqual([2, 3]);
    await other[Symbol.asyncDispose]();
  });
});

test("what a gateway looks up and follows of groups leaves no consumer behind", async () => {
  const consumers = async () => {
    const infos = [GROUPS_BUCKET, OFFSETS_BUCKET].map((name) => log.js.jsm.streams.info(`KV_${name}`));
    return (await Promise.all(infos)).map(({ state }) => state.consumer_count);
  };
  const stream = await streamOf(1);
  const before = await consumers();
  for (const group of ["a", "b", "c"]) {
    const joined = await log.groups.join(group, stream, { start: "earliest", owner: TESTER }, deadlineIn(5000));
    await (await log.groups.followCommits(joined))[Symbol.asyncDispose]();
    expect(await log.groups.records(group, deadlineIn(5000))).toHaveLength(1);
  }
  expect(await consumers()).toEqual(before);
});
