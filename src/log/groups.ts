import { randomBytes } from "node:crypto";
import type { Logger } from "pino";
import { type Deadline, deadlineIn } from "../domain/deadline.ts";
import { groupNotFound } from "../domain/errors.ts";
import type { JetStream } from "../jetstream/connection.ts";
import { type Bucket, type Change, openBucket } from "../jetstream/kv.ts";
import {
  durableName,
  encodeToken,
  GROUPS_BUCKET,
  gatewaySubject,
  groupKey,
  groupUseKey,
  OFFSETS_BUCKET,
  offsetKey,
  partitionStream,
} from "../jetstream/names.ts";
import { partitionStates } from "../jetstream/partitions.ts";
import type { StreamRecord } from "./catalog.ts";
import { GroupPartition, type OffsetRecord } from "./group-partition.ts";

/** A group in a stream, as it is stored. */
interface GroupRecord {
  readonly group: string;
  readonly stream: string;
  readonly createdAtMs: number;
  readonly ackWaitMs: number;
  /** First offset of each partition, fixed by the call that first named the group; partitions added later start at 0. */
  readonly start: readonly number[];
}

/** A group in a stream, as this gateway uses it. */
export interface GroupInStream {
  readonly group: string;
  readonly stream: StreamRecord;
  partition(index: number): GroupPartition;
  /** Whether other gateways hand out events of it too, so that what this one remembers may be out of date. */
  readonly shared: boolean;
  /** Where the next poll begins, so that no partition is always last. */
  turn: number;
}

export interface GroupsOptions {
  /** Servers that keep each record. */
  readonly replicas: number;
  /** Of new groups: after it, what was handed out and not committed is handed out again. */
  readonly ackWaitMs: number;
  readonly log: Logger;
}

/** A gateway that does not answer within this is asked again later; one that has ended is known at once. */
const PROBE_MS = 1000;

/**
 * The consumer groups. Groups, their start and their commits are in JetStream; a gateway keeps only what it can learn
 * anew.
 *
 * Every gateway notes which groups it hands out. One that was killed may have taken events that no caller received, so
 * whoever next uses the group finds the note, sees that its gateway is gone, and hands out again what is not committed.
 */
export class Groups implements AsyncDisposable {
  readonly #js: JetStream;
  readonly #records: Bucket<GroupRecord>;
  readonly #uses: Bucket<{ since: number }>;
  readonly #offsets: Bucket<OffsetRecord>;
  readonly #log: Logger;
  readonly #ackWaitMs: number;
  readonly #gateway = randomBytes(6).toString("hex");
  readonly #open = new Map<string, OpenGroup>();
  readonly #opening = new Map<string, Promise<OpenGroup | undefined>>();
  /** Other gateways that use a group in a stream, by the key's middle. */
  readonly #others = new Map<string, Set<string>>();
  #watch: AsyncDisposable | undefined;

  private constructor(
    js: JetStream,
    records: Bucket<GroupRecord>,
    offsets: Bucket<OffsetRecord>,
    options: GroupsOptions,
  ) {
    this.#js = js;
    this.#records = records;
    this.#uses = records as unknown as Bucket<{ since: number }>;
    this.#offsets = offsets;
    this.#log = options.log;
    this.#ackWaitMs = options.ackWaitMs;
  }

  static async open(js: JetStream, options: GroupsOptions): Promise<Groups> {
    const records = await openBucket<GroupRecord>(js, GROUPS_BUCKET, options.replicas);
    const groups = new Groups(
      js,
      records,
      await openBucket<OffsetRecord>(js, OFFSETS_BUCKET, options.replicas),
      options,
    );
    js.nc.subscribe(gatewaySubject(groups.#gateway), { callback: (_error, msg) => void msg.respond() });
    groups.#watch = await groups.#uses.watch("use.>", (change) => groups.#useChanged(change));
    return groups;
  }

  /** The group in a stream, created with the given start if it is new there. */
  async join(
    group: string,
    stream: StreamRecord,
    start: "earliest" | "latest",
    deadline: Deadline,
  ): Promise<GroupInStream> {
    return (await this.#opened(group, stream, start, deadline))!;
  }

  /** The group in a stream. @throws ServiceError CONSUMER_GROUP_NOT_FOUND when the group exists in no stream. */
  async find(group: string, stream: StreamRecord, deadline: Deadline): Promise<GroupInStream> {
    const found = await this.#opened(group, stream, undefined, deadline);
    if (found) return found;
    if (!(await this.exists(group, deadline))) throw groupNotFound(group);
    return this.join(group, stream, "earliest", deadline);
  }

  /** Whether the group has read any stream. */
  async exists(group: string, deadline: Deadline): Promise<boolean> {
    return (await this.#records.keys(`rec.${encodeToken(group)}.*`, deadline)).length > 0;
  }

  /** Removes everything that groups keep about a stream. */
  async forgetStream(stream: StreamRecord, deadline: Deadline): Promise<void> {
    await this.#records.purge(`rec.*.${stream.id}`, deadline);
    await this.#records.purge(`use.*.${stream.id}.*`, deadline);
    await this.#offsets.purge(`*.${stream.id}.*`, deadline);
    for (const [key, open] of this.#open) if (open.stream.id === stream.id) this.#open.delete(key);
  }

  /** Takes back this gateway's notes: everything it took has reached its caller or was given back. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#watch?.[Symbol.asyncDispose]();
    const deadline = deadlineIn(2000);
    await Promise.allSettled(
      [...this.#open.values()].map((open) =>
        this.#uses.delete(groupUseKey(open.group, open.stream.id, this.#gateway), deadline),
      ),
    );
  }

  async #opened(
    group: string,
    stream: StreamRecord,
    start: "earliest" | "latest" | undefined,
    deadline: Deadline,
  ): Promise<OpenGroup | undefined> {
    const key = groupKey(group, stream.id);
    let open = this.#open.get(key);
    if (!open) {
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
    if (open.shared) await this.#forgetDead(open);
    return open;
  }

  async #openGroup(
    group: string,
    stream: StreamRecord,
    start: "earliest" | "latest" | undefined,
    deadline: Deadline,
  ): Promise<OpenGroup | undefined> {
    const key = groupKey(group, stream.id);
    let { value: record, revision } = await this.#records.get(key, deadline);
    if (!record) {
      if (start === undefined) return undefined;
      const states = start === "latest" ? await partitionStates(this.#js, stream, deadline) : [];
      record = {
        group,
        stream: stream.name,
        createdAtMs: Date.now(),
        ackWaitMs: this.#ackWaitMs,
        start: states.map((state) => state.endOffset),
      };
      // When another call came first, its start is the group's.
      if ((await this.#records.put(key, record, revision, deadline)) === undefined)
        ({ value: record = record, revision } = await this.#records.get(key, deadline));
    }
    await this.#uses.set(groupUseKey(group, stream.id, this.#gateway), { since: Date.now() }, deadline);
    const present = this.#open.get(key);
    if (present) return present;
    const others = await this.#records.keys(`use.${encodeToken(group)}.${stream.id}.*`, deadline);
    for (const other of others) this.#noteUse(other);
    const open = new OpenGroup(this.#js, this.#offsets, record, stream, this.#othersOf(group, stream.id));
    this.#open.set(key, open);
    return open;
  }

  /** Looks which of the other gateways have ended; what they took and nobody committed is handed out again. */
  async #forgetDead(open: OpenGroup): Promise<void> {
    for (const other of [...open.others]) {
      if (await this.#lives(other)) continue;
      this.#log.info(
        { group: open.group, stream: open.stream.name, gateway: other },
        "a gateway of the group has ended",
      );
      open.forgetHandedOut();
      open.others.delete(other);
      await this.#uses.delete(groupUseKey(open.group, open.stream.id, other), deadlineIn(PROBE_MS)).catch(() => {});
    }
  }

  async #lives(gateway: string): Promise<boolean> {
    try {
      await this.#js.nc.request(gatewaySubject(gateway), undefined, { timeout: PROBE_MS });
      return true;
    } catch (error) {
      // Nobody listens: its connection is closed. Silence says nothing.
      return !/no responders/i.test((error as Error).message);
    }
  }

  #useChanged(change: Change<{ since: number }>): void {
    if (change.value) this.#noteUse(change.key);
    else {
      const [, token, streamId, gateway] = change.key.split(".");
      this.#others.get(`${token}.${streamId}`)?.delete(gateway!);
    }
  }

  #noteUse(key: string): void {
    const [, token, streamId, gateway] = key.split(".");
    if (gateway !== this.#gateway) this.#othersByKey(`${token}.${streamId}`).add(gateway!);
  }

  #othersOf(group: string, streamId: string): Set<string> {
    return this.#othersByKey(`${encodeToken(group)}.${streamId}`);
  }

  #othersByKey(key: string): Set<string> {
    let others = this.#others.get(key);
    if (!others) {
      others = new Set();
      this.#others.set(key, others);
    }
    return others;
  }
}

class OpenGroup implements GroupInStream {
  readonly group: string;
  stream: StreamRecord;
  readonly others: Set<string>;
  turn = 0;
  readonly #js: JetStream;
  readonly #offsets: Bucket<OffsetRecord>;
  readonly #record: GroupRecord;
  readonly #partitions: GroupPartition[] = [];

  constructor(
    js: JetStream,
    offsets: Bucket<OffsetRecord>,
    record: GroupRecord,
    stream: StreamRecord,
    others: Set<string>,
  ) {
    this.#js = js;
    this.#offsets = offsets;
    this.#record = record;
    this.group = record.group;
    this.stream = stream;
    this.others = others;
  }

  get shared(): boolean {
    return this.others.size > 0;
  }

  forgetHandedOut(): void {
    for (let index = 0; index < this.stream.partitions; index++) this.partition(index).forgetHandedOut();
  }

  partition(index: number): GroupPartition {
    this.#partitions[index] ??= new GroupPartition(this.#js, this.#offsets, {
      stream: this.stream.name,
      partition: index,
      jsStream: partitionStream(this.stream.name, index),
      durable: durableName(this.group),
      key: offsetKey(this.group, this.stream.id, index),
      start: this.#record.start[index] ?? 0,
      ackWaitMs: this.#record.ackWaitMs,
    });
    return this.#partitions[index];
  }
}
