import { deadlineIn, pause } from "../domain/deadline.ts";
import { ErrorCode, ServiceError } from "../domain/errors.ts";
import type { Journal, JournalEntry, JournalWrite } from "../jetstream/journal.ts";
import { carriedOver } from "./carry-over.ts";
import type { Checkpoint, JournalNames, LaneSeed } from "./checkpoint.ts";
import { COMMIT_DEADLINE_MS, Fenced, type LaneSpec } from "./lane-spec.ts";

/** The checkpoint that a lane found, with the moment of its storage by the storage's clock. */
export type PreviousCheckpoint = Checkpoint & { readonly storedAtMs: number };

/** A process that stood still this long first makes sure that it still owns the lane: others take it after 5 s of silence. */
const LEASE_MS = 2000;
const UNSURE: ReadonlySet<ErrorCode> = new Set([ErrorCode.TIMEOUT, ErrorCode.UNAVAILABLE, ErrorCode.QUOTA_EXCEEDED]);

/** A process's hold on a lane: its checkpoint, which only the last one that took the lane over can replace. */
export class Fence {
  readonly #journal: Journal;
  readonly #subject: string;
  readonly #spec: LaneSpec;
  readonly #signal: AbortSignal;
  /** The connection over which the lane has read all that it knows. */
  readonly #connection: number;
  #checkpoint: Checkpoint;
  #revision: number;
  #sureAt = performance.now();
  /** What was there before; undefined for the first owner. */
  readonly previous: PreviousCheckpoint | undefined;
  /** Milliseconds that the storage's clock is ahead of this process's. */
  readonly clockAheadMs: number;

  private constructor(
    journal: Journal,
    subject: string,
    spec: LaneSpec,
    signal: AbortSignal,
    taken: {
      checkpoint: Checkpoint;
      revision: number;
      connection: number;
      previous: PreviousCheckpoint | undefined;
      clockAheadMs: number;
    },
  ) {
    this.#journal = journal;
    this.#subject = subject;
    this.#spec = spec;
    this.#signal = signal;
    this.#checkpoint = taken.checkpoint;
    this.#revision = taken.revision;
    this.#connection = taken.connection;
    this.previous = taken.previous;
    this.clockAheadMs = taken.clockAheadMs;
  }

  /** Makes this process the owner. @throws Fenced when the lane belongs to a later incarnation. */
  static async takeOver(journal: Journal, names: JournalNames, spec: LaneSpec, signal: AbortSignal): Promise<Fence> {
    const { record, lane, owner } = spec;
    const subject = names.checkpoint(lane);
    for (;;) {
      signal.throwIfAborted();
      const asked = Date.now();
      const { connection } = journal;
      const entry = await journal.last(subject, deadlineIn(COMMIT_DEADLINE_MS));
      const previous = entry && checkpointOf(entry.data);
      if (previous && previous.incarnation > record.incarnation) throw new Fenced("the processor has begun anew");
      const isNew = previous?.incarnation !== record.incarnation;
      const seed = isNew && record.start === "savepoint" ? await readSeed(journal, names, spec) : undefined;
      const checkpoint: Checkpoint = {
        ...carriedOver(previous, record, seed),
        generation: record.generation,
        epoch: (previous?.epoch ?? 0) + 1,
        commit: 0,
        owner,
        clean: false,
      };
      const write = { subject, payload: Buffer.from(JSON.stringify(checkpoint)) };
      const revision = await journal.commit([write], entry?.seq ?? 0, deadlineIn(COMMIT_DEADLINE_MS), connection);
      if (revision === undefined) {
        await pause(100);
        continue;
      }
      const stored = await journal.last(subject, deadlineIn(COMMIT_DEADLINE_MS));
      const aheadMs = stored ? stored.timestampMs - Math.min(Date.now(), Math.max(asked, stored.timestampMs)) : 0;
      return new Fence(journal, subject, spec, signal, {
        checkpoint,
        revision,
        connection,
        previous: previous && { ...previous, storedAtMs: entry.timestampMs },
        clockAheadMs: aheadMs,
      });
    }
  }

  /** The last one committed. */
  get checkpoint(): Checkpoint {
    return this.#checkpoint;
  }

  /**
   * Stores the next checkpoint together with `others`, all or none; returns once that is known.
   *
   * A power failure can take back messages that were read already, and what is written next then has their places. So
   * nothing is committed over another connection than the one over which it was read: the lane begins anew.
   *
   * @throws Fenced when another owner has committed; Reconnected.
   */
  async commit(next: Checkpoint, others: readonly JournalWrite[]): Promise<void> {
    const began = performance.now();
    const writes = [{ subject: this.#subject, payload: Buffer.from(JSON.stringify(next)) }, ...others];
    await this.#send(writes, next);
    this.#checkpoint = next;
    this.#sureAt = began;
  }

  /** Stores what stands beside the checkpoint. @throws Fenced when another owner has committed; ServiceError. */
  async storeBeside(write: JournalWrite): Promise<void> {
    let expected = this.#revision;
    while (!(await this.#journal.storeBeside(write, this.#subject, expected, deadlineIn(COMMIT_DEADLINE_MS))))
      expected = (await this.#own()).seq;
  }

  /** A process that stood still may no longer own the lane, and must not write results then. @throws Fenced, Reconnected. */
  async makeSure(): Promise<void> {
    this.#journal.checkConnection(this.#connection);
    if (performance.now() - this.#sureAt < LEASE_MS) return;
    const now = performance.now();
    await this.#own();
    this.#sureAt = now;
  }

  /** The checkpoint as it is stored. @throws Fenced when it is another owner's. */
  async #own(): Promise<JournalEntry> {
    const entry = await this.#journal.last(this.#subject, deadlineIn(COMMIT_DEADLINE_MS));
    if (!entry) throw new Fenced(`the journal of lane ${this.#spec.lane} is gone`);
    const { epoch } = checkpointOf(entry.data);
    if (epoch !== this.#checkpoint.epoch) throw new Fenced(`epoch ${epoch} came after ${this.#checkpoint.epoch}`);
    return entry;
  }

  async #send(writes: readonly JournalWrite[], next: Checkpoint): Promise<void> {
    for (;;) {
      this.#signal.throwIfAborted();
      try {
        const deadline = deadlineIn(COMMIT_DEADLINE_MS);
        const seq = await this.#journal.commit(writes, this.#revision, deadline, this.#connection);
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
      this.#signal.throwIfAborted();
      try {
        const entry = await this.#own();
        if (checkpointOf(entry.data).commit !== next.commit) return false;
        this.#revision = entry.seq;
        return true;
      } catch (error) {
        if (!(error instanceof ServiceError) || !UNSURE.has(error.code)) throw error;
        await pause(200);
      }
    }
  }
}

async function readSeed(journal: Journal, names: JournalNames, { record, lane }: LaneSpec) {
  const entry = await journal.last(names.seed(record.seed ?? "", lane), deadlineIn(COMMIT_DEADLINE_MS));
  if (!entry) throw new Error("STATE_CORRUPT: the state that a restore brought is missing");
  return { ...(JSON.parse(Buffer.from(entry.data).toString("utf8")) as LaneSeed), seq: entry.seq };
}

const checkpointOf = (data: Uint8Array): Checkpoint => JSON.parse(Buffer.from(data).toString("utf8")) as Checkpoint;
