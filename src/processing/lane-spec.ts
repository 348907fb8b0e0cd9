import type { StreamRecord } from "../log/catalog.ts";
import type { FunctionContext } from "./functions.ts";
import type { ProcessorRecord } from "./record.ts";

/** What a lane is to run. */
export interface LaneSpec {
  readonly record: ProcessorRecord;
  readonly lane: number;
  readonly source: StreamRecord;
  readonly sink: StreamRecord;
  /** Id of the process. */
  readonly owner: string;
  /** Partition and offset of events that ended a thread. */
  readonly poison: readonly (readonly [partition: number, offset: number])[];
  /** One of its events may have ended a thread: its modules work on one event at a time. */
  readonly careful?: boolean;
}

/** What the thread gives the functions of a lane. */
export interface LaneTools {
  readonly functions: FunctionContext;
  /** Resolves when the tables that are looked up are current; undefined when there are none. */
  readonly whenCurrent: (() => Promise<void>) | undefined;
}

/** Another owner has taken the lane over. */
export class Fenced extends Error {}
/** The lane stopped at a fault that only a change or a resume mends. */
export class LaneFailed extends Error {}

/** Longest wait for one answer of the journal. */
export const COMMIT_DEADLINE_MS = 5000;
