import { setTimeout } from "node:timers/promises";
import type { Checks } from "./checks.ts";
import type { Client, NewEvent, ProcessorMetrics } from "./client.ts";
import { type Airport, type Flight, readAirports } from "./flights-file.ts";
import { GroupReader } from "./group-reader.ts";
import { showProgress } from "./progress.ts";

/** A flight that is later than so many minutes counts as delayed. */
const THRESHOLD_MINUTES = 60;
const WEEK_MS = 7 * 24 * 3600 * 1000;
/** Once it has read nothing for so long, the processor closes the last windows. */
const IDLE_MS = 1000;
const LOOK_MS = 50;
/** Results that have not come by then are missing. */
const PATIENCE_MS = 30_000;
const BATCH_EVENTS = 500;
const PAGE_EVENTS = 1000;
const PARALLEL = 8;

/** The delayed flights of an airport in a week: what the processor writes, beside `windowStart` and `origin`. */
interface Week {
  readonly delayed: number;
  /** Minutes of the worst of them. */
  readonly worst: number;
  /** Name and place, from the table. */
  readonly airport: string;
}

type Result = Week & { readonly windowStart: string; readonly windowEnd: string; readonly origin: string };

/** What it came to. */
export interface Delays {
  readonly flights: number;
  readonly processedMs: number;
  /** Airports with most delayed flights. */
  readonly worst: readonly { readonly airport: string; readonly delayed: number }[];
}

/**
 * A processor keeps the flights that were delayed, joins their airports' rows in from a table, and counts them by airport and
 * week. All that it made is taken away again.
 *
 * @param name of all that is made for it, and of nothing else.
 * @param events of the flights, in their order; they are published to a stream of their own, since time can't go back.
 * @param signal ends the run.
 */
export async function countDelays(
  client: Client,
  name: string,
  partitions: number,
  flights: readonly Flight[],
  events: readonly NewEvent[],
  checks: Checks,
  signal: AbortSignal,
): Promise<Delays> {
  const airports = readAirports();
  const codes = [...new Set(flights.map(({ origin }) => origin))];
  const made = new AsyncDisposableStack();
  // Also when the run is interrupted.
  const cleaner = () => client.until(AbortSignal.timeout(10_000));
  try {
    const rows = codes.map((key) => ({ key, value: airports.get(key) }));
    await client.putRows(name, rows);
    made.defer(() => inParallel(codes, (code) => cleaner().deleteRow(name, code)));
    await client.putLookup(name, { table: name, key: "value.origin", into: "airport", onMissing: "error" });
    made.defer(() => cleaner().deleteFunction(name));

    await client.createStream(name, partitions);
    made.defer(() => cleaner().deleteStream(name));
    for (let i = 0; i < events.length; i += BATCH_EVENTS)
      await client.publishBatch(name, events.slice(i, i + BATCH_EVENTS));

    const sink = `${name}-weekly`;
    const started = performance.now();
    const { processorId } = await client.createProcessor({
      name,
      source: name,
      operations: [
        { type: "filter", predicate: `value.delay > ${THRESHOLD_MINUTES}` },
        { type: "map", function: name },
        {
          type: "map",
          project: { merge: { place: 'value.airport.name + ", " + value.airport.city + " " + value.airport.state' } },
        },
        {
          type: "window",
          windowType: "tumbling",
          duration: WEEK_MS,
          // "2001/01/01 00:47" in the file, which is no date of RFC 3339.
          timestampField: 'timestamp(value.date.replace("/", "-").replace(" ", "T") + ":00Z")',
        },
        { type: "aggregate", aggregation: "count", groupBy: "origin", as: "delayed" },
        { type: "aggregate", aggregation: "max", field: "delay", as: "worst" },
        { type: "aggregate", aggregation: "first", field: "place", as: "airport" },
      ],
      sink,
      config: { parallelism: 2, idleTimeout: IDLE_MS },
    });
    made.defer(() => cleaner().deleteStream(sink));
    made.defer(() => cleaner().deleteProcessor(processorId));

    const expected = weeksOf(flights, airports);
    const { metrics, processedMs } = await processAll(
      client,
      processorId,
      flights.length,
      expected.size,
      started,
      signal,
    );
    const found = await readResults(client, sink);
    check(checks, flights, metrics, found, expected);
    return { flights: metrics.metrics.eventsProcessed, processedMs, worst: worstOf(found) };
  } finally {
    await made.disposeAsync().catch((error: Error) => {
      console.error(`what was made for the processor could not be taken away: ${error.message}`);
    });
  }
}

/** Waits until all is processed and the results are written. */
async function processAll(
  client: Client,
  processorId: string,
  events: number,
  results: number,
  started: number,
  signal: AbortSignal,
): Promise<{ metrics: ProcessorMetrics; processedMs: number }> {
  using progress = showProgress("delays", events);
  let shown = 0;
  let processedMs: number | undefined;
  for (let changedAt = performance.now(), before = ""; ; ) {
    const found = await client.processorMetrics(processorId);
    const { metrics, counters } = found;
    progress.advance(metrics.eventsProcessed - shown);
    shown = metrics.eventsProcessed;
    const now = performance.now();
    if (shown >= events) processedMs ??= now - started;
    const state = `${shown} ${counters.emitted}`;
    if (state !== before) changedAt = now;
    before = state;
    const isDone = shown >= events && counters.emitted >= results;
    if (isDone || found.status === "failed" || now - changedAt > PATIENCE_MS)
      return { metrics: found, processedMs: processedMs ?? now - started };
    await setTimeout(LOOK_MS, undefined, { signal });
  }
}

async function readResults(client: Client, sink: string): Promise<Result[]> {
  const reader = new GroupReader<Result>(client, sink, "report", PAGE_EVENTS);
  const results: Result[] = [];
  for (;;) {
    const page = await reader.nextPage();
    if (page.events.length === 0) return results;
    results.push(...page.events.map(({ value }) => value));
    await reader.commit(page);
  }
}

function check(
  checks: Checks,
  flights: readonly Flight[],
  { status, metrics, counters }: ProcessorMetrics,
  found: readonly Result[],
  expected: ReadonlyMap<string, Week>,
): void {
  const delayed = flights.filter(isDelayed).length;
  const sum = found.reduce((all, each) => all + each.delayed, 0);
  const rows = found.map(({ windowStart, windowEnd: _, origin, ...week }): [string, Week] => [
    weekKey(Date.parse(windowStart), origin),
    week,
  ]);
  checks.equal("delays: status of the processor", status, "running");
  checks.equal("delays: flights processed", metrics.eventsProcessed, flights.length);
  checks.equal("delays: flights that were not delayed", counters.filtered, flights.length - delayed);
  checks.equal("delays: failed and late flights", counters.errors + counters.late, 0);
  checks.equal("delays: delayed flights in all results", sum, delayed);
  checks.equal("delays: results that came more than once", rows.length - new Map(rows).size, 0);
  checks.equal("delays: results by airport and week", new Map(rows), expected);
}

/** The same from the file. */
function weeksOf(flights: readonly Flight[], airports: ReadonlyMap<string, Airport>): Map<string, Week> {
  const weeks = new Map<string, Week>();
  for (const { date, origin, delay } of flights.filter(isDelayed)) {
    const timeMs = Date.parse(`${date.replaceAll("/", "-").replace(" ", "T")}:00Z`);
    const key = weekKey(Math.floor(timeMs / WEEK_MS) * WEEK_MS, origin);
    const week = weeks.get(key);
    const { name, city, state } = airports.get(origin)!;
    weeks.set(key, {
      delayed: (week?.delayed ?? 0) + 1,
      worst: Math.max(week?.worst ?? delay, delay),
      airport: `${name}, ${city} ${state}`,
    });
  }
  return weeks;
}

const isDelayed = ({ delay }: Flight): boolean => delay > THRESHOLD_MINUTES;

const weekKey = (startMs: number, origin: string): string =>
  `${new Date(startMs).toISOString().slice(0, 10)} ${origin}`;

function worstOf(found: readonly Result[]): Delays["worst"] {
  const sums = new Map<string, number>();
  for (const { airport, delayed } of found) sums.set(airport, (sums.get(airport) ?? 0) + delayed);
  const sorted = [...sums].sort(([, a], [, b]) => b - a).slice(0, 5);
  return sorted.map(([airport, delayed]) => ({ airport, delayed }));
}

async function inParallel<T>(items: readonly T[], work: (item: T) => Promise<void>): Promise<void> {
  const left = items.values();
  await Promise.all(
    Array.from({ length: PARALLEL }, async () => {
      for (const item of left) await work(item);
    }),
  );
}
