import type { Logger } from "pino";
import { deadlineIn } from "../domain/deadline.ts";
import { ErrorCode, ServiceError } from "../domain/errors.ts";
import type { StoredEvent } from "../domain/event.ts";
import type { JetStream } from "../jetstream/connection.ts";
import { Journal, type JournalWrite, Reconnected } from "../jetstream/journal.ts";
import { StreamGone } from "../jetstream/ordered-reader.ts";
import { partitionState } from "../jetstream/partitions.ts";
import { Appender } from "../log/append.ts";
import {
  type Checkpoint,
  JournalNames,
  type KeyCheckpoint,
  type LaneCounts,
  type PartitionProgress,
} from "./checkpoint.ts";
import { CommitPace } from "./commit-pace.ts";
import { DirectResults } from "./direct-results.ts";
import type { PartitionMark } from "./exchange.ts";
import { ExchangeSender } from "./exchange-sender.ts";
import { Fence } from "./fence.ts";
import type { Flight } from "./flight.ts";
import { KeyPart } from "./key-part.ts";
import { COMMIT_DEADLINE_MS, Fenced, LaneFailed, type LaneSpec, type LaneTools } from "./lane-spec.ts";
import { LaneStatusTeller } from "./lane-status.ts";
import { LocalWindows } from "./local-windows.ts";
import { type EventOutcome, PartitionPart } from "./partition-part.ts";
import { compileGrouping, Pipeline, type StepFailure } from "./pipeline.ts";
import { RateMeter } from "./rate-meter.ts";
import { beginsAtEnd } from "./record.ts";
import { ResultWriter } from "./result-writer.ts";
import { SideEvents } from "./side-events.ts";

/** Pending groups that have a commit made at once. */
const MAX_LOCAL_GROUPS = 10_000;
const MAX_QUEUED_RESULTS = 10_000;
const MAX_SHOWN_KEY = 64;
const PASSING: ReadonlySet<ErrorCode> = new Set([ErrorCode.UNAVAILABLE, ErrorCode.TIMEOUT, ErrorCode.QUOTA_EXCEEDED]);
/**
 * Runs one lane of a processor: its partitions, its groups, and its commits. All that a commit says becomes visible at once
 * or not at all, and only as long as no other owner has committed.
 */
export class Lane {
  readonly #js: JetStream;
  readonly #spec: LaneSpec;
  readonly #log: Logger;
  readonly #tools: LaneTools;
  readonly #names: JournalNames;
  readonly #journal: Journal;
  readonly #status: LaneStatusTeller;
  readonly #rate = new RateMeter();
  readonly #pace = new CommitPace();
  readonly #parts = new Map<number, PartitionPart>();
  readonly #over = new AbortController();
  readonly #stopping = new AbortController();
  /** None before the lane is taken over. */
  #fence!: Fence;
  #side!: SideEvents;
  #writer!: ResultWriter;
  #direct!: DirectResults;
  #local: LocalWindows | undefined;
  #keys: KeyPart | undefined;
  #counts: LaneCounts = { processed: 0, filtered: 0, errors: 0, deadLetters: 0, late: 0, emitted: 0 };
  #exchange!: ExchangeSender;
  #failure: string | undefined;
  #room: (() => void)[] = [];

  constructor(js: JetStream, spec: LaneSpec, tools: LaneTools, log: Logger) {
    this.#js = js;
    this.#spec = spec;
    this.#tools = tools;
    this.#names = new JournalNames(spec.record.id);
    this.#journal = new Journal(js, this.#names.stream);
    this.#log = log.child({ processor: spec.record.id, lane: spec.lane });
    const store = (write: JournalWrite) =>
      this.#fence?.storeBeside(write) ?? this.#journal.store([write], deadlineIn(COMMIT_DEADLINE_MS));
    this.#status = new LaneStatusTeller(store, this.#names, spec, this.#log);
  }

  /** Ends the lane at a last commit; {@link run} then returns. */
  stop(): void {
    this.#stopping.abort(new Error("stopped"));
    this.#pace.wake();
  }

  /** Ends the lane at once, without a commit. */
  kill(reason: Error): void {
    this.#over.abort(reason);
    this.stop();
  }

  /** @throws Fenced, LaneFailed, Reconnected, StreamGone, Truncated, ServiceError; whatever it throws, what was committed stands. */
  async run(): Promise<void> {
    const began = performance.now();
    try {
      await this.#open();
      await this.#work();
    } catch (error) {
      if (error instanceof StreamGone) await this.#status.tell(`the stream "${this.#spec.record.source}" is gone`);
      else if (this.#isTold(error)) await this.#status.tell(`it begins anew: ${(error as Error).message}`);
      throw error;
    } finally {
      this.#over.abort(new Error("the lane is over"));
      this.#log.debug({ ...this.#pace.total, ranMs: performance.now() - began }, "lane over");
    }
  }

  /** Whether an error is to be seen in the status. What passes by itself is not, nor what keeps the status from being stored. */
  #isTold(error: unknown): boolean {
    if (
      error instanceof Fenced ||
      error instanceof LaneFailed ||
      error instanceof Reconnected ||
      this.#stopping.signal.aborted
    )
      return false;
    return !(error instanceof ServiceError) || !PASSING.has(error.code);
  }

  async #open(): Promise<void> {
    const { record, lane, sink, owner } = this.#spec;
    this.#fence = await Fence.takeOver(this.#journal, this.#names, this.#spec, this.#over.signal);
    const { previous, clockAheadMs, checkpoint: before } = this.#fence;
    this.#counts = { ...before.counts };
    this.#side = new SideEvents(record, this.#journal, this.#names, lane, before.sideCount);
    this.#writer = new ResultWriter(this.#js, new Appender(this.#js), sink, {
      signal: this.#over.signal,
      onTrouble: (reason) => void this.#status.tell(reason),
      makeSure: () => this.#fence.makeSure(),
    });
    this.#direct = new DirectResults(record, sink.partitions, this.#writer);
    if (previous && !previous.clean) {
      const age = Date.now() + clockAheadMs - previous.storedAtMs;
      if (this.#writer.mayRepeat(age)) await this.#writer.readBack(previous.storedAtMs, `px_${record.id}-`);
    }
    await this.#openParts(before);
    const sent = before.sent ?? [];
    this.#exchange = new ExchangeSender(record, this.#names, lane, before.epoch, this.#local, this.#parts, sent);
    // From here on a restart goes on from these places, also where they began with the latest events.
    await this.#commit(false);
    if (previous && previous.incarnation !== record.incarnation) await this.#dropState(previous);
    await this.#keys?.sweep();
    await this.#status.tell(undefined);
    this.#log.debug({ owner, epoch: before.epoch }, "lane open");
  }

  /** Removes the window state of an earlier incarnation, to which nothing refers any more. */
  async #dropState({ keys }: Checkpoint): Promise<void> {
    for (const { key } of keys?.snapshot.blobs ?? [])
      await this.#journal.purge(key, {}, deadlineIn(COMMIT_DEADLINE_MS));
  }

  async #openParts(before: Checkpoint): Promise<void> {
    const { record, lane, sink, source } = this.#spec;
    const { topology } = record;
    const functions = new Map(record.functions.map((each) => [each.name, each]));
    const pipeline = new Pipeline(topology.before, functions, this.#tools.functions);
    const after = new Pipeline(topology.after, functions, this.#tools.functions);
    if (topology.stage) {
      this.#local = new LocalWindows(topology.stage);
      this.#keys = await KeyPart.load(
        {
          js: this.#js,
          journal: this.#journal,
          names: this.#names,
          stage: topology.stage,
          after,
          writer: this.#writer,
          lane,
          lanes: record.lanes,
          epoch: before.epoch,
          incarnation: record.incarnation,
          processorId: record.id,
          sinkPartitions: sink.partitions,
          checkpointIntervalMs: record.settings.checkpointIntervalMs,
          whenCurrent: topology.after.length > 0 ? this.#tools.whenCurrent : undefined,
          onDone: (done) => this.#closed(done),
          onFail: ({ index, reason, flight }) => {
            const { key, timestampMs } = flight.event;
            const of = key === undefined ? "" : ` for "${key.slice(0, MAX_SHOWN_KEY)}"`;
            const end = new Date(timestampMs).toISOString();
            this.#fail(`operations[${index}] failed on the result${of} of a window that ends at ${end}: ${reason}`);
          },
          onChange: () => this.#pace.note("state"),
        },
        before.keys,
      );
    }
    const group = topology.stage && compileGrouping(topology.stage);
    for (let partition = lane; partition < source.partitions; partition += record.lanes) {
      const progress = await this.#progressOf(partition, before);
      const poison = new Set(this.#spec.poison.filter(([at]) => at === partition).map(([, offset]) => offset));
      this.#parts.set(
        partition,
        new PartitionPart({
          js: this.#js,
          processor: record,
          source,
          partition,
          before: pipeline,
          stage: topology.stage,
          group,
          local: this.#local,
          idleTimeoutMs: record.settings.idleTimeoutMs,
          poison,
          progress,
          clockAheadMs: () => this.#fence.clockAheadMs,
          marks: () => this.#marks(),
          onOutcome: (event, outcome, late) => this.#take(event, outcome, late),
          whenCurrent: this.#tools.whenCurrent,
          onTruncated: (at, first) => this.#truncated(at, first),
          onBatch: (atEnd) => this.#batchDone(atEnd),
        }),
      );
    }
  }

  async #progressOf(partition: number, before: Checkpoint): Promise<PartitionProgress> {
    const known = before.partitions[partition];
    if (known) return { ...known };
    const { source, record } = this.#spec;
    const state = await partitionState(this.#js, source.name, partition, deadlineIn(COMMIT_DEADLINE_MS));
    // A partition that was added later begins at its beginning.
    const isNew = Object.keys(before.partitions).length > 0;
    const next = beginsAtEnd(record, partition) && !isNew ? state.endOffset : state.startOffset;
    return { next, watermark: null, idle: false, lastEnd: null };
  }

  async #work(): Promise<void> {
    const stopped = new AbortController();
    const stop = () => stopped.abort(new Error("stopped"));
    if (this.#stopping.signal.aborted) stop();
    this.#stopping.signal.addEventListener("abort", stop, { once: true });
    const committing = this.#commitLoop(stopped.signal);
    const running = [...this.#parts.values()].map((part) => part.run(stopped.signal));
    if (this.#keys) running.push(this.#keys.run(stopped.signal));
    const all = [committing, ...running];
    try {
      await Promise.all(all);
    } catch (error) {
      this.#over.abort(error as Error);
      throw error;
    } finally {
      stop();
      this.#pace.wake();
      for (const wake of this.#room.splice(0)) wake();
      await Promise.allSettled(all);
    }
    this.#over.signal.throwIfAborted();
    await this.#keys?.takeSnapshot();
    await this.#commit(true);
    if (this.#failure !== undefined) {
      await this.#status.tellFailed(this.#failure);
      throw new LaneFailed(this.#failure);
    }
  }

  async #commitLoop(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      const waitMs = this.#dueInMs();
      if (waitMs > 0) await this.#pace.sleep(waitMs);
      else await this.#commit(false);
    }
  }

  #dueInMs(): number {
    if (this.#failure !== undefined) return Number.POSITIVE_INFINITY;
    return this.#isFull() ? 0 : this.#pace.dueInMs(this.#exchange.isBehind);
  }

  #isFull(): boolean {
    return (
      this.#side.isFull || (this.#local?.size ?? 0) >= MAX_LOCAL_GROUPS || this.#writer.queued >= MAX_QUEUED_RESULTS
    );
  }

  *#marks(): Generator<PartitionMark> {
    for (const part of this.#parts.values()) yield part.mark;
    if (this.#keys) for (const mark of this.#keys.windows.marks.values()) if (!this.#parts.has(mark[0])) yield mark;
  }

  /** Takes over what one event came to; with its offset it stands in the next commit. */
  #take(event: StoredEvent, outcome: EventOutcome, late: Flight | undefined): boolean {
    for (const failure of outcome.failures)
      if (failure.policy === "fail") {
        this.#fail(
          `operations[${failure.index}] failed on offset ${event.offset} of partition ${event.partition}: ${failure.reason}`,
        );
        return false;
      }
    this.#counts.processed++;
    this.#counts.filtered += outcome.filtered;
    this.#rate.add(Date.now() + this.#fence.clockAheadMs - event.timestampMs);
    for (const failure of outcome.failures) this.#setAside(failure);
    if (late) {
      this.#counts.late++;
      const operation = this.#spec.record.topology.stage!.index;
      this.#side.add(late, { kind: "late", reason: "it came after its window was closed", operation });
    }
    if (outcome.passed.length > 0)
      this.#direct.write(outcome.passed, outcome.trace?.headers ?? event.headers, (failure) => this.#setAside(failure));
    return true;
  }

  #truncated(partition: number, firstOffset: number): boolean {
    const { settings, source } = this.#spec.record;
    const reason = `SOURCE_TRUNCATED: "${source}"/${partition} begins at offset ${firstOffset}, events before it were never processed`;
    if (settings.onTruncation === "continue") {
      this.#status.lasting = reason;
      void this.#status.tell(undefined);
      return true;
    }
    this.#fail(reason);
    return false;
  }

  #fail(reason: string): void {
    this.#failure = reason;
    this.stop();
  }

  #setAside(failure: StepFailure, isResult = false): void {
    this.#counts.errors++;
    if (failure.policy !== "dlq") return;
    this.#counts.deadLetters++;
    this.#side.add(failure.flight, { kind: "dlq", reason: failure.reason, operation: failure.index, isResult });
  }

  /** What the closing of windows came to. */
  #closed(done: { emitted: number; filtered: number; failures: StepFailure[]; lost: number }): void {
    this.#counts.emitted += done.emitted;
    this.#counts.filtered += done.filtered;
    this.#counts.late += done.lost;
    for (const failure of done.failures) this.#setAside(failure, true);
    this.#pace.note("state");
  }

  #batchDone(atEnd: boolean): Promise<void> | undefined {
    this.#pace.atEnd = [...this.#parts.values()].every((part) => part.lag === 0);
    const progressed = this.#counts.processed !== this.#fence.checkpoint.counts.processed;
    if (progressed || this.#exchange.isBehind) this.#pace.note("events");
    if (!atEnd && this.#isFull()) return new Promise((resolve) => this.#room.push(resolve));
    return undefined;
  }

  /**
   * Commits everything up to now. What the lane does meanwhile stands in the next commit.
   *
   * @throws Fenced when another owner has committed.
   */
  async #commit(clean: boolean): Promise<void> {
    const stored = this.#pace.begin();
    const partitions = Object.fromEntries([...this.#parts].map(([p, { progress }]) => [p, { ...progress }]));
    const outputs = this.#direct.drain();
    const exchange = this.#exchange.drain(clean);
    const { sent } = this.#exchange;
    const counts = { ...this.#counts };
    const keys = this.#keys?.checkpoint();
    const side = this.#side.drain();
    const operation = this.#spec.record.operations.length - 1;
    for (const { flights, refused } of await outputs) {
      const failed = refused.length;
      for (const each of [counts, this.#counts]) {
        each.emitted += flights.length - failed;
        each.errors += failed;
        each.deadLetters += failed;
      }
      for (const { index, reason } of refused)
        this.#side.append(side, flights[index]!, { kind: "dlq", reason, operation });
    }
    const previous = this.#fence.checkpoint;
    const next: Checkpoint = {
      ...previous,
      commit: previous.commit + 1,
      clean,
      partitions: { ...previous.partitions, ...partitions },
      counts,
      rate: this.#rate.read(),
      sideCount: this.#side.count + side.length,
      sent,
      keys,
    };
    await this.#fence.makeSure();
    await this.#fence.commit(next, [...exchange, ...(await this.#side.writes(side))]);
    stored();
    for (const wake of this.#room.splice(0)) wake();
    if (keys) await this.#keys!.tidy(keys, previous.keys as KeyCheckpoint | undefined);
    await this.#side.committed(side.length);
  }
}
