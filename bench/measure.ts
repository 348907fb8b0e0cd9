import { availableParallelism } from "node:os";
import type { Worker } from "./load.ts";
import { cpuUs, machineCpuUs, rssMiB } from "./processes.ts";

/** What one contender did in one round. */
export interface Sample {
  readonly events: number;
  readonly eventsPerSecond: number;
  /** Of a request, or of a poll with its commit. */
  readonly p50Ms: number;
  readonly p99Ms: number;
  /** CPU time an event, of the process under load; undefined where the system does not tell. */
  readonly serverUs: number | undefined;
  readonly natsUs: number | undefined;
  /** Of this process, which makes the load. */
  readonly loadUs: number | undefined;
  /** Of the process under load, at the round's end. */
  readonly rssMiB: number | undefined;
  /** Of the machine's CPU time, what went to programs that have no part in the round. */
  readonly othersShare: number | undefined;
}

export interface MeasuredPids {
  readonly server: number;
  readonly nats: number;
}

/** Beyond the span, what is still open then is given up, and the run with it. */
const HANG_MS = 20_000;

/** Keeps all workers busy for a span. What they have open at its end is waited for and counted. */
export async function measure(workers: readonly Worker[], seconds: number, pids: MeasuredPids): Promise<Sample> {
  const watched = [pids.server, pids.nats, process.pid];
  const usage = () => [...watched.map(cpuUs), machineCpuUs()];
  const before = usage();
  const latencies: number[] = [];
  let events = 0;
  const start = performance.now();
  const end = start + seconds * 1000;
  await orHang(
    seconds,
    Promise.all(
      workers.map(async (worker) => {
        let now = performance.now();
        while (now < end) {
          const began = now;
          // Not `events += await …`: that reads the sum before the wait, and loses what others add meanwhile.
          const done = await worker.step();
          events += done;
          now = performance.now();
          latencies.push(now - began);
        }
      }),
    ),
  );
  const elapsedMs = performance.now() - start;
  const [server, nats, load, machine] = usage().map((after, i) => {
    const then = before[i];
    return after === undefined || then === undefined ? undefined : after - then;
  });
  const own = (nats ?? 0) + (load ?? 0) + (pids.server === process.pid ? 0 : (server ?? 0));
  latencies.sort((a, b) => a - b);
  return {
    events,
    eventsPerSecond: (events * 1000) / elapsedMs,
    p50Ms: quantile(latencies, 0.5),
    p99Ms: quantile(latencies, 0.99),
    serverUs: server && server / events,
    natsUs: nats && nats / events,
    loadUs: load && load / events,
    rssMiB: rssMiB(pids.server),
    othersShare: machine && Math.max(0, machine - own) / (elapsedMs * 1000 * availableParallelism()),
  };
}

async function orHang(seconds: number, work: Promise<unknown>): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const hang = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(() => reject(new Error("an answer did not come")), seconds * 1000 + HANG_MS);
  });
  try {
    await Promise.race([work, hang]);
  } finally {
    clearTimeout(timer);
  }
}

/** Of sorted numbers. */
export const quantile = (sorted: readonly number[], q: number): number =>
  sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * q))] ?? Number.NaN;

/** The middle of those that are known; of two the mean. */
export function median(values: readonly (number | undefined)[]): number | undefined {
  const known = values.filter((value) => value !== undefined).sort((a, b) => a - b);
  if (known.length === 0) return undefined;
  const middle = known.length >> 1;
  return known.length % 2 === 1 ? known[middle] : (known[middle - 1]! + known[middle]!) / 2;
}
