import type { Deadline } from "../domain/deadline.ts";
import { groupNotFound, notPartitionOwner } from "../domain/errors.ts";
import {
  acknowledge,
  commitFault,
  dismiss,
  enter,
  type Holding,
  isDismissed,
  lapsed,
  leave,
  type Membership,
  memberOf,
  noMembers,
  resize,
  restart,
} from "../domain/membership.ts";
import { Mutex } from "../domain/mutex.ts";
import type { Bucket, Change } from "../jetstream/kv.ts";

/** A member as it shows itself to a gateway. */
export interface MemberIdentity {
  readonly id: string;
  /** Of a member that subscribes; see {@link Membership}. */
  readonly session?: string;
  /**
   * The generation that it was told when it was let in before. When another reader has come in its place since, or it
   * was taken out by name, it is not let in again.
   */
  readonly entered?: number | undefined;
}

/** A change that waits for its turn. */
interface Step {
  /** Of the stream. */
  readonly partitions: number;
  readonly deadline: Deadline;
  /** May be called more than once. */
  readonly change: (state: Membership) => Membership;
  readonly resolve: (state: Membership) => void;
  readonly reject: (error: unknown) => void;
}

/** A lease is written anew when it is older than this part of the session timeout. */
const RENEW_PART = 1 / 8;
const SHORTEST_MS = 20;

/**
 * The members of one group in one stream: the stored state, a copy of it that a watch keeps near, and the steps that
 * change it. What the copy lags behind does no harm: what a former owner takes comes from a consumer of its own, and
 * its commits meet the epoch that the next owner has stored.
 */
export class Members {
  readonly #bucket: Bucket<Membership>;
  readonly #group: string;
  readonly #key: string;
  readonly #listeners = new Set<() => void>();
  /** Steps of this gateway follow each other; only those of others can come in between. */
  readonly #mutex = new Mutex();
  readonly #steps: Step[] = [];
  readonly #clock: () => number;
  sessionTimeoutMs: number;
  #state: Membership | undefined;
  #revision = 0;
  #loaded = false;
  #isClosed = false;

  constructor(
    bucket: Bucket<Membership>,
    group: string,
    key: string,
    sessionTimeoutMs: number,
    clock: () => number = Date.now,
  ) {
    this.#bucket = bucket;
    this.#group = group;
    this.#key = key;
    this.sessionTimeoutMs = sessionTimeoutMs;
    this.#clock = clock;
  }

  /** The state as far as this gateway knows; undefined: the group never had members here. */
  get state(): Membership | undefined {
    return this.#state;
  }

  /** How often a lease has to be renewed by {@link claim}. */
  get renewMs(): number {
    return Math.max(SHORTEST_MS, this.sessionTimeoutMs * RENEW_PART);
  }

  /** After it, whoever waits or streams has to {@link claim} again: for its own lease, or because another's has run out. */
  get claimMs(): number {
    return Math.min(this.renewMs, this.#lapseMs + SHORTEST_MS);
  }

  /** Whether somebody has stayed away too long, who is taken out by the next {@link claim}. */
  get hasLapsed(): boolean {
    return this.#lapseMs === 0;
  }

  /** Until the first lease runs out. */
  get #lapseMs(): number {
    const seenMs = Math.min(...(this.#state?.members ?? []).map((member) => member.seenMs));
    return Math.max(0, seenMs + this.#leaseMs + 1 - this.#clock());
  }

  get #leaseMs(): number {
    // A lease that was not written again for its being young still holds for the whole session timeout.
    return this.sessionTimeoutMs + this.renewMs;
  }

  /** Who has a partition and since when; undefined: the group never had members here. */
  holding(partition: number): Holding | undefined {
    return this.#state?.partitions[partition];
  }

  /** Whether a member has a stream open. */
  isStreaming(id: string): boolean {
    return this.#state !== undefined && memberOf(this.#state, id)?.session !== undefined;
  }

  /** Calls `listener` at every change, until the returned function is called. */
  onChange(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** What the watch reports. */
  changed({ value, revision }: Change<Membership>): void {
    if (revision < this.#revision) return;
    this.#loaded = true;
    this.#adopt(value, revision);
  }

  /** The group is deleted: nobody is a member any more, and nobody becomes one. */
  close(): void {
    this.#isClosed = true;
    for (const listener of [...this.#listeners]) listener();
  }

  /** Reads the stored state anew. */
  async reload(deadline: Deadline): Promise<void> {
    const { value, revision } = await this.#bucket.get(this.#key, deadline);
    this.#loaded = true;
    // 0: the group was deleted, and all that was known of it is void.
    if (revision >= this.#revision || revision === 0) this.#adopt(value, revision);
  }

  /**
   * Shows that a member is there: it joins or renews its lease, sees the present generation, and lets go what this one
   * takes away; members that stayed away too long are taken out. Writes only when something is to be written.
   */
  async claim(member: MemberIdentity, partitions: number, deadline: Deadline): Promise<Membership> {
    return this.#change(partitions, deadline, (state) => {
      const nowMs = this.#clock();
      let next = leave(
        state,
        this.#lapsed(state, nowMs).map(({ id }) => id),
      );
      const known = memberOf(next, member.id);
      if (member.entered !== undefined && isDismissed(next, member.id, member.entered))
        throw notPartitionOwner(`"${member.id}" was taken out of the group`);
      if (known && member.entered !== undefined && known.session !== member.session)
        throw notPartitionOwner(`another reader named "${member.id}" has taken the place of this one`);
      if (!known || known.session !== member.session || nowMs - known.seenMs > this.renewMs)
        next = enter(next, member.id, nowMs, member.session);
      return memberOf(next, member.id)!.told === next.generation ? next : acknowledge(next, member.id);
    });
  }

  /** Renews a lease without seeing a new generation. @throws ServiceError NOT_PARTITION_OWNER when it is no member. */
  async renew(id: string, deadline: Deadline): Promise<Membership> {
    return this.#change(0, deadline, (state) => {
      const nowMs = this.#clock();
      const known = memberOf(state, id);
      if (!known || this.#lapsed(state, nowMs).includes(known)) throw notPartitionOwner(`"${id}" is no member now`);
      return nowMs - known.seenMs > this.renewMs ? enter(state, id, nowMs, known.session) : state;
    });
  }

  /** Takes out those that have left or lapsed, so that nobody is a member who is gone. */
  async live(deadline: Deadline): Promise<Membership | undefined> {
    if (!this.#loaded) await this.reload(deadline);
    const state = this.#state;
    if (!state || this.#lapsed(state, this.#clock()).length === 0) return state;
    return this.#change(0, deadline, (each) =>
      leave(
        each,
        this.#lapsed(each, this.#clock()).map(({ id }) => id),
      ),
    );
  }

  /**
   * A member goes; what it had is free at once. With `session` it goes with that stream, if it still is that stream's;
   * without one, the stream that it has open, or the poll in which it waits, ends too.
   */
  async leave(id: string, deadline: Deadline, session?: string): Promise<boolean> {
    let left = false;
    await this.#change(0, deadline, (state) => {
      const known = memberOf(state, id);
      left = known !== undefined && (session === undefined || known.session === session);
      if (!left) return state;
      return session === undefined ? dismiss(state, id) : leave(state, [id]);
    });
    return left;
  }

  /** A stream closes and its member stays, for the session timeout. */
  async detach(id: string, session: string, deadline: Deadline): Promise<void> {
    await this.#change(0, deadline, (state) => {
      if (memberOf(state, id)?.session !== session) return state;
      const members = state.members.map((each) =>
        each.id === id ? { id, seenMs: this.#clock(), told: each.told } : each,
      );
      return { ...state, members };
    });
  }

  /** Begins a new epoch of some partitions at offsets: what was handed out before can't be committed any more. */
  async seek(offsets: ReadonlyMap<number, number>, partitions: number, deadline: Deadline): Promise<void> {
    await this.#change(partitions, deadline, (state) => restart(state, [...offsets.keys()], offsets));
  }

  /** Takes out members whose gateway has ended; its streams are closed. */
  async forgetGateway(gateway: string, deadline: Deadline): Promise<void> {
    await this.#change(0, deadline, (state) =>
      leave(
        state,
        state.members.filter(({ session }) => session?.startsWith(`${gateway}.`)).map(({ id }) => id),
      ),
    );
  }

  /**
   * Checks that a member may commit in partitions, and counts as a sign of life of it.
   *
   * @throws ServiceError NOT_PARTITION_OWNER.
   */
  async checkCommit(
    id: string,
    partitions: readonly number[],
    generation: number | undefined,
    deadline: Deadline,
  ): Promise<void> {
    const fault = () => {
      const state = this.#state ?? noMembers(0);
      if (this.#lapsed(state, this.#clock()).some((member) => member.id === id)) return `"${id}" stayed away too long`;
      for (const partition of partitions) {
        const found = commitFault(state, id, partition, generation);
        if (found) return found;
      }
      return undefined;
    };
    if (fault()) {
      await this.reload(deadline);
      const found = fault();
      if (found) throw notPartitionOwner(found);
    }
    await this.renew(id, deadline);
  }

  #lapsed(state: Membership, nowMs: number) {
    return lapsed(state, nowMs, this.#leaseMs);
  }

  /** @throws ServiceError CONSUMER_GROUP_NOT_FOUND once the group is deleted. */
  #change(partitions: number, deadline: Deadline, change: Step["change"]): Promise<Membership> {
    const { promise, resolve, reject } = Promise.withResolvers<Membership>();
    this.#steps.push({ partitions, deadline, change, resolve, reject });
    void this.#mutex.run(() => this.#takeSteps());
    return promise;
  }

  /** Takes the steps that wait, one after the other, and stores what they come to by one write. */
  async #takeSteps(): Promise<void> {
    const steps = this.#steps.splice(0);
    const deadline = Math.max(...steps.map((step) => step.deadline));
    try {
      if (steps.length > 0 && !this.#loaded) await this.reload(deadline);
      for (let isStored = steps.length === 0; !isStored; ) {
        if (this.#isClosed) throw groupNotFound(this.#group);
        let state = this.#state;
        const settles = steps.map(({ partitions, change, resolve, reject }) => {
          try {
            const before = state ?? noMembers(partitions);
            const after = change(resize(before, partitions));
            if (after !== before) state = after;
            return () => resolve(after);
          } catch (error) {
            return () => reject(error);
          }
        });
        isStored = state === this.#state || (await this.#store(state!, deadline));
        if (isStored) for (const settle of settles) settle();
      }
    } catch (error) {
      for (const { reject } of steps) reject(error);
    }
  }

  /** @returns false when another gateway has changed what is stored, which is then read anew. */
  async #store(state: Membership, deadline: Deadline): Promise<boolean> {
    const revision = await this.#bucket.put(this.#key, state, this.#revision, deadline);
    if (revision === undefined) await this.reload(deadline);
    else if (revision > this.#revision) this.#adopt(state, revision);
    return revision !== undefined;
  }

  #adopt(state: Membership | undefined, revision: number): void {
    this.#state = state;
    this.#revision = revision;
    for (const listener of [...this.#listeners]) listener();
  }
}
