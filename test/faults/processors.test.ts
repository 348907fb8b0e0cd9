import { setTimeout as span } from "node:timers/promises";
import { describe, expect, test } from "vitest";
import { Calls } from "../processing/calls.ts";
import { expectedRows, type OracleEvent, type OracleWindow, rowText } from "../processing/oracle.ts";
import { startNats } from "../support/nats.ts";
import { type ServiceProcess, startServiceProcess } from "../support/process.ts";
import { seededRandom } from "../support/random.ts";
import { eventually } from "../support/wait.ts";

/** Rounds, each with a topology of its own, and faults in each; PROCESSOR_SEED repeats a run. */
const ROUNDS = Number(process.env.PROCESSOR_ROUNDS ?? 2);
const KILLS = Number(process.env.PROCESSOR_KILLS ?? 12);
const SEED = Number(process.env.PROCESSOR_SEED ?? Math.floor(Math.random() * 2 ** 31));

const PARTITIONS = 3;
const GROUPS = 7;
const DISORDER_MS = 2000;
const START_MS = Date.UTC(2026, 0, 1);

type Random = () => number;
const pick = <T>(random: Random, items: readonly T[]): T => items[Math.floor(random() * items.length)]!;

function randomWindow(random: Random): OracleWindow {
  return pick<OracleWindow>(random, [
    { windowType: "tumbling", duration: 5000 },
    { windowType: "tumbling", duration: 1000 },
    { windowType: "hopping", duration: 6000, advance: 2000 },
    { windowType: "session", gap: 900 },
  ]);
}

/** Kills one of two processes, lets one sleep for longer than others wait for it, or kills the storage. */
async function strike(
  random: Random,
  services: ServiceProcess[],
  env: Record<string, string>,
  nats: { kill(signal: "SIGKILL"): Promise<void>; restart(): Promise<void> },
) {
  const which = random();
  const index = random() < 0.5 ? 0 : 1;
  const service = services[index]!;
  if (which < 0.65) {
    service.kill("SIGKILL");
    await service.exited;
    services[index] = await startServiceProcess(env);
  } else if (which < 0.85) {
    service.kill("SIGSTOP");
    await span(500 + random() * 7000); // the length of the sleep is the input here
    service.kill("SIGCONT");
  } else {
    await nats.kill("SIGKILL");
    await span(random() * 300);
    await nats.restart();
  }
}

describe(`processors under kill -9, seed ${SEED}`, { timeout: 30_000 + ROUNDS * (60_000 + KILLS * 9000) }, () => {
  test.each(Array.from({ length: ROUNDS }, (_, round) => round))(
    "round %i: the sink holds exactly the expected rows",
    async (round) => {
      const random = seededRandom(SEED + round);
      const window = randomWindow(random);
      const threshold = Math.floor(random() * 60);
      const parallelism = pick(random, [1, 2, 4]);
      console.log(
        `seed ${SEED}, round ${round}: ${JSON.stringify(window)}, amount > ${threshold}, parallelism ${parallelism}`,
      );
      await using nats = await startNats();
      const env = { NATS_URL: nats.url, MILLRACE_PROCESSOR_THREADS: "1" };
      const services = [await startServiceProcess(env), await startServiceProcess(env)];
      const calls = new Calls(services[0]!.url);
      const persist = async <T>(work: () => Promise<T>): Promise<T> => {
        for (let attempt = 0; ; attempt++) {
          calls.url = services[attempt % 2]!.url;
          try {
            return await work();
          } catch (error) {
            if (/: 4\d\d /.test(String(error)) || attempt > 200) throw error;
            await span(50);
          }
        }
      };
      try {
        await calls.ok("POST", "/streams", { name: "in", partitions: PARTITIONS });
        const { processorId } = await calls.ok<{ processorId: string }>("POST", "/processors", {
          name: "oracle",
          source: "in",
          sink: "out",
          operations: [
            { type: "filter", predicate: `value.amount > ${threshold}` },
            { type: "map", expression: '{"g": value.g, "amount": value.amount, "t": value.t}' },
            { type: "window", ...window, timestampField: "t", grace: DISORDER_MS },
            { type: "aggregate", aggregation: "count", groupBy: "g" },
            { type: "aggregate", aggregation: "sum", field: "amount", as: "total" },
          ],
          // A partition is idle only at the end: what is published during faults may pause for long.
          config: { parallelism, checkpointInterval: 2000, idleTimeout: 86_400_000 },
        });
        const published: OracleEvent[] = [];
        let going = true;
        let clock = START_MS;
        let batches = 0;
        const producing = (async () => {
          while (going) {
            const events = Array.from({ length: 40 }, (_, i) => {
              clock += Math.floor(random() * 40);
              const value = {
                g: `g${Math.floor(random() * GROUPS)}`,
                amount: Math.floor(random() * 100),
                t: clock - Math.floor(random() * (DISORDER_MS - 1)),
              };
              return { eventId: `e${batches}-${i}`, partition: Math.floor(random() * PARTITIONS), value };
            });
            batches++;
            for (let open: object[] = events; open.length > 0; ) {
              const answer = await persist(() =>
                calls.ok<{ results: { eventId: string; error?: object }[] }>("POST", "/streams/in/events/batch", {
                  events: open,
                }),
              );
              const failed = new Set(answer.results.filter(({ error }) => error).map(({ eventId }) => eventId));
              open = events.filter(({ eventId }) => failed.has(eventId));
            }
            for (const { value } of events) published.push({ timeMs: value.t, amount: value.amount, group: value.g });
            await span(30);
          }
        })();
        for (let kill = 0; kill < KILLS; kill++) {
          await span(100 + random() * 1200); // the moment of a fault is the input here
          await strike(random, services, env, nats);
        }
        going = false;
        await producing;
        // One event far ahead in each partition closes all windows before it.
        const last = clock + 60_000;
        for (let partition = 0; partition < PARTITIONS; partition++) {
          const event = { eventId: `last-${partition}`, partition, value: { g: "last", amount: 1000, t: last } };
          await persist(() => calls.publish("in", [event]));
        }
        const expected = expectedRows(
          published.filter(({ amount }) => amount > threshold),
          window,
        );
        const found = async () => {
          const events = await persist(() => calls.readAll("out"));
          return events
            .map(({ value }) => ({
              ...(value as { windowStart: string; windowEnd: string; g: string; count: number; total: number }),
            }))
            .map(({ windowStart, windowEnd, g, count, total }) =>
              rowText(g, { start: Date.parse(windowStart), end: Date.parse(windowEnd), count, sum: total }),
            )
            .sort();
        };
        await eventually("as many rows as expected", async () => (await found()).length >= expected.length, 60_000);
        expect(await found()).toEqual(expected);
        // The counts follow with the commit after the results.
        await eventually("counts of all events and rows", async () => {
          const { metrics, counters } = await persist(() => calls.metrics(processorId));
          expect(metrics.eventsProcessed).toBe(published.length + PARTITIONS);
          expect(counters).toEqual(expect.objectContaining({ late: 0, errors: 0 }));
          return counters.emitted === expected.length;
        });
        console.log(`seed ${SEED}, round ${round}: ${published.length} events, ${expected.length} rows`);
      } finally {
        for (const service of services) service.kill("SIGCONT");
        await Promise.all(services.map((service) => service[Symbol.asyncDispose]()));
      }
    },
  );
});
