import { type Deadline, deadlineIn, EXPLAIN_MS } from "../domain/deadline.ts";
import { ErrorCode, ServiceError, unavailable } from "../domain/errors.ts";
import { unless } from "../domain/unless.ts";
import type { JetStream } from "../jetstream/connection.ts";
import { toServiceError } from "../jetstream/errors.ts";
import { type Bucket, openBucket } from "../jetstream/kv.ts";
import type { ProcessorRecord } from "./record.ts";

const PROCESSORS_BUCKET = "mr_processors";

export const processorNotFound = (id: string): ServiceError =>
  new ServiceError(ErrorCode.PROCESSOR_NOT_FOUND, `processor "${id.slice(0, 128)}" does not exist`);

/** Whether a failure says that there is no such processor. */
export const isProcessorNotFound = (error: unknown): boolean =>
  error instanceof ServiceError && error.code === ErrorCode.PROCESSOR_NOT_FOUND;

const ID = /^[A-Za-z0-9_-]{1,64}$/;
const OF_DELETED = new Set([ErrorCode.UNAVAILABLE, ErrorCode.TIMEOUT]);

/** The processors there are. Any process may create and change them; all learn of it by a watch. */
export class ProcessorStore implements AsyncDisposable {
  readonly #bucket: Bucket<ProcessorRecord>;
  readonly #records = new Map<string, ProcessorRecord>();
  readonly #listeners = new Set<() => void>();
  /** Of processors that calls are on, or were: aborted with the deletion. */
  readonly #lives = new Map<string, AbortController>();
  #watch: AsyncDisposable | undefined;

  private constructor(bucket: Bucket<ProcessorRecord>) {
    this.#bucket = bucket;
  }

  static async open(js: JetStream, replicas: number): Promise<ProcessorStore> {
    const store = new ProcessorStore(await openBucket<ProcessorRecord>(js, PROCESSORS_BUCKET, replicas));
    store.#watch = await store.#bucket.watch(">", ({ key, value }) => {
      if (value) store.#learn(value);
      else store.#records.delete(key);
      // Where the storage is out of reach, the calls end by themselves.
      if (!value || value.desired === "deleting") store.#endCalls(key).catch(() => {});
      for (const listener of store.#listeners) listener();
    });
    return store;
  }

  /** All that this process knows of, those being deleted too. */
  all(): ProcessorRecord[] {
    return [...this.#records.values()];
  }

  /** Calls back after every change. */
  onChange(listener: () => void): void {
    this.#listeners.add(listener);
  }

  /** Those whose ids come after `after`, by id. */
  list(after: string, limit: number, shown: (record: ProcessorRecord) => boolean): ProcessorRecord[] {
    return this.all()
      .filter(({ id, desired }) => id > after && desired !== "deleting")
      .filter(shown)
      .sort((a, b) => (a.id < b.id ? -1 : 1))
      .slice(0, limit);
  }

  /** The record as it is stored now. @throws ServiceError PROCESSOR_NOT_FOUND. */
  async get(id: string, deadline: Deadline): Promise<ProcessorRecord> {
    if (!ID.test(id)) throw processorNotFound(id);
    const { value } = await this.#bucket.get(id, deadline);
    if (!value || value.desired === "deleting") throw processorNotFound(id);
    return value;
  }

  /**
   * Runs a call on a processor. It ends as soon as this process hears that the processor is deleted.
   *
   * @throws ServiceError PROCESSOR_NOT_FOUND then; what the call throws, the storage's failures translated.
   */
  async during<T>(id: string, call: () => Promise<T>): Promise<T> {
    try {
      return await unless(this.#gone(id), call);
    } catch (error) {
      const failure = toServiceError(error);
      const mayBeOver = failure instanceof ServiceError && OF_DELETED.has(failure.code);
      if (mayBeOver && !(await this.#isThere(id))) throw processorNotFound(id);
      throw failure;
    }
  }

  /**
   * Stores a new one.
   *
   * @returns the one that is there, and whether it is this one.
   * @throws ServiceError UNAVAILABLE as long as one with its id is being deleted.
   */
  async create(record: ProcessorRecord, deadline: Deadline): Promise<{ record: ProcessorRecord; created: boolean }> {
    for (;;) {
      const { value, revision } = await this.#bucket.get(record.id, deadline);
      if (value?.desired === "deleting") throw unavailable(`processor "${record.id}" is being deleted`);
      if (value) return { record: value, created: false };
      if ((await this.#bucket.put(record.id, record, revision, deadline)) === undefined) continue;
      this.#learn(record);
      return { record, created: true };
    }
  }

  /**
   * Changes a record; its revision grows.
   *
   * @param change gives the changed record, or undefined to leave it.
   * @throws ServiceError PROCESSOR_NOT_FOUND.
   */
  async change(
    id: string,
    change: (record: ProcessorRecord) => ProcessorRecord | undefined,
    deadline: Deadline,
  ): Promise<ProcessorRecord> {
    if (!ID.test(id)) throw processorNotFound(id);
    for (;;) {
      const { value, revision } = await this.#bucket.get(id, deadline);
      if (!value || value.desired === "deleting") throw processorNotFound(id);
      const changed = change(value);
      if (!changed) return value;
      const next = { ...changed, revision: value.revision + 1 };
      if ((await this.#bucket.put(id, next, revision, deadline)) === undefined) continue;
      this.#learn(next);
      return next;
    }
  }

  /** Removes the record for good. */
  async remove(id: string, deadline: Deadline): Promise<void> {
    await this.#bucket.delete(id, deadline);
    this.#records.delete(id);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#watch?.[Symbol.asyncDispose]();
  }

  /** What is not known here has no deletion to be heard of. */
  #gone(id: string): AbortSignal[] {
    if (!this.#records.has(id)) return [];
    let life = this.#lives.get(id);
    if (!life) {
      life = new AbortController();
      this.#lives.set(id, life);
    }
    return [life.signal];
  }

  /** Ends the calls on a processor that may be gone, if it is. */
  async #endCalls(id: string): Promise<void> {
    // What the watch tells may be of before the present life.
    if (!this.#lives.has(id) || (await this.#isThere(id))) return;
    this.#lives.get(id)?.abort(processorNotFound(id));
    this.#lives.delete(id);
  }

  /** Whether it is there, as far as that can be told now. */
  async #isThere(id: string): Promise<boolean> {
    try {
      await this.get(id, deadlineIn(EXPLAIN_MS));
      return true;
    } catch (error) {
      return !isProcessorNotFound(error);
    }
  }

  /** A watch may tell later what a call here knew before. */
  #learn(record: ProcessorRecord): void {
    const known = this.#records.get(record.id);
    if (!known || known.revision <= record.revision) this.#records.set(record.id, record);
  }
}
