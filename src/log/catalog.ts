import { randomBytes } from "node:crypto";
import { isDeepStrictEqual } from "node:util";
import { type Deadline, deadlineIn, EXPLAIN_MS, msLeft, pause } from "../domain/deadline.ts";
import {
  ErrorCode,
  invalidArgument,
  isStreamNotFound,
  ServiceError,
  streamNotFound,
  timedOut,
} from "../domain/errors.ts";
import { DEFAULT_MAX_MESSAGE_BYTES, MESSAGE_OVERHEAD_BYTES } from "../domain/limits.ts";
import { type Owner, Places } from "../domain/quota.ts";
import { unless } from "../domain/unless.ts";
import type { JetStream } from "../jetstream/connection.ts";
import { toServiceError } from "../jetstream/errors.ts";
import { type Bucket, type Change, openBucket } from "../jetstream/kv.ts";
import { partitionSubjectPrefix, STREAMS_BUCKET } from "../jetstream/names.ts";
import { createPartitions, deletePartitions, updatePartitions } from "../jetstream/partitions.ts";
import type { Gateways } from "./gateways.ts";

export type Compression = "none" | "gzip" | "s2";

/** Settings of a stream with their defaults filled in. */
export interface StreamSettings {
  readonly partitions: number;
  readonly replicationFactor: number;
  /** Milliseconds; undefined: for ever. */
  readonly retentionMs: number | undefined;
  readonly compression: Compression;
  /** Bytes of one payload, uncompressed. */
  readonly maxMessageBytes: number;
  /** Bytes of each partition; undefined: no bound. */
  readonly maxBytes: number | undefined;
  readonly duplicateWindowMs: number;
}

/** A stream as the catalog keeps it. */
export interface StreamRecord extends StreamSettings {
  /** One life of the name: a stream that is deleted and created again has another. */
  readonly id: string;
  readonly name: string;
  readonly createdAtMs: number;
  /** Id of the principal that made it; undefined for one of before owners were noted. */
  readonly owner?: string;
  /** Only a `ready` stream is shown; the others are finished or undone by the next call that names them. */
  readonly state: "creating" | "ready" | "deleting";
  /** Who deletes it, since when. */
  readonly deleting?: { readonly by: string; readonly sinceMs: number };
}

/** What a creation or change asks for; what is left out has its default, or stays. */
export type SettingsChange = { readonly [Field in keyof StreamSettings]?: StreamSettings[Field] | undefined };

/** Is told that a stream is gone for good. */
export type DeleteHook = (stream: StreamRecord, deadline: Deadline) => Promise<void>;

const DEFAULT_DUPLICATE_WINDOW_MS = 120_000;
/** A deletion that has not ended after this long is ended by whoever names the stream next. */
const DELETION_MS = 60_000;
const DELETION_LOOK_MS = 20;

/** One life of a stream's name, as far as this gateway's calls go. */
interface Life {
  readonly id: string;
  readonly over: AbortController;
}

/** The streams there are. Any gateway may create and delete; all learn of it by a watch. */
export class Catalog implements AsyncDisposable {
  readonly #js: JetStream;
  readonly #bucket: Bucket<StreamRecord>;
  readonly #records = new Map<string, StreamRecord>();
  readonly #listeners = new Map<string, Set<() => void>>();
  /** Of streams that calls are on, or were. */
  readonly #lives = new Map<string, Life>();
  readonly #onDelete: DeleteHook;
  readonly #gateways: Gateways;
  /** Deletions that this gateway is at, by the stream's id. */
  readonly #deletions = new Set<string>();
  readonly #places = new Places();
  #watch: AsyncDisposable | undefined;

  private constructor(js: JetStream, bucket: Bucket<StreamRecord>, gateways: Gateways, onDelete: DeleteHook) {
    this.#js = js;
    this.#bucket = bucket;
    this.#gateways = gateways;
    this.#onDelete = onDelete;
  }

  /** @param onDelete removes what else belongs to a stream, before its name is free again. */
  static async open(js: JetStream, replicas: number, gateways: Gateways, onDelete: DeleteHook): Promise<Catalog> {
    const catalog = new Catalog(js, await openBucket<StreamRecord>(js, STREAMS_BUCKET, replicas), gateways, onDelete);
    catalog.#watch = await catalog.#bucket.watch(">", (change) => catalog.#changed(change));
    return catalog;
  }

  /** The stream if this gateway knows it as ready; no I/O. */
  known(name: string): StreamRecord | undefined {
    const record = this.#records.get(name);
    return record?.state === "ready" ? record : undefined;
  }

  /** @throws ServiceError STREAM_NOT_FOUND. */
  async find(name: string, deadline: Deadline): Promise<StreamRecord> {
    return this.known(name) ?? this.refresh(name, deadline);
  }

  /** As {@link find}; undefined where there is none. */
  async findIfThere(name: string, deadline: Deadline): Promise<StreamRecord | undefined> {
    try {
      return await this.find(name, deadline);
    } catch (error) {
      if (isStreamNotFound(error)) return undefined;
      throw error;
    }
  }

  /** As {@link find}, past what this gateway remembers. */
  async refresh(name: string, deadline: Deadline): Promise<StreamRecord> {
    const { value, revision } = await this.#bucket.get(name, deadline);
    if (value?.state === "creating") return this.#finishCreation(value, revision, deadline);
    if (value?.state === "deleting" && !(await this.#isUnderWay(value, deadline)))
      await this.#finishDeletion(value, deadline);
    if (value?.state !== "ready") {
      this.#records.delete(name);
      throw streamNotFound(name);
    }
    this.#records.set(name, value);
    return value;
  }

  /**
   * Runs a call on a stream. It ends as soon as this gateway hears that the stream is deleted, for storage that is gone
   * answers late or never.
   *
   * @throws ServiceError STREAM_NOT_FOUND then; what the call throws, as {@link explain} has it.
   */
  async during<T>(stream: StreamRecord, call: () => Promise<T>): Promise<T> {
    try {
      return await unless([this.#gone(stream)], call);
    } catch (error) {
      throw await this.explain(stream, error);
    }
  }

  /**
   * What a call on a stream has failed with: STREAM_NOT_FOUND where the stream was deleted meanwhile, which shows as a
   * storage without leader, or as a group that is gone.
   */
  async explain({ name, id }: StreamRecord, error: unknown): Promise<unknown> {
    if (!(error instanceof ServiceError) || !OF_DELETED.has(error.code) || !this.#js.connected) return error;
    try {
      return (await this.refresh(name, deadlineIn(EXPLAIN_MS))).id === id ? error : streamNotFound(name);
    } catch (failure) {
      return isStreamNotFound(failure) ? failure : error;
    }
  }

  /**
   * Creates a stream; the same settings again give the one that exists. `created`: this call made it.
   *
   * @throws ServiceError ALREADY_EXISTS with other settings, INVALID_ARGUMENT for what the cluster can't do,
   * QUOTA_EXCEEDED when the owner may have no more.
   */
  async create(
    name: string,
    asked: SettingsChange,
    owner: Owner,
    deadline: Deadline,
  ): Promise<{ record: StreamRecord; created: boolean }> {
    const settings = this.#withDefaults(asked);
    for (;;) {
      const { value, revision } = await this.#bucket.get(name, deadline);
      if (value?.state === "deleting") {
        await this.#finishDeletion(value, deadline);
        continue;
      }
      if (value) return { record: await this.#existing(value, revision, settings, deadline), created: false };
      using _stream = this.#places.hold(owner, "streams", name, 1, () => this.#owned(owner.id, () => 1));
      using _partitions = this.#holdPartitions(owner, name, settings.partitions);
      const id = randomBytes(6).toString("hex");
      const record: StreamRecord = {
        ...settings,
        id,
        name,
        createdAtMs: Date.now(),
        owner: owner.id,
        state: "creating",
      };
      const written = await this.#bucket.put(name, record, revision, deadline);
      if (written === undefined) continue;
      try {
        return { record: await this.#finishCreation(record, written, deadline), created: true };
      } catch (error) {
        // Deleted before it was complete.
        if (!isStreamNotFound(error) || msLeft(deadline) === 0) throw error;
      }
    }
  }

  /** A stream that exists, or a new one with the partitions and replication of another. @throws ServiceError. */
  async findOrCreate(name: string, like: StreamRecord, owner: Owner, deadline: Deadline): Promise<StreamRecord> {
    const { partitions, replicationFactor, maxMessageBytes } = like;
    try {
      return await this.find(name, deadline);
    } catch (error) {
      if (!isStreamNotFound(error)) throw error;
      return (await this.create(name, { partitions, replicationFactor, maxMessageBytes }, owner, deadline)).record;
    }
  }

  /**
   * Changes settings.
   *
   * @param ownerOf the owner with that id; more partitions are its.
   * @throws ServiceError STREAM_NOT_FOUND, INVALID_ARGUMENT, QUOTA_EXCEEDED.
   */
  async update(
    name: string,
    change: SettingsChange,
    ownerOf: (id: string) => Owner,
    deadline: Deadline,
  ): Promise<StreamRecord> {
    for (;;) {
      await this.refresh(name, deadline);
      const { value, revision } = await this.#bucket.get(name, deadline);
      if (value?.state !== "ready") throw streamNotFound(name);
      const named = Object.fromEntries(Object.entries(change).filter(([, setting]) => setting !== undefined));
      const next: StreamRecord = withinRetention({ ...value, ...named }, change.duplicateWindowMs !== undefined);
      if (next.partitions < value.partitions)
        throw invalidArgument("partitions", `"${name}" has ${value.partitions} partitions and can't have fewer`);
      this.#checkSettings(next);
      using _partitions =
        next.owner === undefined ? undefined : this.#holdPartitions(ownerOf(next.owner), name, next.partitions);
      // JetStream first: a crash in between leaves partitions that nobody uses yet, and the same call finishes it.
      try {
        await updatePartitions(this.#js, value, next, deadline);
      } catch (error) {
        await this.refresh(name, deadline); // deleted meanwhile
        throw toServiceError(error);
      }
      if ((await this.#bucket.put(name, next, revision, deadline)) === undefined) continue;
      this.#records.set(name, next);
      return next;
    }
  }

  /** Deletes a stream with all that belongs to it. @throws ServiceError STREAM_NOT_FOUND. */
  async delete(name: string, deadline: Deadline): Promise<void> {
    for (;;) {
      const { value, revision } = await this.#bucket.get(name, deadline);
      if (!value) throw streamNotFound(name);
      if (value.state === "deleting") {
        await this.#finishDeletion(value, deadline);
        throw streamNotFound(name);
      }
      if (await this.#delete(value, revision, deadline)) return;
    }
  }

  /** Ready streams whose names begin with `prefix`, come after `after` and are `shown`, by name. */
  list(prefix: string, after: string, limit: number, shown: (name: string) => boolean): StreamRecord[] {
    return [...this.#records.values()]
      .filter((record) => record.state === "ready" && record.name.startsWith(prefix) && record.name > after)
      .filter(({ name }) => shown(name))
      .sort((a, b) => (a.name < b.name ? -1 : 1))
      .slice(0, limit);
  }

  /** Calls `listener` whenever a stream changes or goes, on whichever gateway, until the returned function is called. */
  onChange(name: string, listener: () => void): () => void {
    const listeners = this.#listeners.get(name) ?? new Set();
    this.#listeners.set(name, listeners.add(listener));
    return () => {
      listeners.delete(listener);
      if (listeners.size === 0) this.#listeners.delete(name);
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#watch?.[Symbol.asyncDispose]();
  }

  #holdPartitions(owner: Owner, name: string, partitions: number): Disposable {
    const present = () => this.#owned(owner.id, (stream) => stream.partitions);
    return this.#places.hold(owner, "partitions", name, partitions, present);
  }

  /** What a principal has, by name. */
  #owned(id: string, weightOf: (stream: StreamRecord) => number): Map<string, number> {
    const own = [...this.#records.values()].filter(({ owner, state }) => owner === id && state !== "deleting");
    return new Map(own.map((stream) => [stream.name, weightOf(stream)]));
  }

  /** Aborted when this gateway hears that a stream is deleted. */
  #gone({ name, id }: StreamRecord): AbortSignal {
    let life = this.#lives.get(name);
    if (life?.id !== id) {
      life = { id, over: new AbortController() };
      this.#lives.set(name, life);
    }
    return life.over.signal;
  }

  /**
   * Ends the calls on a stream that may be gone, if it is.
   *
   * @param mark of the publisher, before which nothing was published to a later life of the name.
   */
  async #endCalls(name: string, mark: number): Promise<void> {
    // What the watch tells may be of before the present life.
    const { value } = await this.#bucket.get(name, deadlineIn(EXPLAIN_MS));
    const present = value?.state === "deleting" ? undefined : value;
    if (!present) this.#js.publisher.abandon(partitionSubjectPrefix(name), mark, streamNotFound(name));
    const life = this.#lives.get(name);
    if (!life || life.id === present?.id) return;
    this.#lives.delete(name);
    life.over.abort(streamNotFound(name));
  }

  #changed(change: Change<StreamRecord>): void {
    if (change.value) this.#records.set(change.key, change.value);
    else this.#records.delete(change.key);
    const { publisher } = this.#js;
    const life = this.#lives.get(change.key);
    const isGone = !change.value || change.value.state === "deleting" || (life && life.id !== change.value.id);
    // Where the storage is out of reach, the calls end by themselves.
    if (isGone && (life || publisher.inFlight > 0)) this.#endCalls(change.key, publisher.mark).catch(() => {});
    for (const listener of [...(this.#listeners.get(change.key) ?? [])]) listener();
  }

  async #existing(
    record: StreamRecord,
    revision: number,
    settings: StreamSettings,
    deadline: Deadline,
  ): Promise<StreamRecord> {
    const { id: _id, name, createdAtMs: _at, owner: _owner, state, ...present } = record;
    const same = isDeepStrictEqual(JSON.parse(JSON.stringify(settings)), JSON.parse(JSON.stringify(present)));
    if (!same)
      throw new ServiceError(ErrorCode.ALREADY_EXISTS, `stream "${name}" exists with other settings`, {
        details: [{ field: "name", description: `its settings are ${JSON.stringify(present)}` }],
      });
    return state === "creating" ? this.#finishCreation(record, revision, deadline) : record;
  }

  async #finishCreation(record: StreamRecord, revision: number, deadline: Deadline): Promise<StreamRecord> {
    try {
      await this.#refusable(() => createPartitions(this.#js, record, deadline));
    } catch (error) {
      // What JetStream refuses now it will refuse again: undone, so that the name is free.
      if (error instanceof ServiceError && REFUSALS.has(error.code)) {
        await this.#delete(record, revision, deadline);
      }
      throw error;
    }
    const ready: StreamRecord = { ...record, state: "ready" };
    // Another gateway that came first finished the same creation or began to delete it.
    if ((await this.#bucket.put(record.name, ready, revision, deadline)) === undefined)
      return this.refresh(record.name, deadline);
    this.#records.set(record.name, ready);
    return ready;
  }

  /** Returns when a deletion has come to its end; ends it where whoever began it has ended. @throws ServiceError TIMEOUT. */
  async #finishDeletion({ name, id }: StreamRecord, deadline: Deadline): Promise<void> {
    for (;;) {
      const { value, revision } = await this.#bucket.get(name, deadline);
      if (value?.id !== id || value.state !== "deleting") return;
      if (!(await this.#isUnderWay(value, deadline))) await this.#delete(value, revision, deadline);
      else if (msLeft(deadline) === 0) throw timedOut(`stream "${name}" is still being deleted`);
      else await pause(DELETION_LOOK_MS, deadline);
    }
  }

  async #isUnderWay({ id, deleting }: StreamRecord, deadline: Deadline): Promise<boolean> {
    if (this.#deletions.has(id)) return true;
    if (!deleting || deleting.by === this.#gateways.own || Date.now() - deleting.sinceMs > DELETION_MS) return false;
    return this.#gateways.lives(deleting.by, deadline);
  }

  /**
   * Deletes a stream. One gateway does so at a time, and once: one that is late would meet what has the name next.
   *
   * @returns false when the record is not of the revision any more, or another call is at it.
   */
  async #delete(record: StreamRecord, revision: number, deadline: Deadline): Promise<boolean> {
    if (this.#deletions.has(record.id)) return false;
    this.#deletions.add(record.id);
    try {
      return await this.#remove(record, revision, deadline);
    } finally {
      this.#deletions.delete(record.id);
    }
  }

  async #remove(record: StreamRecord, revision: number, deadline: Deadline): Promise<boolean> {
    const deleting = { by: this.#gateways.own, sinceMs: Date.now() };
    const marked = await this.#bucket.put(record.name, { ...record, state: "deleting", deleting }, revision, deadline);
    if (marked === undefined) return false;
    this.#records.delete(record.name);
    await deletePartitions(this.#js, record, deadline);
    await this.#onDelete(record, deadline);
    await this.#bucket.delete(record.name, deadline, marked);
    return true;
  }

  #withDefaults(asked: SettingsChange): StreamSettings {
    const settings: StreamSettings = {
      partitions: asked.partitions ?? 1,
      replicationFactor: asked.replicationFactor ?? 1,
      retentionMs: asked.retentionMs,
      compression: asked.compression ?? "none",
      maxMessageBytes: asked.maxMessageBytes ?? Math.min(DEFAULT_MAX_MESSAGE_BYTES, this.#largestMessage()),
      maxBytes: asked.maxBytes,
      duplicateWindowMs:
        asked.duplicateWindowMs ?? Math.min(DEFAULT_DUPLICATE_WINDOW_MS, asked.retentionMs ?? Number.POSITIVE_INFINITY),
    };
    this.#checkSettings(settings);
    return settings;
  }

  #checkSettings(settings: StreamSettings): void {
    if (settings.retentionMs !== undefined && settings.duplicateWindowMs > settings.retentionMs)
      throw invalidArgument("config.duplicateWindowMs", "must not be above retentionMs");
    if (settings.maxMessageBytes > this.#largestMessage())
      throw invalidArgument("config.maxMessageBytes", `the NATS servers take at most ${this.#largestMessage()} bytes`);
  }

  #largestMessage(): number {
    return this.#js.maxPayload - MESSAGE_OVERHEAD_BYTES;
  }

  async #refusable<T>(work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (error) {
      throw toServiceError(error);
    }
  }
}

/** A duplicate window that nobody asked for follows a shorter retention. */
function withinRetention(record: StreamRecord, asked: boolean): StreamRecord {
  if (asked || record.retentionMs === undefined) return record;
  return { ...record, duplicateWindowMs: Math.min(record.duplicateWindowMs, record.retentionMs) };
}

const OF_DELETED = new Set([ErrorCode.UNAVAILABLE, ErrorCode.TIMEOUT, ErrorCode.CONSUMER_GROUP_NOT_FOUND]);
const REFUSALS = new Set([ErrorCode.INVALID_ARGUMENT, ErrorCode.QUOTA_EXCEEDED]);
