import { parseArgs } from "node:util";
import { Audit } from "./audit.ts";
import { Checks } from "./checks.ts";
import { Client, type NewEvent } from "./client.ts";
import { countDelays } from "./delays.ts";
import { FLIGHTS_FILE, type Flight, type FlightTotals, readFlights, totalsOf } from "./flights-file.ts";
import { GroupReader } from "./group-reader.ts";
import { interruption } from "./interruption.ts";
import { readLive } from "./live.ts";
import { showProgress } from "./progress.ts";
import { ServiceProcess } from "./service-process.ts";

const USAGE = `Replays flights into a stream and reads them back with two consumer groups, one of which stops half way and goes on
after the service was restarted. Then three members of a third group share a stream while it is written, and one dies.
At last a processor counts the delayed flights by airport and week. What comes back is checked against the file.

  npm run example                     starts a service of its own
  npm run example -- --rows 5000      that many flights; more than the file has: it is replayed again
  MILLRACE_URL=http://127.0.0.1:8080 npm run example`;

const PARTITIONS = 6;
const BATCH_EVENTS = 500;
const PAGE_EVENTS = 500;
/** The run gives up after this, and a millisecond more for each flight. */
const LIMIT_MS = 60_000;

interface Run {
  /** Replaced when the service comes back at another address. */
  client: Client;
  readonly stream: string;
  readonly flights: readonly Flight[];
  readonly expected: FlightTotals;
  readonly checks: Checks;
}

async function replayFlights(rows: number | undefined): Promise<boolean> {
  const flights = readFlights(rows);
  const expected = totalsOf(flights);
  say("file", `${FLIGHTS_FILE}, ${flights.length} flights from ${expected.byOrigin.size} airports`);

  using interrupt = interruption();
  const signal = AbortSignal.any([interrupt.signal, AbortSignal.timeout(LIMIT_MS + flights.length)]);
  const givenUrl = process.env.MILLRACE_URL?.trim();
  await using own = givenUrl ? undefined : await ServiceProcess.start(signal);
  const url = own?.url ?? givenUrl!;
  say("service", `${own ? "started" : "used"} at ${url}`);

  const checks = new Checks();
  const stopOwn = async () => {
    if (!own) return;
    const code = await own.stop();
    checks.equal("exit code of the service after SIGTERM", code, 0);
    if (code !== 0) console.error(own.log);
  };
  const run: Run = {
    client: new Client(url, signal),
    stream: `flights-${Date.now().toString(36)}`,
    flights,
    expected,
    checks,
  };
  await run.client.createStream(run.stream, PARTITIONS);
  try {
    await publishAll(run);
    await readAll(run, "dashboard");
    await readInTwoParts(run, "archive", async () => {
      if (!own) return;
      await stopOwn();
      await own.start(signal);
      run.client = new Client(own.url, signal);
      say("service", `started again at ${own.url}`);
    });
    await readWhileWritten(run, "live", signal);
    await countDelayed(run, signal);
  } catch (error) {
    if (own?.log) console.error(own.log);
    throw error;
  } finally {
    await removeStream(run.client, run.stream);
  }
  await stopOwn();
  return checks.conclude();
}

/** Publishes every flight, batch after batch so that each airport's flights stay in order. */
async function publishAll({ client, stream, flights, checks }: Run): Promise<void> {
  const events = flights.map(toEvent);
  const batches = Array.from({ length: Math.ceil(events.length / BATCH_EVENTS) }, (_, i) =>
    events.slice(i * BATCH_EVENTS, (i + 1) * BATCH_EVENTS),
  );
  const started = performance.now();
  const refused: string[] = [];
  {
    using progress = showProgress("publish", events.length);
    for (const batch of batches) {
      const { results } = await client.publishBatch(stream, batch);
      for (const { eventId, error } of results) if (error) refused.push(`${eventId}: ${error.description}`);
      progress.advance(batch.length);
    }
  }
  say("publish", `${events.length} events in ${batches.length} batches, ${speed(events.length, started)}`);
  checks.equal("events that were refused", refused.slice(0, 5), []);

  // What a publisher does that has lost an answer. Its events have ids, so nothing is stored twice.
  const again = await client.publishBatch(stream, batches[0]!);
  const known = again.results.filter(({ duplicate }) => duplicate).length;
  checks.equal("known events in a batch that is sent again", known, batches[0]!.length);

  const { totalMessages, partitionDetails } = await client.getStream(stream);
  say("stream", `${stream}, by partition: ${partitionDetails.map(({ endOffset }) => endOffset).join(" + ")} events`);
  checks.equal("events in the stream", totalMessages, flights.length);
}

/** The airport is the key and so chooses the partition; the row of the file goes along as a header. */
function toEvent(flight: Flight, row: number): NewEvent {
  return { key: flight.origin, value: flight, headers: { row: String(row) }, eventId: `flight-${row}` };
}

/** Reads the stream from start to end. */
async function readAll(run: Run, group: string): Promise<void> {
  const { client, stream, flights, checks } = run;
  const audit = new Audit(flights, PARTITIONS);
  const reader = new GroupReader<Flight>(client, stream, group, PAGE_EVENTS);
  const started = performance.now();
  const pages = await readPages(reader, audit, group, flights.length);
  say(group, `${audit.rows.length} events in ${pages} pages, ${speed(audit.rows.length, started)}`);
  for (const [origin, counts] of audit.totals.busiest(5)) {
    const meanDelay = (counts.delayMinutes / counts.flights).toFixed(1);
    say("", `${origin} ${String(counts.flights).padStart(6)} flights, mean delay ${meanDelay} minutes`);
  }
  await checkGroup(run, group, audit, reader.committed);
  checks.equal(`${group}: events that came more than once`, repeats(audit.rows), 0);
}

/**
 * Reads half of the stream, takes one page more and forgets it; then, after `interlude`, goes on with another reader,
 * which has to get exactly what is not committed.
 */
async function readInTwoParts(run: Run, group: string, interlude: () => Promise<void>): Promise<void> {
  const { stream, flights, checks } = run;
  const audit = new Audit(flights, PARTITIONS);
  const half = Math.floor(flights.length / 2);
  const stopped = new GroupReader<Flight>(run.client, stream, group, PAGE_EVENTS);
  const pages = await readPages(stopped, audit, group, half, half);
  const forgotten = await stopped.nextPage();
  const committed = new Set(audit.rows);
  say(group, `stopped after ${committed.size} events in ${pages} pages, ${forgotten.events.length} more not committed`);

  await interlude();

  const resumed = await GroupReader.resume<Flight>(run.client, stream, group, PAGE_EVENTS);
  checks.equal(`${group}: committed offsets that were kept`, resumed.committed, stopped.committed);
  const started = performance.now();
  const morePages = await readPages(resumed, audit, group, flights.length - committed.size);
  const rest = audit.rows.slice(committed.size);
  say(group, `resumed with ${rest.length} events in ${morePages} pages, ${speed(rest.length, started)}`);

  const restRows = new Set(rest);
  const forgottenRows = forgotten.events.map(({ headers }) => Number(headers?.row));
  const twice = forgottenRows.filter((row) => restRows.has(row)).length;
  const missing = flights.keys().filter((row) => !committed.has(row) && !restRows.has(row));
  checks.equal(`${group}: committed events that came again`, rest.filter((row) => committed.has(row)).length, 0);
  checks.equal(`${group}: uncommitted events that came again`, twice, forgotten.events.length);
  checks.equal(`${group}: events that the resumed reader got twice`, repeats(rest), 0);
  checks.equal(`${group}: events that never came`, missing.toArray().length, 0);
  await checkGroup(run, group, audit, resumed.committed);
}

/**
 * Processes and commits page by page, until nothing is left.
 *
 * @param total what is expected, for the progress bar.
 * @param stopAfter ends early, after the page that reaches this many events.
 * @returns the number of pages.
 */
async function readPages(
  reader: GroupReader<Flight>,
  audit: Audit,
  label: string,
  total: number,
  stopAfter = Number.POSITIVE_INFINITY,
): Promise<number> {
  using progress = showProgress(label, total);
  for (let pages = 0, events = 0; ; pages++) {
    const page = events < stopAfter ? await reader.nextPage() : undefined;
    if (!page || page.events.length === 0) return pages;
    for (const event of page.events) audit.add(event);
    // Only now: a reader that dies before this gets the page again.
    await reader.commit(page);
    events += page.events.length;
    progress.advance(page.events.length);
  }
}

/** Members share a stream of its own while it is written, and one dies. */
async function readWhileWritten(run: Run, group: string, signal: AbortSignal): Promise<void> {
  const { client, flights, checks } = run;
  const stream = `${run.stream}-live`;
  await client.createStream(stream, PARTITIONS);
  try {
    const started = performance.now();
    const events = flights.map(toEvent);
    const live = await readLive(client, stream, group, PARTITIONS, flights, events, checks, signal);
    say(group, `${events.length} events published and read, ${speed(events.length, started)}`);
    for (const line of live.members) say("", line);
    await checkGroup({ ...run, stream }, group, live.audit, live.committed);
  } finally {
    await removeStream(client, stream);
  }
}

/** A processor counts the delayed flights, of one pass of the file at most. */
async function countDelayed({ client, stream, flights, checks }: Run, signal: AbortSignal): Promise<void> {
  const once = flights.slice(0, readFlights(undefined).length);
  const name = `${stream}-delays`;
  const delays = await countDelays(client, name, PARTITIONS, once, once.map(toEvent), checks, signal);
  const rate = Math.round((delays.flights * 1000) / delays.processedMs);
  say("delays", `${delays.flights} events processed, ${(delays.processedMs / 1000).toFixed(2)} s, ${rate} events/s`);
  for (const { airport, delayed } of delays.worst)
    say("", `${String(delayed).padStart(6)} delayed flights from ${airport}`);
}

/** Compares what a group has processed with the file, and what it has committed with the stream. */
async function checkGroup(
  run: Run,
  group: string,
  audit: Audit,
  committed: ReadonlyMap<number, number>,
): Promise<void> {
  const { checks, client, stream, expected } = run;
  const { totals } = audit;
  checks.equal(`${group}: events`, totals.flights, expected.flights);
  checks.equal(`${group}: minutes of delay`, totals.delayMinutes, expected.delayMinutes);
  checks.equal(`${group}: miles`, totals.distanceMiles, expected.distanceMiles);
  checks.equal(`${group}: flights and delays of each airport`, totals.byOrigin, expected.byOrigin);
  checks.equal(`${group}: faults in values, keys, partitions and order`, audit.faults, []);
  const { partitionDetails } = await client.getStream(stream);
  const ends = partitionDetails.filter(({ endOffset }) => endOffset > 0);
  const lastOffsets = new Map(ends.map(({ partition, endOffset }) => [partition, endOffset - 1]));
  checks.equal(`${group}: committed offsets at the end of each partition`, committed, lastOffsets);
  const { metadata } = await client.poll(stream, { consumerGroup: group, timeout: 0 });
  checks.equal(`${group}: lag`, metadata.lag, 0);
}

/** Takes the stream away again, also when the run was interrupted. */
async function removeStream(client: Client, stream: string): Promise<void> {
  try {
    await client.until(AbortSignal.timeout(5000)).deleteStream(stream);
  } catch (error) {
    console.error(`the stream ${stream} could not be deleted: ${(error as Error).message}`);
  }
}

const repeats = (rows: readonly number[]): number => rows.length - new Set(rows).size;

const say = (label: string, text: string): void => console.log(`${label.padEnd(10)} ${text}`);

function speed(events: number, startedMs: number): string {
  const seconds = (performance.now() - startedMs) / 1000;
  return `${seconds.toFixed(2)} s, ${Math.round(events / seconds)} events/s`;
}

function readOptions(): { rows: number | undefined; help: boolean } {
  const { values } = parseArgs({ options: { rows: { type: "string" }, help: { type: "boolean", short: "h" } } });
  const rows = values.rows === undefined ? undefined : Number(values.rows);
  if (rows !== undefined && !(Number.isInteger(rows) && rows >= 1 && rows <= 1_000_000))
    throw new Error(`--rows must be a whole number from 1 to 1000000, not "${values.rows}"`);
  return { rows, help: values.help ?? false };
}

try {
  const { rows, help } = readOptions();
  if (help) console.log(USAGE);
  else if (!(await replayFlights(rows))) process.exitCode = 1;
} catch (error) {
  const { message, cause } = error as Error;
  // Of a call that fails on its way, fetch tells the reason in the cause only.
  console.error(message === "fetch failed" && cause instanceof Error ? `${message}: ${cause.message}` : message);
  process.exitCode = 1;
}
