import { type Deadline, deadlineIn } from "../domain/deadline.ts";
import { invalidOffset, partitionNotFound } from "../domain/errors.ts";
import type { StoredEvent } from "../domain/event.ts";
import { mapLimit } from "../domain/map-limit.ts";
import type { Position } from "../domain/position.ts";
import type { JetStream } from "../jetstream/connection.ts";
import { partitionStates } from "../jetstream/partitions.ts";
import type { Catalog, StreamRecord } from "./catalog.ts";
import { PartitionReader } from "./partition-reader.ts";
import { offsetOf } from "./position.ts";
import type { Source, Wake } from "./subscribe.ts";
import type { Tails } from "./tail.ts";

export interface SoloSourceOptions {
  /** Undefined: all, also those that are added later. */
  readonly partitions: readonly number[] | undefined;
  /** Where a partition begins that `starts` does not name. */
  readonly start: Position;
  readonly starts: ReadonlyMap<number, Position>;
  readonly deadline: Deadline;
}

const PARALLEL = 32;
const REQUEST_MS = 5000;
const SYNC_MS = 60_000;

/** Partitions read by one caller for itself, without a group. */
export class SoloSource implements Source {
  readonly hasPositions = true;
  readonly syncMs = SYNC_MS;
  readonly #js: JetStream;
  readonly #catalog: Catalog;
  readonly #stream: StreamRecord;
  readonly #tails: Tails;
  readonly #wake: Wake;
  readonly #all: boolean;
  readonly #readers: PartitionReader[] = [];
  #known: number;

  private constructor(
    js: JetStream,
    catalog: Catalog,
    stream: StreamRecord,
    tails: Tails,
    wake: Wake,
    options: SoloSourceOptions,
  ) {
    this.#js = js;
    this.#catalog = catalog;
    this.#stream = stream;
    this.#tails = tails;
    this.#wake = wake;
    this.#all = options.partitions === undefined;
    this.#known = stream.partitions;
  }

  /** @throws ServiceError INVALID_ARGUMENT, INVALID_OFFSET. */
  static async open(
    js: JetStream,
    catalog: Catalog,
    stream: StreamRecord,
    tails: Tails,
    wake: Wake,
    options: SoloSourceOptions,
  ): Promise<SoloSource> {
    for (const index of [...(options.partitions ?? []), ...options.starts.keys()])
      if (index >= stream.partitions) throw partitionNotFound(stream.name, index, stream.partitions);
    const source = new SoloSource(js, catalog, stream, tails, wake, options);
    const { deadline, start, starts } = options;
    const wanted = new Set(options.partitions ?? Array.from({ length: stream.partitions }, (_, index) => index));
    const states = (await partitionStates(js, stream, deadline)).filter(({ partition }) => wanted.has(partition));
    const end = Math.max(...states.map(({ endOffset }) => endOffset));
    const offsets = await mapLimit(states, PARALLEL, (state) => {
      const named = starts.get(state.partition);
      const position = named ?? start;
      const most = named === undefined ? end : state.endOffset;
      if (typeof position === "number" && position > most)
        throw invalidOffset(`offset ${position} is above endOffset ${most} of "${stream.name}"`);
      return offsetOf(js, stream.name, state, position, deadline);
    });
    for (const [place, state] of states.entries()) source.#read(state.partition, offsets[place]!, state.endOffset);
    return source;
  }

  async sync(): Promise<{ readers: readonly PartitionReader[]; assignment: undefined }> {
    const partitions = this.#catalog.known(this.#stream.name)?.partitions ?? this.#known;
    if (this.#all && partitions > this.#known) {
      const states = await partitionStates(this.#js, { ...this.#stream, partitions }, deadlineIn(REQUEST_MS));
      for (const { partition, endOffset } of states.slice(this.#known)) this.#read(partition, 0, endOffset);
      this.#known = partitions;
    }
    return { readers: this.#readers, assignment: undefined };
  }

  room(): number {
    return Number.POSITIVE_INFINITY;
  }

  async takeReturned(): Promise<StoredEvent[]> {
    return [];
  }

  sends(): void {}

  async sent(): Promise<void> {}

  async [Symbol.asyncDispose](): Promise<void> {
    for (const reader of this.#readers) reader.close();
  }

  #read(partition: number, from: number, endOffset: number): void {
    const tail = this.#tails.acquire(this.#stream.name, this.#stream.id, partition, endOffset);
    this.#readers.push(new PartitionReader(this.#js, this.#stream.name, partition, tail, from, this.#wake.call));
  }
}
