import type { Checkpoint } from "./checkpoint.ts";
import type { ProcessorRecord } from "./record.ts";

/** What of an earlier checkpoint still counts for the present incarnation. */
export function carriedOver(
  previous: Checkpoint | undefined,
  record: ProcessorRecord,
): Omit<Checkpoint, "epoch" | "commit" | "owner" | "clean" | "generation"> {
  if (previous?.incarnation === record.incarnation) return previous;
  const nothing = { processed: 0, filtered: 0, errors: 0, deadLetters: 0, late: 0, emitted: 0 };
  // Exchange messages of the incarnation may already have come from lanes that began before.
  const seq = previous?.keys?.snapshot.seq ?? 0;
  const partitions = record.start === "checkpoint" ? resting(previous?.partitions ?? {}) : {};
  return {
    incarnation: record.incarnation,
    partitions,
    counts: previous?.counts ?? nothing,
    rate: { perSecond: 0, latencyMs: 0, atMs: 0 },
    sideCount: previous?.sideCount ?? 0,
    keys: {
      snapshot: { seq, marks: [], heard: [], blobs: [] },
      doneSeq: seq,
      oldUntilSeq: 0,
      windows: [],
      holder: null,
    },
  };
}

/** Positions without what windows had made of them. */
const resting = (partitions: Checkpoint["partitions"]): Checkpoint["partitions"] =>
  Object.fromEntries(
    Object.entries(partitions).map(([p, { next }]) => [p, { next, watermark: null, idle: false, lastEnd: null }]),
  );
