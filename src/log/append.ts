import type { Deadline } from "../domain/deadline.ts";
import { ErrorCode, invalidArgument, notSerializable, partitionNotFound, ServiceError } from "../domain/errors.ts";
import { type Ack, isRefused, type NewEvent, type RefusedEvent } from "../domain/event.ts";
import { findDuplicate } from "../jetstream/atomic-batch.ts";
import type { JetStream } from "../jetstream/connection.ts";
import { encodeHeader, type PayloadCodec } from "../jetstream/message.ts";
import { partitionSubject } from "../jetstream/names.ts";
import { partitionState } from "../jetstream/partitions.ts";
import type { AckSink } from "../jetstream/publish.ts";
import type { Compression, StreamRecord } from "./catalog.ts";
import { newEventId } from "./event-ids.ts";
import { partitionOf } from "./partitioner.ts";
import { compressed } from "./payload-codec.ts";

/** What became of one event: stored, or why not. */
export type Outcome = Ack | RefusedEvent;

/** An event with all choices made, ready to be sent. */
export interface Prepared {
  readonly subject: string;
  readonly partition: number;
  readonly eventId: string;
  readonly header: Uint8Array;
  readonly payload: Uint8Array;
}

export interface AppendOptions {
  readonly deadline: Deadline;
  /** Store larger payloads gzip-encoded even where the stream does not. */
  readonly gzip?: boolean;
}

const CODECS: Readonly<Record<Compression, PayloadCodec | undefined>> = { none: undefined, gzip: "gzip", s2: "snappy" };

/** Writes events to the partitions of streams. An event counts as stored once JetStream has acknowledged it. */
export class Appender {
  readonly #js: JetStream;
  /** Where the next event without key goes, per stream. */
  readonly #turns = new Map<string, number>();

  constructor(js: JetStream) {
    this.#js = js;
  }

  /** Stores one event. @throws ServiceError, at once or as a rejection. */
  append(stream: StreamRecord, event: NewEvent, options: AppendOptions): Promise<Ack> {
    const prepared = this.prepare(stream, event, options.gzip ?? false);
    if (prepared instanceof Promise || this.#js.publisher.full) return this.#sendLater(stream, prepared, options);
    return this.#send(stream, prepared, options);
  }

  async #sendLater(
    stream: StreamRecord,
    preparing: Prepared | Promise<Prepared>,
    options: AppendOptions,
  ): Promise<Ack> {
    const prepared = await preparing;
    await this.#js.publisher.room(options.deadline);
    return this.#send(stream, prepared, options);
  }

  #send(stream: StreamRecord, prepared: Prepared, { deadline }: AppendOptions): Promise<Ack> {
    const { subject, header, payload, eventId, partition } = prepared;
    return this.#js.publisher.publishOne(subject, header, payload, deadline, true).then(
      ({ seq, duplicate }) => ({ eventId, partition, offset: seq - 1, duplicate }),
      async (error: ServiceError) => succeeded(await this.#explain(stream, prepared, error, deadline)),
    );
  }

  /** Stores events, each by itself. @returns one outcome each, in order; never rejects for a single event. */
  async appendAll(
    stream: StreamRecord,
    events: readonly (NewEvent | RefusedEvent)[],
    options: AppendOptions,
  ): Promise<Outcome[]> {
    const outcomes = new Array<Outcome>(events.length);
    const sink = new Collector(outcomes);
    const { publisher } = this.#js;
    for (let index = 0; index < events.length; index++) {
      const event = events[index]!;
      if (isRefused(event)) {
        outcomes[index] = event;
        continue;
      }
      let prepared: Prepared;
      try {
        const preparing = this.prepare(stream, event, options.gzip ?? false);
        prepared = preparing instanceof Promise ? await preparing : preparing;
        if (publisher.full) await publisher.room(options.deadline);
      } catch (error) {
        if (!(error instanceof ServiceError)) throw error;
        outcomes[index] = { eventId: event.eventId, error };
        continue;
      }
      sink.expect(index, prepared);
      publisher.publish(prepared.subject, prepared.header, prepared.payload, options.deadline, sink, index, true);
    }
    await sink.settled();
    for (const index of sink.refusedExpectations) {
      const { error } = outcomes[index] as { error: ServiceError };
      outcomes[index] = await this.#explain(stream, sink.prepared(index), error, options.deadline);
    }
    return outcomes;
  }

  /**
   * Makes every choice about an event: partition, id, stored form. Gives a promise only where a large payload is
   * compressed.
   *
   * @throws ServiceError for what the stream does not take.
   */
  prepare(stream: StreamRecord, event: NewEvent, gzipped: boolean, extra?: string): Prepared | Promise<Prepared> {
    if (event.payload.length > stream.maxMessageBytes)
      throw notSerializable(
        `the event has ${event.payload.length} bytes, "${stream.name}" takes at most ${stream.maxMessageBytes}`,
        413,
      );
    const partition = this.choosePartition(stream, event);
    const codec = gzipped ? "gzip" : CODECS[stream.compression];
    const packed = codec && compressed(codec, event.payload);
    if (!packed) return stored(stream, event, partition, event.payload, undefined, extra);
    if (!(packed instanceof Promise)) return stored(stream, event, partition, packed, codec, extra);
    return packed.then((bytes) => stored(stream, event, partition, bytes, codec, extra));
  }

  /**
   * The explicit partition, else the one that Kafka's partitioner gives the partition key or key, else the one of the
   * client's event id, so that a repeat finds its first; else the next in turn.
   */
  choosePartition(stream: StreamRecord, event: NewEvent): number {
    if (event.partition !== undefined) {
      if (event.partition >= stream.partitions)
        throw partitionNotFound(stream.name, event.partition, stream.partitions);
      return event.partition;
    }
    if (stream.partitions === 1) return 0;
    const key = event.partitionKey ?? event.key ?? event.eventId;
    if (key !== undefined) return partitionOf(key, stream.partitions);
    if (event.expectedOffset !== undefined)
      throw invalidArgument("expectedOffset", "needs partition, partitionKey or key to say of which partition");
    const turn = this.#turns.get(stream.id) ?? Math.floor(Math.random() * stream.partitions);
    this.#turns.set(stream.id, turn + 1);
    return turn % stream.partitions;
  }

  /**
   * Looks behind a refused `expectedOffset`: the event may be a repeat of one that was stored, since JetStream looks at
   * expectations first; else the error says the actual end offset. Other failures stay as they are.
   */
  async #explain(stream: StreamRecord, sent: Prepared, error: ServiceError, deadline: Deadline): Promise<Outcome> {
    const { eventId, partition, subject } = sent;
    if (error.code !== ErrorCode.PRECONDITION_FAILED) return { eventId, error };
    try {
      const seq = await findDuplicate(this.#js, subject, eventId, deadline);
      if (seq !== undefined) return { eventId, partition, offset: seq - 1, duplicate: true };
      const { endOffset } = await partitionState(this.#js, stream.name, partition, deadline);
      return { eventId, error: expectationFailed(stream, partition, endOffset) };
    } catch (failure) {
      // It is this event's own affair: the others of its batch have their outcomes.
      if (!(failure instanceof ServiceError)) throw failure;
      return { eventId, error: failure };
    }
  }
}

function succeeded(outcome: Outcome): Ack {
  if ("error" in outcome) throw outcome.error;
  return outcome;
}

/** PRECONDITION_FAILED with the offset that the partition's next event gets. */
export function expectationFailed(stream: StreamRecord, partition: number, endOffset: number): ServiceError {
  const description = `the end offset of "${stream.name}"/${partition} is ${endOffset}`;
  return new ServiceError(ErrorCode.PRECONDITION_FAILED, description, {
    details: [{ field: "expectedOffset", description, endOffset }],
  });
}

function stored(
  stream: StreamRecord,
  event: NewEvent,
  partition: number,
  payload: Uint8Array,
  codec: PayloadCodec | undefined,
  extra: string | undefined,
): Prepared {
  const eventId = event.eventId ?? newEventId();
  const header = encodeHeader({
    contentType: event.contentType,
    eventId,
    key: event.key,
    partitionKey: event.partitionKey,
    headers: event.headers,
    expectedOffset: event.expectedOffset,
    codec,
    extra,
  });
  const prepared = { subject: partitionSubject(stream.name, partition), partition, eventId, header, payload };
  checkRoom(stream, storedBytes(prepared), "the event");
  return prepared;
}

/** What JetStream's file store counts of a message against a stream's bound. */
export const storedBytes = ({ subject, header, payload }: Prepared): number =>
  RECORD_BYTES + subject.length + header.length + payload.length;

/** Of each record in nats-server's file store: lengths, sequence, time and checksum. */
const RECORD_BYTES = 34;

/** @throws ServiceError SERIALIZATION_ERROR for what would be acknowledged and at once be gone by the stream's bound. */
export function checkRoom(stream: StreamRecord, bytes: number, what: string): void {
  if (stream.maxBytes === undefined || bytes <= stream.maxBytes) return;
  const description = `${what} takes ${bytes} bytes, a partition of "${stream.name}" keeps at most ${stream.maxBytes}`;
  throw notSerializable(description, 413);
}

/** Gathers the outcomes of a batch; one promise for all of it. */
class Collector implements AckSink {
  readonly #outcomes: Outcome[];
  readonly #sent: Prepared[] = [];
  readonly refusedExpectations: number[] = [];
  #open = 0;
  #done: (() => void) | undefined;

  constructor(outcomes: Outcome[]) {
    this.#outcomes = outcomes;
  }

  expect(index: number, prepared: Prepared): void {
    this.#sent[index] = prepared;
    this.#open++;
  }

  prepared(index: number): Prepared {
    return this.#sent[index]!;
  }

  async settled(): Promise<void> {
    if (this.#open > 0)
      await new Promise<void>((resolve) => {
        this.#done = resolve;
      });
  }

  stored(index: number, seq: number, duplicate: boolean): void {
    const { eventId, partition } = this.#sent[index]!;
    this.#settle(index, { eventId, partition, offset: seq - 1, duplicate });
  }

  failed(index: number, error: ServiceError): void {
    if (error.code === ErrorCode.PRECONDITION_FAILED) this.refusedExpectations.push(index);
    this.#settle(index, { eventId: this.#sent[index]!.eventId, error });
  }

  #settle(index: number, outcome: Outcome): void {
    this.#outcomes[index] = outcome;
    if (--this.#open === 0) this.#done?.();
  }
}
