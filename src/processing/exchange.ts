import type { GroupJson } from "../domain/group-state.ts";

/**
 * How far one partition of the source is, as lanes tell each other: its number, watermark (null before its first event),
 * whether it is idle, and the latest end of a window that one of its events fell into, grace included (null: none).
 */
export type PartitionMark = readonly [partition: number, watermark: number | null, idle: 0 | 1, lastEnd: number | null];

/** What one lane tells another in a commit. Results of aggregation come before the marks that may close their windows. */
export interface ExchangeMessage {
  /** Incarnation: messages of others are of another life of the processor's windows. */
  readonly i: number;
  /** The lane that sent it. */
  readonly g: number;
  /** Its number among those that the lane has sent to the same one in this incarnation, from 0. */
  readonly n?: number;
  /** All partitions of that lane. */
  readonly w?: readonly PartitionMark[];
  /** By window start: groups with what to merge into them. */
  readonly d?: readonly (readonly [start: number, groups: readonly (readonly [group: string, acc: GroupJson])[]])[];
  /** By group: sessions to merge. */
  readonly s?: readonly (readonly [group: string, sessions: readonly SessionJson[]])[];
}

export type SessionJson = readonly [start: number, end: number, acc: GroupJson];

/** Target size of a message. */
export const PACK_BYTES = 256 * 1024;
