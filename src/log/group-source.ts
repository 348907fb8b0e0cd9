import { deadlineIn } from "../domain/deadline.ts";
import { ErrorCode, ServiceError } from "../domain/errors.ts";
import type { StoredEvent } from "../domain/event.ts";
import { mapLimit } from "../domain/map-limit.ts";
import { partitionState } from "../jetstream/partitions.ts";
import type { Catalog } from "./catalog.ts";
import { claim } from "./claim.ts";
import type { GroupPartition } from "./group-partition.ts";
import type { GroupInStream, Groups } from "./groups.ts";
import { type HandedOut, takeReturned } from "./hand-out-returned.ts";
import { PartitionReader } from "./partition-reader.ts";
import type { Source, SubscriptionAssignment, Wake } from "./subscribe.ts";
import type { Tails } from "./tail.ts";

export interface GroupSourceOptions {
  readonly consumerId: string;
  /** Reads only these partitions of its share; undefined: all. */
  readonly partitions: readonly number[] | undefined;
  readonly autoCommit: boolean;
  /** Most events sent and not committed. */
  readonly maxUncommitted: number;
  /** Whether the member stays for the session timeout when the stream ends. */
  readonly keepMembership: boolean;
}

/** A partition that the member has, and what it was sent of it. */
interface Held {
  readonly partition: GroupPartition;
  readonly reader: PartitionReader;
  /** Where handing out resumed at the last look, to see it move. */
  resume: number;
  /** What was sent and is not known to be committed, oldest first; what a filter left out lies between. */
  readonly sent: Sent[];
}

/** Events in a row. */
interface Sent {
  readonly from: number;
  /** Exclusive. */
  upTo: number;
  /** When they had reached the caller's connection; undefined until then. */
  atMs: number | undefined;
}

const REQUEST_MS = 5000;
const PARALLEL = 32;
/** Commits of what was sent are put together for so long. */
const AUTO_COMMIT_MS = 200;
let sessions = 0;

/** The partitions that a member of a group has, for as long as its stream is open. */
export class GroupSource implements Source {
  readonly hasPositions = false;
  readonly #catalog: Catalog;
  readonly #groups: Groups;
  readonly #group: GroupInStream;
  readonly #tails: Tails;
  readonly #wake: Wake;
  readonly #options: GroupSourceOptions;
  readonly #session: string;
  readonly #held = new Map<number, Held>();
  /** Sent and to be settled, with `autoCommit`. */
  readonly #returned: HandedOut[] = [];
  readonly #owned = new AsyncDisposableStack();
  /** The generation that it was last told; undefined: it has not been let in yet. */
  #entered: number | undefined;
  #changed = true;
  #syncAt = 0;
  #committedAt = 0;
  #told = "";

  private constructor(
    catalog: Catalog,
    groups: Groups,
    group: GroupInStream,
    tails: Tails,
    wake: Wake,
    options: GroupSourceOptions,
  ) {
    this.#catalog = catalog;
    this.#groups = groups;
    this.#group = group;
    this.#tails = tails;
    this.#wake = wake;
    this.#options = options;
    this.#session = `${groups.gateways.own}.${++sessions}`;
  }

  static async open(
    catalog: Catalog,
    groups: Groups,
    group: GroupInStream,
    tails: Tails,
    wake: Wake,
    options: GroupSourceOptions,
  ): Promise<GroupSource> {
    const source = new GroupSource(catalog, groups, group, tails, wake, options);
    const changed = () => {
      source.#changed = true;
      wake.call();
    };
    source.#owned.defer(group.members.onChange(changed));
    source.#owned.defer(group.returned.onChange(wake.call));
    source.#owned.use(await groups.followCommits(group));
    return source;
  }

  get syncMs(): number {
    const { members, record, returned } = this.#group;
    return Math.min(
      returned.some
        ? Math.max(0, returned.nextDueMs(new Set(this.#held.keys())) - Date.now())
        : Number.POSITIVE_INFINITY,
      members.claimMs,
      record.ackWaitMs / 4,
      this.#options.autoCommit ? AUTO_COMMIT_MS : record.ackWaitMs,
    );
  }

  async sync(): Promise<{ readers: readonly PartitionReader[]; assignment: SubscriptionAssignment | undefined }> {
    const stream = this.#catalog.known(this.#group.stream.name);
    if (stream && stream.partitions > this.#group.stream.partitions) {
      this.#group.stream = stream;
      this.#changed = true;
    }
    const isDue = performance.now() >= this.#syncAt || this.#group.members.hasLapsed;
    const assignment = this.#changed || isDue ? await this.#claim() : undefined;
    for (const held of this.#held.values()) await this.#follow(held);
    return { readers: [...this.#held.values()].map(({ reader }) => reader), assignment };
  }

  room(): number {
    let uncommitted = 0;
    for (const { partition, sent } of this.#held.values())
      for (const { from, upTo } of sent) uncommitted += Math.max(0, upTo - Math.max(from, partition.resume));
    return Math.max(0, this.#options.maxUncommitted - uncommitted);
  }

  async takeReturned(): Promise<StoredEvent[]> {
    if (!this.#group.returned.some) return [];
    const taken = await mapLimit([...this.#held.keys()], PARALLEL, (index) =>
      takeReturned(this.#group, index, deadlineIn(REQUEST_MS)),
    );
    const handedOut = taken.filter((each) => each !== undefined);
    if (this.#options.autoCommit) this.#returned.push(...handedOut);
    return handedOut.map(({ event }) => event);
  }

  sends(events: readonly StoredEvent[]): void {
    for (const { partition, offset } of events) {
      const { sent } = this.#held.get(partition)!;
      const last = sent.at(-1);
      if (last?.upTo === offset && last.atMs === undefined) last.upTo = offset + 1;
      else sent.push({ from: offset, upTo: offset + 1, atMs: undefined });
    }
  }

  async sent(): Promise<void> {
    const now = performance.now();
    if (this.#options.autoCommit) {
      for (const { entry } of this.#returned.splice(0))
        await this.#group.returned.settle(entry, deadlineIn(REQUEST_MS));
      if (now - this.#committedAt >= AUTO_COMMIT_MS) await this.#commit();
      return;
    }
    for (const { sent } of this.#held.values())
      for (let i = sent.length - 1; i >= 0 && sent[i]!.atMs === undefined; i--) sent[i]!.atMs = now;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const deadline = deadlineIn(REQUEST_MS);
    const { consumerId, keepMembership, autoCommit } = this.#options;
    const { members } = this.#group;
    try {
      if (autoCommit) await this.#commit();
      else for (const held of this.#held.values()) await this.#countFailures(held);
      if (keepMembership) await members.detach(consumerId, this.#session, deadline);
      else if (this.#entered !== undefined) await members.leave(consumerId, deadline, this.#session);
    } catch {
      // Out of reach: the lease runs out by itself.
    }
    for (const index of [...this.#held.keys()]) this.#letGo(index);
    await this.#owned.disposeAsync();
  }

  async #claim(): Promise<SubscriptionAssignment | undefined> {
    // While the storage is out of reach nobody else gets the partitions, and nothing comes.
    if (this.#entered !== undefined && !this.#groups.js.connected) return undefined;
    this.#changed = false;
    this.#syncAt = performance.now() + this.#group.members.renewMs;
    const deadline = deadlineIn(REQUEST_MS);
    const { consumerId, partitions } = this.#options;
    const member = { id: consumerId, session: this.#session, entered: this.#entered };
    try {
      const claimed = await claim(
        this.#groups,
        this.#group,
        { member, ...(partitions ? { partitions } : {}) },
        deadline,
      );
      this.#entered = claimed.assignment!.generation;
      const wanted = new Set(claimed.partitions);
      for (const [index, { partition }] of this.#held) if (!wanted.has(partition)) this.#letGo(index);
      await mapLimit(claimed.partitions, PARALLEL, (partition) => this.#hold(partition));
      const { generation, partitions: assigned } = claimed.assignment!;
      const told = `${generation} ${assigned}`;
      if (told === this.#told) return undefined;
      this.#told = told;
      return { consumerId, generation, partitions: assigned };
    } catch (error) {
      if (this.#entered === undefined || !(error instanceof ServiceError) || !OUT_OF_REACH.has(error.code)) throw error;
      return undefined;
    }
  }

  /** Begins to read a partition, unless it is held in this epoch. */
  async #hold(partition: GroupPartition): Promise<void> {
    const index = partition.place.partition;
    if (this.#held.get(index)?.partition === partition) return;
    const deadline = deadlineIn(REQUEST_MS);
    const { stream } = this.#group;
    const state = await partitionState(this.#groups.js, stream.name, index, deadline);
    let reader: PartitionReader | undefined;
    const sent = () => reader?.next ?? 0;
    try {
      const resume = await partition.exclusive(() => partition.beginStream(sent, this.#wake.call, deadline));
      const tail = this.#tails.acquire(stream.name, stream.id, index, state.endOffset);
      reader = new PartitionReader(this.#groups.js, stream.name, index, tail, resume, this.#wake.call);
      this.#held.set(index, { partition, reader, resume, sent: [] });
    } catch (error) {
      if (!(error instanceof ServiceError) || error.code !== ErrorCode.NOT_PARTITION_OWNER) throw error;
      // It has passed on in the meantime.
      await this.#group.members.reload(deadline);
      this.#changed = true;
    }
  }

  #letGo(index: number): void {
    const held = this.#held.get(index);
    this.#held.delete(index);
    held?.partition.endStream();
    held?.reader.close();
  }

  /** Follows commits that rewind or skip, and sends again what was not committed in time. */
  async #follow(held: Held): Promise<void> {
    const { partition, reader, sent } = held;
    const { resume } = partition;
    if (resume < held.resume || resume > reader.next) {
      reader.move(resume);
      sent.length = 0;
    }
    held.resume = resume;
    dropCommitted(sent, resume);
    const sentAt = sent[0]?.atMs;
    if (sentAt !== undefined && performance.now() - sentAt >= this.#group.record.ackWaitMs) {
      await this.#countFailures(held);
      reader.move(partition.resume);
      sent.length = 0;
    }
    dropCommitted(sent, partition.resume);
    // Nothing waits for what a filter left out.
    const next = sent.length > 0 ? Math.max(sent[0]!.from, partition.resume) : Math.max(reader.next, partition.resume);
    const end = partition.failures.isLastChance(next) ? next + 1 : Number.POSITIVE_INFINITY;
    reader.restrict((offset) => partition.isPassed(offset), end);
  }

  /** What was sent and is not committed was sent in vain. */
  async #countFailures({ partition, sent }: Held): Promise<void> {
    const last = sent.at(-1);
    if (!partition.place.deadLetters || !last) return;
    try {
      await partition.exclusive(() => partition.failures.countUpTo(last.upTo, deadlineIn(REQUEST_MS)));
    } catch (error) {
      if (!(error instanceof ServiceError)) throw error;
      this.#changed ||= error.code === ErrorCode.NOT_PARTITION_OWNER;
    }
  }

  /** Commits all that was sent. */
  async #commit(): Promise<void> {
    this.#committedAt = performance.now();
    const deadline = deadlineIn(REQUEST_MS);
    await mapLimit([...this.#held.values()], PARALLEL, async ({ partition, reader }) => {
      if (reader.next <= partition.resume) return;
      try {
        await partition.exclusive(() => partition.commit(reader.next - 1, deadline));
      } catch (error) {
        // A partition that has passed on is its next owner's to commit.
        const isOwner = !(error instanceof ServiceError) || error.code !== ErrorCode.NOT_PARTITION_OWNER;
        if (isOwner && !(error instanceof ServiceError && OUT_OF_REACH.has(error.code))) throw error;
        this.#changed = true;
      }
    });
  }
}

function dropCommitted(sent: Sent[], resume: number): void {
  const kept = sent.findIndex(({ upTo }) => upTo > resume);
  sent.splice(0, kept < 0 ? sent.length : kept);
}

/** What a later try gets over. */
const OUT_OF_REACH: ReadonlySet<ErrorCode> = new Set([ErrorCode.UNAVAILABLE, ErrorCode.TIMEOUT]);
