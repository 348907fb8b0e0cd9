import { once } from "node:events";
import { Worker } from "node:worker_threads";
import type { FloodCounts, FloodWork } from "./flood-worker.ts";
import { median, quantile } from "./measure.ts";
import { cpuUs, type Started } from "./processes.ts";
import { fixed, percent, verdict, whole } from "./report.ts";
import { steadily } from "./steady.ts";

/** What one principal's flood does to another. */
export interface FloodRun {
  /** One figure a round. */
  readonly quiet: readonly Figures[];
  readonly flooded: readonly Figures[];
}

interface Figures {
  readonly p50Ms: number;
  readonly p99Ms: number;
  /** Of the flood, a second. */
  readonly sent: number;
  readonly refused: number;
  /** CPU time of the gateway, of one core; undefined where the system does not tell. */
  readonly cpuShare: number | undefined;
}

const ADMIN_KEY = "an-admin-key-of-the-benchmark-only";
const QUOTA = 1000;
const FLOOD = 4 * QUOTA;
const FLOOD_CONNECTIONS = 32;
const RATE = 200;
const CONNECTIONS = 8;
/** The flood begins so much earlier: its burst is used up when measuring begins. */
const LEAD_SECONDS = 1;
const MIN_SECONDS = 3;
const TARGET = 2;

/** Settings of the gateway. The flood's key gets its id only later, so the quota is everybody's but the admin's. */
export const FLOOD_ENV: Record<string, string> = {
  MILLRACE_ADMIN_KEY: ADMIN_KEY,
  MILLRACE_QUOTAS: JSON.stringify({ principals: { "key:*": { in: { requestsPerSecond: QUOTA, burstSeconds: 0.2 } } } }),
};

export async function runFlood(
  gateway: Started,
  { rounds, seconds }: { rounds: number; seconds: number },
): Promise<FloodRun> {
  const [loud, other] = [await newKey(gateway), await newKey(gateway)];
  for (const name of ["flooded", "measured"]) await call(gateway, "/api/v1/streams", { name, partitions: 4 });
  const round = (isFlooded: boolean) =>
    measured(gateway, other, isFlooded ? loud : undefined, Math.max(MIN_SECONDS, seconds));
  await round(true);
  const quiet: Figures[] = [];
  const flooded: Figures[] = [];
  for (let n = 0; n < rounds; n++) {
    quiet.push(await round(false));
    flooded.push(await round(true));
  }
  return { quiet, flooded };
}

async function measured(gateway: Started, key: string, loud: string | undefined, seconds: number): Promise<Figures> {
  const latencies: number[] = [];
  const flood = loud === undefined ? undefined : startFlood(gateway, loud, LEAD_SECONDS + seconds);
  await new Promise((resolve) => setTimeout(resolve, LEAD_SECONDS * 1000));
  const start = performance.now();
  const before = cpuUs(gateway.pid);
  await steadily(gateway.url, "measured", key, RATE, CONNECTIONS, seconds, (status, ms) => {
    if (status !== 200) throw new Error(`the measured principal got status ${status}`);
    latencies.push(ms);
  });
  const after = cpuUs(gateway.pid);
  const elapsed = (performance.now() - start) / 1000;
  const { sent, refused } = (await flood) ?? { sent: 0, refused: 0 };
  latencies.sort((a, b) => a - b);
  return {
    p50Ms: quantile(latencies, 0.5),
    p99Ms: quantile(latencies, 0.99),
    sent: sent / (LEAD_SECONDS + seconds),
    refused: refused / (LEAD_SECONDS + seconds),
    cpuShare: before === undefined || after === undefined ? undefined : (after - before) / (elapsed * 1e6),
  };
}

async function startFlood({ url }: Started, key: string, seconds: number): Promise<FloodCounts> {
  const workerData: FloodWork = { url, stream: "flooded", key, rate: FLOOD, connections: FLOOD_CONNECTIONS, seconds };
  const worker = new Worker(new URL("./flood-worker.ts", import.meta.url), { workerData });
  const [counts] = (await once(worker, "message")) as [FloodCounts];
  return counts;
}

async function newKey(gateway: Started): Promise<string> {
  const answer = await call(gateway, "/api/v1/keys", { name: "bench", rights: ["publish:*"] });
  return (answer as { secret: string }).secret;
}

async function call({ url }: Started, path: string, body: object): Promise<unknown> {
  const answer = await fetch(url + path, {
    method: "POST",
    headers: { "content-type": "application/json", authorization: `Bearer ${ADMIN_KEY}` },
    body: JSON.stringify(body),
  });
  if (!answer.ok) throw new Error(`${path}: status ${answer.status}: ${await answer.text()}`);
  return answer.json();
}

export function floodText({ quiet, flooded }: FloodRun): string {
  const middle = (of: readonly Figures[], figure: keyof Figures) => median(of.map((each) => each[figure]));
  const row = (name: string, of: readonly Figures[]) =>
    `  ${name.padEnd(12)}${[
      fixed(middle(of, "p50Ms"), 2),
      fixed(middle(of, "p99Ms"), 2),
      whole(middle(of, "sent")),
      whole(middle(of, "refused")),
      percent(middle(of, "cpuShare")),
    ]
      .map((text) => text.padStart(12))
      .join("")}`;
  const ratio = median(flooded.map(({ p99Ms }, round) => p99Ms / quiet[round]!.p99Ms))!;
  return [
    `flood: ${RATE} publishes/s of one principal, while another sends ${FLOOD} requests/s with a quota of ${QUOTA}`,
    `  ${"".padEnd(12)}${["p50 ms", "p99 ms", "flood/s", "refused/s", "CPU"].map((head) => head.padStart(12)).join("")}`,
    row("quiet", quiet),
    row("flooded", flooded),
    `  target p99 under the flood ≤ ${TARGET} × quiet: ${fixed(ratio, 2)} × ${verdict(ratio <= TARGET)}`,
  ].join("\n");
}
