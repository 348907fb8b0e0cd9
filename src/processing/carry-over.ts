import type { Checkpoint, LaneSeed } from "./checkpoint.ts";
import type { ProcessorRecord } from "./record.ts";

/**
 * What of an earlier checkpoint still counts for the present incarnation.
 *
 * @param seed what a restored incarnation begins with, and where it lies in the journal.
 */
export function carriedOver(
  previous: Checkpoint | undefined,
  record: ProcessorRecord,
  seed: (LaneSeed & { readonly seq: number }) | undefined,
): Omit<Checkpoint, "epoch" | "commit" | "owner" | "clean" | "generation"> {
  if (previous?.incarnation === record.incarnation) return previous;
  const nothing = { processed: 0, filtered: 0, errors: 0, deadLetters: 0, late: 0, emitted: 0 };
  // Exchange messages of the incarnation may already have come from lanes that began before.
  const seq = previous?.keys?.snapshot.seq ?? 0;
  const rate = { perSecond: 0, latencyMs: 0, atMs: 0 };
  const counts = previous?.counts ?? nothing;
  const sideCount = previous?.sideCount ?? 0;
  if (seed) {
    // All messages of the incarnation come after its seed.
    const snapshot = { ...seed.snapshot, seq: seed.seq };
    const keys = { snapshot, doneSeq: seed.seq, oldUntilSeq: 0, windows: [], holder: null };
    return { incarnation: record.incarnation, partitions: seed.partitions, counts, rate, sideCount, keys };
  }
  const partitions = record.start === "checkpoint" ? resting(previous?.partitions ?? {}) : {};
  return {
    incarnation: record.incarnation,
    partitions,
    counts,
    rate,
    sideCount,
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
