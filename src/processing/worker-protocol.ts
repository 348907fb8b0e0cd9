import type { TracingOptions } from "../telemetry/tracing.ts";
import type { LaneSpec } from "./lane-spec.ts";

/** What a thread is started with. */
export interface WorkerSetup {
  readonly natsUrl: string;
  readonly logLevel: string;
  /** Directory of ES modules that are functions; undefined: there are none. */
  readonly functionsDir: string | undefined;
  readonly tracing: TracingOptions | undefined;
  /** One number that the thread counts up as long as its event loop turns. */
  readonly beats: SharedArrayBuffer;
  /** {@link MAX_WORKS} events that modules work on, each in numbers by {@link Work}. */
  readonly shared: SharedArrayBuffer;
}

/** Most events that modules of one thread are seen to work on at once. */
export const MAX_WORKS = 256;
/** Places in the numbers of one event that a module works on. */
export const Work = { STATE: 0, LANE: 1, PARTITION: 2, OFFSET: 3, SIZE: 4 } as const;
/** `CALLED`: the module has not given anything yet; `WAITING`: it has given a promise. */
export const WorkState = { NONE: 0, CALLED: 1, WAITING: 2 } as const;

export type ToWorker =
  | { readonly kind: "start"; readonly token: number; readonly spec: LaneSpec }
  | { readonly kind: "stop" | "kill"; readonly token: number }
  | { readonly kind: "end" };

export type FromWorker =
  | { readonly kind: "log"; readonly line: string }
  | {
      readonly kind: "ended";
      readonly token: number;
      readonly cause: "stopped" | "fenced" | "failed" | "gone" | "error";
      readonly message?: string;
    };
