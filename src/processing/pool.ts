import { Worker } from "node:worker_threads";
import type { Logger } from "pino";
import { pause } from "../domain/deadline.ts";
import type { TracingOptions } from "../telemetry/tracing.ts";
import type { LaneSpec } from "./lane-spec.ts";
import { type FromWorker, MAX_WORKS, type ToWorker, Work, type WorkerSetup, WorkState } from "./worker-protocol.ts";

/** How a lane ended; `crashed`: its thread did. */
export interface LaneEnd {
  readonly cause: (FromWorker & { kind: "ended" })["cause"] | "crashed";
  readonly message?: string | undefined;
}

/** A lane that runs in some thread. */
export interface LaneHandle {
  readonly ended: Promise<LaneEnd>;
  /** Ends it at a last commit. */
  stop(): void;
  /** Ends it at once. */
  kill(): void;
}

export interface PoolOptions {
  readonly threads: number;
  readonly natsUrl: string;
  readonly functionsDir: string | undefined;
  readonly tracing: TracingOptions | undefined;
  readonly log: Logger;
  /** An event did not let a function come to an end. */
  readonly onPoison: (spec: LaneSpec, partition: number, offset: number) => void;
  /** Some event of these lanes may not have let a function come to an end; they are to be started again as careful ones. */
  readonly onSuspicion: (specs: readonly LaneSpec[]) => void;
}

interface Thread {
  readonly worker: Worker;
  readonly beats: Int32Array;
  readonly shared: Float64Array;
  readonly lanes: Map<number, { readonly spec: LaneSpec; readonly end: (end: LaneEnd) => void }>;
  lastBeat: number;
  lastBeatAt: number;
}

const CHECK_MS = 250;
/** A function that holds its thread longer is ended, and its event set aside. */
const STUCK_MS = 2000;
/** So is one that does when its promise goes on; what else the thread does must not be taken for that. */
const STUCK_WAITING_MS = 6000;
/** A thread that stands still for any other reason is ended after this long. */
const STALLED_MS = 60_000;
const THREAD_HEAP_MB = 2048;

/** Threads that run lanes, started when needed and watched. */
export class Pool implements AsyncDisposable {
  readonly #options: PoolOptions;
  readonly #threads: Thread[] = [];
  readonly #watching: NodeJS.Timeout;
  #tokens = 0;
  #closed = false;

  constructor(options: PoolOptions) {
    this.#options = options;
    this.#watching = setInterval(() => this.#watch(), CHECK_MS);
  }

  /** Runs a lane on the thread with the fewest. */
  start(spec: LaneSpec): LaneHandle {
    const token = ++this.#tokens;
    const thread = this.#leastBusy();
    const { promise, resolve } = Promise.withResolvers<LaneEnd>();
    const end = (how: LaneEnd) => {
      thread.lanes.delete(token);
      resolve(how);
    };
    thread.lanes.set(token, { spec, end });
    const tell = (message: ToWorker) => thread.worker.postMessage(message);
    tell({ kind: "start", token, spec });
    return { ended: promise, stop: () => tell({ kind: "stop", token }), kill: () => tell({ kind: "kill", token }) };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed = true;
    clearInterval(this.#watching);
    await Promise.all(
      this.#threads.map(async ({ worker }) => {
        const exited = new Promise<void>((resolve) => worker.once("exit", () => resolve()));
        worker.postMessage({ kind: "end" } satisfies ToWorker);
        await Promise.race([exited, pause(3000)]);
        await worker.terminate();
      }),
    );
  }

  #leastBusy(): Thread {
    const [idlest] = this.#threads.toSorted((a, b) => a.lanes.size - b.lanes.size);
    if (idlest && (idlest.lanes.size === 0 || this.#threads.length >= this.#options.threads)) return idlest;
    return this.#newThread();
  }

  #newThread(): Thread {
    const { natsUrl, functionsDir, tracing, log } = this.#options;
    const beats = new SharedArrayBuffer(4);
    const shared = new SharedArrayBuffer(8 * Work.SIZE * MAX_WORKS);
    const setup: WorkerSetup = { natsUrl, functionsDir, tracing, logLevel: log.level, beats, shared };
    const worker = new Worker(new URL("./worker.ts", import.meta.url), {
      workerData: setup,
      execArgv: [],
      resourceLimits: { maxOldGenerationSizeMb: THREAD_HEAP_MB },
    });
    const thread: Thread = {
      worker,
      beats: new Int32Array(beats),
      shared: new Float64Array(shared),
      lanes: new Map(),
      lastBeat: 0,
      lastBeatAt: performance.now(),
    };
    this.#threads.push(thread);
    worker.on("message", (message: FromWorker) => {
      if (message.kind === "log") relog(log, message.line);
      else thread.lanes.get(message.token)?.end({ cause: message.cause, message: message.message });
    });
    worker.on("error", (error) => {
      if (!this.#closed) log.warn({ err: error }, "a processor thread failed");
      this.#blame(thread);
    });
    worker.on("exit", () => {
      // A function may end its thread itself.
      if (!this.#closed) this.#blame(thread);
      this.#threads.splice(this.#threads.indexOf(thread), 1);
      for (const { end } of [...thread.lanes.values()]) end({ cause: "crashed" });
    });
    return thread;
  }

  #watch(): void {
    const now = performance.now();
    for (const thread of this.#threads) {
      const beat = Atomics.load(thread.beats, 0);
      // A turn of this loop that comes late says nothing of the others.
      if (beat !== thread.lastBeat || now - this.#watchedAt > 4 * CHECK_MS) {
        thread.lastBeat = beat;
        thread.lastBeatAt = now;
        continue;
      }
      if (now - thread.lastBeatAt < limitOf(thread)) continue;
      this.#options.log.warn("a processor thread stands still and is ended");
      this.#blame(thread);
      void thread.worker.terminate();
    }
    this.#watchedAt = now;
  }

  #watchedAt = performance.now();

  /** Names the event that a function worked on when its thread ended, or the lanes of those that it may have been. */
  #blame(thread: Thread): void {
    const works = worksOf(thread);
    thread.shared.fill(0);
    const called = works.find(({ state }) => state === WorkState.CALLED);
    const known = works.flatMap(({ lane, ...work }) => {
      const spec = thread.lanes.get(lane)?.spec;
      return spec ? [{ ...work, spec }] : [];
    });
    const guilty = called ? known.find(({ state }) => state === WorkState.CALLED) : onlyCareful(known);
    if (guilty) this.#options.onPoison(guilty.spec, guilty.partition, guilty.offset);
    else if (!called && known.length > 0) this.#options.onSuspicion(known.map(({ spec }) => spec));
  }
}

/** An event that a module of a thread works on. */
interface WorkView {
  readonly state: number;
  readonly lane: number;
  readonly partition: number;
  readonly offset: number;
}

function worksOf({ shared }: Thread): WorkView[] {
  const works: WorkView[] = [];
  for (let at = 0; at < shared.length; at += Work.SIZE) {
    const [state, lane, partition, offset] = shared.subarray(at, at + Work.SIZE);
    if (state !== WorkState.NONE) works.push({ state: state!, lane: lane!, partition: partition!, offset: offset! });
  }
  return works;
}

/** Most milliseconds that a thread may stand still, by what it works on. */
function limitOf(thread: Thread): number {
  const works = worksOf(thread);
  if (works.some(({ state }) => state === WorkState.CALLED)) return STUCK_MS;
  return works.length > 0 ? STUCK_WAITING_MS : STALLED_MS;
}

/** The one event waited for, if its lane was careful: then it was alone the time before, too. */
function onlyCareful<T extends { readonly spec: LaneSpec }>(works: readonly T[]): T | undefined {
  return works.length === 1 && works[0]!.spec.careful ? works[0] : undefined;
}

/** A thread's log line, by this process's logger. */
function relog(log: Logger, line: string): void {
  const {
    level,
    msg,
    time: _time,
    pid: _pid,
    hostname: _host,
    ...fields
  } = JSON.parse(line) as Record<string, unknown> & {
    level: number;
    msg?: string;
  };
  if (level >= 50) log.error(fields, msg);
  else if (level >= 40) log.warn(fields, msg);
  else if (level >= 30) log.info(fields, msg);
  else log.debug(fields, msg);
}
