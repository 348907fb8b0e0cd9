import type { OperationRequest } from "../support/processor-clients.ts";
import type { Metrics, SinkEvent } from "./calls.ts";
import { type OracleWindow, type Span, spansOf, windowsOf } from "./oracle.ts";

/** An event as it lies in the source. */
export type SourceEvent = SinkEvent & { readonly timestamp: string };

/** A filter or map, and what it makes of a value: another one, or undefined to leave it out. It throws where it fails. */
export interface Step {
  readonly operation: OperationRequest;
  readonly run: (value: unknown, event: SourceEvent) => unknown;
}

/** Something that is taken out of a value. It throws where it is missing or can't be used. */
export type Taken<T = unknown> = (value: unknown, event: SourceEvent) => T;

export interface Aggregate {
  readonly operation: OperationRequest & { readonly aggregation: AggregationName };
  readonly as: string;
  readonly take: Taken;
}

/** Windows with their aggregates. */
export interface Stage {
  readonly operation: OperationRequest;
  readonly window: OracleWindow;
  readonly grace: number;
  /** Undefined: windows go by the time of storage. */
  readonly time: Taken<number> | undefined;
  readonly group: { readonly name: string; readonly take: Taken } | undefined;
  readonly aggregates: readonly Aggregate[];
}

/** A processor as a plain computation: each operation beside a function that says what it does. */
export interface Topology {
  readonly before: readonly Step[];
  readonly stage: Stage | undefined;
  readonly after: readonly Step[];
}

/** What a processor comes to, as texts to be compared. */
export interface Expected {
  readonly rows: string[];
  readonly side: string[];
  readonly counters: Metrics["counters"];
}

type AggregationName = NonNullable<OperationRequest["aggregation"]>;

export const operationsOf = ({ before, stage, after }: Topology): OperationRequest[] => [
  ...before.map(({ operation }) => operation),
  ...(stage ? [stage.operation, ...stage.aggregates.map(({ operation }) => operation)] : []),
  ...after.map(({ operation }) => operation),
];

/** A result as text: with windows `origin` is undefined, else it is where the event lay in the source. */
export const resultText = (
  key: string | undefined,
  value: unknown,
  origin?: { partition: number; offset: number },
): string => JSON.stringify([...(origin ? [origin.partition, origin.offset] : []), key ?? null, value]);

/** A side event as text: `what` is its id and place in the source, or the result that failed. */
export const sideText = (kind: string, operation: number, what: unknown): string =>
  `${kind} at operations[${operation}]: ${JSON.stringify(what)}`;

/** Where an event lies in the source. */
export const placeOf = ({ eventId, partition, offset }: Place): unknown[] => [eventId, partition, offset];

interface Place {
  readonly eventId: string;
  readonly partition: number;
  readonly offset: number | undefined;
}

/** What an operation failed on. */
class Failed extends Error {
  readonly operation: OperationRequest;

  constructor(operation: OperationRequest) {
    super();
    this.operation = operation;
  }
}

function attempt<T>(operation: OperationRequest, work: () => T): T {
  try {
    return work();
  } catch {
    throw new Failed(operation);
  }
}

/** @returns undefined for what is left out. @throws Failed. */
function runSteps(steps: readonly Step[], value: unknown, event: SourceEvent): unknown {
  let present = value;
  for (const { operation, run } of steps) {
    present = attempt(operation, () => run(present, event));
    if (present === undefined) return undefined;
  }
  return present;
}

/** @param partitions all events of the source, in the order of their offsets. */
export function expectedOf(topology: Topology, partitions: readonly (readonly SourceEvent[])[]): Expected {
  const { before, stage, after } = topology;
  const operations = operationsOf(topology);
  const rows: string[] = [];
  const side: string[] = [];
  const counters = { filtered: 0, errors: 0, deadLetters: 0, late: 0, emitted: 0 };
  const failed = (error: unknown, what: unknown) => {
    if (!(error instanceof Failed)) throw error;
    counters.errors++;
    if (error.operation.onError === "skip") return;
    counters.deadLetters++;
    side.push(sideText("dlq", operations.indexOf(error.operation), what));
  };
  const windowed: Placed[] = [];
  let lowest = Number.POSITIVE_INFINITY;
  for (const events of partitions) {
    let watermark = Number.NEGATIVE_INFINITY;
    for (const event of events) {
      try {
        const value = runSteps(before, event.value, event);
        if (value === undefined) counters.filtered++;
        else if (!stage) rows.push(resultText(event.key, value, event));
        else {
          const placed = place(stage, value, event, watermark);
          if (placed.spans.length > 0) windowed.push(placed);
          else {
            counters.late++;
            side.push(sideText("late", operations.indexOf(stage.operation), placeOf(event)));
          }
          watermark = Math.max(watermark, placed.timeMs);
        }
      } catch (error) {
        failed(error, placeOf(event));
      }
    }
    if (stage?.time) lowest = Math.min(lowest, watermark);
  }
  if (stage)
    for (const { key, row } of rowsOf(stage, windowed, lowest))
      try {
        const value = runSteps(after, row, undefined as never);
        if (value === undefined) counters.filtered++;
        else rows.push(resultText(key, value));
      } catch (error) {
        failed(error, row);
      }
  counters.emitted = rows.length;
  return { rows, side, counters };
}

/** An event in those of its windows that were open. */
interface Placed {
  readonly event: SourceEvent;
  readonly timeMs: number;
  readonly group: string;
  readonly values: readonly unknown[];
  readonly spans: readonly Span[];
}

function place(stage: Stage, value: unknown, event: SourceEvent, watermark: number): Placed {
  const { operation, window, grace, time, group, aggregates } = stage;
  const timeMs = time ? attempt(operation, () => time(value, event)) : Date.parse(event.timestamp);
  const text = group ? attempt(aggregates[0]!.operation, () => JSON.stringify(group.take(value, event))) : "";
  const values = aggregates.map((each) => attempt(each.operation, () => each.take(value, event)));
  // By the time of storage nothing can be late.
  const spans = spansOf(timeMs, window).filter(({ end }) => !time || end + grace > watermark);
  return { event, timeMs, group: text, values, spans };
}

/** @param lowest windows that end here or before, grace included, are closed. */
function rowsOf({ window, grace, group, aggregates }: Stage, placed: readonly Placed[], lowest: number) {
  return [...Map.groupBy(placed, (each) => each.group)].flatMap(([text, own]) =>
    windowsOf(own, window)
      .filter(({ end }) => end + grace <= lowest)
      .map(({ start, end, events }) => {
        const inOrder = events.toSorted(byTime);
        const name = group && (JSON.parse(text) as unknown);
        const row = Object.fromEntries([
          ["windowStart", new Date(start).toISOString()],
          ["windowEnd", new Date(end).toISOString()],
          ...(group ? [[group.name, name]] : []),
          ...aggregates.map(({ operation, as }, i) => {
            const values = inOrder.map((each) => each.values[i]).filter((value) => value !== null);
            return [as, AGGREGATIONS[operation.aggregation](values as never[]) ?? null];
          }),
        ]) as Record<string, unknown>;
        return { key: group && (typeof name === "string" ? name : text), row };
      }),
  );
}

const byTime = (a: Placed, b: Placed): number =>
  a.timeMs - b.timeMs || a.event.partition - b.event.partition || a.event.offset - b.event.offset;

/** Large enough for every hundredth to be a whole multiple of its inverse. */
const SCALE = 2 ** 60;

/** The sum rounded once, whatever the order. */
const sumOf = (numbers: readonly number[]): number =>
  Number(numbers.reduce((sum, number) => sum + BigInt(number * SCALE), 0n)) / SCALE;

/** Of values that are not null, in the order of their events' times. */
const AGGREGATIONS: Record<AggregationName, (values: never[]) => unknown> = {
  count: (values) => values.length,
  sum: sumOf,
  avg: (values) => (values.length === 0 ? null : sumOf(values) / values.length),
  min: (values) => values.toSorted(byValue)[0],
  max: (values) => values.toSorted(byValue).at(-1),
  first: (values) => values[0],
  last: (values) => values.at(-1),
  distinct_count: (values) => new Set(values.map((value) => JSON.stringify(value))).size,
};

/** Numbers come before texts. */
function byValue(a: number | string, b: number | string): number {
  if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
  return a < b ? -1 : a > b ? 1 : 0;
}
