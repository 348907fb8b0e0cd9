import { setTimeout as span } from "node:timers/promises";
import { describe, expect, test } from "vitest";
import type { SinkEvent } from "../processing/calls.ts";
import {
  expectedOf,
  operationsOf,
  placeOf,
  resultText,
  type SourceEvent,
  sideText,
  type Topology,
} from "../processing/expected.ts";
import { type NewEvent, RandomEvents } from "../processing/random-events.ts";
import { FAMILIES, type Family, FUNCTIONS, randomTopology, USER_ROWS } from "../processing/random-topology.ts";
import { startNats } from "../support/nats.ts";
import type { SideEventsAnswer } from "../support/processor-clients.ts";
import { Chance } from "../support/random.ts";
import { eventually } from "../support/wait.ts";
import { Victims } from "./strikes.ts";

/** Rounds, each with topologies of its own, and kills in each. Seed `s + n` and one round repeat round `n` of seed `s`. */
const ROUNDS = Number(process.env.PROCESSOR_ROUNDS ?? 3);
const KILLS = Number(process.env.PROCESSOR_KILLS ?? 68);
const SEED = Number(process.env.PROCESSOR_SEED ?? Math.floor(Math.random() * 2 ** 31));

const BATCH = 25;
const BATCH_MS = 100;
const QUIET_MS = 120_000;
/** What a difference shows at most. */
const SHOWN = 20;

describe(`processors under kill -9, seed ${SEED}`, { timeout: 2 * QUIET_MS + KILLS * 5000 }, () => {
  const seeds = Array.from({ length: ROUNDS }, (_, round) => SEED + round);
  test.each(seeds)("seed %i: the sinks hold exactly what they must", round);
});

async function round(seed: number): Promise<void> {
  const chance = new Chance(seed);
  const [shapes, input, fate, moments] = [chance.fork(), chance.fork(), chance.fork(), chance.fork()];
  const partitions = shapes.pick([2, 3, 4, 5]);
  const threads = shapes.pick(["1", "2"]);
  const processors = FAMILIES.map((family) => randomProcessor(shapes, family));
  const texts = processors.map(({ request }) => `seed ${seed}, ${partitions} partitions: ${JSON.stringify(request)}`);
  console.log(texts.join("\n"));

  await using nats = await startNats();
  const env = { NATS_URL: nats.url, MILLRACE_PROCESSOR_THREADS: threads };
  await using victims = new Victims(nats, env, fate);
  await prepare(victims, partitions);
  const ids = await Promise.all(processors.map(({ request }) => create(victims, request)));

  const began = performance.now();
  const events = new RandomEvents(input, partitions);
  const published: string[] = [];
  let going = true;
  const produce = async () => {
    for (; going; await span(BATCH_MS)) published.push(...(await publish(victims, events.next(BATCH))));
  };
  const strike = async () => {
    while (victims.kills < KILLS) {
      // The moment of a fault is the input here; some come together.
      await span(moments.in(0.25) ? 0 : moments.below(1300));
      await victims.strike(ids);
    }
  };
  await Promise.all([produce(), strike().finally(() => (going = false))]);
  await victims.calm();
  published.push(...(await publish(victims, events.closing())));
  const calmMs = performance.now();

  const source = (await victims.call((calls) => calls.readAll("in"), QUIET_MS)) as SourceEvent[];
  const stored = source.map(({ eventId }) => eventId);
  expect(difference(stored, published), "the source holds each event once").toEqual(NONE);
  const byPartition = Array.from({ length: partitions }, (_, p) => source.filter(({ partition }) => partition === p));
  const rows = await Promise.all(
    processors.map(({ topology }, i) => check(victims, ids[i]!, topology, `out-${i}`, byPartition, texts[i]!)),
  );
  expect(victims.faults).toEqual([]);
  const seconds = [calmMs - began, performance.now() - calmMs].map((ms) => Math.round(ms / 1000));
  const counts = Object.entries(victims.counts).map(([kind, count]) => `${count} ${kind}`);
  console.log(
    `seed ${seed}: ${counts.join(", ")}; ${source.length} events, ${rows.join(" + ")} rows; ${seconds[0]} s, then ${seconds[1]} s`,
  );
}

function randomProcessor(shapes: Chance, family: Family) {
  const { topology, config } = randomTopology(shapes, family);
  const sink = `out-${FAMILIES.indexOf(family)}`;
  return { topology, request: { name: family, source: "in", sink, operations: operationsOf(topology), config } };
}

/** Makes what the processors read and look up. */
async function prepare(victims: Victims, partitions: number): Promise<void> {
  const put = (path: string, body: object) => victims.call((calls) => calls.ok("PUT", path, body));
  await victims.call((calls) => calls.ok("POST", "/streams", { name: "in", partitions }));
  await Promise.all(Object.entries(FUNCTIONS).map(([name, body]) => put(`/functions/${name}`, body)));
  await Promise.all(Array.from(USER_ROWS, ([user, value]) => put(`/tables/users/rows/${user}`, { value })));
}

async function create(victims: Victims, request: object): Promise<string> {
  const { processorId } = await victims.call(
    (calls) => calls.ok<{ processorId: string }>("POST", "/processors", request),
    QUIET_MS,
  );
  return processorId;
}

/** Publishes events again and again, under the same ids, until all are stored. @returns their ids. */
async function publish(victims: Victims, events: readonly NewEvent[]): Promise<string[]> {
  for (let open = events; open.length > 0; ) {
    const { results } = await victims.call((calls) =>
      calls.ok<{ results: { eventId: string; error?: object }[] }>("POST", "/streams/in/events/batch", {
        events: open,
      }),
    );
    const failed = new Set(results.filter(({ error }) => error).map(({ eventId }) => eventId));
    open = open.filter(({ eventId }) => failed.has(eventId));
  }
  return events.map(({ eventId }) => eventId);
}

/** Waits until a processor has done everything, and compares. @returns how many results it wrote. */
async function check(
  victims: Victims,
  id: string,
  topology: Topology,
  sink: string,
  source: readonly (readonly SourceEvent[])[],
  what: string,
): Promise<number> {
  const expected = expectedOf(topology, source);
  const processed = source.reduce((sum, { length }) => sum + length, 0);
  const metrics = () => victims.call((calls) => calls.metrics(id));
  const isDone = async () => {
    const { status, metrics: totals, counters } = await metrics();
    // A service that slept may carry out a pause after its resumption.
    if (status === "paused") await victims.call((calls) => calls.ok("POST", `/processors/${id}/resume`), QUIET_MS);
    // Whoever takes a lane over last may find nothing left to do.
    const isUp = status === "running" && totals.lag === 0;
    const wanted = Object.entries(expected.counters) as [keyof typeof counters, number][];
    return isUp && totals.eventsProcessed >= processed && wanted.every(([name, count]) => counters[name] >= count);
  };
  // What is missing is shown by what is compared below.
  await eventually(`${sink} has all`, isDone, QUIET_MS).catch((error: Error) => console.error(error.message));

  const results = await victims.call((calls) => calls.readAll(sink), QUIET_MS);
  const isDirect = topology.stage === undefined;
  const rows = results.map((each) => resultText(each.key, each.value, isDirect ? originOf(each) : undefined));
  expect.soft(difference(rows, expected.rows), what).toEqual(NONE);
  if (isDirect) expect.soft(outOfOrder(results).slice(0, SHOWN), what).toEqual([]);
  expect.soft(difference(await sideTexts(victims, id), expected.side), what).toEqual(NONE);
  const { counters, metrics: totals, status, statusReason } = await metrics();
  expect
    .soft({ counters, processed: totals.eventsProcessed, lag: totals.lag, status, statusReason }, what)
    .toEqual({ counters: expected.counters, processed, lag: 0, status: "running" });
  return results.length;
}

/** Where the event lay of which a result without windows came. */
function originOf({ eventId }: SinkEvent): { partition: number; offset: number } {
  const [, partition, offset] = /-(\d+)-(\d+)$/.exec(eventId)!;
  return { partition: Number(partition), offset: Number(offset) };
}

/** Results that stand after a later one of the same key and partition of the source. */
function outOfOrder(results: readonly SinkEvent[]): SinkEvent[] {
  const last = new Map<string, number>();
  return results.filter((result) => {
    const { partition, offset } = originOf(result);
    const place = `${partition} ${result.key}`;
    const before = last.get(place) ?? -1;
    last.set(place, Math.max(before, offset));
    return offset < before;
  });
}

async function sideTexts(victims: Victims, id: string): Promise<string[]> {
  const texts: string[] = [];
  for (let token = ""; ; ) {
    const path = `/processors/${id}/sideEvents?pageSize=1000&pageToken=${token}`;
    const { events, nextPageToken } = await victims.call((calls) => calls.ok<SideEventsAnswer>("GET", path), QUIET_MS);
    if (events.length === 0) return texts;
    for (const { kind, operation, eventId, partition, offset, value } of events)
      texts.push(sideText(kind, operation, partition === undefined ? value : placeOf({ eventId, partition, offset })));
    token = nextPageToken;
  }
}

const NONE = { missing: [], extra: [] };

/** What one list of texts has and the other has not, as often as it does. */
function difference(found: readonly string[], expected: readonly string[]) {
  const counts = new Map<string, number>();
  for (const text of expected) counts.set(text, (counts.get(text) ?? 0) + 1);
  for (const text of found) counts.set(text, (counts.get(text) ?? 0) - 1);
  const shown = (sign: number) =>
    [...counts].filter(([, count]) => count * sign > 0).map(([text, count]) => `${Math.abs(count)} x ${text}`);
  return { missing: shown(1).slice(0, SHOWN), extra: shown(-1).slice(0, SHOWN) };
}
