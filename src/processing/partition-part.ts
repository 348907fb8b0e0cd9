import { setImmediate as nextTurn } from "node:timers/promises";
import { DEFAULT_DATA_TYPE, type StoredEvent } from "../domain/event.ts";
import type { WindowStage } from "../domain/topology.ts";
import { endNumber, nextEnd } from "../domain/window.ts";
import type { JetStream } from "../jetstream/connection.ts";
import { partitionStream, partitionSubject } from "../jetstream/names.ts";
import { OrderedReader, Truncated } from "../jetstream/ordered-reader.ts";
import type { StreamRecord } from "../log/catalog.ts";
import { decodeEvent } from "../log/decode.ts";
import { endProcess, type ProcessTrace, traceProcess } from "../telemetry/event-trace.ts";
import type { PartitionProgress } from "./checkpoint.ts";
import type { PartitionMark } from "./exchange.ts";
import { Flight } from "./flight.ts";
import type { LocalWindows } from "./local-windows.ts";
import { type Grouped, type Pipeline, type PipelineSink, StepFailure } from "./pipeline.ts";

/** What one event came to; its lane takes it over in one step. */
export interface EventOutcome {
  readonly passed: Flight[];
  readonly failures: StepFailure[];
  filtered: number;
  /** The event's part in its trace, where it belongs to one. */
  readonly trace: ProcessTrace | undefined;
}

/** What a partition needs of its lane. */
export interface PartitionPartOptions {
  readonly js: JetStream;
  /** Whose it is, for traces. */
  readonly processor: { readonly id: string; readonly name: string };
  readonly source: StreamRecord;
  readonly partition: number;
  readonly before: Pipeline;
  readonly stage: WindowStage | undefined;
  readonly group: ((flight: Flight) => Grouped) | undefined;
  readonly local: LocalWindows | undefined;
  readonly idleTimeoutMs: number;
  /** Offsets of events that ended their thread; they are set aside unprocessed. */
  readonly poison: ReadonlySet<number>;
  readonly progress: PartitionProgress;
  /** Milliseconds that the storage's clock is ahead of this process's. */
  readonly clockAheadMs: () => number;
  /** Marks of all partitions, as far as the lane knows. */
  readonly marks: () => Iterable<PartitionMark>;
  /** Takes over what an event came to, at once. @returns false when the lane has failed and nothing more is to be done. */
  readonly onOutcome: (event: StoredEvent, outcome: EventOutcome, late: Flight | undefined) => boolean;
  /** Resolves when what the steps look up is as current as the events. */
  readonly whenCurrent: (() => Promise<void>) | undefined;
  /** Events before this offset are gone. @returns whether to go on with it. */
  readonly onTruncated: (partition: number, firstOffset: number) => boolean;
  /** After each batch; resolves when the lane has room for more. */
  readonly onBatch: (atEnd: boolean) => Promise<void> | undefined;
}

/** Longest that events are processed without a turn for the other lanes of the thread; one event may take longer. */
const SLICE_MS = 20;
const BATCH = 500;
const MAX_WAIT_MS = 1000;
/** An event may be stored with a time by this much before the moment at which the storage said that there is none. */
const CLOCK_MARGIN_MS = 100;

/** Reads one partition of the source and runs its events through the steps, in order. */
export class PartitionPart {
  readonly #options: PartitionPartOptions;
  readonly progress: PartitionProgress;
  #lastWindowed = performance.now();
  #lag = 0;

  constructor(options: PartitionPartOptions) {
    this.#options = options;
    this.progress = options.progress;
  }

  get partition(): number {
    return this.#options.partition;
  }

  get mark(): PartitionMark {
    const { watermark, idle, lastEnd } = this.progress;
    return [this.partition, watermark, idle ? 1 : 0, lastEnd];
  }

  /** Events after the last one read, when last heard of. */
  get lag(): number {
    return this.#lag;
  }

  /** What others have to hear of soon: it changes when windows can close, or may have to. */
  get signature(): string {
    const { stage } = this.#options;
    const { watermark, idle, lastEnd } = this.progress;
    if (!stage) return "";
    const closable = watermark === null ? null : (endNumber(stage.window, watermark - stage.graceMs) ?? watermark);
    return `${closable} ${idle} ${lastEnd}`;
  }

  /** Processes events until the signal. @throws StreamGone, ServiceError. */
  async run(signal: AbortSignal): Promise<void> {
    for (;;) {
      try {
        return await this.#run(signal);
      } catch (error) {
        if (!(error instanceof Truncated)) throw error;
        if (!this.#options.onTruncated(this.partition, error.firstSeq - 1)) return;
        this.progress.next = error.firstSeq - 1;
      }
    }
  }

  async #run(signal: AbortSignal): Promise<void> {
    const { js, source, partition, onBatch, whenCurrent } = this.#options;
    const reader = new OrderedReader(js, {
      jsStream: partitionStream(source.name, partition),
      filter: partitionSubject(source.name, partition),
      from: this.progress.next + 1,
      dense: true,
      batch: BATCH,
    });
    try {
      while (!signal.aborted) {
        const { messages, atEnd, asOfMs } = await reader.read(this.#waitMs(), signal);
        if (messages.length > 0 && whenCurrent) await whenCurrent();
        let sliceEnd = performance.now() + SLICE_MS;
        for (const message of messages) {
          if (signal.aborted) return;
          const going = this.#process(message);
          if (!(going instanceof Promise ? await going : going)) return;
          if (performance.now() < sliceEnd) continue;
          await nextTurn();
          sliceEnd = performance.now() + SLICE_MS;
        }
        this.#lag = reader.pending;
        if (atEnd) this.#rest(asOfMs);
        const room = onBatch(atEnd);
        if (room) await room;
      }
    } finally {
      await reader.close();
    }
  }

  /** No longer than until a window may have to close by the clock. */
  #waitMs(): number {
    const { stage, idleTimeoutMs, clockAheadMs } = this.#options;
    if (!stage) return MAX_WAIT_MS;
    if (stage.timestampField !== undefined) return Math.min(MAX_WAIT_MS, Math.max(50, idleTimeoutMs / 4));
    const now = Date.now() + clockAheadMs() - CLOCK_MARGIN_MS - stage.graceMs;
    const { window } = stage;
    const end = window.type === "session" ? now + window.gapMs : nextEnd(window, now);
    return Math.min(MAX_WAIT_MS, Math.max(20, end - now + 5));
  }

  #process(message: StoredMessage): boolean | Promise<boolean> {
    const { event, fault } = decode(this.partition, message);
    const { processor, source } = this.#options;
    const trace = traceProcess(processor, source.name, event);
    const outcome: EventOutcome = { passed: [], failures: [], filtered: 0, trace };
    const flight = new Flight(event);
    if (fault !== undefined) {
      outcome.failures.push(new StepFailure(0, "dlq", fault, flight));
      return this.#take(event, outcome);
    }
    if (this.#options.poison.has(event.offset)) {
      const reason = new Error("a function did not come to an end on this event");
      outcome.failures.push(new StepFailure(0, "dlq", reason, flight));
      return this.#take(event, outcome);
    }
    const running = this.#options.before.run(flight, sinkOf(outcome));
    return running ? running.then(() => this.#take(event, outcome)) : this.#take(event, outcome);
  }

  /** Takes what an event came to into windows, or into what is to be written. Nothing is awaited in here. */
  #take(event: StoredEvent, outcome: EventOutcome): boolean {
    const { stage, group, local } = this.#options;
    const { progress } = this;
    let late: Flight | undefined;
    if (stage && group && local) {
      const before = progress.watermark;
      for (const flight of outcome.passed.splice(0)) {
        let grouped: Grouped;
        try {
          grouped = group(flight);
        } catch (error) {
          if (!(error instanceof StepFailure)) throw error;
          outcome.failures.push(error);
          continue;
        }
        const end = local.add(flight, grouped, before);
        if (end === undefined) late = flight;
        else progress.lastEnd = Math.max(progress.lastEnd ?? 0, end);
        progress.watermark = Math.max(progress.watermark ?? 0, grouped.timeMs);
        this.#lastWindowed = performance.now();
        progress.idle = false;
      }
      if (stage.timestampField === undefined) progress.watermark = Math.max(progress.watermark ?? 0, event.timestampMs);
    }
    if (outcome.trace) endProcess(outcome.trace, outcome.failures[0]?.reason);
    if (!this.#options.onOutcome(event, outcome, late)) return false;
    progress.next = event.offset + 1;
    return true;
  }

  /**
   * The storage had nothing more at `asOfMs`: the watermark may move on by itself, as far as some window waits for it.
   *
   * @param asOfMs a moment of this process's clock; what was stored after it may not have been read, also when it is long
   * ago because the process stood still.
   */
  #rest(asOfMs: number): void {
    const { stage, idleTimeoutMs, clockAheadMs } = this.#options;
    this.#lag = 0;
    if (!stage) return;
    const { progress } = this;
    const serverMs = asOfMs + clockAheadMs();
    let wanted = progress.lastEnd ?? Number.NEGATIVE_INFINITY;
    let lowest = Number.POSITIVE_INFINITY;
    for (const [partition, watermark, idle, lastEnd] of this.#options.marks()) {
      if (lastEnd !== null) wanted = Math.max(wanted, lastEnd);
      if (partition !== this.partition && idle === 0) lowest = Math.min(lowest, watermark ?? Number.NEGATIVE_INFINITY);
    }
    const asOf = performance.now() - Math.max(0, Date.now() - asOfMs);
    const isIdle = asOf - this.#lastWindowed >= idleTimeoutMs;
    if (stage.timestampField === undefined) {
      progress.idle = isIdle;
      this.#advance(serverMs - CLOCK_MARGIN_MS, wanted);
    } else if (isIdle) {
      progress.idle = true;
      this.#advance(lowest === Number.POSITIVE_INFINITY ? serverMs - idleTimeoutMs : lowest, wanted);
    }
  }

  #advance(toMs: number, wantedMs: number): void {
    const now = this.progress.watermark ?? Number.NEGATIVE_INFINITY;
    if (now < wantedMs && toMs > now) this.progress.watermark = Math.floor(toMs);
  }
}

function sinkOf(outcome: EventOutcome): PipelineSink {
  return {
    passed: (flight) => void outcome.passed.push(flight),
    filtered: () => void outcome.filtered++,
    failed: (failure) => void outcome.failures.push(failure),
  };
}

type StoredMessage = Parameters<typeof decodeEvent>[1];

/** What somebody wrote into the storage past Millrace may be no event: it then is its bytes, with the fault. */
function decode(partition: number, message: StoredMessage): { event: StoredEvent; fault?: unknown } {
  try {
    return { event: decodeEvent(partition, message) };
  } catch (fault) {
    const { seq, timestampMs, data } = message;
    const event: StoredEvent = {
      eventId: `evt_${seq}`,
      partition,
      offset: seq - 1,
      timestampMs,
      key: undefined,
      headers: undefined,
      payload: data,
      contentType: DEFAULT_DATA_TYPE,
    };
    return { event, fault };
  }
}
