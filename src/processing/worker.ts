import "../tick-shape.ts";
import { Writable } from "node:stream";
import { parentPort, workerData } from "node:worker_threads";
import { pino } from "pino";
import { Mutex } from "../domain/mutex.ts";
import { connectJetStream, type JetStream } from "../jetstream/connection.ts";
import { StreamGone } from "../jetstream/ordered-reader.ts";
import { startTracing } from "../telemetry/tracing.ts";
import { Lane } from "./lane.ts";
import { Fenced, LaneFailed, type LaneSpec, type LaneTools } from "./lane-spec.ts";
import type { Attention } from "./module-functions.ts";
import type { TableMirror } from "./tables.ts";
import { openTools } from "./tools.ts";
import { type FromWorker, MAX_WORKS, type ToWorker, Work, type WorkerSetup, WorkState } from "./worker-protocol.ts";

/** A thread that runs lanes, with a connection to NATS of its own. */

const setup = workerData as WorkerSetup;
const port = parentPort!;
const shared = new Float64Array(setup.shared);
const beats = new Int32Array(setup.beats);
const post = (message: FromWorker) => port.postMessage(message);

setInterval(() => Atomics.add(beats, 0, 1), 100);

const sink = new Writable({
  write(line: Buffer, _encoding, done) {
    post({ kind: "log", line: line.toString() });
    done();
  },
});
const log = pino({ level: setup.logLevel }, sink);
const lanes = new Map<number, Lane>();
/** Lanes that are not there yet, and whether they still shall be. */
const opening = new Map<number, "wanted" | "unwanted">();
const mirrors = new Map<string, TableMirror>();
const turns = new Mutex();
/** Places in the shared numbers that no event takes. */
const freeWorks = Array.from({ length: MAX_WORKS }, (_, index) => index * Work.SIZE);
const tracing = setup.tracing && (await startTracing(setup.tracing, log));
const connecting: Promise<JetStream> = connectJetStream({ url: setup.natsUrl, log, connectTimeoutMs: 600_000 });

port.on("message", (message: ToWorker) => {
  if (message.kind === "start") void start(message.token, message.spec);
  else if (message.kind === "end") void end();
  else if (opening.has(message.token)) opening.set(message.token, "unwanted");
  else if (message.kind === "stop") lanes.get(message.token)?.stop();
  else lanes.get(message.token)?.kill(new Error("killed"));
});

async function start(token: number, spec: LaneSpec): Promise<void> {
  opening.set(token, "wanted");
  try {
    const js = await connecting;
    const lane = new Lane(js, spec, await toolsFor(js, token, spec), log);
    const isWanted = opening.get(token) === "wanted";
    opening.delete(token);
    lanes.set(token, lane);
    if (isWanted) await lane.run();
    post({ kind: "ended", token, cause: "stopped" });
  } catch (error) {
    post({
      kind: "ended",
      token,
      cause: causeOf(error),
      message: error instanceof Error ? error.message : String(error),
    });
  } finally {
    opening.delete(token);
    lanes.delete(token);
  }
}

function causeOf(error: unknown): (FromWorker & { kind: "ended" })["cause"] {
  if (error instanceof Fenced) return "fenced";
  if (error instanceof LaneFailed) return "failed";
  return error instanceof StreamGone ? "gone" : "error";
}

async function end(): Promise<void> {
  const js = await connecting;
  await Promise.all([...mirrors.values()].map((mirror) => mirror.close()));
  await js[Symbol.asyncDispose]();
  await tracing?.[Symbol.asyncDispose]();
  process.exit(0);
}

async function toolsFor(js: JetStream, token: number, spec: LaneSpec): Promise<LaneTools> {
  if (spec.record.functions.some(({ body }) => body.kind === "module")) outliveModules();
  const attention: Attention = {
    turns: spec.careful ? turns : undefined,
    begin(partition, offset) {
      const at = freeWorks.pop();
      if (at === undefined) return { wait: () => {}, end: () => {} };
      shared[at + Work.LANE] = token;
      shared[at + Work.PARTITION] = partition;
      shared[at + Work.OFFSET] = offset;
      shared[at + Work.STATE] = WorkState.CALLED;
      return {
        wait: () => {
          shared[at + Work.STATE] = WorkState.WAITING;
        },
        end: () => {
          shared[at + Work.STATE] = WorkState.NONE;
          freeWorks.push(at);
        },
      };
    },
  };
  return openTools({
    js: () => js,
    functions: spec.record.functions,
    directory: setup.functionsDir,
    mirrors,
    attention,
  });
}

let outlives = false;

/** What a module does after it has given its answer is no fault of any event, and ends no thread. */
function outliveModules(): void {
  if (outlives) return;
  outlives = true;
  for (const event of ["uncaughtException", "unhandledRejection"] as const)
    process.on(event, (error: unknown) => log.warn({ err: error }, "a function failed after it had given its answer"));
}
