import type { AggregationName } from "./aggregate.ts";
import { type ErrorDetail, invalidArguments, ServiceError } from "./errors.ts";
import { compileExpression, compileFilter } from "./expression.ts";
import { compileGetter, memberPath } from "./getter.ts";
import { checkProjection, type Projection } from "./projection.ts";
import { MAX_WINDOWS_PER_EVENT, type WindowSpec } from "./window.ts";

export type ErrorPolicyName = "dlq" | "skip" | "fail";

/** One step as it was asked for; which fields stand there is checked by {@link checkOperations}. */
export interface OperationFields {
  readonly type?: "filter" | "map" | "window" | "aggregate" | undefined;
  readonly predicate?: string | undefined;
  readonly function?: string | undefined;
  readonly expression?: string | undefined;
  readonly project?: Projection | undefined;
  readonly windowType?: "tumbling" | "hopping" | "session" | undefined;
  readonly duration?: number | undefined;
  readonly advance?: number | undefined;
  readonly gap?: number | undefined;
  readonly grace?: number | undefined;
  readonly timestampField?: string | undefined;
  readonly aggregation?: AggregationName | undefined;
  readonly groupBy?: string | undefined;
  readonly field?: string | undefined;
  readonly as?: string | undefined;
  readonly onError?: ErrorPolicyName | undefined;
}

/** One checked step, with its place among all. */
export type StepSpec = { readonly index: number; readonly onError: ErrorPolicyName } & (
  | { readonly kind: "filter"; readonly predicate: string }
  | { readonly kind: "function"; readonly name: string }
  | { readonly kind: "expression"; readonly expression: string }
  | { readonly kind: "project"; readonly project: Projection }
);

/** One value to compute per group. */
export interface AggregateSpec {
  readonly index: number;
  readonly aggregation: AggregationName;
  readonly field: string | undefined;
  readonly as: string;
  readonly onError: ErrorPolicyName;
}

/** A window with its aggregates. */
export interface WindowStage {
  readonly index: number;
  readonly window: WindowSpec;
  readonly graceMs: number;
  readonly timestampField: string | undefined;
  readonly groupBy: string | undefined;
  /** Name of the group in results. */
  readonly groupName: string;
  readonly aggregates: readonly AggregateSpec[];
  readonly onError: ErrorPolicyName;
}

/** What a processor does: steps on events, perhaps windows, then steps on their results. */
export interface Topology {
  readonly before: readonly StepSpec[];
  readonly stage: WindowStage | undefined;
  readonly after: readonly StepSpec[];
}

const MAX_SPAN_MS = 366 * 24 * 3600 * 1000;
/** Grace of windows over a time that events carry: they are rarely in order. */
const DEFAULT_GRACE_MS = 5000;
const NAME = /^[A-Za-z_][A-Za-z0-9_]{0,127}$/;

const FIELDS: Readonly<Record<string, readonly (keyof OperationFields)[]>> = {
  filter: ["predicate"],
  map: ["function", "expression", "project"],
  window: ["windowType", "duration", "advance", "gap", "grace", "timestampField"],
  aggregate: ["aggregation", "groupBy", "field", "as"],
};
const ALL_FIELDS = Object.values(FIELDS).flat();

/**
 * Checks operations and puts them in order.
 *
 * @param functions names of the functions there are.
 * @throws ServiceError INVALID_ARGUMENT that names each operation at fault and why.
 */
export function checkOperations(operations: readonly OperationFields[], functions: ReadonlySet<string>): Topology {
  const faults: ErrorDetail[] = [];
  const before: StepSpec[] = [];
  const after: StepSpec[] = [];
  let stage: WindowStage | undefined;
  let window: { index: number; operation: OperationFields } | undefined;
  const aggregates: { index: number; operation: OperationFields }[] = [];

  for (const [index, operation] of operations.entries()) {
    const type = typeOf(operation);
    const fault = (field: string, description: string) =>
      faults.push({
        field: `operations[${index}]${field && `.${field}`}`,
        description: type ? `${type}: ${description}` : description,
      });
    if (type === undefined) {
      fault("type", "must be one of filter, map, window, aggregate");
      continue;
    }
    for (const field of ALL_FIELDS)
      if (operation[field] !== undefined && !FIELDS[type]!.includes(field)) fault(field, `has no ${field}`);
    const attempt = (work: () => void) => {
      try {
        work();
      } catch (error) {
        if (!(error instanceof ServiceError)) throw error;
        for (const { field = "", description = "" } of error.details) fault(field, description);
      }
    };
    const onError = operation.onError ?? "dlq";
    const steps = window === undefined ? before : after;
    switch (type) {
      case "filter":
        attempt(() => compileFilter(operation.predicate ?? "", "predicate"));
        steps.push({ kind: "filter", index, onError, predicate: operation.predicate ?? "" });
        break;
      case "map":
        attempt(() => checkMap(operation, functions));
        steps.push({ index, onError, ...mapOf(operation) });
        break;
      case "window":
        if (window) fault("type", `there is one already, operations[${window.index}]`);
        window ??= { index, operation };
        attempt(() => checkWindow(operation));
        break;
      case "aggregate":
        if (!window) fault("type", "needs a window before it");
        else if (after.length > 0) fault("type", "must stand right after the window or another aggregate");
        aggregates.push({ index, operation });
        attempt(() => checkAggregate(operation));
        break;
    }
  }
  if (operations.length === 0) faults.push({ field: "operations", description: "must not be empty" });
  if (window && aggregates.length === 0)
    faults.push({ field: `operations[${window.index}].type`, description: "window: needs an aggregate after it" });
  if (window && aggregates.length > 0) stage = stageOf(window, aggregates, faults);
  if (faults.length > 0) throw invalidArguments(faults);
  return { before, stage, after };
}

function typeOf(operation: OperationFields): keyof typeof FIELDS | undefined {
  if (operation.type) return operation.type;
  const fitting = Object.keys(FIELDS).filter((type) => FIELDS[type]!.some((field) => operation[field] !== undefined));
  return fitting.length === 1 ? fitting[0] : undefined;
}

function mapOf({ function: name, project, expression = "" }: OperationFields) {
  if (name !== undefined) return { kind: "function", name } as const;
  return project ? ({ kind: "project", project } as const) : ({ kind: "expression", expression } as const);
}

function checkMap(operation: OperationFields, functions: ReadonlySet<string>): void {
  const given = [operation.function, operation.expression, operation.project].filter((each) => each !== undefined);
  if (given.length !== 1)
    throw invalidArguments([{ field: "function", description: "give one of function, expression and project" }]);
  if (operation.project) checkProjection(operation.project, "project.");
  else if (operation.expression !== undefined) compileExpression(operation.expression, "expression");
  else if (!functions.has(operation.function!))
    throw invalidArguments([
      {
        field: "function",
        description: `there is no function "${operation.function!.slice(0, 128)}", known are ${[...functions].sort().join(", ")}`,
      },
    ]);
}

function checkWindow(operation: OperationFields): void {
  const faults: ErrorDetail[] = [];
  const span = (field: "duration" | "advance" | "gap" | "grace", needed: boolean, min = 1) => {
    const value = operation[field];
    if (value === undefined) {
      if (needed) faults.push({ field, description: `is required for a ${operation.windowType} window` });
    } else if (!needed && field !== "grace")
      faults.push({ field, description: `does not go with a ${operation.windowType} window` });
    else if (value < min || value > MAX_SPAN_MS)
      faults.push({ field, description: `must be from ${min} to ${MAX_SPAN_MS} milliseconds` });
  };
  const { windowType, duration = 0, advance = 1 } = operation;
  if (windowType === undefined)
    faults.push({ field: "windowType", description: "must be one of tumbling, hopping, session" });
  else {
    span("duration", windowType !== "session");
    span("advance", windowType === "hopping");
    span("gap", windowType === "session");
    span("grace", false, 0);
    if (windowType === "hopping" && faults.length === 0) {
      if (advance > duration) faults.push({ field: "advance", description: "must not be above duration" });
      else if (duration / advance > MAX_WINDOWS_PER_EVENT)
        faults.push({ field: "advance", description: `must be at least a ${MAX_WINDOWS_PER_EVENT}th of duration` });
    }
  }
  if (operation.timestampField !== undefined)
    collect(faults, () => compileGetter(operation.timestampField!, "timestampField"));
  if (faults.length > 0) throw invalidArguments(faults);
}

function checkAggregate(operation: OperationFields): void {
  const faults: ErrorDetail[] = [];
  const { aggregation, groupBy, field, as } = operation;
  if (aggregation === undefined) faults.push({ field: "aggregation", description: "is required" });
  else if (field === undefined && aggregation !== "count")
    faults.push({ field: "field", description: `is required for ${aggregation}` });
  if (groupBy !== undefined) collect(faults, () => compileGetter(groupBy, "groupBy"));
  if (field !== undefined) collect(faults, () => compileGetter(field, "field"));
  if (as !== undefined && !NAME.test(as))
    faults.push({ field: "as", description: "must be a name of letters, digits and _, at most 128" });
  if (faults.length > 0) throw invalidArguments(faults);
}

function collect(faults: ErrorDetail[], work: () => unknown): void {
  try {
    work();
  } catch (error) {
    if (!(error instanceof ServiceError)) throw error;
    faults.push(...error.details);
  }
}

function stageOf(
  { index, operation }: { index: number; operation: OperationFields },
  parts: readonly { index: number; operation: OperationFields }[],
  faults: ErrorDetail[],
): WindowStage {
  const groupBy = parts[0]!.operation.groupBy;
  const groupName =
    groupBy === undefined ? "" : (memberPath(groupBy)?.at(-1) ?? (NAME.test(groupBy) ? groupBy : "group"));
  const names = new Set(["windowStart", "windowEnd", groupName]);
  const aggregates = parts.map(({ index: at, operation: part }): AggregateSpec => {
    if (part.groupBy !== undefined && part.groupBy !== groupBy)
      faults.push({
        field: `operations[${at}].groupBy`,
        description: "aggregate: all of a window have the same groupBy",
      });
    const as = part.as ?? part.aggregation ?? "";
    if (part.aggregation !== undefined && names.has(as))
      faults.push({ field: `operations[${at}].as`, description: `aggregate: "${as}" is taken; give another name` });
    names.add(as);
    return {
      index: at,
      aggregation: part.aggregation ?? "count",
      field: part.field,
      as,
      onError: part.onError ?? "dlq",
    };
  });
  return {
    index,
    window: specOf(operation),
    graceMs: operation.grace ?? (operation.timestampField === undefined ? 0 : DEFAULT_GRACE_MS),
    timestampField: operation.timestampField,
    groupBy,
    groupName,
    aggregates,
    onError: operation.onError ?? "dlq",
  };
}

function specOf({ windowType, duration = 0, advance = 0, gap = 0 }: OperationFields): WindowSpec {
  if (windowType === "session") return { type: "session", gapMs: gap };
  if (windowType === "hopping") return { type: "hopping", durationMs: duration, advanceMs: advance };
  return { type: "tumbling", durationMs: duration };
}
