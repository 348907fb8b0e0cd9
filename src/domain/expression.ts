import {
  type CelResult,
  type CelValue,
  isCelError,
  isCelList,
  isCelMap,
  isCelType,
  isCelUint,
  parse,
  plan,
} from "@bufbuild/cel";
import { type Message, toJson } from "@bufbuild/protobuf";
import { isReflectMessage } from "@bufbuild/protobuf/reflect";
import { type Timestamp, timestampFromMs } from "@bufbuild/protobuf/wkt";
import { invalidArgument } from "./errors.ts";
import { JSON_TYPE, type StoredEvent } from "./event.ts";
import { type Checked, checkExpression, ExpressionFault, shorten } from "./expression-check.ts";
import { ENVIRONMENT, MAX_EVALUATION_STEPS, visitingSteps, withinSteps } from "./expression-functions.ts";
import { MAX_EXPRESSION_BYTES } from "./limits.ts";

/** What an expression gives for one event. `error` is short and quotes nothing long. */
export type Evaluation =
  | { readonly ok: true; readonly value: unknown }
  | { readonly ok: false; readonly error: string };

/**
 * A compiled expression of CEL, the Common Expression Language, over one event. Its variables:
 *
 * - `key`: string, or null when the event has none.
 * - `value`: the payload when it is JSON, where every number is a double; null for any other payload.
 * - `headers`: map of strings; of headers with one name it has the last.
 * - `partition`, `offset`: ints.
 * - `timestamp`: a CEL timestamp.
 *
 * A field that is missing is an error, which `has(value.field)` avoids; one that is null is there. `+ - * /` take ints and
 * doubles mixed, `%` takes ints only (`int(value.count) % 2`). Besides CEL's own functions there are those of its strings
 * extension. Regular expressions are RE2's.
 */
export interface Expression {
  readonly text: string;
  /** Name of the type of every result, undefined when it depends on the event. */
  readonly resultType: string | undefined;
  /**
   * Evaluates it for one event; never throws, and ends within {@link MAX_EVALUATION_STEPS}.
   *
   * @returns null, a boolean, a number (double), a bigint (int, uint), a string, a Uint8Array, an array, a Map, or the
   *   JSON text of a timestamp or duration.
   */
  evaluate(event: StoredEvent): Evaluation;
  /** As {@link evaluate}, over variables that several expressions share. */
  evaluateOn(variables: Variables): Evaluation;
}

/** What an expression is evaluated over. Objects within `value` are Maps. */
export interface Variables {
  readonly key: string | null;
  readonly value: unknown;
  readonly headers: Map<string, string>;
  readonly partition: bigint;
  readonly offset: bigint;
  readonly timestamp: Timestamp;
}

/** The variables of one event. Each is made when an expression first asks for it, and only once. */
class EventVariables implements Variables {
  readonly #event: StoredEvent;
  #value: unknown;
  #headers: Map<string, string> | undefined;
  #timestamp: Timestamp | undefined;

  constructor(event: StoredEvent) {
    this.#event = event;
  }

  get key(): string | null {
    return this.#event.key ?? null;
  }

  get value(): unknown {
    if (this.#value === undefined) {
      const { contentType, payload } = this.#event;
      this.#value = contentType === JSON_TYPE ? toMaps(JSON.parse(decoder.decode(payload))) : null;
    }
    return this.#value;
  }

  get headers(): Map<string, string> {
    this.#headers ??= new Map(this.#event.headers);
    return this.#headers;
  }

  get partition(): bigint {
    return BigInt(this.#event.partition);
  }

  get offset(): bigint {
    return BigInt(this.#event.offset);
  }

  get timestamp(): Timestamp {
    this.#timestamp ??= timestampFromMs(this.#event.timestampMs);
    return this.#timestamp;
  }
}

const decoder = new TextDecoder("utf-8", { ignoreBOM: true });

/** Objects become Maps: a key such as `constructor` or `__proto__` is an entry like any other there. */
export function toMaps(json: unknown): unknown {
  if (typeof json !== "object" || json === null) return json;
  if (Array.isArray(json)) {
    for (let i = 0; i < json.length; i++) json[i] = toMaps(json[i]);
    return json;
  }
  const map = new Map<string, unknown>();
  for (const [key, value] of Object.entries(json)) map.set(key, toMaps(value));
  return map;
}

/** A result in plain JavaScript. */
function toPlain(value: CelValue): unknown {
  if (typeof value !== "object" || value === null || value instanceof Uint8Array) return value;
  if (isCelList(value)) return Array.from(value, toPlain);
  if (isCelMap(value)) return new Map(Array.from(value, ([key, item]) => [toPlain(key as CelValue), toPlain(item)]));
  if (isCelUint(value)) return value.value;
  if (isCelType(value)) return value.name;
  if (isReflectMessage(value)) return toJson(value.desc, value.message as Message);
  throw new Error("the result is of no known type");
}

/**
 * Compiles the text of an expression.
 *
 * @param field name of the field that it came in, for the error.
 * @throws ServiceError INVALID_ARGUMENT, with what is wrong and where, when the text is longer than
 *   {@link MAX_EXPRESSION_BYTES}, no CEL, of more than 500 parts, has a loop in a loop, names a variable or function that
 *   there is not, or has a pattern that is no literal, no RE2, or too large.
 */
export function compileExpression(text: string, field = "filter"): Expression {
  const { checked, run } = compile(text, field);
  return {
    text,
    resultType: checked.resultType,
    evaluate(event) {
      return this.evaluateOn(new EventVariables(event));
    },
    evaluateOn(variables) {
      const outcome = withinSteps(checked.patterns, () => {
        const result = run(variables);
        if (isCelError(result)) throw result;
        if (typeof result !== "object") return result;
        visitingSteps(result); // a copy is as large as what is visited
        return toPlain(result);
      });
      if ("result" in outcome) return { ok: true, value: outcome.result };
      if (outcome.exceeded) return { ok: false, error: `needs more than ${MAX_EVALUATION_STEPS} steps` };
      const { error } = outcome;
      return { ok: false, error: shorten(error instanceof Error ? error.message : String(error)) };
    },
  };
}

/**
 * Compiles a condition on events. An event matches only when the result is `true` itself; an error counts as not matching.
 *
 * @throws ServiceError INVALID_ARGUMENT as {@link compileExpression} does, and when the result can never be a bool.
 */
export function compileFilter(text: string, field = "filter"): (event: StoredEvent) => boolean {
  const expression = compileExpression(text, field);
  if (expression.resultType !== undefined && expression.resultType !== "bool")
    throw invalidArgument(field, `must be a condition, but its result is ${expression.resultType}`);
  return (event) => {
    const result = expression.evaluate(event);
    return result.ok && result.value === true;
  };
}

function compile(text: string, field: string): { checked: Checked; run: (variables: Variables) => CelResult } {
  if (text.trim() === "") throw invalidArgument(field, "must not be empty");
  if (text.length > MAX_EXPRESSION_BYTES || Buffer.byteLength(text) > MAX_EXPRESSION_BYTES)
    throw invalidArgument(field, `must be at most ${MAX_EXPRESSION_BYTES} bytes`);
  if (!text.isWellFormed()) throw invalidArgument(field, "must be valid Unicode");
  try {
    const parsed = parse(text);
    const checked = checkExpression(parsed);
    const run = plan(ENVIRONMENT, parsed);
    return { checked, run: (variables) => run(variables as never) };
  } catch (error) {
    throw invalidArgument(field, describe(error, text));
  }
}

/** Bracket on bracket overflows the parser's stack, in its own code or in that of the engine's regular expressions. */
const isOverflow = (error: Error) => error instanceof RangeError || /stack overflow/i.test(error.message);

function describe(error: unknown, text: string): string {
  if (error instanceof ExpressionFault)
    return error.offset === undefined ? error.message : `${error.message} (at ${place(text, error.offset)})`;
  if (!(error instanceof Error)) throw error;
  if (isOverflow(error)) return "is nested too deeply";
  const offset = offsetOf(error);
  if (offset === undefined) return `syntax error: ${shorten(error.message)}`;
  const found = text.codePointAt(offset);
  if (found === undefined) return "syntax error: it ends too early";
  return `syntax error near ${JSON.stringify(String.fromCodePoint(found))} (at ${place(text, offset)})`;
}

function offsetOf(error: Error): number | undefined {
  const { location } = error as { location?: { start?: { offset?: number } } };
  return location?.start?.offset;
}

/** Line and column of an offset, both from 1. */
function place(text: string, offset: number): string {
  const lines = text.slice(0, offset).split(/\r\n|\r|\n/);
  return `${lines.length}:${lines.at(-1)!.length + 1}`;
}
