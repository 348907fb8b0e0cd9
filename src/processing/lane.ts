import type { Logger } from "pino";
import { deadlineIn, pause } from "../domain/deadline.ts";
import { ErrorCode, ServiceError } from "../domain/errors.ts";
import type { StoredEvent } from "../domain/event.ts";
import type { JetStream } from "../jetstream/connection.ts";
import { Journal, type JournalWrite } from "../jetstream/journal.ts";
import { StreamGone } from "../jetstream/ordered-reader.ts";
import { partitionState } from "../jetstream/partitions.ts";
import { Appender } from "../log/append.ts";
import type { StreamRecord } from "../log/catalog.ts";
import {
  type Checkpoint,
  JournalNames,
  type KeyCheckpoint,
  type LaneCounts,
  type LaneStatus,
  type PartitionProgress,
  SIDE_HEADER,
  type SideMeta,
} from "./checkpoint.ts";
import type { ExchangeMessage, PartitionMark } from "./exchange.ts";
import type { Flight } from "./flight.ts";
import type { FunctionContext } from "./functions.ts";
import { KeyPart } from "./key-part.ts";
import { LocalWindows } from "./local-windows.ts";
import { type EventOutcome, PartitionPart } from "./partition-part.ts";
import { compileGrouping, Pipeline, StepFailure } from "./pipeline.ts";
import { RateMeter } from "./rate-meter.ts";
import type { ProcessorRecord } from "./record.ts";
import { type RefusedResult, type ResultEvent, ResultWriter } from "./result-writer.ts";

/** What a lane is to run. */
export interface LaneSpec {
  readonly record: ProcessorRecord;
  readonly lane: number;
  readonly source: StreamRecord;
  readonly sink: StreamRecord;
  /** Id of the process. */
  readonly owner: string;
  /** Partition and offset of events that ended a thread. */
  readonly poison: readonly (readonly [partition: number, offset: number])[];
}

interface SideEvent {
  readonly meta: SideMeta;
  readonly payload: Uint8Array;
}

/** What the thread gives the functions of a lane. */
export interface LaneTools {
  readonly functions: FunctionContext;
  /** Resolves when the tables that are looked up are current; undefined when there are none. */
  readonly whenCurrent: (() => Promise<void>) | undefined;
}

/** Another owner has taken the lane over. */
export class Fenced extends Error {}
/** The lane stopped at a fault that only a change or a resume mends. */
export class LaneFailed extends Error {}

/** Pending side events, by number and bytes, that have a commit made at once. */
const MAX_SIDE = 300;
const MAX_SIDE_BYTES = 4 * 1024 * 1024;
/** Pending groups that have a commit made at once. */
const MAX_LOCAL_GROUPS = 10_000;
const MAX_QUEUED_RESULTS = 10_000;
/** Most milliseconds between commits while events come; while they don't, the least. */
const BUSY_COMMIT_MS = 1000;
const REST_COMMIT_MS = 50;
const STATE_COMMIT_MS = 500;
/** Commits take at most about a fifth of the time. */
const COMMIT_SHARE = 4;
const COMMIT_DEADLINE_MS = 5000;
/** A process that stood still this long first makes sure that it still owns the lane. */
const LEASE_MS = 10_000;
/** Side events of a kind and lane that are kept. */
const KEEP_SIDE = 10_000;

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
  readonly #rate = new RateMeter();
  readonly #parts = new Map<number, PartitionPart>();
  readonly #over = new AbortController();
  readonly #stopping = new AbortController();
  #local: LocalWindows | undefined;
  #keys: KeyPart | undefined;
  #writer: ResultWriter | undefined;
  #checkpoint: Checkpoint | undefined;
  #revision = 0;
  #counts: LaneCounts = { processed: 0, filtered: 0, errors: 0, deadLetters: 0, late: 0, emitted: 0 };
  #side: SideEvent[] = [];
  #sideBytes = 0;
  #sideCount = 0;
  #outputs: Promise<{ flights: readonly Flight[]; refused: readonly RefusedResult[] }>[] = [];
  #exchangeCount = 0;
  #told = "";
  #toldAll = false;
  #changed = false;
  #stateChanged = false;
  #atEnd = false;
  #committedAt = 0;
  #sureAt = performance.now();
  #commitMs = 5;
  #failure: string | undefined;
  #status = "";
  /** A fault that does not pass by itself. */
  #lasting: string | undefined;
  #clockAheadMs = 0;
  #wake: (() => void) | undefined;
  #room: (() => void)[] = [];

  constructor(js: JetStream, spec: LaneSpec, tools: LaneTools, log: Logger) {
    this.#js = js;
    this.#spec = spec;
    this.#tools = tools;
    this.#names = new JournalNames(spec.record.id);
    this.#journal = new Journal(js, this.#names.stream);
    this.#log = log.child({ processor: spec.record.id, lane: spec.lane });
  }

  /** Ends the lane at a last commit; {@link run} then returns. */
  stop(): void {
    this.#stopping.abort(new Error("stopped"));
    this.#wake?.();
  }

  /** Ends the lane at once, without a commit. */
  kill(reason: Error): void {
    this.#over.abort(reason);
    this.stop();
  }

  /** @throws Fenced, LaneFailed, StreamGone, Truncated, ServiceError; whatever it throws, what was committed stands. */
  async run(): Promise<void> {
    try {
      await this.#open();
      await this.#work();
    } catch (error) {
      if (error instanceof StreamGone) await this.#tell(`the stream "${this.#spec.record.source}" is gone`);
      throw error;
    } finally {
      this.#over.abort(new Error("the lane is over"));
    }
  }

  async #open(): Promise<void> {
    const { record, lane, sink, owner } = this.#spec;
    const previous = await this.#takeOver();
    const before = this.#checkpoint!;
    this.#counts = { ...before.counts };
    this.#sideCount = before.sideCount;
    const functions = new Map(record.functions.map((each) => [each.name, each]));
    const { topology } = record;
    const pipeline = new Pipeline(topology.before, functions, this.#tools.functions);
    const after = new Pipeline(topology.after, functions, this.#tools.functions);
    const appender = new Appender(this.#js);
    this.#writer = new ResultWriter(this.#js, appender, sink, {
      signal: this.#over.signal,
      onTrouble: (reason) => void this.#tell(reason),
      makeSure: () => this.#makeSure(),
    });
    if (previous && !previous.clean) {
      const age = Date.now() + this.#clockAheadMs - previous.storedAtMs;
      if (this.#writer.mayRepeat(age)) await this.#writer.readBack(previous.storedAtMs, `px_${record.id}-`);
    }
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
          log: this.#log,
          whenCurrent: topology.after.length > 0 ? this.#tools.whenCurrent : undefined,
          onDone: (done) => this.#closed(done),
          onChange: () => this.#note(true),
        },
        before.keys,
      );
    }
    const group = topology.stage && compileGrouping(topology.stage);
    for (let partition = lane; partition < this.#spec.source.partitions; partition += record.lanes) {
      const progress = await this.#progressOf(partition, before);
      const poison = new Set(this.#spec.poison.filter(([at]) => at === partition).map(([, offset]) => offset));
      this.#parts.set(
        partition,
        new PartitionPart({
          js: this.#js,
          source: this.#spec.source,
          partition,
          before: pipeline,
          stage: topology.stage,
          group,
          local: this.#local,
          idleTimeoutMs: record.settings.idleTimeoutMs,
          poison,
          progress,
          clockAheadMs: () => this.#clockAheadMs,
          marks: () => this.#marks(),
          onOutcome: (event, outcome, late) => this.#take(event, outcome, late),
          whenCurrent: this.#tools.whenCurrent,
          onTruncated: (at, first) => this.#truncated(at, first),
          onBatch: (atEnd) => this.#batchDone(atEnd),
        }),
      );
    }
    // From here on a restart goes on from these places, also where they began with the latest events.
    await this.#commit(false);
    await this.#tell(undefined);
    this.#log.debug({ owner, epoch: before.epoch }, "lane open");
  }

  /** Makes this process the owner. @returns the checkpoint of the one before. */
  async #takeOver(): Promise<(Checkpoint & { storedAtMs: number }) | undefined> {
    const { record, lane, owner } = this.#spec;
    for (;;) {
      this.#over.signal.throwIfAborted();
      const asked = Date.now();
      const entry = await this.#journal.last(this.#names.checkpoint(lane), deadlineIn(COMMIT_DEADLINE_MS));
      const previous = entry && (JSON.parse(Buffer.from(entry.data).toString("utf8")) as Checkpoint);
      if (previous && previous.incarnation > record.incarnation) throw new Fenced("the processor has begun anew");
      const next: Checkpoint = {
        ...carriedOver(previous, record),
        generation: record.generation,
        epoch: (previous?.epoch ?? 0) + 1,
        commit: 0,
        owner,
        clean: false,
      };
      const payload = Buffer.from(JSON.stringify(next));
      const write = { subject: this.#names.checkpoint(lane), payload };
      const seq = await this.#journal.commit([write], entry?.seq ?? 0, deadlineIn(COMMIT_DEADLINE_MS));
      if (seq === undefined) {
        await pause(100);
        continue;
      }
      this.#checkpoint = next;
      this.#revision = seq;
      const stored = await this.#journal.last(this.#names.checkpoint(lane), deadlineIn(COMMIT_DEADLINE_MS));
      this.#clockAheadMs = stored ? stored.timestampMs - Math.min(Date.now(), Math.max(asked, stored.timestampMs)) : 0;
      return previous && { ...previous, storedAtMs: entry.timestampMs };
    }
  }

  async #progressOf(partition: number, before: Checkpoint): Promise<PartitionProgress> {
    const known = before.partitions[partition];
    if (known) return { ...known };
    const { source, record } = this.#spec;
    const state = await partitionState(this.#js, source.name, partition, deadlineIn(COMMIT_DEADLINE_MS));
    // A partition that was added later begins at its beginning.
    const isNew = Object.keys(before.partitions).length > 0;
    const next = record.start === "latest" && !isNew ? state.endOffset : state.startOffset;
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
      this.#wake?.();
      for (const wake of this.#room.splice(0)) wake();
      await Promise.allSettled(all);
    }
    this.#over.signal.throwIfAborted();
    await this.#keys?.takeSnapshot();
    await this.#commit(true);
    if (this.#failure !== undefined) {
      await this.#writeStatus({ state: "failed", reason: this.#failure });
      throw new LaneFailed(this.#failure);
    }
  }

  async #commitLoop(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      const waitMs = this.#dueInMs();
      if (waitMs > 0) {
        await new Promise<void>((resolve) => {
          const timer = setTimeout(resolve, Math.min(waitMs, 1000));
          this.#wake = () => {
            clearTimeout(timer);
            resolve();
          };
        });
        this.#wake = undefined;
        continue;
      }
      await this.#commit(false);
    }
  }

  /** Milliseconds until a commit is worth its while; 0: now. */
  #dueInMs(): number {
    if (this.#failure !== undefined) return Number.POSITIVE_INFINITY;
    const since = performance.now() - this.#committedAt;
    const full = this.#isFull();
    if (full) return 0;
    const rest = (ms: number) => Math.max(0, Math.max(ms, this.#commitMs * COMMIT_SHARE) - since);
    if (!this.#toldAll || this.#signature() !== this.#told) return rest(0);
    if (this.#changed) return rest(this.#atEnd ? REST_COMMIT_MS : BUSY_COMMIT_MS);
    return this.#stateChanged ? rest(STATE_COMMIT_MS) : Number.POSITIVE_INFINITY;
  }

  #isFull(): boolean {
    return (
      this.#side.length >= MAX_SIDE ||
      this.#sideBytes >= MAX_SIDE_BYTES ||
      (this.#local?.size ?? 0) >= MAX_LOCAL_GROUPS ||
      (this.#writer?.queued ?? 0) >= MAX_QUEUED_RESULTS
    );
  }

  #signature(): string {
    let text = "";
    for (const part of this.#parts.values()) text += `${part.signature};`;
    return text;
  }

  *#marks(): Generator<PartitionMark> {
    for (const part of this.#parts.values()) yield part.mark;
    if (this.#keys) for (const mark of this.#keys.windows.marks.values()) if (!this.#parts.has(mark[0])) yield mark;
  }

  #note(isState: boolean): void {
    if (isState) this.#stateChanged = true;
    else this.#changed = true;
    this.#wake?.();
  }

  /** Takes over what one event came to; with its offset it stands in the next commit. */
  #take(event: StoredEvent, outcome: EventOutcome, late: Flight | undefined): boolean {
    for (const failure of outcome.failures)
      if (failure.policy === "fail") {
        this.#fail(failure, event);
        return false;
      }
    this.#counts.processed++;
    this.#counts.filtered += outcome.filtered;
    this.#rate.add(Date.now() + this.#clockAheadMs - event.timestampMs);
    for (const failure of outcome.failures) this.#setAside(failure);
    if (late) {
      this.#counts.late++;
      this.#addSide("late", late, "it came after its window was closed", this.#spec.record.topology.stage!.index);
    }
    if (outcome.passed.length > 0) this.#write(outcome.passed);
    return true;
  }

  #truncated(partition: number, firstOffset: number): boolean {
    const { settings, source } = this.#spec.record;
    const reason = `SOURCE_TRUNCATED: "${source}"/${partition} begins at offset ${firstOffset}, events before it were never processed`;
    if (settings.onTruncation === "continue") {
      this.#lasting = reason;
      void this.#tell(undefined);
      return true;
    }
    this.#failure = reason;
    this.stop();
    return false;
  }

  #fail(failure: StepFailure, event: StoredEvent): void {
    this.#failure = `operations[${failure.index}] failed on offset ${event.offset} of partition ${event.partition}: ${failure.reason}`;
    this.stop();
  }

  #setAside(failure: StepFailure): void {
    this.#counts.errors++;
    if (failure.policy !== "dlq") return;
    this.#counts.deadLetters++;
    this.#addSide("dlq", failure.flight, failure.reason, failure.index);
  }

  #addSide(kind: "dlq" | "late", flight: Flight, reason: string, operation: number): void {
    this.#side.push(this.#sideEvent(kind, flight, reason, operation));
    this.#sideBytes += flight.event.payload.length + 500;
  }

  #sideEvent(kind: "dlq" | "late", flight: Flight, reason: string, operation: number): SideEvent {
    const { record } = this.#spec;
    const { event } = flight;
    const meta: SideMeta = {
      kind,
      reason,
      operation,
      generation: record.generation,
      source: record.source,
      partition: event.partition,
      offset: event.offset,
      eventId: event.eventId,
      timestampMs: event.timestampMs,
      key: event.key,
      headers: event.headers,
      contentType: event.contentType,
    };
    return { meta, payload: event.payload };
  }

  /** Sends results of a processor without windows; a commit waits for them. */
  #write(passed: readonly Flight[]): void {
    const { record } = this.#spec;
    const results: ResultEvent[] = [];
    const flights: Flight[] = [];
    for (const flight of passed) {
      const { event } = flight;
      try {
        const { payload, contentType } = flight.encode();
        results.push({
          payload,
          contentType,
          key: event.key,
          headers: event.headers,
          // Always the same one, since repeats are found within one partition only.
          ...(event.key === undefined ? { partition: event.partition % this.#spec.sink.partitions } : {}),
          eventId: `px_${record.id}-${record.incarnation}-${event.partition}-${event.offset}${flight.part ? `-${flight.part}` : ""}`,
        });
        flights.push(flight);
      } catch (error) {
        const last = record.topology.before.length - 1;
        this.#setAside(new StepFailure(record.topology.before[last]?.index ?? 0, "dlq", error, flight));
      }
    }
    const written = this.#writer!.write(results).then((refused) => ({ flights, refused }));
    // Its failure shows when the commit waits for it.
    written.catch(() => {});
    this.#outputs.push(written);
  }

  /** What the closing of windows came to. */
  #closed(done: { emitted: number; filtered: number; failures: StepFailure[]; lost: number }): void {
    this.#counts.emitted += done.emitted;
    this.#counts.filtered += done.filtered;
    this.#counts.late += done.lost;
    for (const failure of done.failures) {
      if (failure.policy === "fail") {
        this.#failure = `operations[${failure.index}] failed on a window's result: ${failure.reason}`;
        this.stop();
      }
      this.#setAside(failure);
    }
    this.#note(true);
  }

  #batchDone(atEnd: boolean): Promise<void> | undefined {
    this.#atEnd = [...this.#parts.values()].every((part) => part.lag === 0);
    const progressed = this.#counts.processed !== this.#checkpoint!.counts.processed;
    if (progressed || this.#signature() !== this.#told) this.#note(false);
    if (!atEnd && this.#isFull()) return new Promise((resolve) => this.#room.push(resolve));
    return undefined;
  }

  /**
   * Commits everything up to now. What the lane does meanwhile stands in the next commit.
   *
   * @throws Fenced when another owner has committed.
   */
  async #commit(clean: boolean): Promise<void> {
    const began = performance.now();
    const { record, lane } = this.#spec;
    this.#changed = false;
    this.#stateChanged = false;
    const partitions = Object.fromEntries([...this.#parts].map(([p, { progress }]) => [p, { ...progress }]));
    const outputs = this.#outputs.splice(0);
    const exchange = this.#exchange(clean);
    const counts = { ...this.#counts };
    const keys = this.#keys?.checkpoint();
    const side = this.#side.splice(0);
    this.#sideBytes = 0;
    for (const { flights, refused } of await Promise.all(outputs)) {
      const failed = refused.length;
      for (const each of [counts, this.#counts]) {
        each.emitted += flights.length - failed;
        each.errors += failed;
        each.deadLetters += failed;
      }
      const last = record.operations.length - 1;
      for (const { index, reason } of refused) side.push(this.#sideEvent("dlq", flights[index]!, reason, last));
    }
    const previous = this.#checkpoint!;
    const next: Checkpoint = {
      ...previous,
      commit: previous.commit + 1,
      clean,
      partitions: { ...previous.partitions, ...partitions },
      counts,
      rate: this.#rate.read(),
      sideCount: this.#sideCount + side.length,
      keys,
    };
    const writes: JournalWrite[] = [
      { subject: this.#names.checkpoint(lane), payload: Buffer.from(JSON.stringify(next)) },
      ...exchange,
      ...side.map(({ meta, payload }, index) => ({
        subject: this.#names.side(meta.kind, lane, this.#sideCount + index),
        payload,
        lines: { [SIDE_HEADER]: Buffer.from(JSON.stringify(meta)).toString("base64") },
      })),
    ];
    await this.#send(writes, next);
    this.#checkpoint = next;
    const sideBefore = this.#sideCount;
    this.#sideCount = next.sideCount;
    this.#sureAt = began;
    this.#committedAt = performance.now();
    this.#commitMs = this.#committedAt - began;
    for (const wake of this.#room.splice(0)) wake();
    if (keys) await this.#keys!.tidy(keys, previous.keys as KeyCheckpoint | undefined);
    if (Math.floor(sideBefore / KEEP_SIDE) !== Math.floor(this.#sideCount / KEEP_SIDE)) await this.#trimSides();
  }

  /** Messages for the lanes that hold the groups, and for all when windows may close or a partition was not told yet. */
  #exchange(clean: boolean): JournalWrite[] {
    if (!this.#local) return [];
    const { record, lane } = this.#spec;
    const signature = this.#signature();
    const tellAll = !this.#toldAll || signature !== this.#told || clean;
    this.#told = signature;
    this.#toldAll = true;
    const marks = [...this.#parts.values()].map((part) => part.mark);
    const writes: JournalWrite[] = [];
    for (const [to, messages] of this.#local.drain(record.incarnation, lane, record.lanes)) {
      if (messages.length === 0 && tellAll) messages.push({ i: record.incarnation, g: lane });
      for (const [index, message] of messages.entries()) {
        const isLast = index === messages.length - 1;
        const whole: ExchangeMessage = isLast ? { ...message, w: marks } : message;
        writes.push({
          subject: this.#names.exchange(to, lane, this.#checkpoint!.epoch, this.#exchangeCount++),
          payload: Buffer.from(JSON.stringify(whole)),
        });
      }
    }
    return writes;
  }

  /** Sends a commit until its outcome is known. */
  async #send(writes: readonly JournalWrite[], next: Checkpoint): Promise<void> {
    for (;;) {
      this.#over.signal.throwIfAborted();
      try {
        const seq = await this.#journal.commit(writes, this.#revision, deadlineIn(COMMIT_DEADLINE_MS));
        if (seq !== undefined) {
          this.#revision = seq;
          return;
        }
      } catch (error) {
        if (!(error instanceof ServiceError) || !UNSURE.has(error.code)) throw error;
      }
      // Never sent again blindly: it may have been stored although no answer came.
      if (await this.#wasStored(next)) return;
      await pause(100);
    }
  }

  async #wasStored(next: Checkpoint): Promise<boolean> {
    for (;;) {
      this.#over.signal.throwIfAborted();
      try {
        const entry = await this.#journal.last(this.#names.checkpoint(this.#spec.lane), deadlineIn(COMMIT_DEADLINE_MS));
        if (!entry) throw new Fenced("the journal is gone");
        const found = JSON.parse(Buffer.from(entry.data).toString("utf8")) as Checkpoint;
        if (found.epoch !== next.epoch) throw new Fenced(`epoch ${found.epoch} came after ${next.epoch}`);
        if (found.commit !== next.commit) return false;
        this.#revision = entry.seq;
        return true;
      } catch (error) {
        if (!(error instanceof ServiceError) || !UNSURE.has(error.code)) throw error;
        await pause(200);
      }
    }
  }

  /** A process that stood still may no longer own the lane, and must not write results then. */
  async #makeSure(): Promise<void> {
    if (performance.now() - this.#sureAt < LEASE_MS) return;
    const now = performance.now();
    const entry = await this.#journal.last(this.#names.checkpoint(this.#spec.lane), deadlineIn(COMMIT_DEADLINE_MS));
    const found = entry && (JSON.parse(Buffer.from(entry.data).toString("utf8")) as Checkpoint);
    if (found?.epoch !== this.#checkpoint!.epoch) throw new Fenced("the lane has another owner");
    this.#sureAt = now;
  }

  async #trimSides(): Promise<void> {
    for (const kind of ["dlq", "late"] as const)
      await this.#journal.purge(
        this.#names.sides(kind, this.#spec.lane),
        { keep: KEEP_SIDE },
        deadlineIn(COMMIT_DEADLINE_MS),
      );
  }

  async #tell(trouble: string | undefined): Promise<void> {
    const reason = trouble ?? this.#lasting;
    await this.#writeStatus(reason === undefined ? { state: "running" } : { state: "degraded", reason });
  }

  async #writeStatus(status: Pick<LaneStatus, "state" | "reason">): Promise<void> {
    const text = JSON.stringify(status);
    if (text === this.#status) return;
    this.#status = text;
    const whole: LaneStatus = { ...status, revision: this.#spec.record.revision, owner: this.#spec.owner };
    const write = { subject: this.#names.status(this.#spec.lane), payload: Buffer.from(JSON.stringify(whole)) };
    await this.#journal.store([write], deadlineIn(COMMIT_DEADLINE_MS)).catch((error: unknown) => {
      this.#status = "";
      this.#log.warn({ err: error }, "a lane's status was not stored");
    });
  }
}

const UNSURE: ReadonlySet<ErrorCode> = new Set([ErrorCode.TIMEOUT, ErrorCode.UNAVAILABLE, ErrorCode.QUOTA_EXCEEDED]);

/** What of an earlier checkpoint still counts. */
function carriedOver(
  previous: Checkpoint | undefined,
  record: ProcessorRecord,
): Omit<Checkpoint, "epoch" | "commit" | "owner" | "clean" | "generation"> {
  if (previous?.incarnation === record.incarnation) return previous;
  const nothing = { processed: 0, filtered: 0, errors: 0, deadLetters: 0, late: 0, emitted: 0 };
  // Exchange messages of the incarnation may already have come from lanes that began before.
  const seq = previous?.keys?.snapshot.seq ?? 0;
  const partitions = record.start === "checkpoint" ? resting(previous?.partitions ?? {}) : {};
  return {
    incarnation: record.incarnation,
    partitions,
    counts: previous?.counts ?? nothing,
    rate: { perSecond: 0, latencyMs: 0, atMs: 0 },
    sideCount: previous?.sideCount ?? 0,
    keys: {
      snapshot: { seq, marks: [], heard: [], blobs: [] },
      doneSeq: seq,
      oldUntilSeq: 0,
      windows: [],
      holder: null,
    },
  };
}

/** Positions without what windows had made of them. */
const resting = (partitions: Checkpoint["partitions"]): Checkpoint["partitions"] =>
  Object.fromEntries(
    Object.entries(partitions).map(([p, { next }]) => [p, { next, watermark: null, idle: false, lastEnd: null }]),
  );
