import type { Msg, MsgHdrs, NatsConnection, Subscription } from "@nats-io/transport-node";
import { createInbox } from "@nats-io/transport-node";
import { type Deadline, msLeft } from "../domain/deadline.ts";
import { ErrorCode, ServiceError, timedOut, unavailable } from "../domain/errors.ts";
import { apiFailure, JsError } from "./errors.ts";

/** Bounds of what is sent and not yet acknowledged; beyond them a publish waits. */
export interface PublishLimits {
  readonly maxInFlight: number;
  readonly maxInFlightBytes: number;
}

/** Is told once what became of each message it sent, under the index that it gave. */
export interface AckSink {
  /** Stored as `seq` of the JetStream stream; `duplicate`: this was an earlier message of the same id. */
  stored(index: number, seq: number, duplicate: boolean): void;
  failed(index: number, error: ServiceError): void;
}

interface Waiter {
  readonly subject: string;
  readonly headers: MsgHdrs;
  readonly payload: Uint8Array;
  readonly bytes: number;
  readonly deadline: Deadline;
  readonly sink: AckSink;
  readonly index: number;
  /** The message can be sent again without being stored twice. */
  readonly idempotent: boolean;
  /** An earlier send may have been stored although no acknowledgement came. */
  unknown: boolean;
  /** On its way now; else it waits in its subject's queue. */
  sent: boolean;
}

/** Messages of one subject that wait for its leader, in their order. */
interface Queue {
  tokens: number[];
  /** The first of them, sent alone to learn whether the leader is back. */
  probe: number | undefined;
}

/** Refusals because an expectation of the header does not hold. */
const EXPECTATIONS: ReadonlySet<number> = new Set([
  JsError.WRONG_LAST_MESSAGE_ID,
  JsError.WRONG_LAST_SEQUENCE,
  JsError.WRONG_LAST_SEQUENCE_CONSTANT,
]);

const SWEEP_MS = 50;
const RETRY_MS = 50;
const LATELY_MS = 1000;
/** Subjects of which the last message is kept in mind. */
const MOST_ACKED = 10_000;

/**
 * Publishes to JetStream with many messages in flight: every acknowledgement comes to one subscription and is matched
 * by a number in its subject. About a fifth of the CPU of `js.publish`.
 *
 * A message that found no leader is sent again until its deadline. One whose connection broke is sent again only when
 * its id keeps it from being stored twice; otherwise its outcome is unknown, and it fails with TIMEOUT.
 */
export class Publisher {
  readonly #nc: NatsConnection;
  readonly #limits: PublishLimits;
  readonly #inbox: string;
  readonly #subscription: Subscription;
  readonly #waiting = new Map<number, Waiter>();
  readonly #blocked: (() => void)[] = [];
  readonly #queues = new Map<string, Queue>();
  readonly #outgoing: number[] = [];
  /** Subjects whose last write was refused because the store was full, with the time of it. */
  readonly #full = new Map<string, number>();
  /** Of each subject the last message that was acknowledged. */
  readonly #acked = new Map<string, { seq: number; atMs: number }>();
  #leaving: NodeJS.Immediate | undefined;
  #retryTimer: NodeJS.Timeout | undefined;
  #sweeper: NodeJS.Timeout | undefined;
  #next = 0;
  #bytes = 0;
  #connected = true;
  #closed = false;

  constructor(nc: NatsConnection, limits: PublishLimits) {
    this.#nc = nc;
    this.#limits = limits;
    this.#inbox = `${createInbox()}.`;
    this.#subscription = nc.subscribe(`${this.#inbox}*`, { callback: (_error, msg) => this.#acknowledged(msg) });
  }

  /** Messages sent or waiting to be sent that have no outcome yet. */
  get inFlight(): number {
    return this.#waiting.size;
  }

  /** Bytes of them. */
  get inFlightBytes(): number {
    return this.#bytes;
  }

  /**
   * Sequence of the last message of a subject that was stored through here within the last second, 0 if none was. A consumer
   * may hear of it a moment after its publisher.
   */
  storedLately(subject: string): number {
    const acked = this.#acked.get(subject);
    return acked && performance.now() - acked.atMs < LATELY_MS ? acked.seq : 0;
  }

  /** Subjects that a full store has refused within the last `withinMs` and not taken since. */
  fullSubjects(withinMs: number): string[] {
    const since = performance.now() - withinMs;
    for (const [subject, at] of this.#full) if (at < since) this.#full.delete(subject);
    return [...this.#full.keys()];
  }

  /** Waits until there is room for more, if there is none. @throws ServiceError UNAVAILABLE when the deadline comes first. */
  async room(deadline: Deadline): Promise<void> {
    while (this.full) {
      await new Promise<void>((resolve, reject) => {
        const timer = setTimeout(
          () => reject(unavailable("too many events wait for the storage; this one was not sent")),
          msLeft(deadline),
        );
        this.#blocked.push(() => {
          clearTimeout(timer);
          resolve();
        });
      });
    }
  }

  /** Whether {@link room} would wait. */
  get full(): boolean {
    return this.#waiting.size >= this.#limits.maxInFlight || this.#bytes >= this.#limits.maxInFlightBytes;
  }

  /**
   * Sends one message; `sink` hears of its outcome later, never before this returns.
   *
   * @param header a whole NATS header block, see `encodeHeader`.
   * @param idempotent whether the header holds a `Nats-Msg-Id` or an expectation that keeps a repeat from being stored.
   */
  publish(
    subject: string,
    header: Uint8Array,
    payload: Uint8Array,
    deadline: Deadline,
    sink: AckSink,
    index: number,
    idempotent: boolean,
  ): void {
    const bytes = header.length + payload.length;
    const waiter: Waiter = {
      subject,
      headers: new EncodedHeaders(header) as unknown as MsgHdrs,
      payload,
      bytes,
      deadline,
      sink,
      index,
      idempotent,
      unknown: false,
      sent: false,
    };
    const token = this.#next++;
    this.#waiting.set(token, waiter);
    this.#bytes += bytes;
    this.#sweeper ??= setInterval(() => this.#sweep(), SWEEP_MS);
    // While a message of the subject waits to be sent again, those after it wait too: their order is the caller's.
    if (this.#connected && (this.#queues.size === 0 || !this.#queues.has(subject))) this.#send(token, waiter);
    else this.#enqueue(token, waiter);
  }

  /** One message as a promise, for callers that send few. @returns its sequence in the JetStream stream. */
  publishOne(
    subject: string,
    header: Uint8Array,
    payload: Uint8Array,
    deadline: Deadline,
    idempotent: boolean,
  ): Promise<{ seq: number; duplicate: boolean }> {
    return new Promise((resolve, reject) => {
      const sink: AckSink = {
        stored: (_i, seq, duplicate) => resolve({ seq, duplicate }),
        failed: (_i, error) => reject(error),
      };
      this.publish(subject, header, payload, deadline, sink, 0, idempotent);
    });
  }

  /** Between what was given to {@link publish} up to now and what will be. */
  get mark(): number {
    return this.#next;
  }

  /** Fails what was given before `mark` for subjects that begin with `prefix`: their JetStream streams are gone. */
  abandon(prefix: string, mark: number, error: ServiceError): void {
    for (const [token, waiter] of this.#waiting)
      if (token < mark && waiter.subject.startsWith(prefix)) this.#fail(token, waiter, error);
  }

  /** To be called when the connection breaks: nothing in flight will be acknowledged any more. */
  disconnected(): void {
    this.#connected = false;
    for (const queue of this.#queues.values()) queue.probe = undefined;
    for (const [token, waiter] of this.#waiting) {
      if (!waiter.sent) continue;
      waiter.unknown = true;
      if (waiter.idempotent) this.#enqueue(token, waiter);
      else this.#fail(token, waiter, outcomeUnknown());
    }
  }

  /** To be called when the connection is back: what can be sent again is, in its order. */
  reconnected(): void {
    this.#connected = true;
    this.#probe();
  }

  /** Fails what is in flight and ends the subscription. */
  close(): void {
    this.#closed = true;
    for (const [token, waiter] of this.#waiting) this.#fail(token, waiter, this.#givenUp(waiter));
    clearTimeout(this.#retryTimer);
    clearInterval(this.#sweeper);
    clearImmediate(this.#leaving);
    this.#subscription.unsubscribe();
  }

  /**
   * Puts a message on its way. Those of one turn of the event loop leave together: callers' requests arrive on many
   * sockets, and a write of its own for each would cost more than everything else here.
   */
  #send(token: number, waiter: Waiter): void {
    waiter.sent = true;
    this.#outgoing.push(token);
    this.#leaving ??= setImmediate(() => this.#leave());
  }

  #leave(): void {
    this.#leaving = undefined;
    for (const token of this.#outgoing.splice(0)) {
      const waiter = this.#waiting.get(token);
      if (waiter?.sent) this.#write(token, waiter);
    }
  }

  #write(token: number, waiter: Waiter): void {
    try {
      this.#nc.publish(waiter.subject, waiter.payload, { headers: waiter.headers, reply: this.#inbox + token });
    } catch (error) {
      // Nothing was written: too large for the server, or the connection is closed.
      const tooLarge = waiter.bytes > (this.#nc.info?.max_payload ?? Number.POSITIVE_INFINITY);
      this.#fail(
        token,
        waiter,
        tooLarge ? apiFailure(JsError.MESSAGE_TOO_LARGE, "", error) : unavailable("the storage is out of reach", error),
      );
    }
  }

  #acknowledged(msg: Msg): void {
    const token = Number(msg.subject.slice(this.#inbox.length));
    const waiter = this.#waiting.get(token);
    if (!waiter) return;
    const data = msg.data;
    if (data.length === 0) {
      // 503: nobody answers for the subject, so nobody stored it; the leader may be elected soon.
      this.#enqueue(token, waiter);
      return;
    }
    const text = Buffer.from(data.buffer, data.byteOffset, data.length).toString("latin1");
    const at = text.indexOf('"seq":');
    if (at > 0 && !text.includes('"error"')) {
      this.#settle(token, waiter);
      if (this.#full.size > 0) this.#full.delete(waiter.subject);
      const seq = Number.parseInt(text.slice(at + 6), 10);
      const isDuplicate = text.includes('"duplicate":true') || text.includes('"duplicate": true');
      if (!isDuplicate) this.#noteStored(waiter.subject, seq);
      waiter.sink.stored(waiter.index, seq, isDuplicate);
      return;
    }
    this.#refused(token, waiter, text);
  }

  #noteStored(subject: string, seq: number): void {
    const known = this.#acked.get(subject);
    const atMs = performance.now();
    if (known) {
      known.seq = seq;
      known.atMs = atMs;
      return;
    }
    if (this.#acked.size >= MOST_ACKED) this.#acked.clear();
    this.#acked.set(subject, { seq, atMs });
  }

  #refused(token: number, waiter: Waiter, text: string): void {
    let error: { err_code?: number; description?: string } | undefined;
    try {
      error = (JSON.parse(text) as { error?: { err_code?: number; description?: string } }).error;
    } catch {
      // Falls through to an unknown refusal.
    }
    const code = error?.err_code ?? 0;
    if (code === JsError.INSUFFICIENT_RESOURCES || code === JsError.STORAGE_EXCEEDED)
      this.#full.set(waiter.subject, performance.now());
    if (code === JsError.MESSAGE_ID_IN_PROCESS || code === JsError.TEMPORARILY_UNAVAILABLE)
      this.#enqueue(token, waiter);
    else if (EXPECTATIONS.has(code))
      this.#fail(token, waiter, new ServiceError(ErrorCode.PRECONDITION_FAILED, "an expectation does not hold"));
    else this.#fail(token, waiter, apiFailure(code, error?.description ?? text));
  }

  #enqueue(token: number, waiter: Waiter): void {
    waiter.sent = false;
    let queue = this.#queues.get(waiter.subject);
    if (!queue) {
      queue = { tokens: [], probe: undefined };
      this.#queues.set(waiter.subject, queue);
    }
    if (queue.probe === token) queue.probe = undefined;
    queue.tokens.push(token);
    if (this.#connected) this.#retryTimer ??= setTimeout(() => this.#probe(), RETRY_MS);
  }

  /** Sends the first message of each queue that has none on its way. */
  #probe(): void {
    clearTimeout(this.#retryTimer);
    this.#retryTimer = undefined;
    if (!this.#connected || this.#closed) return;
    for (const [subject, queue] of this.#queues) {
      if (queue.probe !== undefined) continue;
      queue.tokens.sort((a, b) => a - b);
      let waiter: Waiter | undefined;
      while (!waiter && queue.tokens.length > 0) {
        queue.probe = queue.tokens.shift()!;
        waiter = this.#waiting.get(queue.probe);
      }
      if (waiter) this.#send(queue.probe!, waiter);
      else this.#queues.delete(subject);
    }
  }

  /** The probe of a queue got its answer: the leader is back, all others follow. */
  #flush(subject: string, queue: Queue): void {
    this.#queues.delete(subject);
    for (const token of queue.tokens.sort((a, b) => a - b)) {
      const waiter = this.#waiting.get(token);
      if (waiter) this.#send(token, waiter);
    }
  }

  #sweep(): void {
    const now = performance.now();
    for (const [token, waiter] of this.#waiting)
      if (waiter.deadline <= now) this.#fail(token, waiter, this.#givenUp(waiter));
    if (this.#waiting.size === 0) {
      clearInterval(this.#sweeper);
      this.#sweeper = undefined;
    }
  }

  /** Sent and never answered, now or on an earlier try: perhaps stored. Otherwise surely not. */
  #givenUp(waiter: Waiter): ServiceError {
    return waiter.sent || waiter.unknown
      ? outcomeUnknown()
      : unavailable("the storage is out of reach; nothing was stored");
  }

  #fail(token: number, waiter: Waiter, error: ServiceError): void {
    if (!this.#waiting.has(token)) return;
    this.#settle(token, waiter);
    waiter.sink.failed(waiter.index, error);
  }

  #settle(token: number, waiter: Waiter): void {
    this.#waiting.delete(token);
    this.#bytes -= waiter.bytes;
    if (this.#queues.size > 0) {
      const queue = this.#queues.get(waiter.subject);
      if (queue?.probe === token) this.#flush(waiter.subject, queue);
    }
    if (this.#blocked.length > 0 && !this.full) for (const wake of this.#blocked.splice(0)) wake();
  }
}

const outcomeUnknown = (): ServiceError =>
  timedOut(
    "the storage did not confirm in time; it may be stored all the same, and an event repeated under its id is safe",
  );

/** A header block that is already bytes, in the one respect in which the client uses its header objects. */
export class EncodedHeaders {
  readonly #bytes: Uint8Array;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
  }

  encode(): Uint8Array {
    return this.#bytes;
  }
}
