import { type KV, Kvm } from "@nats-io/kv";
import { type Deadline, deadlineIn, pause } from "../domain/deadline.ts";
import { ErrorCode, ServiceError } from "../domain/errors.ts";
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
  /** Deletes one key; watches are told. */
  delete(key: string, deadline: Deadline): Promise<void>;
  /** Deletes keys for good; `filter` is a KV subject filter such as `rec.*.abc`. Watches are not told. */
  purge(filter: string, deadline: Deadline): Promise<void>;
  keys(filter: string, deadline: Deadline): Promise<string[]>;
  /** Reports what is there and then every change, until the bucket is closed. Resolves once what was there is reported. */
  watch(filter: string, onChange: (change: Change<T>) => void): Promise<AsyncDisposable>;
}

const WATCH_LOAD_MS = 5000;

/** Opens a bucket and creates it where it is missing, on `replicas` servers. */
export async function openBucket<T>(js: JetStream, name: string, replicas: number): Promise<Bucket<T>> {
  const kv = await js.call(deadlineIn(30_000), () => new Kvm(js.nc).create(name, { history: 1, replicas }));
  return new JsonBucket<T>(js, kv, name);
}

class JsonBucket<T> implements Bucket<T> {
  readonly #js: JetStream;
  readonly #kv: KV;
  readonly #stream: string;
  readonly #prefix: string;

  constructor(js: JetStream, kv: KV, name: string) {
    this.#js = js;
    this.#kv = kv;
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

  async delete(key: string, deadline: Deadline): Promise<void> {
    const header = headerOf({ "KV-Operation": "DEL" });
    await this.#js.publisher.publishOne(this.#prefix + key, header, new Uint8Array(0), deadline, true);
  }

  async purge(filter: string, deadline: Deadline): Promise<void> {
    await this.#js.call(deadline, () => this.#js.jsm.streams.purge(this.#stream, { filter: this.#prefix + filter }));
  }

  async keys(filter: string, deadline: Deadline): Promise<string[]> {
    return this.#js.call(deadline, async () => {
      const keys: string[] = [];
      for await (const key of await this.#kv.keys(filter)) keys.push(key);
      return keys;
    });
  }

  async watch(filter: string, onChange: (change: Change<T>) => void): Promise<AsyncDisposable> {
    const { promise: loaded, resolve } = Promise.withResolvers<void>();
    const keys = await this.keys(filter, deadlineIn(30_000));
    const missing = new Set(keys);
    if (missing.size === 0) resolve();
    const entries = await this.#kv.watch({ key: filter });
    const reading = (async () => {
      for await (const entry of entries) {
        const value = entry.operation === "PUT" ? entry.json<T>() : undefined;
        onChange({ key: entry.key, value, revision: entry.revision });
        if (missing.delete(entry.key) && missing.size === 0) resolve();
      }
    })();
    // A key that was deleted in between may never be reported.
    await Promise.race([loaded, pause(WATCH_LOAD_MS)]);
    return {
      async [Symbol.asyncDispose]() {
        entries.stop();
        await reading;
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
