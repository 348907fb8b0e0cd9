/** Floods from a thread of its own, so that measuring does not wait for it. */
import { parentPort, workerData } from "node:worker_threads";
import { steadily } from "./steady.ts";

export interface FloodWork {
  readonly url: string;
  readonly stream: string;
  readonly key: string;
  readonly rate: number;
  readonly connections: number;
  readonly seconds: number;
}

/** What the thread says at its end. */
export interface FloodCounts {
  readonly sent: number;
  readonly refused: number;
}

const { url, stream, key, rate, connections, seconds } = workerData as FloodWork;
const counts = { sent: 0, refused: 0 };
await steadily(url, stream, key, rate, connections, seconds, (status) => {
  if (status !== 200 && status !== 429) throw new Error(`the flood got status ${status}`);
  counts.sent++;
  if (status === 429) counts.refused++;
});
parentPort!.postMessage(counts satisfies FloodCounts);
