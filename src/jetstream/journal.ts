import { randomUUID } from "node:crypto";
import { DiscardPolicy, RetentionPolicy, StorageType, type StreamConfig } from "@nats-io/jetstream";
import type { Deadline } from "../domain/deadline.ts";
import { ErrorCode, ServiceError } from "../domain/errors.ts";
import { mapLimit } from "../domain/map-limit.ts";
import { batchLines, publishAtomic } from "./atomic-batch.ts";
import type { JetStream } from "./connection.ts";
import { JsError, jsErrorCode } from "./errors.ts";
import { headerOf } from "./message.ts";

/** One message to be committed. */
export interface JournalWrite {
  readonly subject: string;
  readonly payload: Uint8Array;
  /** More header lines. */
  readonly lines?: Readonly<Record<string, string | number>>;
}

/** One message as it lies in a journal. */
export interface JournalEntry {
  readonly seq: number;
  readonly timestampMs: number;
  readonly subject: string;
  readonly header: Uint8Array | undefined;
  readonly data: Uint8Array;
}

/** The connection broke: what was read before may never have been stored, and its place may be taken by something else. */
export class Reconnected extends Error {
  constructor() {
    super("the connection to the storage broke, which may have lost what was read and not confirmed");
  }
}

const PARALLEL = 32;
/** JetStream's bound on an atomic batch. */
export const MAX_COMMIT_MESSAGES = 1000;

/**
 * A JetStream stream shaped as a KV bucket, with more subjects beside the bucket's own. What is written together becomes
 * visible together.
 */
export class Journal {
  readonly #js: JetStream;
  readonly name: string;

  constructor(js: JetStream, name: string) {
    this.#js = js;
    this.name = name;
  }

  /** Number of the connection that there is now. */
  get connection(): number {
    return this.#js.epoch;
  }

  /** @throws Reconnected when `connection` is no more. */
  checkConnection(connection: number): void {
    if (this.#js.epoch !== connection) throw new Reconnected();
  }

  /** Creates it where it is missing. @param subjects in which each message is the last of its own. */
  async create(subjects: readonly string[], replicas: number, deadline: Deadline): Promise<void> {
    const config = {
      name: this.name,
      subjects: [...subjects],
      retention: RetentionPolicy.Limits,
      storage: StorageType.File,
      discard: DiscardPolicy.New,
      num_replicas: replicas,
      max_msgs_per_subject: 1,
      max_age: 0,
      max_bytes: -1,
      max_msgs: -1,
      max_msg_size: -1,
      deny_delete: true,
      allow_rollup_hdrs: true,
      allow_direct: true,
      allow_atomic: true,
      duplicate_window: 100 * 1_000_000,
    } as StreamConfig & { name: string };
    try {
      await this.#js.call(deadline, () => this.#js.jsm.streams.add(config));
    } catch (error) {
      if (jsErrorCode(error) !== JsError.STREAM_NAME_IN_USE) throw error;
    }
  }

  async delete(deadline: Deadline): Promise<void> {
    try {
      await this.#js.call(deadline, () => this.#js.jsm.streams.delete(this.name));
    } catch (error) {
      if (jsErrorCode(error) !== JsError.STREAM_NOT_FOUND) throw error;
    }
  }

  /** Sequence of the last message. */
  async lastSeq(deadline: Deadline): Promise<number> {
    const { state } = await this.#js.call(deadline, () => this.#js.jsm.streams.info(this.name));
    return state.last_seq;
  }

  /** The last message of a subject, read from the leader. */
  async last(subject: string, deadline: Deadline): Promise<JournalEntry | undefined> {
    return this.#get({ last_by_subj: subject }, deadline);
  }

  /** The first message of a subject filter from `seq` on, read from the leader. */
  async next(filter: string, seq: number, deadline: Deadline): Promise<JournalEntry | undefined> {
    return this.#get({ seq, next_by_subj: filter }, deadline);
  }

  /** Subjects that hold a message. */
  async subjects(filter: string, deadline: Deadline): Promise<string[]> {
    const info = await this.#js.call(deadline, () =>
      this.#js.jsm.streams.info(this.name, { subjects_filter: filter } as never),
    );
    return Object.keys((info.state as { subjects?: Record<string, number> }).subjects ?? {});
  }

  /** Removes the messages of a filter: all, those below `below`, or all but the last `keep`. */
  async purge(filter: string, limit: { below?: number; keep?: number }, deadline: Deadline): Promise<void> {
    const options = {
      filter,
      ...(limit.below === undefined ? {} : { seq: limit.below }),
      ...(limit.keep === undefined ? {} : { keep: limit.keep }),
    };
    await this.#js.call(deadline, () => this.#js.jsm.streams.purge(this.name, options), false);
  }

  /** Writes messages that nothing refers to yet. */
  async store(writes: readonly JournalWrite[], deadline: Deadline): Promise<void> {
    await mapLimit(writes, PARALLEL, async (write) => {
      await this.#js.publisher.publishOne(write.subject, headerOf(write.lines ?? {}), write.payload, deadline, true);
    });
  }

  /**
   * Writes one message that nothing refers to, provided that the last message of another subject still is `expected`.
   *
   * @returns false when another one is, and nothing was written.
   */
  async storeBeside(write: JournalWrite, subject: string, expected: number, deadline: Deadline): Promise<boolean> {
    const fence = {
      "Nats-Expected-Last-Subject-Sequence": expected,
      "Nats-Expected-Last-Subject-Sequence-Subject": subject,
    };
    try {
      await this.#js.publisher.publishOne(write.subject, headerOf(fence), write.payload, deadline, true);
      return true;
    } catch (error) {
      if (error instanceof ServiceError && error.code === ErrorCode.PRECONDITION_FAILED) return false;
      throw error;
    }
  }

  /**
   * Writes all or none, provided that the last message of the first subject still is `expected` (0: there is none).
   *
   * @param connection over no other one is anything written.
   * @returns the sequence of the first message, or undefined when another write came before.
   * @throws Reconnected, when nothing was written; ServiceError TIMEOUT when the outcome is not known, else what the
   * storage refused.
   */
  async commit(
    writes: readonly JournalWrite[],
    expected: number,
    deadline: Deadline,
    connection?: number,
  ): Promise<number | undefined> {
    const [first] = writes;
    if (first === undefined || writes.length > MAX_COMMIT_MESSAGES) throw new RangeError("1 to 1000 messages");
    const check = () => {
      if (connection !== undefined) this.checkConnection(connection);
    };
    const fence = { ...first.lines, "Nats-Expected-Last-Subject-Sequence": expected };
    if (writes.length === 1) {
      try {
        await this.#js.whenConnected(deadline);
        check();
        const { publisher } = this.#js;
        // What may be sent again may be so over the next connection.
        const mayRepeat = connection === undefined;
        return (await publisher.publishOne(first.subject, headerOf(fence), first.payload, deadline, mayRepeat)).seq;
      } catch (error) {
        if (error instanceof ServiceError && error.code === ErrorCode.PRECONDITION_FAILED) return undefined;
        throw error;
      }
    }
    const id = randomUUID();
    const messages = writes.map(({ subject, payload, lines }, index) => ({
      subject,
      payload,
      header: Buffer.from(
        `${headerOf(index === 0 ? fence : (lines ?? {}))
          .toString("latin1")
          .slice(0, -2)}${batchLines(id, index, writes.length)}\r\n`,
        "latin1",
      ),
    }));
    const end = await publishAtomic(this.#js, messages, deadline, check);
    if (end.kind === "stored") return end.lastSeq - writes.length + 1;
    if (end.kind === "expectation") return undefined;
    throw new Error("a journal has no message ids");
  }

  async #get(query: object, deadline: Deadline): Promise<JournalEntry | undefined> {
    try {
      const found = await this.#js.call(deadline, () => this.#js.jsm.streams.getMessage(this.name, query as never));
      if (!found) return undefined;
      return {
        seq: found.seq,
        timestampMs: found.time.getTime(),
        subject: found.subject,
        header: (found.header as unknown as { encode(): Uint8Array }).encode(),
        data: found.data,
      };
    } catch (error) {
      if (jsErrorCode(error) === JsError.MESSAGE_NOT_FOUND) return undefined;
      throw error;
    }
  }
}
