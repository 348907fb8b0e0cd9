import { parentPort, workerData } from "node:worker_threads";
import { pino } from "pino";
import { connectJetStream, type JetStream } from "../jetstream/connection.ts";
import type { DryRunSetup, FromDryRun } from "./dry-runs.ts";
import type { TableMirror } from "./tables.ts";
import { openTools } from "./tools.ts";
import { Tracer } from "./trace.ts";

/** A thread that tries operations out and tells of each event as soon as it is done; it is ended when it takes too long. */

const { topology, functions, events, natsUrl, functionsDir } = workerData as DryRunSetup;
const post = (message: FromDryRun) => parentPort!.postMessage(message);

const CONNECT_MS = 5000;
const MAX_RESULTS = 1000;

async function work(): Promise<void> {
  const looksUp = functions.some(({ body }) => body.kind === "lookup");
  const log = pino({ level: "silent" });
  const js: JetStream | undefined = looksUp
    ? await connectJetStream({ url: natsUrl, log, connectTimeoutMs: CONNECT_MS })
    : undefined;
  const attention = { begin: () => ({ wait: () => {}, end: () => {} }) };
  const mirrors = new Map<string, TableMirror>();
  const tools = await openTools({ js: () => js!, functions, directory: functionsDir, mirrors, attention });
  await tools.whenCurrent?.();
  const tracer = new Tracer(topology, functions, tools.functions);
  post({ kind: "ready" });
  for (const event of events) post({ kind: "event", trace: await tracer.event(event) });
  let count = 0;
  for await (const trace of tracer.results()) {
    if (++count > MAX_RESULTS) break;
    post({ kind: "result", trace });
  }
  post({ kind: "done", incomplete: count > MAX_RESULTS ? `there are more than ${MAX_RESULTS} results` : undefined });
}

// What a module does after it has given its answer is no fault of any event.
for (const event of ["uncaughtException", "unhandledRejection"] as const) process.on(event, () => {});

try {
  await work();
} catch (error) {
  post({ kind: "failed", message: error instanceof Error ? error.message : String(error) });
}
