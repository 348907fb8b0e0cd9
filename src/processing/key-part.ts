import { deadlineIn } from "../domain/deadline.ts";
import { JSON_TYPE, type StoredEvent } from "../domain/event.ts";
import { digest } from "../domain/hash.ts";
import type { WindowStage } from "../domain/topology.ts";
import type { JetStream } from "../jetstream/connection.ts";
import type { Journal } from "../jetstream/journal.ts";
import { OrderedReader } from "../jetstream/ordered-reader.ts";
import { partitionOf } from "../log/partitioner.ts";
import type { JournalNames, KeyCheckpoint, KeySnapshot, WindowSummary } from "./checkpoint.ts";
import type { ExchangeMessage } from "./exchange.ts";
import { Flight } from "./flight.ts";
import { type ClosedGroup, KeyWindows } from "./key-windows.ts";
import { type Pipeline, type PipelineSink, StepFailure } from "./pipeline.ts";
import { resultPrefix } from "./record.ts";
import type { ResultEvent, ResultWriter } from "./result-writer.ts";

/** What the key part needs of its lane. */
export interface KeyPartOptions {
  readonly js: JetStream;
  readonly journal: Journal;
  readonly names: JournalNames;
  readonly stage: WindowStage;
  readonly after: Pipeline;
  readonly writer: ResultWriter;
  readonly lane: number;
  readonly lanes: number;
  readonly epoch: number;
  readonly incarnation: number;
  readonly processorId: string;
  readonly sinkPartitions: number;
  readonly checkpointIntervalMs: number;
  /** Resolves when what the steps look up is current. */
  readonly whenCurrent: (() => Promise<void>) | undefined;
  /** Is told at once what a message came to: all of it stands in the next commit or none. */
  readonly onDone: (done: { emitted: number; filtered: number; failures: StepFailure[]; lost: number }) => void;
  /** A result failed under the policy `fail`: the lane is to stop before the message that closed its window. */
  readonly onFail: (failure: StepFailure) => void;
  /** Something changed that others may want to see. */
  readonly onChange: () => void;
}

const STORE_MS = 60_000;
const READ_WAIT_MS = 1000;
const EMPTY: KeySnapshot = { seq: 0, marks: [], heard: [], blobs: [] };

/** Reads a lane's exchange, keeps its window state, and writes the results of windows that close. */
export class KeyPart {
  readonly #options: KeyPartOptions;
  readonly windows: KeyWindows;
  /** Number of the next message by the lane that sends it. */
  readonly #expected: Map<number, number>;
  #snapshot: KeySnapshot;
  #doneSeq: number;
  /** The windows hold what came up to here; behind `doneSeq` while an owner reads again what a former one has done. */
  #appliedSeq: number;
  readonly #oldUntilSeq: number;
  #blobCount = 0;
  #obsolete: string[] = [];
  /** What the windows were before a message that was merged and may not count: with it, the state is not to be stored. */
  #before: readonly WindowSummary[] | undefined;
  #snapshotAt = performance.now();

  private constructor(options: KeyPartOptions, windows: KeyWindows, checkpoint: KeyCheckpoint | undefined) {
    this.#options = options;
    this.windows = windows;
    this.#snapshot = checkpoint?.snapshot ?? EMPTY;
    this.#expected = new Map(this.#snapshot.expected);
    this.#doneSeq = checkpoint?.doneSeq ?? 0;
    this.#appliedSeq = this.#snapshot.seq;
    this.#oldUntilSeq = checkpoint?.oldUntilSeq ?? 0;
  }

  /** Loads the state that a checkpoint names. @throws Error when a part of it is missing. */
  static async load(options: KeyPartOptions, checkpoint: KeyCheckpoint | undefined): Promise<KeyPart> {
    const windows = new KeyWindows(options.stage, options.lanes);
    if (checkpoint) await loadSnapshot(options.journal, checkpoint.snapshot, windows);
    return new KeyPart(options, windows, checkpoint);
  }

  /** What the next commit says of it. */
  checkpoint(): KeyCheckpoint {
    return {
      snapshot: this.#snapshot,
      doneSeq: this.#doneSeq,
      oldUntilSeq: this.#oldUntilSeq,
      windows: this.#before ?? this.windows.summaries(),
      holder: this.windows.holder,
    };
  }

  /** Applies messages until the signal. */
  async run(signal: AbortSignal): Promise<void> {
    const { js, names, lane, journal } = this.#options;
    const reader = new OrderedReader(js, {
      jsStream: journal.name,
      filter: names.exchanges(lane),
      from: this.#snapshot.seq + 1,
      dense: false,
      batch: 100,
    });
    try {
      while (!signal.aborted) {
        const { messages } = await reader.read(READ_WAIT_MS, signal);
        for (const { seq, data } of messages) {
          if (signal.aborted) return;
          // What fails to decode was written by Millrace itself: never passed over.
          const message = JSON.parse(Buffer.from(data).toString("utf8")) as ExchangeMessage;
          if (message.i > this.#options.incarnation) return await untilAborted(signal);
          if (message.i === this.#options.incarnation) this.#checkNumber(message);
          const counts = message.i === this.#options.incarnation || seq <= this.#oldUntilSeq;
          if (!(await this.#apply(seq, counts ? message : undefined))) return await untilAborted(signal);
        }
        if (performance.now() - this.#snapshotAt >= this.#options.checkpointIntervalMs) await this.takeSnapshot();
      }
    } finally {
      await reader.close();
    }
  }

  /** Stores what changed; the next commit refers to it. Not while {@link run} is applying. */
  async takeSnapshot(): Promise<void> {
    this.#snapshotAt = performance.now();
    if (this.#before || !this.windows.isDirty || this.#appliedSeq < this.#doneSeq) return;
    if (this.#doneSeq <= this.#snapshot.seq) return;
    const { journal, names, lane, epoch } = this.#options;
    const newKey = () => names.blob(lane, epoch, this.#blobCount++);
    const { snapshot, texts, obsolete } = this.windows.snapshot(this.#doneSeq, newKey);
    const writes = texts.map(([subject, text]) => ({ subject, payload: Buffer.from(text) }));
    await journal.store(writes, deadlineIn(STORE_MS));
    this.#obsolete.push(...obsolete);
    this.#snapshot = { ...snapshot, expected: [...this.#expected] };
    this.#options.onChange();
  }

  /**
   * The state is right only when no message is left out and none is merged twice. One that reads on behind what the lane's
   * next owner has removed would leave some out.
   *
   * @throws Error; the lane then begins anew with its last snapshot.
   */
  #checkNumber({ g, n }: ExchangeMessage): void {
    const expected = this.#expected.get(g) ?? 0;
    if (n !== expected) throw new Error(`message ${n} of lane ${g} came in place of ${expected}`);
    this.#expected.set(g, expected + 1);
  }

  /** Removes the parts that earlier owners stored and then had no time to refer to. To be called by the lane's owner. */
  async sweep(): Promise<void> {
    const { journal, names, lane, epoch } = this.#options;
    const needed = new Set(this.#snapshot.blobs.map(({ key }) => key));
    for (const key of await journal.subjects(names.blobs(lane), deadlineIn(STORE_MS)))
      if ((names.blobEpoch(key) ?? epoch) < epoch && !needed.has(key))
        await journal.purge(key, {}, deadlineIn(STORE_MS));
  }

  /** Removes what a stored checkpoint no longer needs. @param checkpoint the stored one. */
  async tidy(checkpoint: KeyCheckpoint, previous: KeyCheckpoint | undefined): Promise<void> {
    if (checkpoint.snapshot.seq === previous?.snapshot.seq) return;
    const { journal, names, lane } = this.#options;
    const needed = new Set(checkpoint.snapshot.blobs.map(({ key }) => key));
    const gone = this.#obsolete.filter((key) => !needed.has(key));
    this.#obsolete = this.#obsolete.filter((key) => needed.has(key));
    for (const key of gone) await journal.purge(key, {}, deadlineIn(STORE_MS));
    await journal.purge(names.exchanges(lane), { below: checkpoint.snapshot.seq + 1 }, deadlineIn(STORE_MS));
  }

  /**
   * Merges a message and writes the results of what it closes. Once begun it is ended, or throws: a snapshot taken
   * between the two would hold a message that is applied again.
   *
   * @returns false when a result failed under the policy `fail`: then none of the message's is written.
   */
  async #apply(seq: number, message: ExchangeMessage | undefined): Promise<boolean> {
    const lostBefore = this.windows.lost;
    const isNew = seq > this.#doneSeq;
    if (isNew && this.#options.after.mayFail) this.#before = this.windows.summaries();
    const closed = message ? this.windows.apply(message) : [];
    this.#appliedSeq = seq;
    if (!isNew) return true;
    const done = { emitted: 0, filtered: 0, failures: [] as StepFailure[], lost: this.windows.lost - lostBefore };
    if (closed.length > 0 && !(await this.#emit(closed, done))) return false;
    this.#before = undefined;
    this.#doneSeq = seq;
    this.#options.onDone(done);
    return true;
  }

  async #emit(closed: readonly ClosedGroup[], done: Parameters<KeyPartOptions["onDone"]>[0]): Promise<boolean> {
    const { after, writer, processorId, incarnation, sinkPartitions, stage, whenCurrent, onFail } = this.#options;
    if (whenCurrent) await whenCurrent();
    const results: ResultEvent[] = [];
    const written: Flight[] = [];
    const flights: Flight[] = [];
    let fatal: StepFailure | undefined;
    const sink: PipelineSink = {
      passed(flight) {
        flights.push(flight);
      },
      filtered: () => void done.filtered++,
      failed: (failure) => {
        if (failure.policy === "fail") fatal ??= failure;
        done.failures.push(failure);
      },
    };
    for (const group of closed) {
      const event = resultEvent(stage, this.windows, group, resultPrefix({ id: processorId, incarnation }));
      await after.run(new Flight(event), sink);
      if (fatal) {
        onFail(fatal);
        return false;
      }
      for (const flight of flights.splice(0)) {
        const { key } = flight.event;
        const partition = key === undefined ? 0 : partitionOf(key, sinkPartitions);
        const eventId = flight.part === 0 ? flight.event.eventId : `${flight.event.eventId}-${flight.part}`;
        try {
          results.push({ ...flight.encode(), key, partition, eventId });
          written.push(flight);
        } catch (error) {
          done.failures.push(new StepFailure(stage.index, "dlq", error, flight));
        }
      }
    }
    const refused = await writer.write(results);
    done.emitted = results.length - refused.length;
    const last = stage.aggregates.at(-1)!.index;
    for (const { index, reason } of refused) done.failures.push(new StepFailure(last, "dlq", reason, written[index]!));
    return true;
  }
}

/** Fills windows from the parts of a snapshot, read from the leader. */
export async function loadSnapshot(journal: Journal, snapshot: KeySnapshot, windows: KeyWindows): Promise<void> {
  const texts = await Promise.all(
    snapshot.blobs.map(async ({ key }) => {
      const entry = await journal.last(key, deadlineIn(STORE_MS));
      if (!entry) throw new Error(`STATE_CORRUPT: ${key} is missing`);
      return Buffer.from(entry.data).toString("utf8");
    }),
  );
  windows.restore(snapshot, texts);
}

/** The event that a closed group becomes: its window, its group and its aggregates. */
export function resultEvent(
  stage: WindowStage,
  windows: KeyWindows,
  closed: ClosedGroup,
  idPrefix: string,
): StoredEvent {
  const { start, end, group, acc } = closed;
  let text = `{"windowStart":"${new Date(start).toISOString()}","windowEnd":"${new Date(end).toISOString()}"`;
  if (stage.groupBy !== undefined) text += `,${JSON.stringify(stage.groupName)}:${group}`;
  for (const [name, json] of windows.math.results(acc)) text += `,${JSON.stringify(name)}:${json}`;
  return {
    eventId: `${idPrefix}${start.toString(36)}-${(end - start).toString(36)}-${digest(group, 16)}`,
    partition: 0,
    offset: 0,
    timestampMs: end,
    key: stage.groupBy === undefined ? undefined : keyText(group),
    headers: undefined,
    payload: Buffer.from(`${text}}`),
    contentType: JSON_TYPE,
  };
}

/** A group that is a text is its own key, others are their JSON. */
function keyText(group: string): string {
  const value = JSON.parse(group) as unknown;
  return typeof value === "string" ? value.toWellFormed() : group;
}

function untilAborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener("abort", () => resolve(), { once: true });
  });
}
