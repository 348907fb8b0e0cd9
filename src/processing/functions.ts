import { invalidArgument, ServiceError } from "../domain/errors.ts";
import { compileExpression, type Expression, toMaps } from "../domain/expression.ts";
import { compileGetter, type Getter, OperationError } from "../domain/getter.ts";
import { digest } from "../domain/hash.ts";
import { canonicalJson } from "../domain/map-json.ts";
import { checkProjection, type Projection } from "../domain/projection.ts";
import type { Flight, StepResult } from "./flight.ts";
import type { ModuleFunction } from "./module-functions.ts";

/** What a named function is made of, as it is stored. */
export type FunctionBody =
  | {
      readonly kind: "cel";
      readonly expression?: string | undefined;
      readonly project?: Projection | undefined;
    }
  | {
      readonly kind: "lookup";
      readonly table: string;
      readonly key: string;
      readonly into: string;
      readonly onMissing: "pass" | "null" | "drop" | "error";
    }
  | { readonly kind: "module"; readonly file: string };

/** One version of a named function; processors keep the version they were made with. */
export interface FunctionRecord {
  readonly name: string;
  /** Hash of its content. */
  readonly version: string;
  readonly body: FunctionBody;
  /** Of an installed one: when, in milliseconds since 1970. */
  readonly installedAtMs?: number | undefined;
}

/** Functions that are there without being installed. */
export const SHIPPED: readonly FunctionRecord[] = [
  functionRecord("enrichWithUserData", {
    kind: "lookup",
    table: "users",
    key: "value.userId",
    into: "user",
    onMissing: "pass",
  }),
];

/** @param content what the version depends on beside the body: a module's text. */
export function functionRecord(name: string, body: FunctionBody, content = ""): FunctionRecord {
  const text = canonicalJson(toMaps(JSON.parse(JSON.stringify(body))));
  return { name, version: digest(text + content, 16), body };
}

/** Rows of one table, kept current. */
export interface TableView {
  /** The row, a value with Maps for objects; undefined when there is none. */
  get(key: string): unknown;
}

/** What functions need of where they run. */
export interface FunctionContext {
  table(name: string): TableView;
  module(record: FunctionRecord): ModuleFunction;
}

/** A compiled step. @throws OperationError, and whatever a module throws. */
export type StepFunction = (flight: Flight) => StepResult | Promise<StepResult>;

/** Compiles a named function. @throws ServiceError INVALID_ARGUMENT for a body that can't work. */
export function compileFunction(record: FunctionRecord, context: FunctionContext): StepFunction {
  const { body } = record;
  switch (body.kind) {
    case "cel":
      return body.expression === undefined ? compileProject(body.project ?? {}) : compileReplace(body.expression);
    case "lookup":
      return compileLookup(body, context.table(body.table));
    case "module": {
      const module = context.module(record);
      return (flight) => module.run(flight);
    }
  }
}

/** What is wrong with the body of a function to be installed, by the field at fault. @throws ServiceError INVALID_ARGUMENT. */
export function checkFunctionBody(body: FunctionBody): void {
  if (body.kind === "cel") {
    if ((body.expression === undefined) === (body.project === undefined))
      throw invalidArgument("cel", "give one of expression, merge and replace");
    if (body.project) checkProjection(body.project, "cel.");
    else compileExpression(body.expression!, "cel.expression");
  } else if (body.kind === "lookup") compileGetter(body.key, "lookup.key");
}

/** Gives the value of an expression to the event. */
export function compileReplace(text: string): StepFunction {
  const expression = compileExpression(text, "expression");
  return (flight) => {
    flight.value = resultOf(expression, flight);
    return true;
  };
}

/** Gives the event the members of a projection. */
export function compileProject({ merge, replace }: Projection): StepFunction {
  const members = Object.entries(merge ?? replace ?? {});
  const compiled = members.map(([name, text]) => [name, compileExpression(text, name)] as const);
  return (flight) => {
    if (merge && !(flight.value instanceof Map)) throw new OperationError("the value is no object");
    // All before any, so that each sees the value as it was.
    const results = compiled.map(([name, expression]) => [name, resultOf(expression, flight)] as const);
    if (merge) for (const [name, result] of results) flight.join(name, result);
    else flight.value = new Map(results);
    return true;
  };
}

function resultOf(expression: Expression, flight: Flight): unknown {
  const result = expression.evaluateOn(flight);
  if (!result.ok) throw new OperationError(result.error);
  return result.value;
}

function compileLookup(body: FunctionBody & { kind: "lookup" }, table: TableView): StepFunction {
  const key = compileGetter(body.key, "key");
  const { into, onMissing } = body;
  return (flight) => {
    const row = table.get(keyOf(key, flight));
    if (row !== undefined) {
      flight.join(into, row);
      return true;
    }
    if (onMissing === "null") flight.join(into, null);
    if (onMissing === "error") throw new OperationError(`table "${body.table}" has no such row`);
    return onMissing !== "drop";
  };
}

/** An event that has no key has no row. */
function keyOf(getter: Getter, flight: Flight): string {
  try {
    const key = getter(flight);
    return typeof key === "string" || typeof key === "number" || typeof key === "bigint" ? String(key) : "";
  } catch (error) {
    if (error instanceof OperationError || error instanceof ServiceError) return "";
    throw error;
  }
}
