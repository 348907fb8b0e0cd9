import { afterAll, beforeAll, expect, test } from "vitest";
import { ByteBudget } from "../../src/domain/byte-budget.ts";
import { deadlineIn } from "../../src/domain/deadline.ts";
import { type Membership, memberOf } from "../../src/domain/membership.ts";
import { type Bucket, openBucket } from "../../src/jetstream/kv.ts";
import { OFFSETS_BUCKET, offsetKey } from "../../src/jetstream/names.ts";
import type { StreamRecord } from "../../src/log/catalog.ts";
import { commit } from "../../src/log/commit.ts";
import { seekGroup } from "../../src/log/group-admin.ts";
import type { GroupInStream } from "../../src/log/groups.ts";
import { Members } from "../../src/log/members.ts";
import type { OffsetRecord } from "../../src/log/offset-entry.ts";
import { type PollOptions, type PollResult, poll } from "../../src/log/poll.ts";
import { type Log, openLog, TESTER } from "../support/log.ts";
import { startNats, type TestNats } from "../support/nats.ts";
import { freshName } from "../support/service.ts";
import { eventually } from "../support/wait.ts";

const never = new AbortController().signal;
let nats: TestNats;
/** Two gateways. */
let here: Log;
let there: Log;
beforeAll(async () => {
  nats = await startNats();
  here = await openLog(nats.url);
  there = await openLog(nats.url);
});
afterAll(async () => {
  await here[Symbol.asyncDispose]();
  await there[Symbol.asyncDispose]();
  await nats[Symbol.asyncDispose]();
});

/** A stream with so many events in each partition. */
async function streamOf(partitions: number, events: number): Promise<StreamRecord> {
  const { record } = await here.catalog.create(freshName(), { partitions }, TESTER, deadlineIn(10_000));
  const payload = Buffer.from("1");
  for (let n = 0; n < events * partitions; n++)
    await here.appender.append(
      record,
      { payload, contentType: "application/json", partition: n % partitions },
      { deadline: deadlineIn(5000) },
    );
  return record;
}

const join = (by: Log, stream: StreamRecord): Promise<GroupInStream> =>
  by.groups.join("g", stream, { start: "earliest", owner: TESTER }, deadlineIn(5000));

async function pollAs(by: Log, stream: StreamRecord, id: string, options: Partial<PollOptions> = {}) {
  return poll(by.catalog, by.groups, await join(by, stream), {
    reader: { member: { id } },
    seekTo: undefined,
    limit: 100,
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

const commitAs = (by: Log, stream: StreamRecord, id: string, partition: number, offset: number, generation?: number) =>
  commit(
    by.catalog,
    by.groups,
    "g",
    [{ stream: stream.name, partition, offset }],
    { memberId: id, generation, owner: TESTER },
    deadlineIn(5000),
  );

const placesOf = ({ events }: PollResult) => events.map(({ partition, offset }) => `${partition}/${offset}`);

/** Lets something happen once, when a method of the members has done its work and nothing has gone on yet. */
function after<K extends "claim" | "renew">({ members }: GroupInStream, method: K, happening: () => Promise<void>) {
  const original = members[method].bind(members) as (...args: unknown[]) => Promise<unknown>;
  const once = async (...args: unknown[]) => {
    Object.assign(members, { [method]: original });
    const result = await original(...args);
    await happening();
    return result;
  };
  Object.assign(members, { [method]: once });
}

test("a commit whose partition passes on while it is checked is refused", async () => {
  const stream = await streamOf(2, 5);
  await pollAs(here, stream, "a");
  await pollAs(there, stream, "b");
  const group = await join(here, stream);
  after(group, "renew", async () => {
    await pollAs(there, stream, "a");
    await pollAs(there, stream, "b");
    await commitAs(there, stream, "b", 1, 4);
    await eventually("this gateway knows of it", () => group.members.holding(1)?.owner === "b");
  });
  await expect(commitAs(here, stream, "a", 1, 0)).rejects.toThrow("not assigned");
  expect(await (await join(there, stream)).partition(1).look(deadlineIn(5000))).toMatchObject({ committed: 4 });
});

test("a poll is told the generation in which it was handed its events, though another has begun meanwhile", async () => {
  const stream = await streamOf(1, 5);
  await pollAs(here, stream, "a", { limit: 2 });
  const group = await join(here, stream);
  const { generation } = group.members.state!;
  after(group, "claim", async () => {
    await seekGroup(there.groups, await join(there, stream), undefined, 1, deadlineIn(5000));
    await eventually("this gateway knows of it", () => group.members.state!.generation > generation);
  });
  const answer = await pollAs(here, stream, "a");
  expect(placesOf(answer)).toEqual(["0/1", "0/2", "0/3", "0/4"]);
  await commitAs(here, stream, "a", 0, 4, answer.assignment!.generation);
});

test("a poll that commits answers what it has committed, though another partition has passed on", async () => {
  const stream = await streamOf(2, 3);
  await pollAs(here, stream, "a", { limit: 1 });
  // As another gateway stores it that was quicker to know of a new owner.
  const offsets = await openBucket<OffsetRecord>(there.js, OFFSETS_BUCKET, 1);
  await offsets.set(offsetKey("g", stream.id, 1), { resume: 0, epoch: 99 }, deadlineIn(5000));
  const first = await pollAs(here, stream, "a", { autoCommit: true });
  expect(placesOf(first).filter((place) => place.startsWith("0/"))).toEqual(expect.arrayContaining(["0/1", "0/2"]));
  expect(placesOf(first).filter((place) => place.startsWith("1/"))).toEqual([]);
  expect(first.partitions.map(({ partition }) => partition)).toEqual([0]);
});

/** Members whose record is kept here. */
function membersAlone(sessionTimeoutMs: number, clock: () => number) {
  const writes: Membership[] = [];
  const bucket = {
    get: async () => ({ value: writes.at(-1), revision: writes.length }),
    put: async (_key: string, value: Membership, revision: number) => {
      await new Promise(setImmediate);
      return revision === writes.length ? writes.push(value) : undefined;
    },
  } as unknown as Bucket<Membership>;
  return { members: new Members(bucket, "g", "key", sessionTimeoutMs, clock), writes };
}

test("whoever waits looks when another's lease runs out, not only when its own is to be renewed", async () => {
  let nowMs = 0;
  const { members } = membersAlone(8000, () => nowMs);
  const claim = (id: string) => members.claim({ id }, 1, deadlineIn(5000));
  await claim("away");
  for (; nowMs < 8500; nowMs += 500) await claim("there");
  expect([members.claimMs, members.hasLapsed]).toEqual([521, false]);
  nowMs += 501;
  expect([members.claimMs, members.hasLapsed]).toEqual([20, true]);
  expect((await claim("there")).members.map(({ id }) => id)).toEqual(["there"]);
  expect(members.claimMs).toBe(1000);
});

test("many members that come at once are stored by few writes, and each is told its own generation", async () => {
  const { members, writes } = membersAlone(10_000, () => 0);
  const claims = Array.from({ length: 100 }, (_, n) => members.claim({ id: `m${n}` }, 4, deadlineIn(5000)));
  // One that is refused takes no other with it.
  claims.push(members.renew("nobody", deadlineIn(5000)));
  const results = await Promise.allSettled(claims);
  expect(results.pop()).toMatchObject({ status: "rejected" });
  for (const [n, result] of results.entries()) {
    const state = (result as PromiseFulfilledResult<Membership>).value;
    expect(memberOf(state, `m${n}`)!.told).toBe(state.generation);
  }
  expect(memberOf(members.state!, "m99")).toBeDefined();
  expect(members.state!.members).toHaveLength(100);
  expect(writes.length).toBeLessThanOrEqual(2);
});
