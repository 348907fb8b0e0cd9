import {
  type CelEnv,
  type CelFunc,
  type CelInput,
  type CelList,
  CelScalar,
  type CelUint,
  type CelValue,
  celEnv,
  celFunc,
  celList,
  celMethod,
  celUint,
  isCelList,
  isCelMap,
  listType,
  mapType,
} from "@bufbuild/cel";
import { strings } from "@bufbuild/cel/ext";
import type { Pattern } from "./expression-pattern.ts";

/**
 * Most steps of one evaluation. A step is roughly one node of the expression evaluated once or 16 characters read, some
 * tens of nanoseconds, so that one event holds the event loop for less than a second at the very worst.
 */
export const MAX_EVALUATION_STEPS = 4_000_000;

/** Patterns of the expression, by their text. */
export type Patterns = ReadonlyMap<string, Pattern>;

// An evaluation is synchronous and never starts another one, so one count serves every expression.
let stepsLeft = 0;
let patterns: Patterns = new Map();

/** What an evaluation within a bound came to. */
export type Outcome<T> = { readonly result: T } | { readonly error: unknown; readonly exceeded: boolean };

/** Runs one evaluation, which must be synchronous, with all its steps still to spend. */
export function withinSteps<T>(ofExpression: Patterns, evaluate: () => T): Outcome<T> {
  stepsLeft = MAX_EVALUATION_STEPS;
  patterns = ofExpression;
  // An event without the field asked for makes an error, and its trace would take longer than all the rest.
  const { stackTraceLimit } = Error;
  Error.stackTraceLimit = 0;
  try {
    const result = evaluate();
    // The error may have been lost on the way, in `error || true`.
    return stepsLeft < 0 ? { error: undefined, exceeded: true } : { result };
  } catch (error) {
    return { error, exceeded: stepsLeft < 0 };
  } finally {
    Error.stackTraceLimit = stackTraceLimit;
  }
}

function spend(steps: number): void {
  stepsLeft -= steps;
  if (stepsLeft < 0) throw new Error("too much work");
}

const CHARS_PER_STEP = 16;

/** Characters or bytes of a scalar in steps; nothing for the rest. */
function readingSteps(value: CelValue | undefined): number {
  return typeof value === "string" || value instanceof Uint8Array ? value.length / CHARS_PER_STEP : 0;
}

/**
 * Visits all of a value, which spends as many steps as it returns. A list that holds another one twice counts it twice:
 * forty levels of that are a small object and 2^40 visits to whoever compares or prints it.
 */
export function visitingSteps(value: CelValue | undefined): number {
  let steps = 0;
  const rest = [value];
  while (rest.length > 0) {
    const next = rest.pop();
    const own = 1 + readingSteps(next);
    spend(own);
    steps += own;
    if (isCelList(next)) for (const item of next) rest.push(item);
    else if (isCelMap(next)) for (const [key, item] of next) rest.push(key as CelValue, item);
  }
  return steps;
}

const sizeOf = (value: CelValue | undefined): number => (isCelList(value) || isCelMap(value) ? value.size : 0);
const lengthOf = (value: CelValue | undefined): number => (typeof value === "string" ? value.length : 0);

type Cost = (...operands: (CelValue | undefined)[]) => number;

/** Containers are equal only when they are of one size, and then no more is visited than the right one holds. */
const comparing: Cost = (left, right) => (sizeOf(left) === sizeOf(right) ? visitingSteps(right) : 0);
// The engine's search takes text times needle at its worst.
const searching: Cost = (text, needle) => (lengthOf(text) * lengthOf(needle)) / 64;
// A formatter is made for each call with a time zone.
const partOfTime: Cost = (_time, zone) => (zone === undefined ? 20 : 4000);
const converting: Cost = () => 20;
const parsing: Cost = () => 100;

/** What a function costs beside reading its operands once. The target of a method is the first operand. */
const COSTS: Readonly<Record<string, Cost>> = {
  "_==_": comparing,
  "_!=_": comparing,
  "_+_": (left, right) => sizeOf(left) + sizeOf(right),
  "@in": (item, within) => sizeOf(within) * (isCelMap(within) ? 1 : 1 + visitingSteps(item)),
  // Keys that are no strings are looked for one by one.
  "@at": (within, key) => (isCelMap(within) && typeof key !== "string" ? within.size : 0),
  "@range": sizeOf,
  ...{ string: converting, int: converting, uint: converting, double: converting, type: converting },
  ...{ timestamp: parsing, duration: parsing },
  contains: searching,
  indexOf: searching,
  lastIndexOf: searching,
  replace: searching,
  split: (text, separator) => lengthOf(text) + searching(text, separator),
  "strings.quote": (text) => lengthOf(text) * 4,
  join: (list, separator) => 20 + visitingSteps(list) + sizeOf(list) * readingSteps(separator),
  // Maps are printed in the order of their keys, numbers by a formatter made for each.
  format: (text, list) => lengthOf(text) + visitingSteps(list) * 16 + sizeOf(list) * 2000,
  ...Object.fromEntries(
    [
      "FullYear",
      "Month",
      "Date",
      "DayOfMonth",
      "DayOfWeek",
      "DayOfYear",
      "Hours",
      "Minutes",
      "Seconds",
      "Milliseconds",
    ].map((part) => [`get${part}`, partOfTime]),
  ),
};

const { BOOL, DOUBLE, DYN, INT, STRING, UINT } = CelScalar;
const LIST = listType(DYN);
const MAP = mapType(DYN, DYN);

/** JSON has one kind of number, which is a double here, and literals are mostly ints: arithmetic mixes them. */
const MIXED_ARITHMETIC: readonly CelFunc[] = Object.entries<(left: number, right: number) => number>({
  "_+_": (left, right) => left + right,
  "_-_": (left, right) => left - right,
  "_*_": (left, right) => left * right,
  "_/_": (left, right) => left / right,
}).flatMap(([name, operation]) => [
  celFunc(name, [INT, DOUBLE], DOUBLE, (left, right) => operation(Number(left), right)),
  celFunc(name, [DOUBLE, INT], DOUBLE, (left, right) => operation(left, Number(right))),
]);
/** CEL has no remainder of doubles at all. */
const REMAINDERS: readonly CelFunc[] = [
  celFunc("_%_", [INT, DOUBLE], DOUBLE, (left, right) => remainder(Number(left), right)),
  celFunc("_%_", [DOUBLE, INT], DOUBLE, (left, right) => remainder(left, Number(right))),
  celFunc("_%_", [DOUBLE, DOUBLE], DOUBLE, remainder),
];

/** Of whole numbers, as it is of ints: with the sign of the left one. */
function remainder(left: number, right: number): number {
  if (!Number.isInteger(left) || !Number.isInteger(right)) throw new Error("% takes whole numbers");
  if (right === 0) throw new Error("modulus by zero");
  return left % right;
}

function codePoints(text: string): bigint {
  let count = text.length;
  for (let i = 1; i < text.length; i++)
    if ((text.charCodeAt(i) & 0xfc00) === 0xdc00 && (text.charCodeAt(i - 1) & 0xfc00) === 0xd800) count--;
  return BigInt(count);
}

/** @param times most replacements; negative for all. */
function replaceText(text: string, old: string, by: string, times: bigint): string {
  if (old === "") throw new Error("replace() needs a text to replace");
  let result = "";
  let from = 0;
  for (let left = times; left !== 0n; left--) {
    const at = text.indexOf(old, from);
    if (at < 0) break;
    spend(1 + (at - from + by.length) / CHARS_PER_STEP);
    result += text.slice(from, at) + by;
    from = at + old.length;
  }
  return result + text.slice(from);
}

/** The digits of a number within 64 bits; no blanks, no other base, and no work on long texts. */
function wholeNumber(text: string): bigint {
  if (!/^[+-]?\d{1,20}$/.test(text)) throw new Error("not a whole number");
  return BigInt(text.replace("+", ""));
}

function textToInt(text: string): bigint {
  const number = wholeNumber(text);
  if (BigInt.asIntN(64, number) !== number) throw new Error("int overflow during type conversion");
  return number;
}

function textToUint(text: string): CelUint {
  const number = wholeNumber(text);
  if (BigInt.asUintN(64, number) !== number) throw new Error("uint overflow during type conversion");
  return celUint(number);
}

const isIn = (key: string | number | bigint | boolean, map: { get(key: never): unknown }): boolean =>
  map.get(key as never) !== undefined;

/** Lists that `map` and `filter` build, with the array behind each. */
const growing = new WeakMap<CelList, CelInput[]>();

function emptyList(): CelList {
  const items: CelInput[] = [];
  const list = celList(items);
  growing.set(list, items);
  return list;
}

function at(within: CelValue, key: CelValue): CelInput {
  const number = typeof key === "bigint" || typeof key === "number" ? Number(key) : undefined;
  let found: CelInput | undefined;
  if (isCelList(within)) {
    if (number === undefined || !Number.isInteger(number)) throw new Error("the index of a list must be an int");
    found = within.get(number);
  } else if (isCelMap(within)) found = within.get(key as string);
  else throw new Error("only lists and maps have elements");
  if (found === undefined) throw new Error(`no such element: ${String(key).slice(0, 64)}`);
  return found;
}

/** Stand-ins for functions of the library whose time or memory is not linear, and the functions of rewritten nodes. */
const OWN: readonly CelFunc[] = [
  celMethod("matches", STRING, [STRING], BOOL, function (this: string, text) {
    const pattern = patterns.get(text);
    if (pattern === undefined) throw new Error("matches() takes a literal");
    spend(this.length * pattern.instructions);
    return pattern.test(this);
  }),
  celFunc("size", [STRING], INT, codePoints),
  celMethod("size", STRING, [], INT, function (this: string) {
    return codePoints(this);
  }),
  celMethod("lowerAscii", STRING, [], STRING, function (this: string) {
    return this.replace(/[A-Z]+/g, (run) => run.toLowerCase());
  }),
  celMethod("upperAscii", STRING, [], STRING, function (this: string) {
    return this.replace(/[a-z]+/g, (run) => run.toUpperCase());
  }),
  celMethod("replace", STRING, [STRING, STRING], STRING, function (this: string, old, by) {
    return replaceText(this, old, by, -1n);
  }),
  celMethod("replace", STRING, [STRING, STRING, INT], STRING, function (this: string, old, by, times) {
    return replaceText(this, old, by, times);
  }),
  celFunc("int", [STRING], INT, textToInt),
  celFunc("uint", [STRING], UINT, textToUint),
  celFunc("_+_", [LIST, LIST], LIST, (left, right) => celList([...left, ...right])),
  // The library takes a null in a map for a missing key.
  ...[STRING, DOUBLE, INT, BOOL].map((type) => celFunc("@in", [type, MAP], BOOL, isIn)),
  celFunc("@has", [DYN, STRING], BOOL, (within, name) => isCelMap(within) && within.get(name) !== undefined),
  celFunc("@at", [DYN, DYN], DYN, at),
  celFunc("@range", [DYN], DYN, (range) => range),
  celFunc("@loop", [BOOL, INT], BOOL, (goOn, steps) => {
    spend(Number(steps));
    return goOn;
  }),
  // The library would chain one list per element, which takes quadratic time to read and overflows the stack.
  celFunc("@list", [], LIST, emptyList),
  celFunc("@append", [LIST, DYN], LIST, (list, item) => {
    growing.get(list)?.push(item);
    return list;
  }),
];

const library = celEnv({ funcs: [...strings, ...MIXED_ARITHMETIC, ...REMAINDERS, ...OWN] });

/** Every function that an expression can name, operators included, with its overloads. */
export const FUNCTIONS: ReadonlyMap<string, readonly CelFunc[]> = Map.groupBy(library.funcs, (func) => func.name);

type FuncGroup = NonNullable<ReturnType<CelEnv["funcs"]["find"]>>;

/** The same overloads, paid for before they run. */
function metered(group: FuncGroup): FuncGroup {
  const cost = COSTS[group.name];
  const call: FuncGroup["call"] = (id, target, args) => {
    let steps = readingSteps(target);
    for (const arg of args) steps += readingSteps(arg);
    if (steps > 0) spend(steps);
    if (cost !== undefined) spend(target === undefined ? cost(...args) : cost(target, ...args));
    return group.call(id, target, args);
  };
  return Object.create(group, { call: { value: call } });
}

const groups = new Map<string, FuncGroup>();
for (const name of FUNCTIONS.keys()) groups.set(name, metered(library.funcs.find(name)!));

/**
 * The environment that expressions are planned in. Functions are looked up through it, so there is no way to one that
 * does not count its steps.
 */
export const ENVIRONMENT: CelEnv = Object.create(library, {
  funcs: { value: Object.create(library.funcs, { find: { value: (name: string) => groups.get(name) } }) },
});
