import { encodeToken } from "../jetstream/names.ts";
import type { PartitionMark } from "./exchange.ts";

/**
 * What lies in a processor's journal. A processor's work is divided into lanes; lane `l` of `n` reads the partitions `p`
 * with `p mod n = l` and holds the groups whose hash is `l` modulo `n`. Each lane has one checkpoint.
 */

/** Counts over a lane's whole life. */
export interface LaneCounts {
  processed: number;
  filtered: number;
  errors: number;
  deadLetters: number;
  late: number;
  emitted: number;
}

/** How far a lane is in one partition. */
export interface PartitionProgress {
  /** Offset of the next event. */
  next: number;
  /** Largest event time, or later when idle; null before the first event. */
  watermark: number | null;
  idle: boolean;
  /** Latest end of a window of its events, grace included. */
  lastEnd: number | null;
}

/** One part of the window state, under a key of its own. */
export interface BlobRef {
  readonly key: string;
  /** Start of the window; -1: sessions. */
  readonly window: number;
  readonly shard: number;
  readonly shards: number;
  readonly closed: boolean;
}

/** A window in few words: start, end, events, whether closed. */
export type WindowSummary = readonly [start: number, end: number, count: number, closed: 0 | 1];

/** The window state as of exchange message `seq`. */
export interface KeySnapshot {
  readonly seq: number;
  readonly marks: readonly PartitionMark[];
  /** Lanes heard of. */
  readonly heard: readonly number[];
  /** Number of the next message of each lane that has sent one in this incarnation. */
  readonly expected?: readonly (readonly [lane: number, next: number])[];
  readonly blobs: readonly BlobRef[];
}

export interface KeyCheckpoint {
  readonly snapshot: KeySnapshot;
  /** All exchange messages up to here are applied, and what they closed is in the sink. */
  readonly doneSeq: number;
  /** Messages of earlier incarnations count up to here; set by a restore. */
  readonly oldUntilSeq: number;
  readonly windows: readonly WindowSummary[];
  /** The partition that windows wait for. */
  readonly holder: number | null;
}

/** One lane's checkpoint. */
export interface Checkpoint {
  readonly incarnation: number;
  readonly generation: number;
  /** Grows with each owner: the fence against earlier ones. */
  readonly epoch: number;
  /** Grows with each commit of an epoch. */
  readonly commit: number;
  readonly owner: string;
  /** Written at a stop: nothing is on its way. */
  readonly clean: boolean;
  readonly partitions: Readonly<Record<string, PartitionProgress>>;
  readonly counts: Readonly<LaneCounts>;
  /** Events per second and mean latency in milliseconds, of the time before `atMs`. */
  readonly rate: { readonly perSecond: number; readonly latencyMs: number; readonly atMs: number };
  readonly sideCount: number;
  /** Exchange messages sent in this incarnation, by the lane that gets them. */
  readonly sent?: readonly number[];
  readonly keys: KeyCheckpoint | undefined;
}

/** The state that a lane of a restored processor begins with. */
export interface LaneSeed {
  readonly partitions: Checkpoint["partitions"];
  readonly snapshot: Omit<KeySnapshot, "seq">;
}

/** How a lane is, told beside its checkpoint since a lane in trouble can't commit. */
export interface LaneStatus {
  readonly state: "running" | "degraded" | "failed";
  readonly reason?: string | undefined;
  /** Revision of the processor's record that the lane runs. */
  readonly revision: number;
  readonly owner: string;
}

/** Why an event was set aside, and where it came from; stands in a header beside the event's own payload. */
export interface SideMeta {
  readonly kind: "dlq" | "late";
  readonly reason: string;
  readonly operation: number;
  readonly generation: number;
  readonly source: string;
  readonly partition: number;
  readonly offset: number;
  readonly eventId: string;
  readonly timestampMs: number;
  readonly key?: string | undefined;
  readonly headers?: readonly (readonly [string, string])[] | undefined;
  readonly contentType: string;
  /** It is a window's result: partition and offset mean nothing. */
  readonly isResult?: boolean | undefined;
  /** Its headers were too long to be kept. */
  readonly headersLeftOut?: boolean | undefined;
}

export const SIDE_HEADER = "Mr-Side";

/** Names in the journal of one processor. Its id is a subject token. */
export class JournalNames {
  readonly stream: string;
  readonly #kv: string;
  readonly #px: string;

  constructor(processorId: string) {
    const token = encodeToken(processorId);
    this.stream = `KV_px-${token}`;
    this.#kv = `$KV.px-${token}`;
    this.#px = `px.${token}`;
  }

  get subjects(): string[] {
    return [`${this.#kv}.>`, `${this.#px}.>`];
  }
  checkpoint(lane: number): string {
    return `${this.#kv}.ckpt.${lane}`;
  }
  status(lane: number): string {
    return `${this.#kv}.status.${lane}`;
  }
  blob(lane: number, epoch: number, count: number): string {
    return `${this.#kv}.st.${lane}.${epoch}.${count}`;
  }
  blobs(lane: number): string {
    return `${this.#kv}.st.${lane}.>`;
  }
  /** The epoch that stored a part; undefined for one that a restore brought. */
  blobEpoch(key: string): number | undefined {
    const epoch = key.split(".").at(-2)!;
    return /^\d+$/.test(epoch) ? Number(epoch) : undefined;
  }
  /** What lane `lane` begins with after a restore. */
  seed(id: string, lane: number): string {
    return `${this.#kv}.seed.${id}.${lane}`;
  }
  seedBlob(id: string, lane: number, count: number): string {
    return `${this.#kv}.st.${lane}.${id}.${count}`;
  }
  exchange(to: number, from: number, epoch: number, count: number): string {
    return `${this.#px}.x.${to}.${from}.${epoch}.${count}`;
  }
  exchanges(to: number): string {
    return `${this.#px}.x.${to}.>`;
  }
  side(kind: "dlq" | "late", lane: number, count: number): string {
    return `${this.#px}.${kind}.${lane}.${count}`;
  }
  sides(kind: "dlq" | "late", lane?: number): string {
    return `${this.#px}.${kind}.${lane ?? "*"}.*`;
  }
}
