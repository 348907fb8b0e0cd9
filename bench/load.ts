import { POLL_EVENTS, sampleEvent } from "./workload.ts";

/** One caller that has one request open at a time. */
export interface Worker {
  /** One request, or one poll with its commit. @returns its events. @throws Error when the answer is not as it must be. */
  step(): Promise<number>;
  close(): void;
}

/** One way to do the work that is measured. */
export interface Load {
  /** Callers that publish one event a request. */
  publishers(stream: string, count: number): Promise<Worker[]>;
  /** Callers that publish `size` events a request. */
  batchers(stream: string, size: number, count: number): Promise<Worker[]>;
  /** Callers that each read the stream as a group of their own, 500 events a poll, and commit each poll. */
  pollers(stream: string, groups: string, count: number): Promise<Worker[]>;
}

/** Requests of one kind are made once and sent again and again; so many different ones. */
export const DIFFERENT_EVENTS = 512;
export const DIFFERENT_BATCHES = 16;

/** The next place in a ring. */
export function ring<T>(items: readonly T[]): () => T {
  let next = Math.floor(Math.random() * items.length);
  return () => items[next++ % items.length]!;
}

/** What a poll answered, events aside. */
export interface Polled {
  readonly events: number;
  readonly partitions: readonly PolledPartition[];
}

export interface PolledPartition {
  readonly partition: number;
  readonly nextOffset: number;
  readonly committedOffset?: number | undefined;
}

export interface CommitEntry {
  readonly partition: number;
  readonly offset: number;
}

/** Polls and commits over one protocol. */
export interface Reader {
  /** @param verify look at every event of the answer. */
  poll(group: string, verify: boolean): Promise<Polled>;
  commit(group: string, entries: readonly CommitEntry[]): Promise<void>;
  close(): void;
}

/**
 * Reads as group after group: one that is through is followed by a new one. With `follow` the one group goes on, in a
 * stream that grows.
 */
export class PollWorker implements Worker {
  readonly #reader: Reader;
  readonly #groups: string;
  readonly #follow: boolean;
  #generation = 0;
  #positions: number[] = [];

  constructor(reader: Reader, groups: string, follow = false) {
    this.#reader = reader;
    this.#groups = groups;
    this.#follow = follow;
  }

  async step(): Promise<number> {
    const group = `${this.#groups}-${this.#generation}`;
    const first = this.#positions.length === 0;
    const { events, partitions } = await this.#reader.poll(group, first);
    const entries: CommitEntry[] = [];
    let passed = 0;
    for (const { partition, nextOffset, committedOffset } of partitions) {
      const position = this.#positions[partition] ?? 0;
      if (committedOffset !== undefined && committedOffset !== position - 1)
        throw new Error(`partition ${partition} was committed to ${position - 1}, the poll says ${committedOffset}`);
      if (nextOffset === position) continue;
      passed += nextOffset - position;
      this.#positions[partition] = nextOffset;
      entries.push({ partition, offset: nextOffset - 1 });
    }
    if (passed !== events) throw new Error(`${events} events moved the position by ${passed}`);
    if (entries.length > 0) await this.#reader.commit(group, entries);
    if (events < POLL_EVENTS && !this.#follow) {
      this.#generation++;
      this.#positions = [];
    }
    return events;
  }

  close(): void {
    this.#reader.close();
  }
}

/** @throws Error when an event that was read is not one of the samples. */
export function verifyEvent(key: string | undefined, valueText: string): void {
  const i = Number((JSON.parse(valueText) as { customer: { id: number } }).customer.id) - 70_000;
  const expected = sampleEvent(i);
  if (key !== expected.key || valueText !== expected.payload.toString())
    throw new Error(`an event was changed on its way: ${valueText}`);
}

/** One worker for each number below `count`. */
export const eachWorker = (count: number, open: (i: number) => Promise<Worker>): Promise<Worker[]> =>
  Promise.all(Array.from({ length: count }, (_, i) => open(i)));
