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
  /** Numbers by {@link Slot}. */
  readonly shared: SharedArrayBuffer;
}

/** Places in the shared numbers: which event a module works on. */
export const Slot = { BUSY: 0, LANE: 1, PARTITION: 2, OFFSET: 3, COUNT: 4 } as const;

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
