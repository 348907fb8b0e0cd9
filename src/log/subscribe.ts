import { deadlineIn, msLeft, pauseUntil } from "../domain/deadline.ts";
import { streamNotFound, unavailable } from "../domain/errors.ts";
import type { StoredEvent } from "../domain/event.ts";
import type { Catalog, StreamRecord } from "./catalog.ts";
import { eventBytes } from "./decode.ts";
import type { PartitionReader } from "./partition-reader.ts";

/** What a subscription sends next. */
export interface Delivery {
  /** In offset order within each partition; may be empty. */
  readonly events: StoredEvent[];
  /** Of a member, in the first delivery and when it has changed. */
  readonly assignment: SubscriptionAssignment | undefined;
  /** The reader has all that there was. */
  readonly caughtUp: boolean;
  /** Nothing has happened for the heartbeat's time. */
  readonly heartbeat: boolean;
  /** Where a reader without a group is in each of its partitions, after these events: the next offset. */
  readonly positions: ReadonlyMap<number, number> | undefined;
}

export interface SubscriptionAssignment {
  readonly consumerId: string;
  readonly generation: number;
  readonly partitions: readonly number[];
}

export interface SubscribeOptions {
  readonly filter: ((event: StoredEvent) => boolean) | undefined;
  /** Most events and bytes of one delivery; the service holds no more for the subscriber. One event always goes. */
  readonly limit: number;
  readonly maxBytes: number;
  readonly heartbeatMs: number;
  /** Milliseconds until more events may be sent; undefined: always at once. */
  readonly pacer?: (() => number) | undefined;
  /** The caller is gone. */
  readonly signal: AbortSignal;
  /** The gateway is to stop: the subscription ends as UNAVAILABLE, so that its client goes to another. */
  readonly draining: AbortSignal;
}

/** Which partitions a subscription reads, and from where. */
export interface Source extends AsyncDisposable {
  /** Readers of the partitions that may be read now. `assignment` is there when it has changed. */
  sync(): Promise<{ readers: readonly PartitionReader[]; assignment: SubscriptionAssignment | undefined }>;
  /** When {@link sync} is due at the latest, though nothing called for it; milliseconds. */
  readonly syncMs: number;
  /** How many more events may be sent now. */
  room(): number;
  /** Returned events that are due, to be sent apart from what the readers give. */
  takeReturned(): Promise<StoredEvent[]>;
  /** These of the readers' events are sent next; what else they gave was left out by a filter. */
  sends(events: readonly StoredEvent[]): void;
  /** All that was to be sent has reached the caller's connection. */
  sent(): Promise<void>;
  readonly hasPositions: boolean;
}

/** Lets a loop sleep until something happens. */
export class Wake {
  #over = new AbortController();
  #woken = false;

  /** To be called by whoever has news. */
  readonly call = (): void => {
    this.#woken = true;
    this.#over.abort(AWAKE);
  };

  /** Sleeps until the next call, or has none when there was one since the last sleep. */
  async sleep(deadline: number): Promise<void> {
    if (!this.#woken) await pauseUntil(deadline, this.#over.signal);
    this.#woken = false;
    if (this.#over.signal.aborted) this.#over = new AbortController();
  }
}

/** A ready-made reason: an abort without one builds an exception with a stack. */
const AWAKE = new Error("awake");

/**
 * Sends events as they come, until the caller goes. The next delivery is made when its reader asks for it, so a slow one
 * makes the service hold one delivery and nothing more.
 *
 * @throws ServiceError STREAM_NOT_FOUND when the stream is deleted, UNAVAILABLE when the gateway drains; what the source fails with.
 */
export async function* subscribe(
  catalog: Catalog,
  stream: StreamRecord,
  source: Source,
  wake: Wake,
  options: SubscribeOptions,
): AsyncGenerator<Delivery> {
  const { signal, draining, heartbeatMs } = options;
  const unlisten = catalog.onChange(stream.name, wake.call);
  for (const end of [signal, draining]) end.addEventListener("abort", wake.call, { once: true });
  let heartbeatAt = deadlineIn(heartbeatMs);
  let caughtUp = false;
  let turn = 0;
  try {
    for (;;) {
      if (signal.aborted) return;
      if (draining.aborted) throw unavailable("this gateway is stopping: subscribe again");
      if (catalog.known(stream.name)?.id !== stream.id) throw streamNotFound(stream.name);
      const { readers, assignment } = await source.sync();
      // While it is held back, heartbeats and leases go on.
      const heldMs = options.pacer?.() ?? 0;
      const returned = heldMs > 0 ? [] : await source.takeReturned();
      if (returned.length > 0) {
        heartbeatAt = deadlineIn(heartbeatMs);
        yield { events: returned, assignment: undefined, caughtUp: false, heartbeat: false, positions: undefined };
        await source.sent();
      }
      const behind = readers.some((reader) => reader.behind > options.limit);
      const { events, more } = take(readers, turn++, heldMs > 0 ? 0 : Math.min(options.limit, source.room()), options);
      if (behind) caughtUp = false;
      const now: boolean = !caughtUp && readers.length > 0 && readers.every((reader) => reader.caughtUp);
      caughtUp ||= now;
      const heartbeat = events.length === 0 && msLeft(heartbeatAt) === 0;
      if (events.length > 0 || assignment || now || heartbeat) {
        const positions = source.hasPositions
          ? new Map(readers.map((reader) => [reader.partition, reader.next]))
          : undefined;
        const delivery = { events, assignment, caughtUp: now, heartbeat, positions };
        heartbeatAt = deadlineIn(heartbeatMs);
        source.sends(events);
        yield delivery;
        await source.sent();
      } else {
        await source.sent();
        if (more) await new Promise(setImmediate);
        else
          await wake.sleep(
            Math.min(heartbeatAt, deadlineIn(source.syncMs), heldMs > 0 ? deadlineIn(heldMs) : heartbeatAt),
          );
      }
    }
  } catch (error) {
    if (catalog.known(stream.name)?.id !== stream.id) throw streamNotFound(stream.name);
    throw error;
  } finally {
    unlisten();
    for (const end of [signal, draining]) end.removeEventListener("abort", wake.call);
    await source[Symbol.asyncDispose]();
  }
}

/** Evaluating a filter must not keep other callers from their turn. */
const FILTERED_AT_ONCE = 1000;

/**
 * Takes what is there, beginning with another partition each time so that none is always last.
 *
 * @returns the events, and whether more may be there though none is given.
 */
function take(
  readers: readonly PartitionReader[],
  turn: number,
  limit: number,
  { filter, maxBytes }: SubscribeOptions,
): { events: StoredEvent[]; more: boolean } {
  const events: StoredEvent[] = [];
  let bytes = 0;
  let passed = 0;
  for (let i = 0; i < readers.length && events.length < limit && passed < FILTERED_AT_ONCE; i++) {
    readers[(turn + i) % readers.length]!.take((event) => {
      if (passed >= FILTERED_AT_ONCE) return false;
      if (filter && !filter(event)) {
        passed++;
        return true;
      }
      const size = eventBytes(event);
      if (events.length === limit || (events.length > 0 && bytes + size > maxBytes)) return false;
      events.push(event);
      bytes += size;
      return true;
    });
  }
  // What was left out may have been all that the source let its readers give.
  return { events, more: passed > 0 };
}
