import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type Api, failureOf, type PollAnswer, type PollOptions, protocols } from "../support/clients.ts";
import { freshName, startService, type TestService, useService } from "../support/service.ts";
import { eventually } from "../support/wait.ts";

/** Short, so that members lapse within a test. */
const SHORT_MS = 300;
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
const valuesOf = ({ events }: PollAnswer) => events.map(({ value }) => value);
const shareOf = ({ metadata }: PollAnswer) => metadata.assignment!.partitions;
const generationOf = ({ metadata }: PollAnswer) => metadata.generation!;
const placesOf = ({ events }: PollAnswer) => events.map(({ partition, offset }) => `${partition}/${offset}`);

describe.each(protocols)("members over $name", ({ connect, isRest }) => {
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

  const notOwner = { code: 1103, name: "NOT_PARTITION_OWNER", httpOrGrpcStatus: isRest ? 409 : 10 };

  /** A stream whose partition p holds the first `counts[p]` numbers. */
  const streamOf = async (...counts: number[]): Promise<string> => {
    const name = freshName();
    await api.createStream({ name, partitions: counts.length });
    const events = counts.flatMap((count, partition) => range(0, count).map((value) => ({ partition, value })));
    if (events.length > 0) expect((await api.publishBatch(name, events)).failureCount).toBe(0);
    return name;
  };
  const pollAs = (stream: string, consumerId: string, options: PollOptions = {}, by = api) =>
    by.poll(stream, "g", { timeout: 0, ...options, consumerId });
  const commitAs = (
    stream: string,
    consumerId: string,
    offset: number,
    generation?: number,
    { partition = 0, by = api } = {},
  ) =>
    by.commit("g", [{ stream, partition, offset }], {
      consumerId,
      ...(generation === undefined ? {} : { generation }),
    });
  const shortGroup = (stream: string) => api.createConsumerGroup("g", stream, { config: { sessionTimeout: SHORT_MS } });
  const membersOf = async (stream: string) =>
    (await api.getConsumerGroup("g", stream)).streams[0]!.members.map(({ consumerId }) => consumerId);
  /** Members poll in turn until each has its share; gives the shares. */
  const settle = async (stream: string, ids: readonly string[], options: PollOptions = { limit: 1 }) => {
    for (let round = 0; round < 2; round++) for (const id of ids) await pollAs(stream, id, options);
    const answers = [];
    for (const id of ids) answers.push(await pollAs(stream, id, options));
    return answers;
  };

  describe("a member", () => {
    test("that is the first gets every partition and is told so", async () => {
      const stream = await streamOf(1, 1, 1);
      const { events, metadata } = await pollAs(stream, "a");
      expect(events).toHaveLength(3);
      expect(metadata.assignment).toEqual({ consumerId: "a", generation: metadata.generation, partitions: [0, 1, 2] });
      expect(metadata.partitions.map(({ partition }) => partition)).toEqual([0, 1, 2]);
    });

    test("may have any name", async () => {
      const stream = await streamOf(1);
      const id = "Bärbel.* > $1/пять";
      expect((await pollAs(stream, id)).metadata.assignment).toMatchObject({ consumerId: id, partitions: [0] });
      await commitAs(stream, id, 0);
      expect(await api.leave("g", id)).toEqual({ streams: [stream] });
    });

    test("gets its share of another's partitions when that one has polled again", async () => {
      const stream = await streamOf(0, 0, 0, 0);
      const first = await pollAs(stream, "a");
      const second = await pollAs(stream, "b");
      expect(shareOf(second)).toEqual([]);
      expect(second.metadata.partitions).toEqual([]);
      expect(generationOf(second)).toBeGreaterThan(generationOf(first));
      expect(shareOf(await pollAs(stream, "a"))).toEqual([0, 1]);
      const served = await pollAs(stream, "b");
      expect(shareOf(served)).toEqual([2, 3]);
      expect(generationOf(served)).toBe(generationOf(second));
    });

    test("keeps what it has while others come and go, as far as the shares stay even", async () => {
      const stream = await streamOf(0, 0, 0, 0, 0, 0);
      const two = (await settle(stream, ["a", "b"])).map(shareOf);
      expect(two.map((share) => share.length)).toEqual([3, 3]);
      const three = (await settle(stream, ["a", "b", "c"])).map(shareOf);
      expect(three.map((share) => share.length)).toEqual([2, 2, 2]);
      for (const index of [0, 1]) expect(two[index]).toEqual(expect.arrayContaining(three[index]!));
      await api.leave("g", "c");
      const again = (await settle(stream, ["a", "b"])).map(shareOf);
      for (const index of [0, 1]) expect(again[index]).toEqual(expect.arrayContaining(three[index]!));
      expect(again.flat().toSorted()).toEqual(range(0, 6));
    });

    test("reads only its own partitions, whichever it asks for", async () => {
      const stream = await streamOf(2, 2);
      await settle(stream, ["a", "b"], { partition: [], limit: 1 });
      const [a] = [await pollAs(stream, "a", { partition: [0, 1], limit: 10 })];
      expect(a.metadata.partitions.map(({ partition }) => partition)).toEqual(shareOf(a));
      expect(shareOf(a)).toHaveLength(1);
      expect((await pollAs(stream, "b", { partition: shareOf(a) })).events).toEqual([]);
    });

    test("of one group says nothing to another group or stream", async () => {
      const [one, two] = [await streamOf(1), await streamOf(1)];
      expect(shareOf(await api.poll(one, "g", { consumerId: "a", timeout: 0 }))).toEqual([0]);
      expect(shareOf(await api.poll(one, "h", { consumerId: "b", timeout: 0 }))).toEqual([0]);
      expect(shareOf(await api.poll(two, "g", { consumerId: "b", timeout: 0 }))).toEqual([0]);
    });

    test("with no partition gets one when another leaves, and its poll is answered then", async () => {
      const stream = await streamOf(3);
      expect(valuesOf(await pollAs(stream, "a", { limit: 2 }))).toEqual([0, 1]);
      await commitAs(stream, "a", 0);
      expect(shareOf(await pollAs(stream, "b"))).toEqual([]);
      let answered = false;
      const waiting = pollAs(stream, "b", { timeout: 25_000 }, api2).finally(() => {
        answered = true;
      });
      waiting.catch(() => {});
      expect(shareOf(await pollAs(stream, "a", { limit: 1 }))).toEqual([0]);
      expect(answered).toBe(false);
      expect(await api.leave("g", "a", stream)).toEqual({ streams: [stream] });
      await eventually("b is answered", () => answered);
      const served = await waiting;
      expect(shareOf(served)).toEqual([0]);
      expect(valuesOf(served)).toEqual([1, 2]);
    });

    test("that waits lets go what another is to get, and both go on", async () => {
      const stream = await streamOf(0, 0);
      await pollAs(stream, "a");
      const waiting = pollAs(stream, "a", { timeout: 25_000 });
      waiting.catch(() => {});
      const [kept, moved] = await eventually("b has a partition", async () => {
        const share = shareOf(await pollAs(stream, "b", {}, api2));
        return share.length === 1 && [1 - share[0]!, share[0]!];
      });
      await api.publishBatch(stream, [
        { partition: moved!, value: "b's" },
        { partition: kept!, value: "a's" },
      ]);
      expect(valuesOf(await waiting)).toEqual(["a's"]);
      expect(valuesOf(await pollAs(stream, "b", { timeout: 15_000 }, api2))).toEqual(["b's"]);
    });

    test("that comes back under its name, from a new client, causes no change", async () => {
      const stream = await streamOf(4, 4);
      const [before] = await settle(stream, ["a", "b"], { limit: 1 });
      {
        await using restarted = connect(other.url);
        const back = await pollAs(stream, "a", { limit: 1 }, restarted);
        expect(back.metadata.assignment).toEqual(before!.metadata.assignment);
      }
      expect(generationOf(await pollAs(stream, "b", { limit: 1 }))).toBe(generationOf(before!));
    });

    test("gets partitions that are added to the stream", async () => {
      const stream = await streamOf(0, 0);
      await settle(stream, ["a", "b"]);
      await api.updateStream(stream, { partitions: 6 });
      const shares = await eventually("six partitions", async () => {
        const found = (await settle(stream, ["a", "b"])).map(shareOf);
        return found.flat().length === 6 && found;
      });
      expect(shares.map((share) => share.length)).toEqual([3, 3]);
      expect(shares.flat().toSorted()).toEqual(range(0, 6));
    });

    test("gets an event of an added partition though it waited before that was there", async () => {
      const stream = await streamOf(0);
      await shortGroup(stream);
      await pollAs(stream, "a");
      const waiting = pollAs(stream, "a", { timeout: 25_000 });
      waiting.catch(() => {});
      await api2.updateStream(stream, { partitions: 2 });
      await api2.publish(stream, { partition: 1, value: "added" });
      let answer: PollAnswer | undefined;
      void waiting.then((found) => {
        answer = found;
      });
      expect(valuesOf(await eventually("the event", () => answer))).toEqual(["added"]);
    });
  });

  describe("a commit", () => {
    test("of the owner moves the group on", async () => {
      const stream = await streamOf(3);
      const { metadata } = await pollAs(stream, "a");
      await commitAs(stream, "a", 0, metadata.generation);
      await commitAs(stream, "a", 1);
      expect((await pollAs(stream, "a")).metadata.partitions).toMatchObject([{ committedOffset: 1 }]);
      await api.leave("g", "a");
      expect(valuesOf(await pollAs(stream, "b"))).toEqual([2]);
    });

    test("of a member that does not own the partition is refused", async () => {
      const stream = await streamOf(2, 2);
      const [a, b] = await settle(stream, ["a", "b"]);
      const [partition] = shareOf(b!);
      expect(await failureOf(commitAs(stream, "a", 0, generationOf(a!), { partition }))).toMatchObject(notOwner);
      expect(await failureOf(commitAs(stream, "a", 0, undefined, { partition }))).toMatchObject(notOwner);
      expect(await failureOf(commitAs(stream, "a", 0, undefined, { partition, by: api2 }))).toMatchObject(notOwner);
      await commitAs(stream, "b", 0, generationOf(b!), { partition });
    });

    test("with one partition that is not the member's applies nothing", async () => {
      const stream = await streamOf(2, 2);
      await settle(stream, ["a", "b"], { partition: [] });
      const offsets = [0, 1].map((partition) => ({ stream, partition, offset: 0 }));
      for (const consumerId of ["a", "b"])
        expect(await failureOf(api.commit("g", offsets, { consumerId }))).toMatchObject(notOwner);
      const { streams } = await api.getConsumerGroup("g", stream);
      expect(streams[0]!.partitions.map(({ committedOffset }) => committedOffset)).toEqual([undefined, undefined]);
    });

    test("of one that is no member is refused", async () => {
      const stream = await streamOf(2);
      await pollAs(stream, "a");
      expect(await failureOf(commitAs(stream, "x", 0))).toMatchObject(notOwner);
      await api.leave("g", "a");
      expect(await failureOf(commitAs(stream, "a", 0))).toMatchObject(notOwner);
    });

    test("of an earlier generation than the last answer's is refused, as is one of a later", async () => {
      const stream = await streamOf(2, 2);
      const before = generationOf(await pollAs(stream, "a"));
      await pollAs(stream, "b");
      await commitAs(stream, "a", 0, before);
      const after = generationOf(await pollAs(stream, "a"));
      expect(after).toBeGreaterThan(before);
      expect(await failureOf(commitAs(stream, "a", 1, before))).toMatchObject(notOwner);
      expect(await failureOf(commitAs(stream, "a", 1, after + 1))).toMatchObject(notOwner);
      await commitAs(stream, "a", 1, after);
    });

    test("without a name is anybody's, an operator's too", async () => {
      const stream = await streamOf(4);
      await pollAs(stream, "a", { limit: 1 });
      await api2.commit("g", [{ stream, partition: 0, offset: 2 }]);
      expect(valuesOf(await pollAs(stream, "a"))).toEqual([3]);
    });

    test("with a generation and no name is refused", async () => {
      const stream = await streamOf(1);
      await pollAs(stream, "a");
      const failure = await failureOf(api.commit("g", [{ stream, partition: 0, offset: 0 }], { generation: 1 }));
      expect(failure).toMatchObject({ code: 1100 });
      expect(failure.details).toMatchObject([{ field: "generation" }]);
    });

    test("behind the committed offset goes back, by whichever gateway it comes", async () => {
      const stream = await streamOf(6);
      await pollAs(stream, "a", { limit: 1 }, api2);
      await pollAs(stream, "a", { limit: 3 }, api2);
      expect(valuesOf(await pollAs(stream, "a"))).toEqual([4, 5]);
      await commitAs(stream, "a", 5);
      await commitAs(stream, "a", 1, undefined, { by: api2 });
      expect(valuesOf(await pollAs(stream, "a"))).toEqual([2, 3, 4, 5]);
    });

    test("that a poll makes by itself is its member's", async () => {
      const stream = await streamOf(2, 2);
      await pollAs(stream, "a", { autoCommit: true });
      await api.leave("g", "a");
      expect((await pollAs(stream, "b")).events).toEqual([]);
      expect((await api.getConsumerGroup("g", stream)).lag).toBe(0);
    });
  });

  describe("a poll without a name", () => {
    test("is refused while the group has members, by every gateway", async () => {
      const stream = await streamOf(2);
      await pollAs(stream, "a", { limit: 1 });
      for (const by of [api, api2]) {
        const failure = await failureOf(by.poll(stream, "g", { timeout: 0 }));
        expect(failure).toMatchObject(notOwner);
        expect(failure.description).toContain("consumerId");
      }
      await api.leave("g", "a");
      expect(valuesOf(await api2.poll(stream, "g", { timeout: 0 }))).toEqual([0, 1]);
    });

    test("that waits is refused when a member comes", async () => {
      const stream = await streamOf(0);
      await api.createConsumerGroup("g", stream);
      const waiting = failureOf(api2.poll(stream, "g", { timeout: 25_000 }));
      waiting.catch(() => {});
      await pollAs(stream, "a");
      expect(await waiting).toMatchObject(notOwner);
    });

    test("leaves what it was handed and did not commit to the first member", async () => {
      const stream = await streamOf(4);
      await api.poll(stream, "g", { timeout: 0, limit: 3 });
      await api.commit("g", [{ stream, partition: 0, offset: 0 }]);
      expect(valuesOf(await pollAs(stream, "a", {}, api2))).toEqual([1, 2, 3]);
    });
  });

  describe("leaving", () => {
    test("gives what was not committed to the next owner at once and in order", async () => {
      const stream = await streamOf(5, 5);
      await pollAs(stream, "a", { limit: 10 });
      await commitAs(stream, "a", 1, undefined, { partition: 1 });
      await api.leave("g", "a");
      expect(placesOf(await pollAs(stream, "b", {}, api2))).toEqual([
        ...range(0, 5).map((n) => `0/${n}`),
        ...range(2, 5).map((n) => `1/${n}`),
      ]);
    });

    test("names the streams in which the member was one", async () => {
      const streams = [await streamOf(0), await streamOf(0)].toSorted();
      const group = freshName("g");
      for (const stream of streams) await api.poll(stream, group, { consumerId: "a", timeout: 0 });
      expect(await api.leave(group, "a", streams[0])).toEqual({ streams: [streams[0]] });
      expect(await api.leave(group, "a")).toEqual({ streams: [streams[1]] });
      expect(await api.leave(group, "a")).toEqual({ streams: [] });
    });

    test("ends the poll in which the member waits", async () => {
      const stream = await streamOf(0, 0);
      await pollAs(stream, "b");
      const waiting = failureOf(pollAs(stream, "a", { timeout: 20_000 }));
      await eventually("it waits", async () => (await membersOf(stream)).includes("a"));
      expect(await api2.leave("g", "a")).toEqual({ streams: [stream] });
      expect(await waiting).toMatchObject(notOwner);
      expect(await membersOf(stream)).toEqual(["b"]);
    });

    test("is refused of a group or stream that is none", async () => {
      const stream = await streamOf(0);
      expect(await failureOf(api.leave(freshName("g"), "a"))).toMatchObject({ code: 1003 });
      expect(await failureOf(api.leave("g", "a", freshName("none")))).toMatchObject({ code: 1001 });
      expect(await failureOf(api.leave(freshName("g"), "a", stream))).toMatchObject({ code: 1003 });
      const nameless = await failureOf(api.leave("g", ""));
      expect(nameless).toMatchObject({ code: 1100, details: [{ field: "consumerId" }] });
    });
  });

  describe("a member that stays away longer than the session timeout", () => {
    test("loses its partitions to one that is there, which goes on behind what is committed", async () => {
      const stream = await streamOf(6);
      await shortGroup(stream);
      const { metadata } = await pollAs(stream, "a", { limit: 4 });
      await commitAs(stream, "a", 1, metadata.generation);
      const served = await eventually("b has the partition", async () => {
        const answer = await pollAs(stream, "b", { timeout: 100 }, api2);
        return answer.events.length > 0 && answer;
      });
      expect(valuesOf(served)).toEqual([2, 3, 4, 5]);
      // Before its own time is over.
      await commitAs(stream, "b", 5, generationOf(served), { by: api2 });
      expect(await failureOf(commitAs(stream, "a", 3, metadata.generation))).toMatchObject(notOwner);
      expect(await failureOf(commitAs(stream, "a", 3))).toMatchObject(notOwner);
      expect(await failureOf(commitAs(stream, "a", 3, undefined, { by: api2 }))).toMatchObject(notOwner);
      expect((await api.getConsumerGroup("g", stream)).lag).toBe(0);
    });

    test("is none any more, though nobody else came, and begins anew", async () => {
      const stream = await streamOf(3);
      await shortGroup(stream);
      await pollAs(stream, "a", { limit: 2 });
      await eventually("a is gone", async () => (await membersOf(stream)).length === 0);
      expect(await failureOf(commitAs(stream, "a", 1))).toMatchObject(notOwner);
      expect(await failureOf(api.heartbeat("g", stream, "a"))).toMatchObject(notOwner);
      expect(valuesOf(await pollAs(stream, "a"))).toEqual([0, 1, 2]);
    });

    test("leaves the group to callers without names", async () => {
      const stream = await streamOf(2);
      await shortGroup(stream);
      await pollAs(stream, "a");
      const values = await eventually("anybody may poll", async () => {
        const answer = await api2.poll(stream, "g", { timeout: 0 }).catch(() => undefined);
        return answer && valuesOf(answer);
      });
      expect(values).toEqual([0, 1]);
    });

    test("is not one that waits in a poll", async () => {
      const stream = await streamOf(0, 0);
      await shortGroup(stream);
      await settle(stream, ["a", "b"]);
      const waiting = pollAs(stream, "a", { timeout: SHORT_MS * 4 });
      const generations = new Set<number>();
      let over = false;
      void waiting.finally(() => {
        over = true;
      });
      while (!over) generations.add(generationOf(await pollAs(stream, "b", { timeout: 20 }, api2)));
      expect(shareOf(await waiting)).toHaveLength(1);
      expect(generations.size).toBe(1);
    });
  });

  describe("a heartbeat", () => {
    test("keeps a slow member", async () => {
      const stream = await streamOf(2);
      await shortGroup(stream);
      const { metadata } = await pollAs(stream, "a");
      const end = performance.now() + 3 * SHORT_MS;
      while (performance.now() < end) {
        expect((await api.heartbeat("g", stream, "a")).partitions).toEqual([0]);
        expect(shareOf(await pollAs(stream, "b", { timeout: 20 }, api2))).toEqual([]);
      }
      await commitAs(stream, "a", 1, metadata.generation);
    });

    test("tells the generation and the partitions in which the member may commit", async () => {
      const stream = await streamOf(0, 0);
      await pollAs(stream, "a");
      const { metadata } = await pollAs(stream, "b");
      expect(await api2.heartbeat("g", stream, "a")).toEqual({ generation: metadata.generation, partitions: [0, 1] });
      expect(await api2.heartbeat("g", stream, "b")).toEqual({ generation: metadata.generation, partitions: [] });
    });

    test("is refused of what is no member, group or stream", async () => {
      const stream = await streamOf(0);
      const group = freshName("g");
      expect(await failureOf(api.heartbeat(group, stream, "a"))).toMatchObject({ code: 1003 });
      expect(await failureOf(api.heartbeat(group, freshName("none"), "a"))).toMatchObject({ code: 1001 });
      await api.poll(stream, group, { consumerId: "a", timeout: 0 });
      expect(await failureOf(api.heartbeat(group, stream, "b"))).toMatchObject(notOwner);
      expect(await failureOf(api.heartbeat(group, stream, ""))).toMatchObject({ code: 1100 });
    });
  });

  describe("by two gateways in turn", () => {
    test("a member is handed each event once and in order, and commits", async () => {
      const stream = await streamOf(40, 40);
      const next = [0, 0];
      for (let turn = 0; next[0]! + next[1]! < 80; turn++) {
        const by = turn % 2 === 0 ? api : api2;
        const answer = await pollAs(stream, "a", { limit: 7, timeout: 1000 }, by);
        for (const { partition, offset } of answer.events) expect(offset).toBe(next[partition]!++);
        const partition = turn % 3 === 0 ? 0 : 1;
        if (next[partition]! > 0)
          await commitAs(stream, "a", next[partition]! - 1, generationOf(answer), {
            partition,
            by: turn % 4 < 2 ? api : api2,
          });
      }
      await api.leave("g", "a");
      const { streams } = await api2.getConsumerGroup("g", stream);
      const rest = streams[0]!.partitions.reduce(
        (sum, each) => sum + each.endOffset - (each.committedOffset ?? -1) - 1,
        0,
      );
      expect((await pollAs(stream, "b")).events).toHaveLength(rest);
    });

    test("members share and hand over as by one", async () => {
      const stream = await streamOf(10, 10, 10);
      await pollAs(stream, "a", { limit: 30 });
      await pollAs(stream, "b", {}, api2);
      await pollAs(stream, "a", { limit: 1 }, api2);
      const served = await pollAs(stream, "b", { limit: 30 });
      const [moved] = shareOf(served);
      expect(placesOf(served)).toEqual(range(0, 10).map((n) => `${moved}/${n}`));
    });
  });
});
