import type { Holding } from "../domain/byte-budget.ts";
import { deadlineIn } from "../domain/deadline.ts";
import type { StoredEvent } from "../domain/event.ts";
import type { JetStream } from "../jetstream/connection.ts";
import { readMessages } from "../jetstream/direct.ts";
import { partitionStream, partitionSubject } from "../jetstream/names.ts";
import type { Backlog } from "./backlog.ts";
import { decodeEvent, eventBytes } from "./decode.ts";
import { lostBetween } from "./gap.ts";
import type { Tail } from "./tail.ts";

const READ_MS = 10_000;
/** Most messages of one request to the storage. */
const BATCH = 1000;

/**
 * Reads one partition from an offset on, and then live: from its tail where that reaches back, else from the storage,
 * one request ahead of its reader.
 */
export class PartitionReader {
  readonly partition: number;
  readonly #js: JetStream;
  readonly #stream: string;
  readonly #tail: Tail;
  readonly #wake: () => void;
  readonly #unlisten: () => void;
  #next: number;
  /** Read from the storage and not taken. */
  #ahead: StoredEvent[] = [];
  /** Their bytes. */
  readonly #holding: Holding;
  #reading = false;
  /** Offsets that are passed over. */
  #isPassed: (offset: number) => boolean = () => false;
  /** Nothing from this offset on is taken for now. */
  #end = Number.POSITIVE_INFINITY;
  /** Grows when the reader is moved: what was read before is void. */
  #moves = 0;
  #failure: unknown;
  #backlog: Backlog | undefined;
  /** Whether a consumer of its own may help it; not after one that did not. */
  #mayHaveBacklog = true;

  /** @param wake is called when there is more to take. */
  constructor(js: JetStream, stream: string, partition: number, tail: Tail, next: number, wake: () => void) {
    this.#js = js;
    this.#stream = stream;
    this.partition = partition;
    this.#tail = tail;
    this.#holding = tail.storage.ahead.hold();
    this.#next = next;
    this.#wake = wake;
    this.#unlisten = tail.onEvents(wake);
  }

  /** The offset that is taken next. */
  get next(): number {
    return this.#next;
  }

  /** Whether all that has come is taken. */
  get caughtUp(): boolean {
    return this.#next >= this.#tail.end;
  }

  /** Events that have come and are not taken. */
  get behind(): number {
    return Math.max(0, this.#tail.end - this.#next);
  }

  /** Takes nothing of the offsets for which `isPassed` holds, and for now nothing from `end` on. */
  restrict(isPassed: (offset: number) => boolean, end: number): void {
    this.#isPassed = isPassed;
    this.#end = end;
  }

  /** Goes on at another offset. */
  move(offset: number): void {
    this.#moves++;
    this.#next = offset;
    this.#dropAhead();
    this.#failure = undefined;
  }

  /**
   * Takes events that are there, until `take` refuses one; begins to read on where there are more.
   *
   * @throws ServiceError INVALID_OFFSET where the storage has lost events; what reading failed with.
   */
  take(take: (event: StoredEvent) => boolean): void {
    if (this.#failure !== undefined && this.#ahead.length === 0) throw this.#failure;
    const takes = (event: StoredEvent) => event.offset < this.#end && (this.#isPassed(event.offset) || take(event));
    let taken = 0;
    let bytes = 0;
    for (const event of this.#ahead) {
      if (!takes(event)) break;
      this.#next = event.offset + 1;
      taken++;
      bytes += eventBytes(event);
    }
    if (taken > 0) this.#ahead.splice(0, taken);
    this.#holding.take(-bytes);
    const last = this.#ahead.at(-1);
    if (last) {
      // What it takes next is on its way while this is sent.
      if (this.#ahead.length <= BATCH / 2 && last.offset + 1 < this.#tail.start) void this.#readOn(last.offset + 1);
      return;
    }
    if (this.#next < this.#tail.start) return void this.#readOn(this.#next);
    this.#endBacklog();
    for (const event of this.#tail.from(this.#next)) {
      if (!takes(event)) return;
      this.#next = event.offset + 1;
    }
  }

  close(): void {
    this.#moves++;
    this.#unlisten();
    this.#dropAhead();
    this.#endBacklog();
    this.#tail.release();
  }

  async #readOn(from: number): Promise<void> {
    if (this.#reading || this.#failure !== undefined) return;
    this.#reading = true;
    const moves = this.#moves;
    try {
      const events = await this.#tail.storage.reads.run(async () =>
        moves === this.#moves ? await this.#read(from) : [],
      );
      if (moves !== this.#moves) return;
      this.#ahead.push(...events);
      this.#holding.take(events.reduce((bytes, event) => bytes + eventBytes(event), 0));
    } catch (error) {
      if (moves === this.#moves) this.#failure = error;
    } finally {
      this.#reading = false;
      this.#wake();
    }
  }

  async #read(from: number): Promise<StoredEvent[]> {
    const deadline = deadlineIn(READ_MS);
    const jsStream = partitionStream(this.#stream, this.partition);
    const batch = Math.min(BATCH, this.#tail.start - from);
    const { isFull } = this.#holding;
    const maxBytes = isFull ? LEAST_AHEAD_BYTES : READ_AHEAD_BYTES;
    if (isFull) this.#endBacklog();
    const messages =
      (isFull ? undefined : await this.#readBacklog(jsStream, from)) ??
      (await readMessages(this.#js, jsStream, { seq: from + 1, batch, maxBytes }, deadline));
    const events: StoredEvent[] = [];
    let expected = from;
    for (const message of messages) {
      if (message.seq !== expected + 1) {
        const loss = await lostBetween(this.#js, this.#stream, this.partition, expected, message.seq - 1, deadline);
        if (loss && events.length === 0) throw loss;
        if (loss) break;
      }
      events.push(decodeEvent(this.partition, message));
      expected = message.seq;
    }
    // Retention has passed over all that was asked for.
    if (events.length === 0 && from === this.#next) this.#next = Math.max(from, this.#tail.start);
    return events;
  }

  /** @returns undefined where no consumer helps. */
  async #readBacklog(jsStream: string, from: number): Promise<Awaited<ReturnType<Backlog["read"]>> | undefined> {
    if (this.#backlog?.next !== from) this.#endBacklog();
    if (!this.#backlog && this.#mayHaveBacklog) {
      const subject = partitionSubject(this.#stream, this.partition);
      const place = { jsStream, subject, from, batch: BATCH, maxBytes: READ_AHEAD_BYTES };
      this.#backlog = this.#tail.backlogs.start(this.#js, place, this.#tail.start - from);
    }
    try {
      const messages = await this.#backlog?.read();
      if (!messages || messages.length > 0) return messages;
    } catch {
      // Direct gets tell what is wrong, if they fail too.
    }
    this.#mayHaveBacklog = false;
    this.#endBacklog();
    return undefined;
  }

  #dropAhead(): void {
    this.#ahead = [];
    this.#holding[Symbol.dispose]();
  }

  #endBacklog(): void {
    this.#backlog?.close();
    this.#backlog = undefined;
  }
}

/** Bytes of one request to the storage; a reader holds what three of them brought at most. */
const READ_AHEAD_BYTES = 512 * 1024;
/** The same where all readers together hold as much as they may. */
const LEAST_AHEAD_BYTES = 32 * 1024;
