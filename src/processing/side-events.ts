import { deadlineIn } from "../domain/deadline.ts";
import type { Journal, JournalWrite } from "../jetstream/journal.ts";
import { type JournalNames, SIDE_HEADER, type SideMeta } from "./checkpoint.ts";
import type { Flight } from "./flight.ts";
import { COMMIT_DEADLINE_MS } from "./lane-spec.ts";
import type { ProcessorRecord } from "./record.ts";

interface SideEvent {
  readonly meta: SideMeta;
  readonly payload: Uint8Array;
}

/** Why an event is set aside. */
export interface SideReason {
  readonly kind: SideMeta["kind"];
  readonly reason: string;
  /** Index of the operation. */
  readonly operation: number;
  /** It is no event of the source but a window's result. */
  readonly isResult?: boolean;
}

/** Pending side events, by number and bytes, that have a commit made at once. */
const MAX_SIDE = 300;
const MAX_SIDE_BYTES = 4 * 1024 * 1024;
const MAX_SIDE_IN_COMMIT = 600;
const STORE_MS = 60_000;
/** Longer headers of an event do not fit beside a payload of the largest size. */
const MAX_META_CHARS = 40_000;
/** Side events of a kind and lane that are kept. */
export const KEEP_SIDE = 10_000;

/** Late and failed events of a lane on their way into its journal, where they stand with the commit that they belong to. */
export class SideEvents {
  readonly #record: ProcessorRecord;
  readonly #journal: Journal;
  readonly #names: JournalNames;
  readonly #lane: number;
  #pending: SideEvent[] = [];
  #bytes = 0;
  /** Events ever set aside, the pending ones not among them. */
  count: number;

  constructor(record: ProcessorRecord, journal: Journal, names: JournalNames, lane: number, count: number) {
    this.#record = record;
    this.#journal = journal;
    this.#names = names;
    this.#lane = lane;
    this.count = count;
  }

  get isFull(): boolean {
    return this.#pending.length >= MAX_SIDE || this.#bytes >= MAX_SIDE_BYTES;
  }

  add(flight: Flight, why: SideReason): void {
    this.#pending.push(sideEvent(this.#record, flight, why));
    this.#bytes += flight.event.payload.length + 500;
  }

  /** Takes the pending ones out; those added later belong to the next commit. */
  drain(): SideEvent[] {
    const drained = this.#pending;
    this.#pending = [];
    this.#bytes = 0;
    return drained;
  }

  /** Adds to those already drained. */
  append(drained: SideEvent[], flight: Flight, why: SideReason): void {
    drained.push(sideEvent(this.#record, flight, why));
  }

  /**
   * Makes the writes of a commit. More than a commit can hold are stored at once: if the commit never comes they are written
   * again under the same subjects, by whoever processes their events again.
   */
  async writes(drained: readonly SideEvent[]): Promise<JournalWrite[]> {
    const writes = drained.map(({ meta, payload }, index) => ({
      subject: this.#names.side(meta.kind, this.#lane, this.count + index),
      payload,
      lines: { [SIDE_HEADER]: headerText(meta) },
    }));
    await this.#journal.store(writes.splice(MAX_SIDE_IN_COMMIT), deadlineIn(STORE_MS));
    return writes;
  }

  /** After the commit of so many. */
  async committed(count: number): Promise<void> {
    const before = this.count;
    this.count += count;
    if (Math.floor(before / KEEP_SIDE) === Math.floor(this.count / KEEP_SIDE)) return;
    for (const kind of ["dlq", "late"] as const)
      await this.#journal.purge(
        this.#names.sides(kind, this.#lane),
        { keep: KEEP_SIDE },
        deadlineIn(COMMIT_DEADLINE_MS),
      );
  }
}

/** Origin and reason; an event's own headers are left out where they are too long to stand beside it. */
function headerText(meta: SideMeta): string {
  const text = Buffer.from(JSON.stringify(meta)).toString("base64");
  if (text.length <= MAX_META_CHARS) return text;
  return Buffer.from(JSON.stringify({ ...meta, headers: undefined, headersLeftOut: true })).toString("base64");
}

function sideEvent(record: ProcessorRecord, { event }: Flight, why: SideReason): SideEvent {
  const { kind, reason, operation, isResult } = why;
  const meta: SideMeta = {
    kind,
    reason,
    operation,
    generation: record.generation,
    source: record.source,
    partition: event.partition,
    offset: event.offset,
    eventId: event.eventId,
    timestampMs: event.timestampMs,
    key: event.key,
    headers: event.headers,
    contentType: event.contentType,
    ...(isResult ? { isResult } : {}),
  };
  return { meta, payload: event.payload };
}
