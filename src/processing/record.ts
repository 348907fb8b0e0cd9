import type { OperationFields, Topology } from "../domain/topology.ts";
import type { FunctionRecord } from "./functions.ts";

/** Settings of a processor with their defaults filled in; times in milliseconds. */
export interface ProcessorSettings {
  readonly parallelism: number;
  readonly checkpointIntervalMs: number;
  readonly startFrom: "earliest" | "latest";
  readonly idleTimeoutMs: number;
  readonly onTruncation: "fail" | "continue";
}

/** A processor as it is stored. */
export interface ProcessorRecord {
  readonly id: string;
  readonly name: string;
  readonly source: string;
  /** One life of the source's name. */
  readonly sourceId: string;
  readonly sink: string;
  readonly operations: readonly OperationFields[];
  readonly topology: Topology;
  /** The functions that its steps name, in the versions it was made or last changed with. */
  readonly functions: readonly FunctionRecord[];
  readonly settings: ProcessorSettings;
  /** Into how many lanes its work is divided. */
  readonly lanes: number;
  /** Into how many lanes it ever was divided, where that is more: their counts still count. */
  readonly mostLanes?: number | undefined;
  readonly desired: "running" | "paused" | "deleting";
  /** Grows with each change of what it does. */
  readonly generation: number;
  /**
   * Grows whenever its windows begin anew; part of results' ids. It begins with the time of creation: a processor that is
   * created again under an Idempotency-Key has the id of the deleted one, and its results are others.
   */
  readonly incarnation: number;
  /** Where this incarnation began. */
  readonly start: "earliest" | "latest" | "checkpoint" | "savepoint";
  /** Partitions that the source had then: those added later are read from their beginning, whatever `start` says. */
  readonly startPartitions?: number | undefined;
  /** With `start` savepoint: names the state in the journal that the incarnation begins with. */
  readonly seed?: string | undefined;
  /** Why it stopped as a whole, until it is resumed or changed. */
  readonly fault?: string | undefined;
  /** Milliseconds since 1970 until which no lane is to run: its state is being copied. */
  readonly heldUntilMs?: number | undefined;
  /** Grows with every change of the record: lanes that run an earlier one are restarted. */
  readonly revision: number;
  readonly replicas: number;
  /** Id of the principal that made it; undefined for one of before owners were noted. */
  readonly owner?: string;
  readonly createdAtMs: number;
}

/** Whether an incarnation begins a partition that it has not come to yet with the next event, not with the oldest. */
export const beginsAtEnd = (
  { start, startPartitions = Number.POSITIVE_INFINITY }: ProcessorRecord,
  partition: number,
) => start === "latest" && partition < startPartitions;

/** What the ids of an incarnation's results begin with. */
export const resultPrefix = ({ id, incarnation }: Pick<ProcessorRecord, "id" | "incarnation">): string =>
  `px_${id}-${incarnation.toString(36)}-`;
