import { Worker } from "node:worker_threads";
import { type Deadline, msLeft } from "../domain/deadline.ts";
import { invalidArgument, quotaExceeded, unavailable } from "../domain/errors.ts";
import type { StoredEvent } from "../domain/event.ts";
import { checkOperations, type OperationFields, type Topology } from "../domain/topology.ts";
import type { JetStream } from "../jetstream/connection.ts";
import type { Catalog } from "../log/catalog.ts";
import { readPartition } from "../log/read.ts";
import type { FunctionRegistry } from "./function-registry.ts";
import type { FunctionRecord } from "./functions.ts";
import { functionsOf, type Processors } from "./processors.ts";
import type { EventTrace, ResultTrace } from "./trace.ts";

/** What the thread is started with. */
export interface DryRunSetup {
  readonly topology: Topology;
  readonly functions: readonly FunctionRecord[];
  readonly events: readonly StoredEvent[];
  readonly natsUrl: string;
  readonly functionsDir: string | undefined;
}

export type FromDryRun =
  | { readonly kind: "ready" }
  | { readonly kind: "event"; readonly trace: EventTrace }
  | { readonly kind: "result"; readonly trace: ResultTrace }
  | { readonly kind: "done"; readonly incomplete: string | undefined }
  | { readonly kind: "failed"; readonly message: string };

/** A piece of a partition to try operations on. */
export interface DryRunPiece {
  /** Undefined: the processor's source. */
  readonly stream: string | undefined;
  readonly partition: number;
  readonly from: "earliest" | number;
  readonly limit: number;
}

export interface DryRunRequest {
  readonly processorId: string | undefined;
  readonly operations: readonly OperationFields[];
  /** Events, or where to take them. */
  readonly events: readonly StoredEvent[] | DryRunPiece;
  /** Longest time to work on them, in milliseconds. */
  readonly timeoutMs: number;
}

export interface DryRunAnswer {
  readonly events: EventTrace[];
  readonly results: ResultTrace[];
  /** Why not all is here. */
  readonly incomplete: string | undefined;
}

export interface DryRunOptions {
  readonly js: JetStream;
  readonly catalog: Catalog;
  readonly functions: FunctionRegistry;
  readonly processors: Processors;
  readonly natsUrl: string;
  readonly functionsDir: string | undefined;
}

/** At once in one process: each takes a thread. */
const MAX_AT_ONCE = 4;
const MAX_SOURCE_BYTES = 4 * 1024 * 1024;
const MAX_ANSWER_CHARS = 4 * 1024 * 1024;
const HEAP_MB = 256;

/** Tries operations out on threads of their own, so that an expression or a module without end stops nothing. */
export class DryRuns {
  readonly #o: DryRunOptions;
  #running = 0;

  constructor(options: DryRunOptions) {
    this.#o = options;
  }

  /** @throws ServiceError INVALID_ARGUMENT, PROCESSOR_NOT_FOUND, STREAM_NOT_FOUND, INVALID_OFFSET, QUOTA_EXCEEDED. */
  async run(request: DryRunRequest, deadline: Deadline, signal: AbortSignal): Promise<DryRunAnswer> {
    const { topology, functions, source } = await this.#topologyOf(request, deadline);
    const events = isPiece(request.events) ? await this.#read(request.events, source, deadline) : request.events;
    if (this.#running >= MAX_AT_ONCE) throw quotaExceeded("dry-runs", `${MAX_AT_ONCE} dry runs are under way`, 1000);
    this.#running++;
    try {
      const { natsUrl, functionsDir } = this.#o;
      return await runThread(
        { topology, functions, events, natsUrl, functionsDir },
        request.timeoutMs,
        deadline,
        signal,
      );
    } finally {
      this.#running--;
    }
  }

  async #topologyOf({ processorId, operations }: DryRunRequest, deadline: Deadline) {
    if (processorId !== undefined) return this.#o.processors.record(processorId, deadline);
    const all = await this.#o.functions.all(deadline);
    const topology = checkOperations(operations, new Set(all.keys()));
    return { topology, functions: functionsOf(topology, all), source: undefined };
  }

  async #read(piece: DryRunPiece, source: string | undefined, deadline: Deadline): Promise<StoredEvent[]> {
    const name = piece.stream ?? source;
    if (name === undefined) throw invalidArgument("source.stream", "is required without a processor");
    const stream = await this.#o.catalog.find(name, deadline);
    const { from, limit, partition } = piece;
    const options = { from, limit, maxBytes: MAX_SOURCE_BYTES, filter: undefined, deadline };
    return (await readPartition(this.#o.js, stream, partition, options)).events;
  }
}

const isPiece = (events: readonly StoredEvent[] | DryRunPiece): events is DryRunPiece => !Array.isArray(events);

async function runThread(
  setup: DryRunSetup,
  timeoutMs: number,
  deadline: Deadline,
  signal: AbortSignal,
): Promise<DryRunAnswer> {
  const answer: DryRunAnswer = { events: [], results: [], incomplete: undefined };
  const { promise, resolve, reject } = Promise.withResolvers<string | undefined>();
  const worker = new Worker(new URL("./dry-run-thread.ts", import.meta.url), {
    workerData: setup,
    execArgv: [],
    stdout: true,
    stderr: true,
    resourceLimits: { maxOldGenerationSizeMb: HEAP_MB },
  });
  const late = () => resolve(lateReason(answer.events.length, setup.events.length, timeoutMs));
  const gone = () => reject(unavailable("the caller has gone"));
  // The thread's start is not part of the time that the events have.
  let timer = setTimeout(() => reject(unavailable("the dry run could not be started in time")), msLeft(deadline));
  let chars = 0;
  signal.addEventListener("abort", gone, { once: true });
  worker.on("message", (message: FromDryRun) => {
    if (message.kind === "ready") {
      clearTimeout(timer);
      timer = setTimeout(late, Math.max(1, Math.min(timeoutMs, msLeft(deadline) - 100)));
    } else if (message.kind === "done") resolve(message.incomplete);
    else if (message.kind === "failed") reject(invalidArgument("operations", message.message));
    else {
      chars += JSON.stringify(message.trace).length;
      if (chars > MAX_ANSWER_CHARS) return resolve(`the answer would be larger than ${MAX_ANSWER_CHARS} characters`);
      if (message.kind === "event") answer.events.push(message.trace);
      else answer.results.push(message.trace);
    }
  });
  worker.on("error", (error: NodeJS.ErrnoException) => {
    if (error.code === "ERR_WORKER_OUT_OF_MEMORY") resolve(`it took more than ${HEAP_MB} MiB of memory`);
    else reject(error);
  });
  // A module may end its thread.
  worker.on("exit", () => resolve("the thread ended by itself"));
  try {
    const incomplete = await promise;
    return { ...answer, incomplete };
  } finally {
    clearTimeout(timer);
    signal.removeEventListener("abort", gone);
    void worker.terminate();
  }
}

const lateReason = (done: number, all: number, timeoutMs: number): string =>
  done < all
    ? `event ${done} did not come to an end within ${timeoutMs} ms of the start`
    : `the results did not come to an end within ${timeoutMs} ms of the start`;
