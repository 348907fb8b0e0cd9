import type { Logger } from "pino";
import { deadlineIn, pause } from "../domain/deadline.ts";
import { ErrorCode, ServiceError } from "../domain/errors.ts";
import type { Catalog, StreamRecord } from "../log/catalog.ts";
import type { Presence } from "../log/presence.ts";
import type { TracingOptions } from "../telemetry/tracing.ts";
import { type LaneEnd, type LaneHandle, Pool } from "./pool.ts";
import type { ProcessorRecord } from "./record.ts";
import type { ProcessorStore } from "./store.ts";

export interface SupervisorOptions {
  readonly store: ProcessorStore;
  readonly catalog: Catalog;
  readonly presence: Presence;
  readonly natsUrl: string;
  readonly threads: number;
  readonly functionsDir: string | undefined;
  readonly tracing: TracingOptions | undefined;
  readonly log: Logger;
}

/** A lane that this process runs, or tried to. */
interface Running {
  readonly record: ProcessorRecord;
  /** What it was started with; another one needs a restart. */
  readonly signature: string;
  handle: LaneHandle | undefined;
  stopping: boolean;
  /** On the monotonic clock: not to be started again before. */
  notBefore: number;
  attempts: number;
}

const LOOK_MS = 250;
const CALL_MS = 5000;
const STOP_LIMIT_MS = 8000;
const BACKOFF_MS = 500;
const MAX_BACKOFF_MS = 10_000;
/** Whoever was taken over waits before it takes back what it believes its own. */
const FENCED_MS = 1500;

/** Runs the lanes that belong to this process, and stops those that no longer do. */
export class Supervisor implements AsyncDisposable {
  readonly #options: SupervisorOptions;
  readonly #pool: Pool;
  readonly #lanes = new Map<string, Running>();
  /** Events that ended a thread, by processor and lane. */
  readonly #poison = new Map<string, (readonly [partition: number, offset: number])[]>();
  /** Lanes one of whose events may have ended a thread. */
  readonly #careful = new Set<string>();
  readonly #looking: NodeJS.Timeout;
  #closed = false;

  constructor(options: SupervisorOptions) {
    this.#options = options;
    this.#pool = new Pool({
      threads: options.threads,
      natsUrl: options.natsUrl,
      functionsDir: options.functionsDir,
      tracing: options.tracing,
      log: options.log,
      onPoison: ({ record, lane }, partition, offset) => {
        const key = `${record.id}/${lane}`;
        this.#poison.set(key, [...(this.#poison.get(key) ?? []), [partition, offset]]);
        this.#careful.clear();
      },
      onSuspicion: (specs) => {
        for (const { record, lane } of specs) this.#careful.add(`${record.id}/${lane}`);
      },
    });
    options.store.onChange(() => this.#look());
    this.#looking = setInterval(() => this.#look(), LOOK_MS);
    this.#look();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed = true;
    clearInterval(this.#looking);
    const running: LaneHandle[] = [];
    for (const [key, lane] of this.#lanes) {
      if (lane.handle) running.push(lane.handle);
      this.#end(key, lane, false);
    }
    await Promise.race([Promise.all(running.map((handle) => handle.ended)), pause(STOP_LIMIT_MS)]);
    await this.#options.presence.leave();
    await this.#pool[Symbol.asyncDispose]();
  }

  #look(): void {
    if (this.#closed) return;
    const { store, presence } = this.#options;
    const records = new Map(store.all().map((record) => [record.id, record]));
    for (const [key, lane] of this.#lanes) {
      const record = records.get(lane.record.id);
      const number = Number(key.slice(key.lastIndexOf("/") + 1));
      if (!record) this.#end(key, lane, true);
      else if (!isToRun(record) || presence.ownerOf(key) !== presence.id) this.#end(key, lane, false);
      else if (number >= record.lanes || this.#signatureOf(record) !== lane.signature) this.#end(key, lane, false);
    }
    for (const record of records.values()) {
      if (!isToRun(record)) continue;
      const streams = this.#streamsOf(record);
      if (!streams) continue;
      for (let lane = 0; lane < record.lanes; lane++) {
        const key = `${record.id}/${lane}`;
        if (presence.ownerOf(key) === presence.id) this.#begin(key, record, lane, streams);
      }
    }
  }

  /** Source and sink, when both are there and the source is the one that the processor was made for. */
  #streamsOf(record: ProcessorRecord): { source: StreamRecord; sink: StreamRecord } | undefined {
    const source = this.#options.catalog.known(record.source);
    const sink = this.#options.catalog.known(record.sink);
    return source && sink && source.id === record.sourceId ? { source, sink } : undefined;
  }

  #signatureOf(record: ProcessorRecord): string {
    const streams = this.#streamsOf(record);
    if (!streams) return "none";
    const { source, sink } = streams;
    return `${record.revision}/${source.partitions}/${sink.id}/${sink.partitions}/${sink.duplicateWindowMs}/${sink.maxMessageBytes}`;
  }

  #begin(
    key: string,
    record: ProcessorRecord,
    lane: number,
    streams: { source: StreamRecord; sink: StreamRecord },
  ): void {
    const known = this.#lanes.get(key);
    if (known && (known.handle || known.notBefore > performance.now())) return;
    const running: Running = {
      record,
      signature: this.#signatureOf(record),
      handle: undefined,
      stopping: false,
      notBefore: 0,
      attempts: known?.attempts ?? 0,
    };
    const poison = this.#poison.get(key) ?? [];
    const owner = this.#options.presence.id;
    running.handle = this.#pool.start({ record, lane, ...streams, owner, poison, careful: this.#careful.has(key) });
    this.#lanes.set(key, running);
    const startedAt = performance.now();
    void running.handle.ended.then((end) => this.#ended(key, running, end, performance.now() - startedAt));
  }

  #end(key: string, lane: Running, atOnce: boolean): void {
    if (!lane.handle) {
      this.#lanes.delete(key);
      return;
    }
    if (lane.stopping) return;
    lane.stopping = true;
    if (atOnce) lane.handle.kill();
    else {
      const { handle } = lane;
      handle.stop();
      const limit = setTimeout(() => handle.kill(), STOP_LIMIT_MS);
      void handle.ended.then(() => clearTimeout(limit));
    }
  }

  #ended(key: string, lane: Running, end: LaneEnd, ranMs: number): void {
    lane.handle = undefined;
    if (lane.stopping) {
      this.#lanes.delete(key);
      this.#look();
      return;
    }
    if (ranMs > MAX_BACKOFF_MS) lane.attempts = 0;
    const wait = Math.min(MAX_BACKOFF_MS, BACKOFF_MS * 2 ** lane.attempts++);
    lane.notBefore = performance.now() + (end.cause === "fenced" ? FENCED_MS : end.cause === "crashed" ? 0 : wait);
    // Until its record changes there is nothing to try again.
    if (end.cause === "failed") {
      lane.notBefore = Number.POSITIVE_INFINITY;
      void this.#failAll(key, lane.record, end.message ?? "");
    }
    const level = end.cause === "fenced" || end.cause === "failed" ? "info" : "warn";
    this.#options.log[level]({ lane: key, cause: end.cause, reason: end.message }, "a processor's lane ended");
  }

  /** A lane that failed stops the whole processor: says so in its record, which every process sees. */
  async #failAll(key: string, { id, revision }: ProcessorRecord, reason: string): Promise<void> {
    const fault = `lane ${key.slice(key.lastIndexOf("/") + 1)}: ${reason}`;
    while (!this.#closed)
      try {
        // Whoever changed the record meanwhile wants the lane to try again.
        await this.#options.store.change(
          id,
          (present) => (present.revision === revision ? { ...present, fault } : undefined),
          deadlineIn(CALL_MS),
        );
        return;
      } catch (error) {
        if (error instanceof ServiceError && error.code === ErrorCode.PROCESSOR_NOT_FOUND) return;
        this.#options.log.warn({ err: error, processor: id }, "a processor's failure was not stored");
        await pause(BACKOFF_MS);
      }
  }
}

const isToRun = ({ desired, fault, heldUntilMs = 0 }: ProcessorRecord): boolean =>
  desired === "running" && fault === undefined && heldUntilMs <= Date.now();
