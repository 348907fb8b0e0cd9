import { HttpConnection, jsonRequest } from "./http-client.ts";
import { median, quantile } from "./measure.ts";
import { cpuUs, type Started } from "./processes.ts";
import { fixed, percent, verdict, whole } from "./report.ts";
import { publishBody, sampleEvent } from "./workload.ts";

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
const TICK_MS = 2;
const MIN_SECONDS = 3;
const TARGET = 2;

/** Settings of the gateway. The flood's key gets its id only later, so the quota is everybody's but the admin's. */
export const FLOOD_ENV: Record<string, string> = {
  MILLRACE_ADMIN_KEY: ADMIN_KEY,
  MILLRACE_QUOTAS: JSON.stringify({ principals: { "key:*": { in: { requestsPerSecond: QUOTA } } } }),
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
  const counts = { sent: 0, refused: 0 };
  const start = performance.now();
  const before = cpuUs(gateway.pid);
  await Promise.all([
    steadily(gateway, "measured", key, RATE, CONNECTIONS, seconds, (status, ms) => {
      if (status !== 200) throw new Error(`the measured principal got status ${status}`);
      latencies.push(ms);
    }),
    loud !== undefined &&
      steadily(gateway, "flooded", loud, FLOOD, FLOOD_CONNECTIONS, seconds, (status) => {
        if (status !== 200 && status !== 429) throw new Error(`the flood got status ${status}`);
        counts.sent++;
        if (status === 429) counts.refused++;
      }),
  ]);
  const after = cpuUs(gateway.pid);
  const elapsed = (performance.now() - start) / 1000;
  latencies.sort((a, b) => a - b);
  return {
    p50Ms: quantile(latencies, 0.5),
    p99Ms: quantile(latencies, 0.99),
    sent: counts.sent / elapsed,
    refused: counts.refused / elapsed,
    cpuShare: before === undefined || after === undefined ? undefined : (after - before) / (elapsed * 1e6),
  };
}

/** Publishes at a rate. @param answered gets each answer's status and the milliseconds since its request was due. */
async function steadily(
  gateway: Started,
  stream: string,
  key: string,
  rate: number,
  connections: number,
  seconds: number,
  answered: (status: number, ms: number) => void,
): Promise<void> {
  const path = `/api/v1/streams/${stream}/events`;
  const request = jsonRequest(path, publishBody(sampleEvent(1)), `authorization: Bearer ${key}\r\n`);
  const idle = await Promise.all(Array.from({ length: connections }, () => HttpConnection.open(gateway.url)));
  const all = [...idle];
  const due: number[] = [];
  const open = new Set<Promise<void>>();
  let failure: unknown;
  const send = () => {
    while (idle.length > 0 && due.length > 0) {
      const [connection, dueMs] = [idle.pop()!, due.shift()!];
      const exchange = connection
        .exchange(request)
        .then(({ status }) => {
          answered(status, performance.now() - dueMs);
          idle.push(connection);
          open.delete(exchange);
          send();
        })
        .catch((error: unknown) => {
          failure = error;
          open.delete(exchange);
        });
      open.add(exchange);
    }
  };
  const start = performance.now();
  let made = 0;
  try {
    for (let now = start; now - start < seconds * 1000 && !failure; now = performance.now()) {
      for (; made < ((now - start) * rate) / 1000; made++) due.push(start + (made * 1000) / rate);
      send();
      await new Promise((resolve) => setTimeout(resolve, TICK_MS));
    }
    while (open.size > 0 && !failure) await Promise.race(open);
    if (failure) throw failure;
  } finally {
    for (const connection of all) connection.close();
  }
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
