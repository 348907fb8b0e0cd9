import { JSON_TYPE, type StoredEvent } from "../domain/event.ts";
import type { Topology, WindowStage } from "../domain/topology.ts";
import { windowStarts } from "../domain/window.ts";
import { Flight } from "./flight.ts";
import type { FunctionContext, FunctionRecord } from "./functions.ts";
import { resultEvent } from "./key-part.ts";
import { KeyWindows } from "./key-windows.ts";
import { LocalWindows } from "./local-windows.ts";
import { compileGrouping, type Grouped, Pipeline, reasonOf, StepFailure } from "./pipeline.ts";

/** What one operation did with an event. */
export interface TraceStep {
  /** Index of the operation. */
  readonly operation: number;
  readonly outcome: "passed" | "dropped" | "failed" | "windowed" | "late";
  /** JSON of the value after it. */
  readonly value?: string | undefined;
  readonly error?: string | undefined;
  /** Place among several that a function made of one. */
  readonly part?: number | undefined;
  readonly eventTimeMs?: number | undefined;
  readonly windows?: readonly (readonly [start: number, end: number])[] | undefined;
  /** Canonical JSON of the group. */
  readonly group?: string | undefined;
}

export interface EventTrace {
  readonly partition: number;
  readonly offset: number;
  readonly steps: readonly TraceStep[];
}

/** One result of a window and its way through the operations after it. */
export interface ResultTrace {
  readonly start: number;
  readonly end: number;
  readonly group: string | undefined;
  readonly count: number;
  /** JSON. */
  readonly value: string;
  readonly steps: readonly TraceStep[];
}

const MAX_WINDOWS = 10;
/** Later than any window ends. */
const END_OF_TIME = Number.MAX_SAFE_INTEGER;

/** Runs a processor's operations, its own code, on events one by one, and tells of each what every operation did. */
export class Tracer {
  readonly #before: Pipeline;
  readonly #after: Pipeline;
  readonly #stage: WindowStage | undefined;
  readonly #group: ((flight: Flight) => Grouped) | undefined;
  readonly #local: LocalWindows | undefined;
  readonly #watermarks = new Map<number, number>();

  constructor({ before, stage, after }: Topology, functions: readonly FunctionRecord[], context: FunctionContext) {
    const byName = new Map(functions.map((each) => [each.name, each]));
    this.#before = new Pipeline(before, byName, context);
    this.#after = new Pipeline(after, byName, context);
    this.#stage = stage;
    this.#group = stage && compileGrouping(stage);
    this.#local = stage && new LocalWindows(stage);
  }

  async event(event: StoredEvent): Promise<EventTrace> {
    const steps: TraceStep[] = [];
    for (const flight of await through(this.#before, new Flight(event), steps)) this.#window(flight, steps);
    if (this.#stage?.timestampField === undefined) this.#reach(event.partition, event.timestampMs);
    return { partition: event.partition, offset: event.offset, steps };
  }

  /** Closes all windows. */
  async *results(): AsyncGenerator<ResultTrace> {
    const stage = this.#stage;
    if (!stage || !this.#local) return;
    const windows = new KeyWindows(stage, 1);
    for (const message of this.#local.drain(1, 0, 1).get(0) ?? []) windows.apply(message);
    for (const closed of windows.apply({ i: 1, g: 0, w: [[0, END_OF_TIME, 1, null]] })) {
      const event = resultEvent(stage, windows, closed, "");
      const steps: TraceStep[] = [];
      await through(this.#after, new Flight(event), steps);
      const { start, end, group, acc } = closed;
      const value = Buffer.from(event.payload).toString("utf8");
      yield { start, end, group: stage.groupBy === undefined ? undefined : group, count: acc.count, value, steps };
    }
  }

  #window(flight: Flight, steps: TraceStep[]): void {
    const stage = this.#stage;
    if (!stage) return;
    let grouped: Grouped;
    try {
      grouped = this.#group!(flight);
    } catch (error) {
      if (!(error instanceof StepFailure)) throw error;
      steps.push({ operation: error.index, outcome: "failed", error: error.reason });
      return;
    }
    const { partition } = flight.event;
    const taken = this.#local!.add(flight, grouped, this.#watermarks.get(partition) ?? null);
    const { timeMs: eventTimeMs } = grouped;
    const group = stage.groupBy === undefined ? undefined : grouped.group;
    const outcome = taken === undefined ? "late" : "windowed";
    steps.push({ operation: stage.index, outcome, eventTimeMs, group, windows: windowsOf(stage, eventTimeMs) });
    this.#reach(partition, eventTimeMs);
  }

  #reach(partition: number, timeMs: number): void {
    this.#watermarks.set(partition, Math.max(this.#watermarks.get(partition) ?? 0, timeMs));
  }
}

function windowsOf({ window }: WindowStage, timeMs: number): [number, number][] {
  if (window.type === "session") return [[timeMs, timeMs + window.gapMs]];
  return windowStarts(window, timeMs)
    .slice(0, MAX_WINDOWS)
    .map((start) => [start, start + window.durationMs]);
}

/** What is left of an event after the steps from `from` on. */
async function through(pipeline: Pipeline, flight: Flight, trace: TraceStep[], from = 0): Promise<Flight[]> {
  for (const [at, { spec, run }] of pipeline.steps.entries()) {
    if (at < from) continue;
    const operation = spec.index;
    try {
      const result = await run(flight);
      if (result === false) {
        trace.push({ operation, outcome: "dropped" });
        return [];
      }
      if (result === true) {
        trace.push({ operation, outcome: "passed", value: jsonValueOf(flight) });
        continue;
      }
      const left: Flight[] = [];
      for (const [part, each] of result.entries()) {
        trace.push({ operation, outcome: "passed", value: jsonValueOf(each), part });
        left.push(...(await through(pipeline, each, trace, at + 1)));
      }
      if (result.length === 0) trace.push({ operation, outcome: "dropped" });
      return left;
    } catch (error) {
      trace.push({ operation, outcome: "failed", error: reasonOf(error) });
      return [];
    }
  }
  return [flight];
}

function jsonValueOf(flight: Flight): string | undefined {
  const { payload, contentType } = flight.encode();
  return contentType === JSON_TYPE ? Buffer.from(payload).toString("utf8") : undefined;
}
