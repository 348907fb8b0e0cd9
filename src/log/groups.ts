import type { Logger } from "pino";
import { type Deadline, deadlineIn, EXPLAIN_MS, msLeft, pause } from "../domain/deadline.ts";
import { ErrorCode, groupNotFound, ServiceError, timedOut } from "../domain/errors.ts";
import type { Membership } from "../domain/membership.ts";
import { type Owner, Places } from "../domain/quota.ts";
import { SharedResources } from "../domain/shared.ts";
import { unless } from "../domain/unless.ts";
import type { JetStream } from "../jetstream/connection.ts";
import { type Bucket, type Change, openBucket, type Versioned } from "../jetstream/kv.ts";
import { encodeToken, GROUPS_BUCKET, groupKey, membersKey, OFFSETS_BUCKET, offsetKey } from "../jetstream/names.ts";
import { partitionStates } from "../jetstream/partitions.ts";
import type { StreamRecord } from "./catalog.ts";
import { type DeadLetterContext, type DeadLetters, deadLettersTo } from "./dead-letters.ts";
import { Gateways } from "./gateways.ts";
import { GroupPartition } from "./group-partition.ts";
import { type GroupUse, GroupUses } from "./group-uses.ts";
import { Members } from "./members.ts";
import type { OffsetRecord } from "./offset-entry.ts";
import { type GroupReturned, ReturnedEvents } from "./returned.ts";

/** What may be set of a group in a stream. */
export interface GroupSettings {
  /** After it, what was handed out and not committed is handed out again. */
  readonly ackWaitMs: number;
  /** A member that is not heard of for so long loses its partitions. */
  readonly sessionTimeoutMs: number;
  /** How often an event is handed out at most; goes with `deadLetterStream`. Undefined: until it is committed. */
  readonly maxDeliveries?: number;
  /** Takes the events that were handed out so often. */
  readonly deadLetterStream?: string;
}

/** A group in a stream, as it is stored. */
export interface GroupRecord extends GroupSettings {
  readonly group: string;
  readonly stream: string;
  readonly createdAtMs: number;
  /** Id of the principal that made it; undefined for one of before owners were noted. */
  readonly owner?: string;
  /** First offset of each partition, fixed by the call that first named the group; partitions added later start at 0. */
  readonly start: readonly number[];
  /** The group is deleted, by a gateway since a time; what it keeps goes first, and the record last. */
  readonly deleting?: { readonly by: string; readonly sinceMs: number };
}

/** A group in a stream, as this gateway uses it. */
export interface GroupInStream {
  readonly js: JetStream;
  readonly group: string;
  /** As it was last seen; whoever holds the group for long brings it up to date. */
  stream: StreamRecord;
  readonly record: GroupRecord;
  /** Aborted when the group is deleted: from then on nobody reads for it; one that is made anew is another. */
  readonly deleted: AbortSignal;
  readonly members: Members;
  /** What its consumers have returned. */
  readonly returned: GroupReturned;
  readonly deadLetters: DeadLetters | undefined;
  /** A partition in its present epoch. */
  partition(index: number): GroupPartition;
  /** Whether other gateways hand out events of it too, so that what this one remembers may be out of date. */
  readonly shared: boolean;
  /** Where the next poll begins, so that no partition is always last. */
  turn: number;
}

export interface GroupsOptions {
  /** Servers that keep each record. */
  readonly replicas: number;
  /** Of groups that are created without settings of their own. */
  readonly defaults: GroupSettings;
  readonly log: Logger;
  readonly deadLetters: Omit<DeadLetterContext, "js" | "log">;
  /** Whether there is a stream of that name and id. */
  readonly hasStream: (name: string, id: string) => boolean;
}

/** How a group begins to read a stream, and what is set of it. */
export interface GroupStart {
  /** A word, or the first offset of each partition. */
  readonly start: "earliest" | "latest" | readonly number[];
  readonly settings?: Partial<GroupSettings>;
  /** Whose the group will be. */
  readonly owner: Owner;
}

const TIDY_OWNERS = 1000;
/** Members of gateways that have ended are looked for at most this often. */
const SWEEP_MS = 1000;
/** A deletion that has not ended after this long is ended by whoever names the group next. */
const DELETION_MS = 60_000;
const DELETION_LOOK_MS = 20;
const OF_DELETED = new Set([ErrorCode.UNAVAILABLE, ErrorCode.TIMEOUT]);

/**
 * The consumer groups. Groups, their start, members and commits are in JetStream; a gateway keeps only what it can learn
 * anew.
 */
export class Groups implements AsyncDisposable {
  readonly gateways: Gateways;
  readonly js: JetStream;
  readonly #records: Bucket<GroupRecord>;
  readonly #memberships: Bucket<Membership>;
  readonly #offsets: Bucket<OffsetRecord>;
  readonly #log: Logger;
  readonly #defaults: GroupSettings;
  readonly #deadLetters: DeadLetterContext;
  readonly #open = new Map<string, OpenGroup>();
  readonly #opening = new Map<string, Promise<OpenGroup | undefined>>();
  readonly #followed = new SharedResources<GroupInStream>();
  readonly #owned = new AsyncDisposableStack();
  readonly #hasStream: GroupsOptions["hasStream"];
  readonly #places = new Places();
  /** Whose each group is, by its key, and the name of its stream. */
  readonly #owners = new Map<string, { readonly owner: string; readonly stream: string }>();
  /** Number of owners noted from which those of streams that are gone are looked for again. */
  #tidyAt = TIDY_OWNERS;
  #uses!: GroupUses;
  #returned!: ReturnedEvents;

  private constructor(js: JetStream, records: Bucket<unknown>, offsets: Bucket<OffsetRecord>, options: GroupsOptions) {
    this.js = js;
    this.gateways = new Gateways(js, (key) => this.#open.get(key)?.streamed());
    this.#records = records as Bucket<GroupRecord>;
    this.#memberships = records as Bucket<Membership>;
    this.#offsets = offsets;
    this.#log = options.log;
    this.#defaults = options.defaults;
    this.#hasStream = options.hasStream;
    this.#deadLetters = { ...options.deadLetters, js, log: options.log };
  }

  static async open(js: JetStream, options: GroupsOptions): Promise<Groups> {
    const records = await openBucket<unknown>(js, GROUPS_BUCKET, options.replicas);
    const offsets = await openBucket<OffsetRecord>(js, OFFSETS_BUCKET, options.replicas);
    const groups = new Groups(js, records, offsets, options);
    groups.#uses = groups.#owned.use(await GroupUses.open(records as Bucket<GroupUse>, groups.gateways));
    groups.#returned = groups.#owned.use(await ReturnedEvents.open(js, options.replicas));
    groups.#owned.use(await groups.#memberships.watch("mem.>", (change) => groups.#membersChanged(change)));
    groups.#owned.use(await groups.#records.watch("rec.>", (change) => groups.#recordChanged(change)));
    return groups;
  }

  /**
   * Stores a group that is new in a stream.
   *
   * @returns whether this call did; false when the group is there.
   * @throws ServiceError QUOTA_EXCEEDED when the owner may have no more.
   */
  async create(group: string, stream: StreamRecord, start: GroupStart, deadline: Deadline): Promise<boolean> {
    const { value, revision } = await this.#stored(group, stream, deadline);
    if (value) return false;
    const key = groupKey(group, stream.id);
    using _place = this.#places.hold(start.owner, "groups", key, 1, () => this.#groupsOf(start.owner.id));
    const record: GroupRecord = {
      ...this.#defaults,
      ...start.settings,
      group,
      stream: stream.name,
      createdAtMs: Date.now(),
      owner: start.owner.id,
      start: await this.#startOffsets(stream, start.start, deadline),
    };
    if ((await this.#records.put(key, record, revision, deadline)) === undefined) return false;
    this.#noteOwner(key, record);
    if (this.#owners.size > this.#tidyAt) this.#tidyOwners();
    return true;
  }

  /** The group in a stream, created if it is new there. */
  async join(group: string, stream: StreamRecord, start: GroupStart, deadline: Deadline): Promise<GroupInStream> {
    return (await this.#opened(group, stream, start, deadline))!;
  }

  /**
   * The group in a stream.
   *
   * @param owner of the group where it is new in this stream.
   * @throws ServiceError CONSUMER_GROUP_NOT_FOUND when the group exists in no stream.
   */
  async find(group: string, stream: StreamRecord, owner: Owner, deadline: Deadline): Promise<GroupInStream> {
    const found = await this.#opened(group, stream, undefined, deadline);
    if (found) return found;
    if ((await this.records(group, deadline)).length === 0) throw groupNotFound(group);
    return this.join(group, stream, { start: "earliest", owner }, deadline);
  }

  /** The group in a stream, or undefined when it has never read it. */
  get(group: string, stream: StreamRecord, deadline: Deadline): Promise<GroupInStream | undefined> {
    return this.#opened(group, stream, undefined, deadline);
  }

  /** The records of a group, one for each stream that it reads; of all groups when `group` is undefined. */
  async records(group: string | undefined, deadline: Deadline): Promise<GroupRecord[]> {
    const found = await this.#records.list(`rec.${group === undefined ? "*" : encodeToken(group)}.*`, deadline);
    return [...found.values()].filter(({ deleting }) => !deleting);
  }

  /**
   * Runs a call on groups. It ends as soon as this gateway hears that one of them is deleted.
   *
   * @throws ServiceError CONSUMER_GROUP_NOT_FOUND then; what the call throws.
   */
  async during<T>(groups: Iterable<GroupInStream>, call: () => Promise<T>): Promise<T> {
    const open = [...new Set(groups)];
    try {
      return await unless(
        open.map(({ deleted }) => deleted),
        call,
      );
    } catch (error) {
      for (const each of open) if (await this.#wentWith(each, error)) throw groupNotFound(each.group);
      throw error;
    }
  }

  /** Whether a failure may be of a group's deletion, and the group is deleted. */
  async #wentWith({ group, stream, record }: GroupInStream, error: unknown): Promise<boolean> {
    if (!(error instanceof ServiceError) || !OF_DELETED.has(error.code) || !this.js.connected) return false;
    try {
      const { value } = await this.#records.get(groupKey(group, stream.id), deadlineIn(EXPLAIN_MS));
      return !value || value.deleting !== undefined || value.createdAtMs !== record.createdAtMs;
    } catch {
      return false;
    }
  }

  /** By partition, the first offset that a group is not done with, from its stored commits; one without is left out. */
  async committed(group: string, streamId: string, deadline: Deadline): Promise<Map<number, number>> {
    const found = await this.#offsets.list(`${encodeToken(group)}.${streamId}.*`, deadline);
    return new Map([...found].map(([key, { resume }]) => [Number(key.split(".").at(-1)), resume]));
  }

  /**
   * Removes a group from a stream with all that it keeps. Every gateway is told first, so that no poll or stream which
   * is open brings any of it back.
   *
   * @returns whether this call did; false when another has, or does.
   */
  async delete({ group, stream }: GroupInStream, deadline: Deadline): Promise<boolean> {
    const { value, revision } = await this.#records.get(groupKey(group, stream.id), deadline);
    return value !== undefined && !value.deleting && (await this.#remove(value, stream, revision, deadline));
  }

  /** @returns false when another call has changed the record, which is then left alone. */
  async #remove(record: GroupRecord, stream: StreamRecord, revision: number, deadline: Deadline): Promise<boolean> {
    const { group } = record;
    const key = groupKey(group, stream.id);
    const deleting = { by: this.gateways.own, sinceMs: Date.now() };
    const marked = await this.#records.put(key, { ...record, deleting }, revision, deadline);
    if (marked === undefined) return false;
    this.#close(key, marked);
    const open = this.#group(record, stream, marked, new Set());
    await open.members.reload(deadline);
    open.close();
    for (let index = 0; index < stream.partitions; index++) await open.partition(index).remove(deadline);
    await this.#offsets.purge(`${encodeToken(group)}.${stream.id}.*`, deadline);
    await this.#returned.forgetGroup(group, stream.id, deadline);
    await this.#records.purge(`use.${encodeToken(group)}.${stream.id}.*`, deadline);
    // Deleted, not purged: other gateways are told.
    await this.#records.delete(membersKey(group, stream.id), deadline);
    await this.#records.delete(key, deadline);
    return true;
  }

  /** Removes everything that groups keep about a stream. */
  async forgetStream(stream: StreamRecord, deadline: Deadline): Promise<void> {
    for (const kind of ["rec.*", "mem.*"]) await this.#records.purge(`${kind}.${stream.id}`, deadline);
    await this.#records.purge(`use.*.${stream.id}.*`, deadline);
    await this.#offsets.purge(`*.${stream.id}.*`, deadline);
    await this.#returned.forgetStream(stream.id, deadline);
    for (const [key, open] of this.#open) if (open.stream.id === stream.id) this.#open.delete(key);
  }

  /** What the streams of a group send next, by partition, on whichever gateway they are open. */
  async streamed(open: GroupInStream): Promise<ReadonlyMap<number, number>> {
    const { members = [], partitions = [] } = open.members.state ?? {};
    const gateways = new Map(members.map(({ id, session }) => [id, session?.split(".")[0]]));
    const key = groupKey(open.group, open.stream.id);
    const next = new Map<number, number>();
    await Promise.all(
      [...new Set(gateways.values())].map(async (gateway) => {
        if (gateway === undefined) return;
        const isOwn = gateway === this.gateways.own;
        const told = isOwn ? this.#open.get(key)?.streamed() : await this.gateways.ask(gateway, key);
        for (const [partition, offset] of JSON.parse(told ?? "[]") as [number, number][])
          if (gateways.get(partitions[partition]?.owner ?? "") === gateway) next.set(partition, offset);
      }),
    );
    return next;
  }

  /** Takes out members whose stream was held by a gateway that has ended; at most once a second. */
  sweep(open: GroupInStream): void {
    const now = performance.now();
    if (!(open instanceof OpenGroup) || now - open.sweptAt < SWEEP_MS) return;
    open.sweptAt = now;
    const sessions = open.members.state?.members.map(({ session }) => session?.split(".")[0]) ?? [];
    for (const gateway of new Set(sessions)) {
      if (gateway === undefined || gateway === this.gateways.own) continue;
      void (async () => {
        if (!(await this.gateways.lives(gateway))) await open.members.forgetGateway(gateway, deadlineIn(SWEEP_MS));
      })().catch((error: unknown) => this.#log.warn({ err: error }, "members of an ended gateway are still there"));
    }
  }

  /** Follows the commits of a group that other gateways store, until the result is disposed. */
  followCommits(open: GroupInStream): Promise<AsyncDisposable> {
    const filter = `${encodeToken(open.group)}.${open.stream.id}.*`;
    return this.#followed.acquire(open, () =>
      this.#offsets.watch(filter, ({ key, value, revision }) => {
        if (value) open.partition(Number(key.split(".").at(-1))).stored(value, revision);
      }),
    );
  }

  /** Takes back this gateway's notes: everything it took has reached its caller or was given back. */
  async [Symbol.asyncDispose](): Promise<void> {
    const deadline = deadlineIn(2000);
    await Promise.allSettled(
      [...this.#open.values()].map((open) => this.#uses.unnote(open.group, open.stream.id, deadline)),
    );
    await this.#owned.disposeAsync();
  }

  async #opened(
    group: string,
    stream: StreamRecord,
    start: GroupStart | undefined,
    deadline: Deadline,
  ): Promise<OpenGroup | undefined> {
    const key = groupKey(group, stream.id);
    let open = this.#open.get(key);
    if (open?.loading) await open.loading;
    else if (!open) {
      // Callers that come together share one opening, but one that may create does not wait for one that may not.
      const shared = `${key} ${start !== undefined}`;
      let opening = this.#opening.get(shared);
      if (!opening) {
        opening = this.#openGroup(group, stream, start, deadline).finally(() => this.#opening.delete(shared));
        this.#opening.set(shared, opening);
      }
      open = await opening;
    }
    if (!open) return undefined;
    open.stream = stream;
    if (open.shared) await this.#forgetDead(open, deadline);
    return open;
  }

  async #openGroup(
    group: string,
    stream: StreamRecord,
    start: GroupStart | undefined,
    deadline: Deadline,
  ): Promise<OpenGroup | undefined> {
    const key = groupKey(group, stream.id);
    if (!(await this.#stored(group, stream, deadline)).value) {
      if (start === undefined) return undefined;
      // When another call came first, its start is the group's.
      await this.create(group, stream, start, deadline);
    }
    const others = await this.#uses.note(group, stream.id, deadline);
    // Read after the note, so that whoever deletes the group either finds the note or is seen here.
    const { value: record, revision } = await this.#records.get(key, deadline);
    if (!record || record.deleting) throw groupNotFound(group);
    let open = this.#open.get(key);
    if (!open) {
      open = this.#group(record, stream, revision, others);
      // Noted before it is loaded, so that a deletion in between ends it.
      this.#open.set(key, open);
      open.loading = open.members.reload(deadline);
    }
    try {
      await open.loading;
      open.loading = undefined;
      return open;
    } catch (error) {
      if (this.#open.get(key) === open) this.#open.delete(key);
      throw error;
    }
  }

  #group(record: GroupRecord, stream: StreamRecord, revision: number, others: Set<string>): OpenGroup {
    const { group, sessionTimeoutMs } = record;
    const members = new Members(this.#memberships, group, membersKey(group, stream.id), sessionTimeoutMs);
    const returned = this.#returned.of(group, stream.id);
    return new OpenGroup(this.#deadLetters, this.#offsets, record, revision, stream, members, returned, others);
  }

  /** The record of a group; waits for the end of its deletion. @throws ServiceError TIMEOUT. */
  async #stored(group: string, stream: StreamRecord, deadline: Deadline): Promise<Versioned<GroupRecord>> {
    for (;;) {
      const stored = await this.#records.get(groupKey(group, stream.id), deadline);
      const { value, revision } = stored;
      if (!value?.deleting) return stored;
      const { by, sinceMs } = value.deleting;
      const isUnderWay = Date.now() - sinceMs < DELETION_MS && (await this.gateways.lives(by, deadline));
      if (!isUnderWay) await this.#remove(value, stream, revision, deadline);
      else if (msLeft(deadline) === 0) throw timedOut(`consumer group "${group}" is still being deleted`);
      else await pause(DELETION_LOOK_MS, deadline);
    }
  }

  async #startOffsets(
    stream: StreamRecord,
    start: GroupStart["start"],
    deadline: Deadline,
  ): Promise<readonly number[]> {
    if (start === "earliest") return [];
    if (start !== "latest") return start;
    return (await partitionStates(this.js, stream, deadline)).map((state) => state.endOffset);
  }

  /** Looks which of the other gateways have ended; what they took and nobody committed is handed out again. */
  async #forgetDead(open: OpenGroup, deadline: Deadline): Promise<void> {
    const ended = (gateway: string) => {
      open.forgetHandedOut();
      this.#log.info({ group: open.group, stream: open.stream.name, gateway }, "a gateway of the group has ended");
    };
    await this.#uses.forgetDead(open.group, open.stream.id, open.others, ended, deadline);
  }

  #membersChanged(change: Change<Membership>): void {
    this.#open.get(`rec${change.key.slice(3)}`)?.members.changed(change);
  }

  #recordChanged({ key, value, revision }: Change<GroupRecord>): void {
    if (value && !value.deleting) {
      this.#noteOwner(key, value);
      const open = this.#open.get(key);
      // The watch may leave out a deletion behind which the group was made anew.
      if (open && open.record.createdAtMs !== value.createdAtMs) this.#close(key, revision);
      else open?.adopt(value);
    } else {
      this.#owners.delete(key);
      this.#close(key, revision);
    }
  }

  #noteOwner(key: string, { owner, stream }: GroupRecord): void {
    if (owner !== undefined) this.#owners.set(key, { owner, stream });
  }

  /** The keys of an owner's groups. */
  #groupsOf(id: string): Map<string, number> {
    this.#tidyOwners();
    return new Map([...this.#owners].filter(([, { owner }]) => owner === id).map(([key]) => [key, 1]));
  }

  /** Forgets the groups that went with their streams: a gateway that did not delete the stream is not told of them. */
  #tidyOwners(): void {
    for (const [key, { stream }] of this.#owners)
      if (!this.#hasStream(stream, key.slice(key.lastIndexOf(".") + 1))) this.#owners.delete(key);
    this.#tidyAt = Math.max(TIDY_OWNERS, 2 * this.#owners.size);
  }

  /** The group was deleted by the write of a revision. */
  #close(key: string, revision: number): void {
    const open = this.#open.get(key);
    // Made anew since.
    if (!open || open.revision > revision) return;
    this.#open.delete(key);
    this.#returned.dropGroup(open.group, open.stream.id);
    open.close();
  }
}

class OpenGroup implements GroupInStream {
  readonly js: JetStream;
  readonly group: string;
  readonly members: Members;
  readonly returned: GroupReturned;
  readonly deadLetters: DeadLetters | undefined;
  readonly others: Set<string>;
  stream: StreamRecord;
  record: GroupRecord;
  /** Of the record when it was read. */
  readonly revision: number;
  turn = 0;
  sweptAt = Number.NEGATIVE_INFINITY;
  readonly #offsets: Bucket<OffsetRecord>;
  readonly #partitions: GroupPartition[] = [];
  readonly #over = new AbortController();
  /** What is to be read before it can be used. */
  loading: Promise<void> | undefined;

  constructor(
    context: DeadLetterContext,
    offsets: Bucket<OffsetRecord>,
    record: GroupRecord,
    revision: number,
    stream: StreamRecord,
    members: Members,
    returned: GroupReturned,
    others: Set<string>,
  ) {
    this.revision = revision;
    this.js = context.js;
    this.returned = returned;
    const { maxDeliveries, deadLetterStream } = record;
    if (maxDeliveries !== undefined && deadLetterStream !== undefined)
      this.deadLetters = deadLettersTo(context, record.group, stream, { maxDeliveries, deadLetterStream });
    this.#offsets = offsets;
    this.record = record;
    this.group = record.group;
    this.stream = stream;
    this.members = members;
    this.others = others;
  }

  get deleted(): AbortSignal {
    return this.#over.signal;
  }

  get shared(): boolean {
    return this.others.size > 0;
  }

  adopt(record: GroupRecord): void {
    this.record = record;
    this.members.sessionTimeoutMs = record.sessionTimeoutMs;
  }

  close(): void {
    this.#over.abort(groupNotFound(this.group));
    this.members.close();
  }

  /** Partition and next offset of each stream that this gateway holds, as JSON. */
  streamed(): string {
    const next = this.#partitions.map(({ streamedNext }, partition) => [partition, streamedNext] as const);
    return JSON.stringify(next.filter(([, offset]) => offset !== undefined));
  }

  forgetHandedOut(): void {
    for (let index = 0; index < this.stream.partitions; index++) this.partition(index).forgetHandedOut();
  }

  partition(index: number): GroupPartition {
    const { since: epoch, seek, owner } = this.members.holding(index) ?? { since: 0 };
    const streamed = owner !== undefined && this.members.isStreaming(owner);
    let partition = this.#partitions[index];
    if (partition?.place.epoch !== epoch || partition.place.streamed !== streamed) {
      partition = new GroupPartition(this.js, this.#offsets, {
        group: this.group,
        stream: this.stream.name,
        partition: index,
        epoch,
        seek,
        streamed,
        key: offsetKey(this.group, this.stream.id, index),
        start: this.record.start[index] ?? 0,
        ackWaitMs: this.record.ackWaitMs,
        isShared: () => this.shared,
        deadLetters: this.deadLetters,
      });
      this.#partitions[index] = partition;
    }
    return partition;
  }
}
