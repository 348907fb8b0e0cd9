import { setTimeout as after } from "node:timers/promises";
import { type Api, ApiFailure, type PollAnswer } from "../support/clients.ts";
import { type CommitSeen, type Observation, violations } from "../support/member-model.ts";
import { seededRandom } from "../support/random.ts";
import { type Subscriber, subscribers } from "../support/subscribers.ts";
import { SubscriptionFailure } from "../support/told.ts";
import { eventually } from "../support/wait.ts";

/** One of the gateways, which may be killed and started again at any time. */
export interface Gateway {
  readonly url: string;
  /** The same service over some protocols. */
  readonly apis: readonly Api[];
}

/** What histories are made with. */
export interface HistoryContext {
  readonly gateways: readonly Gateway[];
  readonly sessionTimeoutMs: number;
}

export interface HistoryResult {
  readonly violations: readonly string[];
  readonly seen: readonly Observation[];
}

const GROUP = "g";
const CALL_MS = 5000;
const QUIET_MS = 120_000;
/** Answers of a service that can't do it now; whether it did is not known. */
const OUT_OF_REACH = new Set(["UNAVAILABLE", "TIMEOUT"]);

/**
 * Makes one random history of a group's members on all gateways, brings it to its end, and holds it against the model.
 *
 * @param seed gives the same actions again; when they meet a kill is the machine's choice.
 */
export async function runHistory(seed: number, context: HistoryContext): Promise<HistoryResult> {
  const history = new History(seed, context);
  await history.prepare();
  const members = Array.from({ length: 2 + Math.floor(history.random() * 2) }, (_, i) => history.member(`m${i}`));
  await Promise.all([history.publishMore(), ...members.map((member) => member.act())]);
  const end = await history.finish();
  return { violations: [...history.faults, ...violations(history.seen, end)], seen: history.seen };
}

class History {
  readonly stream: string;
  readonly random: () => number;
  readonly sessionTimeoutMs: number;
  readonly seen: Observation[] = [];
  /** What no member should have been told. */
  readonly faults: string[] = [];
  readonly #gateways: readonly Gateway[];
  readonly #partitions: number;
  #ticks = 0;
  #published = 0;

  constructor(seed: number, { gateways, sessionTimeoutMs }: HistoryContext) {
    this.stream = `history-${seed}`;
    this.random = seededRandom(seed);
    this.sessionTimeoutMs = sessionTimeoutMs;
    this.#gateways = gateways;
    this.#partitions = 1 + this.below(3);
  }

  below(limit: number): number {
    return Math.floor(this.random() * limit);
  }

  tick(): number {
    return this.#ticks++;
  }

  gateway(): Gateway {
    return this.#gateways[this.below(this.#gateways.length)]!;
  }

  api(): Api {
    const { apis } = this.gateway();
    return apis[this.below(apis.length)]!;
  }

  member(id: string): Member {
    return new Member(this, id);
  }

  async prepare(): Promise<void> {
    await this.#persist((api) => api.createStream({ name: this.stream, partitions: this.#partitions }));
    await this.#publish(5 + this.below(20));
  }

  async publishMore(): Promise<void> {
    for (let i = 0; i < 3; i++) {
      await after(this.below(2 * this.sessionTimeoutMs));
      await this.#publish(1 + this.below(5));
    }
  }

  /** One more member reads all that is left. */
  async finish(): Promise<{ counts: number[]; lag: number }> {
    const last = this.member("last");
    await eventually(`the end of ${this.stream}`, () => last.readOn(this.#partitions), QUIET_MS);
    const { partitionDetails } = await this.#persist((api) => api.getStream(this.stream));
    const { lag } = await this.#persist((api) => api.getConsumerGroup(GROUP, this.stream));
    return { counts: partitionDetails.map(({ endOffset }) => endOffset), lag };
  }

  async #publish(count: number): Promise<void> {
    const events = Array.from({ length: count }, () => ({
      eventId: `e${this.#published++}`,
      value: null,
      partition: this.below(this.#partitions),
    }));
    await this.#persist(async (api) => {
      const { failureCount } = await api.publishBatch(this.stream, events);
      if (failureCount > 0) throw new Error("published in part");
    });
  }

  #persist<T>(attempt: (api: Api) => Promise<T>): Promise<T> {
    return eventually(
      `an answer about ${this.stream}`,
      async () => {
        try {
          return { answer: await attempt(this.api()) };
        } catch (error) {
          if (error instanceof ApiFailure && error.code !== 0 && !OUT_OF_REACH.has(error.name)) throw error;
          return undefined;
        }
      },
      QUIET_MS,
    ).then(({ answer }) => answer);
  }
}

/** A member that does as a careful consumer would: it never commits beyond what it was handed in a row. */
class Member {
  readonly #history: History;
  readonly #id: string;
  /** By partition: behind the last event that it was handed with all before it. */
  readonly #next = new Map<number, number>();
  readonly #committed = new Map<number, number>();
  #generation = 0;

  constructor(history: History, id: string) {
    this.#history = history;
    this.#id = id;
  }

  async act(): Promise<void> {
    const { random, sessionTimeoutMs } = this.#history;
    await after(random() * sessionTimeoutMs);
    for (let step = 5 + this.#history.below(8); step > 0; step--) {
      const dice = random();
      if (dice < 0.6) await this.#poll();
      else if (dice < 0.7) await after(sessionTimeoutMs * (1.2 + random()));
      else if (dice < 0.78) await this.#leave();
      else if (dice < 0.9) await this.#subscribe();
      if (random() < 0.7) await this.#commit();
      if (random() < 0.3) await after(random() * sessionTimeoutMs * 0.5);
    }
  }

  /** @returns whether it has all partitions, and has committed all that is in them. */
  async readOn(partitions: number): Promise<boolean> {
    const metadata = await this.#poll();
    while (await this.#commit()) {
      // one partition after the other
    }
    return (
      metadata?.lag === 0 &&
      metadata.assignment!.partitions.length === partitions &&
      metadata.partitions.every(({ partition, nextOffset }) => this.#committed.get(partition) === nextOffset - 1)
    );
  }

  #isOpen(partition: number): boolean {
    return (this.#next.get(partition) ?? 0) - 1 > (this.#committed.get(partition) ?? -1);
  }

  async #poll(): Promise<PollAnswer["metadata"] | undefined> {
    const { stream, seen } = this.#history;
    const member = this.#id;
    const request = { consumerId: member, limit: 1 + this.#history.below(8), timeout: this.#history.below(2) * 50 };
    const from = this.#history.tick();
    try {
      const { events, metadata } = await this.#history.api().poll(stream, GROUP, request, { timeoutMs: CALL_MS });
      const { generation, partitions: assignment } = metadata.assignment!;
      // A gateway may not have heard yet of a commit by another.
      for (const { partition, committedOffset = -1 } of metadata.partitions)
        this.#committed.set(partition, Math.max(committedOffset, this.#committed.get(partition) ?? -1));
      seen.push({ kind: "poll", member, generation, assignment, events, from, to: this.#history.tick() });
      this.#handed(generation, assignment, events);
      return metadata;
    } catch (error) {
      if (wasNeverSent(error)) return undefined;
      this.#unexpected("poll", error, []);
      seen.push({ kind: "poll lost", member, from, to: this.#history.tick() });
      return undefined;
    }
  }

  /** @returns whether it was stored. */
  async #commit(): Promise<boolean> {
    const open = [...this.#next.keys()].filter((partition) => this.#isOpen(partition));
    if (open.length === 0) return false;
    const partition = open[this.#history.below(open.length)]!;
    const last = this.#next.get(partition)! - 1;
    const first = (this.#committed.get(partition) ?? -1) + 1;
    const offset =
      this.#id === "last" || this.#history.random() < 0.6 ? last : first + this.#history.below(last - first + 1);
    const generation = this.#generation;
    const from = this.#history.tick();
    const outcome = await this.#committing(partition, offset, generation);
    const to = this.#history.tick();
    this.#history.seen.push({ kind: "commit", member: this.#id, generation, partition, offset, outcome, from, to });
    if (outcome === "accepted") this.#committed.set(partition, offset);
    // Whoever is refused has to ask what it still has.
    if (outcome === "refused") this.#next.delete(partition);
    return outcome === "accepted";
  }

  async #committing(partition: number, offset: number, generation: number): Promise<CommitSeen["outcome"]> {
    const { stream } = this.#history;
    try {
      const by = { consumerId: this.#id, generation };
      await this.#history.api().commit(GROUP, [{ stream, partition, offset }], by);
      return "accepted";
    } catch (error) {
      if (error instanceof ApiFailure && error.name === "NOT_PARTITION_OWNER") return "refused";
      this.#unexpected("commit", error, ["CONSUMER_GROUP_NOT_FOUND"]);
      return "unknown";
    }
  }

  async #leave(): Promise<void> {
    const member = this.#id;
    const from = this.#history.tick();
    try {
      await this.#history.api().leave(GROUP, member, this.#history.stream);
      this.#history.seen.push({ kind: "leave", member, outcome: "accepted", from, to: this.#history.tick() });
    } catch (error) {
      this.#unexpected("leave", error, ["CONSUMER_GROUP_NOT_FOUND"]);
      this.#history.seen.push({ kind: "leave", member, outcome: "unknown", from, to: this.#history.tick() });
    }
  }

  /** Reads live for a while, and commits meanwhile. */
  async #subscribe(): Promise<void> {
    const { stream, seen, random, sessionTimeoutMs } = this.#history;
    const member = this.#id;
    const by = SUBSCRIBERS[this.#history.below(SUBSCRIBERS.length)]!;
    const request = { consumerGroup: GROUP, consumerId: member, keepMembership: random() < 0.3 };
    const from = this.#history.tick();
    let assignment: readonly number[] = [];
    let generation = this.#generation;
    try {
      const signal = AbortSignal.timeout(sessionTimeoutMs * (0.3 + 1.5 * random()));
      for await (const told of by.subscribe(this.#history.gateway().url, stream, request, signal)) {
        if (told.assignment) ({ generation, partitions: assignment } = told.assignment);
        if (!told.assignment && told.events.length === 0) continue;
        const { events } = told;
        seen.push({ kind: "poll", member, generation, assignment, events, from, to: this.#history.tick() });
        this.#handed(generation, assignment, events);
        if (random() < 0.3) await this.#commit();
      }
    } catch (error) {
      if (!isEnd(error)) this.#unexpected("subscribe", error, ["NOT_PARTITION_OWNER"]);
    }
    // What was on its way is nobody's.
    seen.push({ kind: "poll lost", member, from, to: this.#history.tick() });
  }

  #handed(
    generation: number,
    assignment: readonly number[],
    events: readonly { readonly partition: number; readonly offset: number }[],
  ): void {
    this.#generation = generation;
    for (const partition of this.#next.keys()) if (!assignment.includes(partition)) this.#next.delete(partition);
    for (const { partition, offset } of events) {
      const next = Math.max(this.#next.get(partition) ?? 0, (this.#committed.get(partition) ?? -1) + 1);
      // An answer that was lost had what is missing between; it comes again.
      if (offset <= next) this.#next.set(partition, Math.max(next, offset + 1));
    }
  }

  #unexpected(call: string, error: unknown, expected: readonly string[]): void {
    if (!(error instanceof ApiFailure) || error.code === 0 || OUT_OF_REACH.has(error.name)) return;
    if (!expected.includes(error.name))
      this.#history.faults.push(`a ${call} of ${this.#id} was answered with ${error.message}`);
  }
}

const SUBSCRIBERS: readonly Subscriber[] = subscribers.filter(({ name }) => ["gRPC", "JSON lines"].includes(name));

/** How a stream may end when its caller goes, or its gateway does. */
const isEnd = (error: unknown): boolean => !(error instanceof SubscriptionFailure);

function wasNeverSent(error: unknown): boolean {
  return String((error as Error).cause ?? error).includes("ECONNREFUSED");
}
