import type { Deadline } from "../domain/deadline.ts";
import { ErrorCode, ServiceError, unavailable } from "../domain/errors.ts";
import type { JetStream } from "../jetstream/connection.ts";
import { type Bucket, openBucket } from "../jetstream/kv.ts";
import type { ProcessorRecord } from "./record.ts";

const PROCESSORS_BUCKET = "mr_processors";

export const processorNotFound = (id: string): ServiceError =>
  new ServiceError(ErrorCode.PROCESSOR_NOT_FOUND, `processor "${id.slice(0, 128)}" does not exist`);

const ID = /^[A-Za-z0-9_-]{1,64}$/;

/** The processors there are. Any process may create and change them; all learn of it by a watch. */
export class ProcessorStore implements AsyncDisposable {
  readonly #bucket: Bucket<ProcessorRecord>;
  readonly #records = new Map<string, ProcessorRecord>();
  readonly #listeners = new Set<() => void>();
  #watch: AsyncDisposable | undefined;

  private constructor(bucket: Bucket<ProcessorRecord>) {
    this.#bucket = bucket;
  }

  static async open(js: JetStream, replicas: number): Promise<ProcessorStore> {
    const store = new ProcessorStore(await openBucket<ProcessorRecord>(js, PROCESSORS_BUCKET, replicas));
    store.#watch = await store.#bucket.watch(">", ({ key, value }) => {
      if (value) store.#learn(value);
      else store.#records.delete(key);
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

  /** A watch may tell later what a call here knew before. */
  #learn(record: ProcessorRecord): void {
    const known = this.#records.get(record.id);
    if (!known || known.revision <= record.revision) this.#records.set(record.id, record);
  }
}
