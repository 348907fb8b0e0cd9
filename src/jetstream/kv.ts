import { DeliverPolicy } from "@nats-io/jetstream";
import { Kvm } from "@nats-io/kv";
import { type Deadline, deadlineIn, pause } from "../domain/deadline.ts";
import { ErrorCode, ServiceError } from "../domain/errors.ts";
import { mapLimit } from "../domain/map-limit.ts";
import type { JetStream } from "./connection.ts";
import { JsError, jsErrorCode } from "./errors.ts";
import { headerOf } from "./message.ts";

/** A value, or its absence, with the revision that a later compare-and-set names; 0 when there never was one. */
export interface Versioned<T> {
  readonly value: T | undefined;
  readonly revision: number;
}

/** One change that a watch reports; `value` is undefined when the key was deleted. */
export interface Change<T> {
  readonly key: string;
  readonly value: T | undefined;
  readonly revision: number;
}

/**
 * A bucket of JSON records. Reads go to the leader, so that they see every acknowledged write; writes answer once they
 * are stored.
 */
export interface Bucket<T> {
  get(key: string, deadline: Deadline): Promise<Versioned<T>>;
  /**
   * Writes when the key still has `revision`.
   *
   * @returns the new revision, or undefined when another write came first.
   */
  put(key: string, value: T, revision: number, deadline: Deadline): Promise<number | undefined>;
  /** Writes whatever is there. */
  set(key: string, value: T, deadline: Deadline): Promise<number>;
  /** Deletes one key, where `revision` is given only while it still has that; watches are told. */
  delete(key: string, deadline: Deadline, revision?: number): Promise<void>;
  /** Deletes keys for good; `filter` is a KV subject filter such as `rec.*.abc`. Watches are not told. */
  purge(filter: string, deadline: Deadline): Promise<void>;
  /** What is there, by key. */
  list(filter: string, deadline: Deadline): Promise<Map<string, T>>;
  /** Reports what is there and then every change, until the bucket is closed. Resolves once what was there is reported. */
  watch(filter: string, onChange: (change: Change<T>) => void): Promise<AsyncDisposable>;
}

const WATCH_LOAD_MS = 5000;
/** Requests on their way at once. */
const PARALLEL = 32;

/** Opens a bucket and creates it where it is missing, on `replicas` servers. */
export async function openBucket<T>(js: JetStream, name: string, replicas: number): Promise<Bucket<T>> {
  await js.call(deadlineIn(30_000), () => new Kvm(js.nc).create(name, { history: 1, replicas }));
  return new JsonBucket<T>(js, name);
}

class JsonBucket<T> implements Bucket<T> {
  readonly #js: JetStream;
  readonly #stream: string;
  readonly #prefix: string;

  constructor(js: JetStream, name: string) {
    this.#js = js;
    this.#stream = `KV_${name}`;
    this.#prefix = `$KV.${name}.`;
  }

  async get(key: string, deadline: Deadline): Promise<Versioned<T>> {
    try {
      // Not a direct get: a replica that answers one may be behind.
      const found = await this.#js.call(deadline, () =>
        this.#js.jsm.streams.getMessage(this.#stream, { last_by_subj: this.#prefix + key }),
      );
      if (!found) return { value: undefined, revision: 0 };
      return { value: found.header.get("KV-Operation") ? undefined : found.json<T>(), revision: found.seq };
    } catch (error) {
      if (jsErrorCode(error) === JsError.MESSAGE_NOT_FOUND) return { value: undefined, revision: 0 };
      throw error;
    }
  }

  async put(key: string, value: T, revision: number, deadline: Deadline): Promise<number | undefined> {
    const header = headerOf({ "Nats-Expected-Last-Subject-Sequence": revision });
    try {
      return await this.#write(key, value, header, deadline);
    } catch (error) {
      if (error instanceof ServiceError && error.code === ErrorCode.PRECONDITION_FAILED) return undefined;
      throw error;
    }
  }

  set(key: string, value: T, deadline: Deadline): Promise<number> {
    return this.#write(key, value, headerOf({}), deadline);
  }

  async delete(key: string, deadline: Deadline, revision?: number): Promise<void> {
    const expected = revision === undefined ? {} : { "Nats-Expected-Last-Subject-Sequence": revision };
    const header = headerOf({ "KV-Operation": "DEL", ...expected });
    try {
      await this.#js.publisher.publishOne(this.#prefix + key, header, new Uint8Array(0), deadline, true);
    } catch (error) {
      if (!(error instanceof ServiceError) || error.code !== ErrorCode.PRECONDITION_FAILED) throw error;
    }
  }

  async purge(filter: string, deadline: Deadline): Promise<void> {
    const options = { filter: this.#prefix + filter };
    await this.#js.call(deadline, () => this.#js.jsm.streams.purge(this.#stream, options), false);
  }

  async list(filter: string, deadline: Deadline): Promise<Map<string, T>> {
    // The client's own listing leaves a consumer behind for five minutes, and a stream has only so many.
    const { state } = await this.#js.call(deadline, () =>
      this.#js.jsm.streams.info(this.#stream, { subjects_filter: this.#prefix + filter }),
    );
    const keys = Object.keys(state.subjects ?? {}).map((subject) => subject.slice(this.#prefix.length));
    const found = new Map<string, T>();
    await mapLimit(keys, PARALLEL, async (key) => {
      const { value } = await this.get(key, deadline);
      if (value !== undefined) found.set(key, value);
    });
    return found;
  }

  async watch(filter: string, onChange: (change: Change<T>) => void): Promise<AsyncDisposable> {
    const { promise: loaded, resolve } = Promise.withResolvers<void>();
    const consumer = await this.#js.call(deadlineIn(30_000), () =>
      this.#js.jsm.jetstream().consumers.getPushConsumer(this.#stream, {
        filter_subjects: this.#prefix + filter,
        deliver_policy: DeliverPolicy.LastPerSubject,
      }),
    );
    const { num_pending: present, name } = await consumer.info(true);
    if (present === 0) resolve();
    let reported = 0;
    const messages = await consumer.consume({
      callback: (message) => {
        const value = message.headers?.get("KV-Operation") ? undefined : message.json<T>();
        onChange({ key: message.subject.slice(this.#prefix.length), value, revision: message.seq });
        if (++reported === present) resolve();
      },
    });
    // What is overwritten while it is on its way is reported once.
    await Promise.race([loaded, pause(WATCH_LOAD_MS)]);
    return {
      [Symbol.asyncDispose]: async () => {
        // Without a connection each would wait for an answer; it ends with the client.
        if (!this.#js.connected) return;
        await messages.close();
        // The server would keep it for five minutes, and a stream has only so many.
        await this.#js.jsm.consumers.delete(this.#stream, name).catch(() => {});
      },
    };
  }

  async #write(key: string, value: T, header: Uint8Array, deadline: Deadline): Promise<number> {
    const payload = Buffer.from(JSON.stringify(value));
    // An expected revision keeps a repeat from being stored; a plain write is the same when it is repeated.
    const { seq } = await this.#js.publisher.publishOne(this.#prefix + key, header, payload, deadline, true);
    return seq;
  }
}
