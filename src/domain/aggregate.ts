import {
  addDistinct,
  countDistinct,
  type Distinct,
  distinctFromJson,
  distinctToJson,
  mergeDistinct,
  newDistinct,
} from "./distinct.ts";
import { addExact, type ExactSum, exactValue } from "./exact-sum.ts";
import { OperationError } from "./getter.ts";
import { canonicalJson, mapValueToJson } from "./map-json.ts";

export type AggregationName = "count" | "sum" | "avg" | "min" | "max" | "first" | "last" | "distinct_count";

/** Where an event stands among all: event time, then partition, offset and place among what one event became. */
export type Place = readonly [timeMs: number, partition: number, offset: number, part: number];

/**
 * One way to aggregate. Merging is associative and commutative, so that neither the order of events nor the partition
 * they came by changes a result.
 */
export interface Aggregator<Acc = unknown> {
  create(): Acc;
  /** Throws OperationError, before it changes anything, for a value that it can't take; null is passed over. */
  check(value: unknown): void;
  add(acc: Acc, value: unknown, place: Place): Acc;
  merge(a: Acc, b: Acc): Acc;
  /** The result, a JSON value with Maps for objects. */
  result(acc: Acc): unknown;
  toJson(acc: Acc): unknown;
  fromJson(json: unknown): Acc;
}

/** Larger values are not kept by `first`, `last`, `min` and `max`. */
const MAX_KEPT_CHARS = 8192;

const same = (json: unknown): never => json as never;

const count: Aggregator<number> = {
  create: () => 0,
  check: () => {},
  add: (acc, value) => (value === null ? acc : acc + 1),
  merge: (a, b) => a + b,
  result: (acc) => acc,
  toJson: same,
  fromJson: same,
};

const sum: Aggregator<ExactSum> = {
  create: () => [],
  check: checkNumber,
  add(acc, value) {
    if (value !== null) addExact(acc, Number(value));
    return acc;
  },
  merge: mergeSums,
  result: (acc) => finite(exactValue(acc)),
  toJson: same,
  fromJson: same,
};

interface Mean {
  n: number;
  sum: ExactSum;
}

const avg: Aggregator<Mean> = {
  create: () => ({ n: 0, sum: [] }),
  check: checkNumber,
  add(acc, value) {
    if (value !== null) {
      acc.n++;
      addExact(acc.sum, Number(value));
    }
    return acc;
  },
  merge: (a, b) => ({ n: a.n + b.n, sum: mergeSums(a.sum, b.sum) }),
  result: ({ n, sum: total }) => (n === 0 ? null : finite(exactValue(total) / n)),
  toJson: ({ n, sum: total }) => [n, ...total],
  fromJson: (json) => {
    const [n, ...total] = json as number[];
    return { n: n!, sum: total };
  },
};

type Extreme = number | string | null;

/** Numbers come before texts. */
const less = (a: number | string, b: number | string): boolean =>
  typeof a === typeof b ? a < b : typeof a === "number";

const extreme = (better: (a: number | string, b: number | string) => boolean): Aggregator<Extreme> => ({
  create: () => null,
  check(value) {
    if (typeof value === "string" && value.length > MAX_KEPT_CHARS) throw tooLong();
    if (typeof value !== "string") checkNumber(value, "a number or a text");
  },
  add(acc, value) {
    if (value === null) return acc;
    const next = typeof value === "bigint" ? Number(value) : (value as number | string);
    return acc === null || better(next, acc) ? next : acc;
  },
  merge: (a, b) => (a === null ? b : b === null || !better(b, a) ? a : b),
  result: (acc) => acc,
  toJson: same,
  fromJson: same,
});

/** Where a value stood, and its JSON text; undefined before the first. */
type Kept = [...place: Place, text: string] | null;

const kept = (isBefore: (a: Kept & object, b: Kept & object) => boolean): Aggregator<Kept> => ({
  create: () => null,
  check(value) {
    if (textOf(value).length > MAX_KEPT_CHARS) throw tooLong();
  },
  add(acc, value, place) {
    if (value === null) return acc;
    const next: Kept & object = [...place, textOf(value)];
    return acc === null || isBefore(next, acc) ? next : acc;
  },
  merge: (a, b) => (a === null ? b : b === null || !isBefore(b, a) ? a : b),
  result: (acc) => (acc === null ? null : new RawJson(acc[4])),
  toJson: same,
  fromJson: same,
});

function comparePlaces(a: Kept & object, b: Kept & object): number {
  for (let i = 0; i < 4; i++) {
    const difference = (a[i] as number) - (b[i] as number);
    if (difference !== 0) return difference;
  }
  return 0;
}

const distinct: Aggregator<Distinct> = {
  create: newDistinct,
  check: (value) => void canonical(value),
  add: (acc, value) => (value === null ? acc : addDistinct(acc, canonical(value))),
  merge: mergeDistinct,
  result: countDistinct,
  toJson: distinctToJson,
  fromJson: (json) => distinctFromJson(json as number[] | string),
};

/** A result that is kept as its JSON text. */
export class RawJson {
  readonly text: string;

  constructor(text: string) {
    this.text = text;
  }
}

/** All aggregations by name. */
export const AGGREGATORS: Readonly<Record<AggregationName, Aggregator>> = {
  count: count as Aggregator,
  sum: sum as Aggregator,
  avg: avg as Aggregator,
  min: extreme(less) as Aggregator,
  max: extreme((a, b) => less(b, a)) as Aggregator,
  first: kept((a, b) => comparePlaces(a, b) < 0) as Aggregator,
  last: kept((a, b) => comparePlaces(a, b) > 0) as Aggregator,
  distinct_count: distinct as Aggregator,
};

function checkNumber(value: unknown, what: unknown = "a number"): void {
  if (value === null || typeof value === "bigint") return;
  if (typeof value !== "number" || !Number.isFinite(value))
    throw new OperationError(`is ${typeof value === "number" ? value : kindOf(value)}, not ${what}`);
}

function kindOf(value: unknown): string {
  if (Array.isArray(value)) return "a list";
  if (value instanceof Map) return "an object";
  return typeof value === "string" ? "a text" : `a ${typeof value}`;
}

function mergeSums(a: ExactSum, b: ExactSum): ExactSum {
  for (const part of b) addExact(a, part);
  return a;
}

/** A sum beyond the doubles has no JSON form. */
const finite = (value: number): number | null => (Number.isFinite(value) ? value : null);

const tooLong = () => new OperationError(`is longer than ${MAX_KEPT_CHARS} characters`);

function textOf(value: unknown): string {
  try {
    return mapValueToJson(value);
  } catch (error) {
    throw new OperationError((error as Error).message);
  }
}

function canonical(value: unknown): string {
  try {
    return canonicalJson(value);
  } catch (error) {
    throw new OperationError((error as Error).message);
  }
}
