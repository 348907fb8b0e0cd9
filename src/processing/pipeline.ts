import { AGGREGATORS } from "../domain/aggregate.ts";
import { compileExpression, compileFilter } from "../domain/expression.ts";
import { compileGetter, type Getter, OperationError } from "../domain/getter.ts";
import { mapValueToJson } from "../domain/map-json.ts";
import type { ErrorPolicyName, StepSpec, WindowStage } from "../domain/topology.ts";
import type { Flight } from "./flight.ts";
import {
  compileFunction,
  compileProject,
  compileReplace,
  type FunctionContext,
  type FunctionRecord,
  type StepFunction,
} from "./functions.ts";

/** An event that an operation failed on. */
export class StepFailure {
  readonly index: number;
  readonly policy: ErrorPolicyName;
  readonly reason: string;
  readonly flight: Flight;

  constructor(index: number, policy: ErrorPolicyName, error: unknown, flight: Flight) {
    this.index = index;
    this.policy = policy;
    this.reason = reasonOf(error);
    this.flight = flight;
  }
}

/** What becomes of events that leave the steps. */
export interface PipelineSink {
  passed(flight: Flight): void;
  filtered(): void;
  failed(failure: StepFailure): void;
}

interface Step {
  readonly spec: StepSpec;
  readonly run: StepFunction;
}

const MAX_REASON_CHARS = 500;

/** Steps in order, compiled. */
export class Pipeline {
  readonly #steps: readonly Step[];

  constructor(specs: readonly StepSpec[], functions: ReadonlyMap<string, FunctionRecord>, context: FunctionContext) {
    this.#steps = specs.map((spec) => ({ spec, run: compileStep(spec, functions, context) }));
  }

  /** Runs the steps on one event; gives a promise only where a function does. Never throws. */
  run(flight: Flight, sink: PipelineSink, from = 0): void | Promise<void> {
    for (let at = from; at < this.#steps.length; at++) {
      const { spec, run } = this.#steps[at]!;
      let result: ReturnType<StepFunction>;
      try {
        result = run(flight);
      } catch (error) {
        sink.failed(new StepFailure(spec.index, spec.onError, error, flight));
        return;
      }
      if (result === true) continue;
      if (result === false) {
        sink.filtered();
        return;
      }
      return this.#runOn(result, flight, sink, at);
    }
    sink.passed(flight);
  }

  async #runOn(result: Exclude<ReturnType<StepFunction>, boolean>, flight: Flight, sink: PipelineSink, at: number) {
    const { spec } = this.#steps[at]!;
    let parts: Awaited<typeof result>;
    try {
      parts = await result;
    } catch (error) {
      sink.failed(new StepFailure(spec.index, spec.onError, error, flight));
      return;
    }
    if (parts === false) sink.filtered();
    else if (parts === true) await this.run(flight, sink, at + 1);
    else for (const part of parts) await this.run(part, sink, at + 1);
  }

  /** Whether a step has the policy `fail`. */
  get mayFail(): boolean {
    return this.#steps.some(({ spec }) => spec.onError === "fail");
  }

  /** Runs one step alone, for those who want to see each. */
  get steps(): readonly Step[] {
    return this.#steps;
  }
}

function compileStep(
  spec: StepSpec,
  functions: ReadonlyMap<string, FunctionRecord>,
  context: FunctionContext,
): StepFunction {
  switch (spec.kind) {
    case "filter":
      return compilePredicate(spec.predicate);
    case "expression":
      return compileReplace(spec.expression);
    case "project":
      return compileProject(spec.project);
    case "function": {
      const record = functions.get(spec.name);
      if (!record) throw new Error(`function ${spec.name} is not part of the processor`);
      return compileFunction(record, context);
    }
  }
}

/** Only `true` itself passes; anything but a bool is an error. */
function compilePredicate(text: string): StepFunction {
  compileFilter(text, "predicate");
  const expression = compileExpression(text, "predicate");
  return (flight) => {
    const result = expression.evaluateOn(flight);
    if (!result.ok) throw new OperationError(result.error);
    if (typeof result.value !== "boolean") throw new OperationError("the predicate gave no bool");
    return result.value;
  };
}

/** A failed event's reason in one line. */
export function reasonOf(error: unknown): string {
  const text = textOf(error);
  return (text.length > MAX_REASON_CHARS ? `${text.slice(0, MAX_REASON_CHARS)}…` : text).toWellFormed();
}

/** A module may throw anything, also what has no text. */
function textOf(error: unknown): string {
  try {
    return String(error instanceof Error ? error.message : error);
  } catch {
    return "it threw something that has no text";
  }
}

/** What a window stage reads out of an event. */
export interface Grouped {
  readonly timeMs: number;
  /** Canonical JSON of the group, "" without `groupBy`. */
  readonly group: string;
  /** One for each aggregate. */
  readonly values: readonly unknown[];
}

/** Events may be ahead of their storage by this much. */
const MAX_AHEAD_MS = 5 * 60 * 1000;
const MAX_GROUP_BYTES = 1024;

/** Compiles what a window stage reads. The result throws a {@link StepFailure}. */
export function compileGrouping(stage: WindowStage): (flight: Flight) => Grouped {
  const time = stage.timestampField === undefined ? undefined : compileGetter(stage.timestampField, "timestampField");
  const group = stage.groupBy === undefined ? undefined : compileGetter(stage.groupBy, "groupBy");
  const fields = stage.aggregates.map((spec) => ({
    spec,
    get: spec.field === undefined ? undefined : compileGetter(spec.field, "field"),
    aggregator: AGGREGATORS[spec.aggregation],
  }));
  const first = stage.aggregates[0]!;
  return (flight) => {
    const timeMs = time ? within(flight, stage, () => timeOf(time, flight)) : flight.event.timestampMs;
    const text = group ? within(flight, first, () => groupOf(group(flight))) : "";
    const values: unknown[] = [];
    for (const { spec, get, aggregator } of fields) {
      if (!get) values.push(true);
      else
        within(flight, spec, () => {
          const value = get(flight);
          aggregator.check(value);
          values.push(value);
        });
    }
    return { timeMs, group: text, values };
  };
}

function within<T>(flight: Flight, at: { index: number; onError: ErrorPolicyName }, work: () => T): T {
  try {
    return work();
  } catch (error) {
    throw new StepFailure(at.index, at.onError, error, flight);
  }
}

const RFC_3339 = /^(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):\d\d:\d\d(?:\.\d+)?(?:[Zz]|[+-]\d\d:\d\d)$/;

/** Milliseconds since 1970, NaN for what is no RFC 3339 text. The engine itself takes 30 February for a day in March. */
function parseTime(text: string): number {
  const [, year, month, day, hour] = RFC_3339.exec(text)?.map(Number) ?? [];
  if (year === undefined || hour === 24 || day! > new Date(Date.UTC(year, month!, 0)).getUTCDate()) return Number.NaN;
  return Date.parse(text);
}

function timeOf(getter: Getter, flight: Flight): number {
  const found = getter(flight);
  const timeMs =
    typeof found === "string"
      ? parseTime(found)
      : typeof found === "number" || typeof found === "bigint"
        ? Math.floor(Number(found))
        : Number.NaN;
  if (!Number.isFinite(timeMs))
    throw new OperationError("the event time is neither milliseconds since 1970 nor an RFC 3339 text");
  if (timeMs < 0) throw new OperationError("the event time is before 1970");
  if (timeMs > flight.event.timestampMs + MAX_AHEAD_MS)
    throw new OperationError("the event time is more than 5 minutes in the future");
  return timeMs;
}

/** Scalars only: their canonical JSON is the group. */
export function groupOf(value: unknown): string {
  if (typeof value === "object" && value !== null)
    throw new OperationError("the group is no text, number, bool or null");
  const text = mapValueToJson(value);
  // A character is at most three bytes; only a text can be as long as that.
  if (text.length > MAX_GROUP_BYTES / 3 && Buffer.byteLength(String(value)) > MAX_GROUP_BYTES)
    throw new OperationError(`the group is longer than ${MAX_GROUP_BYTES} bytes`);
  return text;
}
