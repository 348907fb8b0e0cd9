import { type Deadline, msLeft, pause } from "../domain/deadline.ts";
import type { StoredEvent } from "../domain/event.ts";
import type { JetStream } from "../jetstream/connection.ts";
import { JsError, jsErrorCode, toServiceError } from "../jetstream/errors.ts";
import { Journal } from "../jetstream/journal.ts";
import { OrderedReader, StreamGone } from "../jetstream/ordered-reader.ts";
import { JournalNames, SIDE_HEADER, type SideMeta } from "./checkpoint.ts";
import { processorNotFound } from "./store.ts";

/** An event that was set aside, as it lies in the journal. */
export interface SideRecord {
  /** Its place in the journal: those set aside later have larger ones. */
  readonly seq: number;
  readonly setAsideAtMs: number;
  readonly meta: SideMeta;
  readonly event: StoredEvent;
}

export interface SideQuery {
  readonly kind: SideMeta["kind"] | undefined;
  /** Only those set aside after this place. */
  readonly after: number;
  /** Most to return, from 1. */
  readonly limit: number;
  /** Most bytes of payloads to return; one is returned all the same. */
  readonly maxBytes: number;
  /** Longest wait for the first, in milliseconds. */
  readonly waitMs: number;
}

const KINDS = ["dlq", "late"] as const;
/** No message of a journal is larger. */
const LARGEST_BYTES = 9 * 1024 * 1024;
const LOOK_MS = 200;
const HEADER = new RegExp(`^${SIDE_HEADER}: *(\\S+)\\r$`, "m");

/** Side events of a processor in the order in which they were set aside. @throws ServiceError PROCESSOR_NOT_FOUND. */
export async function readSideEvents(
  js: JetStream,
  processorId: string,
  query: SideQuery,
  deadline: Deadline,
  signal: AbortSignal,
): Promise<SideRecord[]> {
  const names = new JournalNames(processorId);
  const journal = new Journal(js, names.stream);
  const until = performance.now() + query.waitMs;
  const kinds = query.kind === undefined ? KINDS : [query.kind];
  try {
    for (;;) {
      const first = await Promise.all(kinds.map((kind) => journal.next(names.sides(kind), query.after + 1, deadline)));
      if (first.some((each) => each !== undefined)) break;
      if (performance.now() >= until || signal.aborted) return [];
      await pause(Math.min(LOOK_MS, Math.max(1, until - performance.now())));
    }
    const found: SideRecord[] = [];
    for (const kind of kinds) found.push(...(await readKind(js, names, kind, query, deadline, signal)));
    return within(
      found.sort((a, b) => a.seq - b.seq),
      query,
    );
  } catch (error) {
    if (error instanceof StreamGone || jsErrorCode(error) === JsError.STREAM_NOT_FOUND)
      throw processorNotFound(processorId);
    throw toServiceError(error);
  }
}

async function readKind(
  js: JetStream,
  names: JournalNames,
  kind: SideMeta["kind"],
  { after, limit, maxBytes }: SideQuery,
  deadline: Deadline,
  signal: AbortSignal,
): Promise<SideRecord[]> {
  const found: SideRecord[] = [];
  const reader = new OrderedReader(js, {
    jsStream: names.stream,
    filter: names.sides(kind),
    from: after + 1,
    dense: false,
    batch: Math.min(limit, 500),
    maxBytes: maxBytes + LARGEST_BYTES,
  });
  let bytes = 0;
  try {
    for (let atEnd = false; !atEnd && found.length < limit && bytes < maxBytes; ) {
      if (signal.aborted || msLeft(deadline) <= 0) break;
      const batch = await reader.read(0, signal);
      for (const { seq, timestampMs, header, data } of batch.messages) {
        const meta = metaOf(header);
        found.push({ seq, setAsideAtMs: timestampMs, meta, event: eventOf(meta, data) });
        bytes += data.length;
      }
      atEnd = batch.atEnd;
    }
  } finally {
    await reader.close();
  }
  return found;
}

function within(sorted: readonly SideRecord[], { limit, maxBytes }: SideQuery): SideRecord[] {
  let count = 0;
  let bytes = 0;
  while (count < sorted.length && count < limit && (count === 0 || bytes < maxBytes))
    bytes += sorted[count++]!.event.payload.length;
  return sorted.slice(0, count);
}

function metaOf(header: Uint8Array | undefined): SideMeta {
  const found = HEADER.exec(Buffer.from(header ?? []).toString("latin1"));
  if (!found) throw new Error("a side event without its origin");
  return JSON.parse(Buffer.from(found[1]!, "base64").toString("utf8")) as SideMeta;
}

const eventOf = (meta: SideMeta, payload: Uint8Array): StoredEvent => ({
  eventId: meta.eventId,
  partition: meta.partition,
  offset: meta.offset,
  timestampMs: meta.timestampMs,
  key: meta.key,
  headers: meta.headers,
  payload,
  contentType: meta.contentType,
});
