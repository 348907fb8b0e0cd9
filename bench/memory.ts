import { PollWorker, type Worker } from "./load.ts";
import { rssMiB, type Started } from "./processes.ts";
import { RestLoad, RestReader } from "./rest-load.ts";

/** Resident memory of the service after so many events were published and read. */
export interface MemoryPoint {
  readonly events: number;
  readonly rssMiB: number;
}

export interface MemoryRun {
  readonly seconds: number;
  readonly points: readonly MemoryPoint[];
  /** Mean of the last third to mean of the middle one: the first is the start of the process. */
  readonly growth: number;
}

/** Memory counts as flat up to here. */
export const MAX_GROWTH = 1.1;
const BATCH = 1000;
const POINT_EVENTS = 20_000;
/** Writers wait for the reader when it is so far behind, so that both are through at the same time. */
const MAX_BEHIND = 20_000;

/** Publishes `total` events in batches and reads and commits them at the same time, by a service just started. */
export async function runMemory(gateway: Started, stream: string, total: number): Promise<MemoryRun | undefined> {
  if (rssMiB(gateway.pid) === undefined) return undefined;
  const start = performance.now();
  const writers = await new RestLoad(gateway.url).batchers(stream, BATCH, 2);
  const reader = new PollWorker(await RestReader.open(gateway.url, stream), "memory", true);
  const points: MemoryPoint[] = [];
  let sent = 0;
  let read = 0;
  const write = async (worker: Worker) => {
    while (sent < total) {
      if (sent - read > MAX_BEHIND) await new Promise((resolve) => setTimeout(resolve, 1));
      else {
        sent += BATCH;
        await worker.step();
      }
    }
  };
  const readAll = async () => {
    while (read < total) {
      read += await reader.step();
      const due = points.length * POINT_EVENTS;
      if (read >= due) points.push({ events: due, rssMiB: rssMiB(gateway.pid)! });
    }
  };
  await Promise.all([...writers.map(write), readAll()]);
  for (const worker of [...writers, reader]) worker.close();
  return { seconds: (performance.now() - start) / 1000, points, growth: growthOf(points) };
}

function growthOf(points: readonly MemoryPoint[]): number {
  const third = Math.floor(points.length / 3);
  const mean = (some: readonly MemoryPoint[]) => some.reduce((sum, point) => sum + point.rssMiB, 0) / some.length;
  return mean(points.slice(2 * third)) / mean(points.slice(third, 2 * third));
}
