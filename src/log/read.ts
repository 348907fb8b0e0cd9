import type { Holding } from "../domain/byte-budget.ts";
import type { Deadline } from "../domain/deadline.ts";
import { invalidOffset, partitionNotFound } from "../domain/errors.ts";
import type { StoredEvent } from "../domain/event.ts";
import type { JetStream } from "../jetstream/connection.ts";
import { readMessages } from "../jetstream/direct.ts";
import { partitionStream } from "../jetstream/names.ts";
import { type PartitionState, partitionState } from "../jetstream/partitions.ts";
import type { StreamRecord } from "./catalog.ts";
import { decodeEvent, eventBytes } from "./decode.ts";

/** Where to begin: a word, or the first offset wanted. */
export type StartOffset = "earliest" | "latest" | number;

export interface ReadOptions {
  readonly from: StartOffset;
  /** Most events to return, from 1. */
  readonly limit: number;
  /** Most bytes of payloads, keys and headers to return; the first event is returned all the same. */
  readonly maxBytes: number;
  /** Passes over events for which it is not true. */
  readonly filter: ((event: StoredEvent) => boolean) | undefined;
  /** Takes what is read; where it is full, less is returned. Undefined: nothing is counted. */
  readonly holding?: Holding;
  readonly deadline: Deadline;
  readonly signal?: AbortSignal | undefined;
}

export interface ReadResult {
  readonly events: StoredEvent[];
  readonly state: PartitionState;
  /** Where to go on. */
  readonly nextOffset: number;
}

/** Events asked for at once; a filter may need several rounds. */
const ROUND = 1000;

/**
 * Reads one partition in offset order, without any group and without changing anything.
 *
 * @throws ServiceError INVALID_OFFSET when `from` is outside [startOffset, endOffset].
 */
export async function readPartition(
  js: JetStream,
  stream: StreamRecord,
  partition: number,
  options: ReadOptions,
): Promise<ReadResult> {
  if (partition >= stream.partitions) throw partitionNotFound(stream.name, partition, stream.partitions);
  const state = await partitionState(js, stream.name, partition, options.deadline);
  const { startOffset, endOffset } = state;
  const name = `"${stream.name}"/${partition}`;
  let next = options.from === "earliest" ? startOffset : options.from === "latest" ? endOffset : options.from;
  if (next < startOffset) throw invalidOffset(`offset ${next} is below startOffset ${startOffset} of ${name}`);
  if (next > endOffset) throw invalidOffset(`offset ${next} is above endOffset ${endOffset} of ${name}`);

  const events: StoredEvent[] = [];
  let bytes = 0;
  while (next < endOffset && events.length < options.limit && !options.signal?.aborted) {
    if (options.holding?.isFull && events.length > 0) break;
    const batch = Math.min(options.filter ? ROUND : options.limit - events.length, endOffset - next, ROUND);
    const messages = await readMessages(
      js,
      partitionStream(stream.name, partition),
      { seq: next + 1, batch, maxBytes: Math.max(1, options.maxBytes - bytes) },
      options.deadline,
    );
    if (messages.length === 0) break; // what was there a moment ago is gone by retention
    for (const message of messages) {
      const event = decodeEvent(partition, message);
      if (!options.filter || options.filter(event)) {
        const size = eventBytes(event);
        if (events.length === options.limit || (events.length > 0 && bytes + size > options.maxBytes))
          return { events, state, nextOffset: next };
        events.push(event);
        options.holding?.take(size);
        bytes += size;
      }
      next = message.seq;
    }
  }
  return { events, state, nextOffset: next };
}
