import type { Logger } from "pino";
import { ByteBudget } from "../domain/byte-budget.ts";
import type { StoredEvent } from "../domain/event.ts";
import { Gate } from "../domain/gate.ts";
import type { JetStream } from "../jetstream/connection.ts";
import { follow } from "../jetstream/follow.ts";
import { partitionStream } from "../jetstream/names.ts";
import { BacklogConsumers } from "./backlog.ts";
import { decodeEvent, eventBytes } from "./decode.ts";

/** Bytes of events that all tails of a gateway keep together. */
const KEPT_BYTES = 64 * 1024 * 1024;
/** Events that one tail keeps at most. */
const KEPT_EVENTS = 8192;
/** Beside its texts and payload an event costs about so much. */
const EVENT_OVERHEAD = 200;
/** Reads of the storage at a time, of all readers that are behind: more would only make each of them late. */
const READS_AT_ONCE = 8;
/** Bytes that all readers together have read ahead; beyond it each has little. */
const AHEAD_BYTES = 64 * 1024 * 1024;
/** A tail without readers is kept so long, for the next one. */
const LINGER_MS = 2000;

/**
 * The newest events of the partitions that are read live, each read from the storage once for all readers of this
 * gateway. A reader that falls behind what is kept reads the storage itself, so that a slow one costs no memory.
 */
export class Tails {
  readonly #js: JetStream;
  readonly #log: Logger;
  readonly #tails = new Map<string, Tail>();
  /** Holds what readers have read from the storage and not taken. */
  readonly ahead = new ByteBudget(AHEAD_BYTES);
  readonly #storage = { reads: new Gate(READS_AT_ONCE), ahead: this.ahead };

  constructor(js: JetStream, log: Logger) {
    this.#js = js;
    this.#log = log;
  }

  /**
   * The tail of a partition; to be released when it is not read any more.
   *
   * @param stream its name; `streamId`: one life of it.
   * @param endOffset the offset that the partition's next event gets, or less.
   */
  acquire(stream: string, streamId: string, partition: number, endOffset: number): Tail {
    const key = `${streamId}/${partition}`;
    let tail = this.#tails.get(key);
    if (!tail) {
      const limitBytes = () => KEPT_BYTES / this.#tails.size;
      const place = { stream, partition, endOffset };
      tail = new Tail(this.#js, this.#log, place, this.#storage, limitBytes, () => this.#tails.delete(key));
      this.#tails.set(key, tail);
    }
    tail.acquire();
    return tail;
  }

  close(): void {
    for (const tail of this.#tails.values()) tail.close();
  }
}

/** A ready-made reason: an abort without one builds an exception with a stack. */
const CLOSED = new Error("the tail is closed");

/** What all readers share that read the storage. */
interface StorageReads {
  /** Each read passes here. */
  readonly reads: Gate;
  /** Holds what was read and is not taken. */
  readonly ahead: ByteBudget;
}

/** The newest events of one partition. */
export class Tail {
  readonly storage: StorageReads;
  readonly backlogs = new BacklogConsumers();
  readonly #over = new AbortController();
  readonly #listeners = new Set<() => void>();
  readonly #limitBytes: () => number;
  readonly #onClose: () => void;
  #events: StoredEvent[] = [];
  /** How many at the front of `#events` are dropped already. */
  #dropped = 0;
  #bytes = 0;
  #start: number;
  #end: number;
  #users = 0;
  #linger: NodeJS.Timeout | undefined;

  constructor(
    js: JetStream,
    log: Logger,
    place: { readonly stream: string; readonly partition: number; readonly endOffset: number },
    storage: StorageReads,
    limitBytes: () => number,
    onClose: () => void,
  ) {
    const { stream, partition, endOffset } = place;
    this.storage = storage;
    this.#start = endOffset;
    this.#end = endOffset;
    this.#limitBytes = limitBytes;
    this.#onClose = onClose;
    const take = (message: Parameters<typeof decodeEvent>[1]) => this.#add(decodeEvent(partition, message));
    void follow(js, partitionStream(stream, partition), endOffset + 1, take, this.#over.signal).catch(
      (error: unknown) => log.error({ err: error, stream, partition }, "a partition is not followed any more"),
    );
  }

  /** First offset kept. Events from here to {@link end} follow each other without a gap. */
  get start(): number {
    return this.#start;
  }

  /** Offset behind the last event that has come. */
  get end(): number {
    return this.#end;
  }

  /** Events from `offset` on, which must lie between start and end. */
  *from(offset: number): Generator<StoredEvent> {
    for (let i = this.#dropped + offset - this.#start; i < this.#events.length; i++) yield this.#events[i]!;
  }

  /** Calls `listener` when events have come, until the returned function is called. */
  onEvents(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  acquire(): void {
    this.#users++;
    clearTimeout(this.#linger);
  }

  release(): void {
    if (--this.#users > 0) return;
    this.#linger = setTimeout(() => this.close(), LINGER_MS);
    this.#linger.unref();
  }

  close(): void {
    clearTimeout(this.#linger);
    this.#over.abort(CLOSED);
    this.#onClose();
  }

  #add(event: StoredEvent): void {
    if (event.offset !== this.#end) {
      // Whoever reads across the gap reads the storage, which tells what it is.
      this.#events = [];
      this.#dropped = 0;
      this.#bytes = 0;
      this.#start = event.offset;
    }
    this.#events.push(event);
    this.#end = event.offset + 1;
    this.#bytes += eventBytes(event) + EVENT_OVERHEAD;
    const limitBytes = this.#limitBytes();
    while (this.#bytes > limitBytes || this.#events.length - this.#dropped > KEPT_EVENTS) {
      this.#bytes -= eventBytes(this.#events[this.#dropped]!) + EVENT_OVERHEAD;
      this.#events[this.#dropped++] = undefined as never;
      this.#start++;
    }
    if (this.#dropped > 1024 && this.#dropped * 2 > this.#events.length) {
      this.#events = this.#events.slice(this.#dropped);
      this.#dropped = 0;
    }
    for (const listener of this.#listeners) listener();
  }
}
