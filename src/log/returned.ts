import { type Deadline, deadlineIn } from "../domain/deadline.ts";
import { mapLimit } from "../domain/map-limit.ts";
import type { JetStream } from "../jetstream/connection.ts";
import { type Bucket, type Change, openBucket } from "../jetstream/kv.ts";
import { RETURNED_BUCKET, returnedKey, returnedPrefix } from "../jetstream/names.ts";

/** An event that a consumer has returned, as it is stored. The event itself stays where it is. */
export interface ReturnedRecord {
  /** How often it has been handed out. */
  readonly deliveries: number;
  /** When it is handed out next, in milliseconds since 1970; once it is done, when that is forgotten. */
  readonly dueMs: number;
  readonly reason?: string | undefined;
  /** It is handed out again, and was not returned since. */
  readonly out?: true;
  /** It is done: known for a while yet, so that a repeated commit of it is taken for what it is. */
  readonly done?: true;
}

/** A {@link ReturnedRecord} with its place. */
export interface ReturnedEvent extends ReturnedRecord {
  readonly partition: number;
  readonly offset: number;
  readonly revision: number;
}

/** How long it is remembered that an event is done. */
const DONE_KEPT_MS = 600_000;
const SWEEP_MS = 5000;
const PARALLEL = 32;

/**
 * The events that consumers have returned: one KV entry for each, changed by compare-and-set, so that of all gateways one
 * hands it out. Every gateway knows all entries by a watch; `MAX_RETURNED` bounds a group's.
 */
export class ReturnedEvents implements AsyncDisposable {
  readonly #bucket: Bucket<ReturnedRecord>;
  readonly #groups = new Map<string, GroupReturned>();
  #watch: AsyncDisposable | undefined;

  private constructor(bucket: Bucket<ReturnedRecord>) {
    this.#bucket = bucket;
  }

  static async open(js: JetStream, replicas: number): Promise<ReturnedEvents> {
    const returned = new ReturnedEvents(await openBucket<ReturnedRecord>(js, RETURNED_BUCKET, replicas));
    returned.#watch = await returned.#bucket.watch(">", (change) => returned.#changed(change));
    return returned;
  }

  /** Those of a group in a stream. */
  of(group: string, streamId: string): GroupReturned {
    return this.#of(returnedPrefix(group, streamId));
  }

  /** Removes those of a group in a stream. */
  async forgetGroup(group: string, streamId: string, deadline: Deadline): Promise<void> {
    const prefix = returnedPrefix(group, streamId);
    await this.#bucket.purge(`${prefix}.*.*`, deadline);
    this.dropGroup(group, streamId);
  }

  /** Forgets what this gateway knows of a group that another has removed. */
  dropGroup(group: string, streamId: string): void {
    const prefix = returnedPrefix(group, streamId);
    this.#groups.get(prefix)?.clear();
    this.#groups.delete(prefix);
  }

  /** Removes those of all groups in a stream. */
  async forgetStream(streamId: string, deadline: Deadline): Promise<void> {
    await this.#bucket.purge(`*.${streamId}.*.*`, deadline);
    for (const [prefix, group] of this.#groups)
      if (prefix.endsWith(`.${streamId}`)) {
        group.clear();
        this.#groups.delete(prefix);
      }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#watch?.[Symbol.asyncDispose]();
  }

  #of(prefix: string): GroupReturned {
    let group = this.#groups.get(prefix);
    if (!group) {
      group = new GroupReturned(this.#bucket, prefix);
      this.#groups.set(prefix, group);
    }
    return group;
  }

  #changed({ key, value, revision }: Change<ReturnedRecord>): void {
    const [token, streamId, partition, offset] = key.split(".");
    this.#of(`${token}.${streamId}`).changed(Number(partition), Number(offset), value, revision);
  }
}

/** The events that one group has returned in one stream. */
export class GroupReturned {
  readonly #bucket: Bucket<ReturnedRecord>;
  readonly #prefix: string;
  readonly #events = new Map<string, ReturnedEvent>();
  readonly #listeners = new Set<() => void>();
  /** Partitions whose last turn it was. */
  readonly #gave = new Set<number>();
  #sweptAt = 0;

  constructor(bucket: Bucket<ReturnedRecord>, prefix: string) {
    this.#bucket = bucket;
    this.#prefix = prefix;
  }

  /** How many are not done, in all or in a partition. */
  count(partition?: number): number {
    let count = 0;
    for (const event of this.#events.values())
      if (!event.done && (partition === undefined || event.partition === partition)) count++;
    return count;
  }

  /** Calls `listener` at every change, until the returned function is called. */
  onChange(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** When the next of some partitions is due, in milliseconds since 1970; Infinity: none is there. */
  nextDueMs(partitions: ReadonlySet<number>): number {
    let dueMs = Number.POSITIVE_INFINITY;
    for (const event of this.#events.values())
      if (!event.done && event.dueMs < dueMs && partitions.has(event.partition)) dueMs = event.dueMs;
    return dueMs;
  }

  /** The one of a partition that is due longest. */
  due(partition: number, nowMs: number): ReturnedEvent | undefined {
    let due: ReturnedEvent | undefined;
    for (const event of this.#events.values())
      if (
        event.partition === partition &&
        !event.done &&
        event.dueMs <= nowMs &&
        event.dueMs < (due?.dueMs ?? Infinity)
      )
        due = event;
    return due;
  }

  /** Whether it is a partition's turn to give a returned event, which it is every other time. */
  readonly inTurn = (partition: number): boolean => {
    const isTurn = !this.#gave.delete(partition);
    if (isTurn) this.#gave.add(partition);
    return isTurn;
  };

  /** Whether this gateway knows of any. */
  get some(): boolean {
    return this.#events.size > 0;
  }

  known(partition: number, offset: number): ReturnedEvent | undefined {
    return this.#events.get(`${partition}.${offset}`);
  }

  /** What is stored of an event, though the watch may not have told yet. */
  async find(partition: number, offset: number, deadline: Deadline): Promise<ReturnedEvent | undefined> {
    const before = this.known(partition, offset)?.revision;
    const { value, revision } = await this.#bucket.get(this.#key(partition, offset), deadline);
    // Nothing is left of one that went with its group, and no watch tells.
    if (revision > 0) this.changed(partition, offset, value, revision);
    else if (before !== undefined && this.known(partition, offset)?.revision === before)
      this.changed(partition, offset, undefined, before);
    return this.known(partition, offset);
  }

  /** Stores what becomes of an event, unless its entry has another revision than `revision`. @returns whether it was stored. */
  async put(
    place: { readonly partition: number; readonly offset: number; readonly revision: number },
    record: ReturnedRecord,
    deadline: Deadline,
  ): Promise<boolean> {
    const { partition, offset } = place;
    const revision = await this.#bucket.put(this.#key(partition, offset), record, place.revision, deadline);
    if (revision !== undefined) this.changed(partition, offset, record, revision);
    return revision !== undefined;
  }

  /** Notes that an event is done, whoever had it. */
  async settle(event: ReturnedEvent, deadline: Deadline): Promise<void> {
    if (event.done) return;
    const { partition, offset, deliveries } = event;
    const record: ReturnedRecord = { deliveries, dueMs: Date.now() + DONE_KEPT_MS, done: true };
    const revision = await this.#bucket.set(this.#key(partition, offset), record, deadline);
    this.changed(partition, offset, record, revision);
    this.#sweep();
  }

  /** Removes those of a partition that begin at `from`: the group comes by them again. */
  async drop(partition: number, from: number, deadline: Deadline): Promise<void> {
    const dropped = [...this.#events.values()].filter((event) => event.partition === partition && event.offset >= from);
    await mapLimit(dropped, PARALLEL, (event) => this.#delete(event, deadline));
  }

  /** What the watch reports. */
  changed(partition: number, offset: number, value: ReturnedRecord | undefined, revision: number): void {
    const name = `${partition}.${offset}`;
    if (revision < (this.#events.get(name)?.revision ?? 0)) return;
    if (value) this.#events.set(name, { ...value, partition, offset, revision });
    else if (!this.#events.delete(name)) return;
    for (const listener of [...this.#listeners]) listener();
  }

  clear(): void {
    this.#events.clear();
    for (const listener of [...this.#listeners]) listener();
  }

  async #delete({ partition, offset }: ReturnedEvent, deadline: Deadline): Promise<void> {
    await this.#bucket.delete(this.#key(partition, offset), deadline);
    this.#events.delete(`${partition}.${offset}`);
  }

  /** Removes what has been done for long; failing that, the next sweep does. */
  #sweep(): void {
    const nowMs = Date.now();
    if (nowMs - this.#sweptAt < SWEEP_MS) return;
    this.#sweptAt = nowMs;
    const old = [...this.#events.values()].filter(({ done, dueMs }) => done && dueMs <= nowMs);
    mapLimit(old, PARALLEL, (event) => this.#delete(event, deadlineIn(SWEEP_MS))).catch(() => {});
  }

  #key(partition: number, offset: number): string {
    return returnedKey(this.#prefix, partition, offset);
  }
}
