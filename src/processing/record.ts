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
  readonly desired: "running" | "paused" | "deleting";
  /** Grows with each change of what it does. */
  readonly generation: number;
  /** Grows whenever its windows begin anew; part of results' ids. */
  readonly incarnation: number;
  /** Where this incarnation began. */
  readonly start: "earliest" | "latest" | "checkpoint" | "savepoint";
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
