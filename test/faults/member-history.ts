import { setTimeout as span } from "node:timers/promises";
import { type Observation, violations } from "../support/member-model.ts";
import { seededRandom } from "../support/random.ts";
import { freshName } from "../support/service.ts";
import { GroupMember, type Scene } from "./group-member.ts";
import { failureOfKill, type TwoGateways } from "./two-gateways.ts";

/** What came of one history. */
export interface Outcome {
  readonly seed: number;
  readonly history: readonly Observation[];
  /** In words; empty when the contract was kept. */
  readonly violations: readonly string[];
}

/** A history has to come to its end within this; longer than gateways take to start. */
const END_MS = 60_000;

/**
 * Lets random members loose on a stream of their own, then lets one finish what they left, and checks what all have seen.
 *
 * @param seed makes the same members do the same again; when gateways are killed is for the caller to say.
 */
export async function runHistory(gateways: TwoGateways, seed: number): Promise<Outcome> {
  const random = seededRandom(seed);
  const pick = <T>(items: readonly T[]): T => items[Math.floor(random() * items.length)]!;
  const history: Observation[] = [];
  let now = 0;
  const scene: Scene = {
    gateways,
    stream: freshName("h"),
    group: freshName("g"),
    sessionTimeoutMs: pick([100, 200, 400]),
    history,
    tick: () => now++,
  };
  const { stream, group, sessionTimeoutMs } = scene;
  const ackWait = pick([100, 200, 400]);
  const partitions = pick([1, 2, 3, 4]);
  const seeds = Array.from({ length: pick([2, 3, 4]) }, () => Math.floor(random() * 2 ** 31));
  try {
    await persist((by) => gateways.api(by).createStream({ name: stream, partitions }));
    const config = { ackWait, sessionTimeout: sessionTimeoutMs };
    await persist((by) => gateways.api(by).createConsumerGroup(group, stream, { config }));
    let published = await publish(gateways, stream, partitions, 0, 10 + Math.floor(random() * 30));
    const members = seeds.map(async (each, index) => {
      const own = seededRandom(each);
      const member = new GroupMember(`m${index}`, scene, own);
      await span(own() * 200);
      for (let steps = 6 + Math.floor(own() * 8); steps > 0; steps--) await step(member, own);
    });
    const publishing = (async () => {
      for (let batch = pick([0, 1, 2, 3]); batch > 0; batch--) {
        await span(random() * 300);
        published = await publish(gateways, stream, partitions, published, 1 + Math.floor(random() * 15));
      }
    })();
    // All end before a failure is told, so that nothing goes on behind it.
    const ended = await Promise.allSettled([...members, publishing]);
    for (const each of ended) if (each.status === "rejected") throw each.reason;
    const lag = await finish(scene, new GroupMember("last", scene, random));
    const { partitionDetails } = await persist((by) => gateways.api(by).getStream(stream));
    const counts = partitionDetails.map(({ endOffset }) => endOffset);
    const stored = counts.reduce((sum, count) => sum + count, 0);
    const lost = stored === published ? [] : [`${published} events were published and ${stored} are stored`];
    await persist((by) => gateways.api(by).deleteStream(stream));
    return { seed, history, violations: [...lost, ...violations(history, { counts, lag })] };
  } catch (error) {
    return { seed, history, violations: [`it failed: ${(error as Error).stack ?? error}`] };
  }
}

/** Something that a member does now and then. */
async function step(member: GroupMember, random: () => number): Promise<void> {
  const what = random();
  if (what < 0.6) {
    await member.poll(1 + Math.floor(random() * 10), random() < 0.5 ? 0 : Math.floor(random() * 150));
    if (random() < 0.7) await member.commit();
  } else if (what < 0.7) await span(random() * 60);
  else if (what < 0.78) {
    await member.stayAway();
    // As one that does not know that it is none any more.
    await member.commit(true);
    member.forget();
  } else if (what < 0.86) {
    await member.leave();
    if (random() < 0.5) await member.commit(true);
    member.forget();
  } else if (what < 0.9) member.forget();
  else await member.subscribe(50 + random() * 350);
}

/** Reads and commits until nothing is left. @returns the lag then, in events. */
async function finish({ gateways, stream, group }: Scene, member: GroupMember): Promise<number> {
  const end = performance.now() + END_MS;
  for (;;) {
    const count = await member.poll(100, 50);
    await member.commit(true);
    if (count > 0) continue;
    const { lag } = await persist((by) => gateways.api(by).getConsumerGroup(group, stream));
    if (lag === 0 || performance.now() > end) return lag;
  }
}

/** @returns how many are published then; each event has an id, so that a repeat is none. */
async function publish(
  gateways: TwoGateways,
  stream: string,
  partitions: number,
  from: number,
  count: number,
): Promise<number> {
  const events = Array.from({ length: count }, (_, i) => ({
    eventId: `e${from + i}`,
    partition: (from + i) % partitions,
    value: from + i,
  }));
  await persist(async (by) => {
    const { failureCount, results } = await gateways.api(by).publishBatch(stream, events);
    if (failureCount > 0) throw new TypeError(`some events were not stored: ${JSON.stringify(results)}`);
  });
  return from + count;
}

/** Calls one gateway and the other in turn until one answers. */
async function persist<T>(call: (gateway: number) => Promise<T>): Promise<T> {
  const end = performance.now() + END_MS;
  for (let turn = 0; ; turn++) {
    try {
      return await call(turn % 2);
    } catch (error) {
      if (failureOfKill(error) === "refused" || performance.now() > end) throw error;
      await span(20);
    }
  }
}
