import { type Deadline, deadlineIn, msLeft, pause, pauseUntil } from "../domain/deadline.ts";
import { doneUpTo, isPassed, movedTo, type Progress, passOver } from "../domain/deliveries.ts";
import { invalidOffset, timedOut, unavailable } from "../domain/errors.ts";
import { Mutex } from "../domain/mutex.ts";
import type { JetStream } from "../jetstream/connection.ts";
import {
  acknowledge,
  createDurable,
  type DurableState,
  deleteDurable,
  durableState,
  giveBack,
  resetDurable,
} from "../jetstream/durable.ts";
import type { Delivered, PullResult } from "../jetstream/fetch.ts";
import type { Bucket } from "../jetstream/kv.ts";
import { durableName, partitionStream, partitionSubject } from "../jetstream/names.ts";
import { partitionState } from "../jetstream/partitions.ts";
import { Arrivals } from "./arrivals.ts";
import { FailedDeliveries, type FailedDeliveriesPlace } from "./failed-deliveries.ts";
import { lostBetween } from "./gap.ts";
import { OffsetEntry, type OffsetEntryPlace, type OffsetRecord } from "./offset-entry.ts";

/** How a {@link GroupPartition} finds its place. */
export interface GroupPartitionPlace extends OffsetEntryPlace, FailedDeliveriesPlace {
  /** The last seek by epochs: the first epoch of it or later begins at the offset. */
  readonly seek?: { readonly generation: number; readonly offset: number } | undefined;
  /** Its owner has a stream open, which keeps the position itself: there is no durable. */
  readonly streamed: boolean;
  readonly ackWaitMs: number;
  /** Whether other gateways hand out its events too. */
  readonly isShared: () => boolean;
}

/**
 * One group in one partition: the position, which a durable consumer keeps, and the committed offset, which a KV entry
 * keeps. The entry is the truth: on a single server an acknowledgement can be taken back by a crash, a stored entry
 * can't. Offsets below `resume` are done; the durable's floor stands at the same place or is brought there.
 *
 * What this gateway remembers of a position is exact only while no other gateway hands out events of the group.
 */
export class GroupPartition {
  readonly place: GroupPartitionPlace;
  /** What was handed out in vain, and how often. Count inside {@link exclusive}. */
  readonly failures: FailedDeliveries;
  readonly #js: JetStream;
  readonly #entry: OffsetEntry;
  readonly #mutex = new Mutex();
  readonly #jsStream: string;
  readonly #durable: string;
  readonly #arrivals: Arrivals;
  /** The connection for which entry and durable were last compared; 0: never. */
  #connection = 0;
  /** Events may have been handed to nobody; they are handed out again. */
  #rewind = false;
  /** What was handed out was not committed in time, and counts as handed out in vain. */
  #failed = false;
  #position = 0;
  #pending = 0;
  #lastConsumerSeq = 0;
  /** Of a streamed partition, on the gateway that holds the stream: what it has sent, and whom to tell of commits. */
  #stream: { readonly next: () => number; readonly onStored: () => void } | undefined;

  constructor(js: JetStream, offsets: Bucket<OffsetRecord>, place: GroupPartitionPlace) {
    this.#js = js;
    this.place = place;
    this.#jsStream = partitionStream(place.stream, place.partition);
    this.#durable = durableName(place.group, place.epoch);
    this.#arrivals = new Arrivals(place.isShared);
    this.#entry = new OffsetEntry(
      offsets,
      place,
      () => this.#stream?.onStored(),
      () => (this.#connection = 0),
    );
    this.failures = new FailedDeliveries(this.#entry, place);
  }

  /** Next offset to be handed out. */
  get position(): number {
    return this.#arrivals.before(this.#position);
  }

  /** Events not handed out, as of the last contact with the durable. */
  get pending(): number {
    return this.#pending + this.#arrivals.returning;
  }

  /** First offset that is handed out again when what was handed out is forgotten. */
  get resume(): number {
    return this.#entry.record.resume;
  }

  get committed(): number | undefined {
    return this.#entry.record.committed;
  }

  /** What is known of its events. */
  get progress(): Progress {
    return this.#entry.record;
  }

  /** What the stream that this gateway holds of it sends next; undefined: it holds none. */
  get streamedNext(): number | undefined {
    return this.#stream?.next();
  }

  /** Whether an event was passed over by itself and is not handed out in its place any more. */
  isPassed(offset: number): boolean {
    return isPassed(this.#entry.record, offset);
  }

  /** What was handed out up to now was not committed in time: it is handed out again at the next pull. */
  noteRepeat(): void {
    this.#rewind = true;
    this.#failed = true;
  }

  /** Hands out again, at the next pull, what was handed out and is not committed. */
  forgetHandedOut(): void {
    this.#rewind = true;
  }

  /** Runs `task` alone among all that moves this partition's position or committed offset. */
  exclusive<T>(task: () => Promise<T>): Promise<T> {
    return this.#mutex.run(task);
  }

  /**
   * Makes durable and entry agree, where a crash, a lost connection or a new owner may have come between them.
   *
   * @throws ServiceError NOT_PARTITION_OWNER when a later epoch has begun.
   */
  async prepare(deadline: Deadline): Promise<void> {
    // Again when the connection breaks meanwhile: after a crash the durable may be behind what was just seen of it.
    while (this.#connection !== this.#js.epoch || this.#rewind) await this.#agree(deadline);
  }

  async #agree(deadline: Deadline): Promise<void> {
    const connection = this.#js.epoch;
    await this.#entry.load(deadline);
    await this.#takeOver(deadline);
    if (this.place.streamed) {
      this.#position = this.#entry.record.resume;
      this.#rewind = false;
      this.#connection = connection;
      return;
    }
    const state = await createDurable(this.#js, this.#jsStream, this.#durable, this.place.ackWaitMs, deadline);
    if (this.#failed) await this.failures.countUpTo(Math.min(state.deliveredSeq, this.#position), deadline);
    this.#failed = false;
    const isAhead = await this.#isAhead(state, deadline);
    const { resume } = this.#entry.record;
    if (isAhead || state.floorSeq < resume || (this.#rewind && state.deliveredSeq > resume))
      await this.#reset(resume, deadline);
    else {
      this.#arrivals.continueAt(Math.max(state.deliveredSeq, resume));
      this.#adopt(state);
    }
    this.#rewind = false;
    this.#connection = connection;
  }

  /** Whether the durable is where the entry was before it went back: a crash came between the two. */
  async #isAhead({ floorSeq }: DurableState, deadline: Deadline): Promise<boolean> {
    if (floorSeq <= this.#entry.record.resume) return false;
    // Another gateway may have committed meanwhile; the entry comes first.
    await this.#entry.load(deadline);
    if (floorSeq <= this.#entry.record.resume) return false;
    // What expires moves the durable too.
    const { stream, partition } = this.place;
    return floorSeq > (await partitionState(this.#js, stream, partition, deadline)).startOffset;
  }

  /**
   * Begins a stream: the epoch is stored, and what is stored later is told.
   *
   * @param next the offset that the stream sends next.
   * @returns where to begin.
   * @throws ServiceError NOT_PARTITION_OWNER when a later epoch has begun.
   */
  async beginStream(next: () => number, onStored: () => void, deadline: Deadline): Promise<number> {
    this.#stream = undefined;
    this.#connection = 0;
    await this.prepare(deadline);
    this.#stream = { next, onStored };
    return this.#entry.record.resume;
  }

  endStream(): void {
    this.#stream = undefined;
  }

  /** Begins the epoch: from here on, no earlier one's commit is taken and its consumer is gone. */
  async #takeOver(deadline: Deadline): Promise<void> {
    const { epoch, group, seek } = this.place;
    const former = this.#entry.record.epoch ?? 0;
    if (former === epoch) return;
    const began = (record: OffsetRecord) =>
      seek !== undefined && (record.epoch ?? 0) < seek.generation ? movedTo(record, seek.offset) : record;
    await this.#entry.store((record) => ({ ...began(record), epoch }), deadline);
    if (this.place.deadLetters) {
      const state = await durableState(this.#js, this.#jsStream, durableName(group, former), deadline);
      if (state) await this.failures.countUpTo(state.deliveredSeq, deadline);
    }
    await deleteDurable(this.#js, this.#jsStream, durableName(group, former), deadline);
  }

  /** Reads position and lag anew. */
  async refresh(deadline: Deadline): Promise<void> {
    if (this.place.streamed) return;
    const state = await durableState(this.#js, this.#jsStream, this.#durable, deadline);
    if (state) this.#adopt(state);
    else this.#connection = 0;
  }

  /** What is stored and where the durable stands, without taking part. */
  async look(deadline: Deadline): Promise<{ position: number; committed: number | undefined; resume: number }> {
    const { seek, epoch, streamed } = this.place;
    const [stored, state] = await Promise.all([
      this.#entry.look(deadline),
      streamed ? undefined : durableState(this.#js, this.#jsStream, this.#durable, deadline),
    ]);
    const sought = seek !== undefined && (stored.epoch ?? 0) < seek.generation;
    const resume = sought ? seek.offset : stored.resume;
    // The durable of a new epoch may not have been moved to its place yet.
    const known = this.#stream?.next() ?? ((stored.epoch ?? 0) === epoch ? state?.deliveredSeq : undefined);
    const position = this.#arrivals.before(Math.max(known ?? 0, resume));
    return { position, committed: stored.committed, resume };
  }

  /** Reads the stored entry anew, where another gateway may have written it. */
  async reload(deadline: Deadline): Promise<void> {
    await this.#entry.load(deadline);
  }

  /**
   * Takes what is there now, at most `most` messages and `maxBytes`, in order and without a gap after what was handed
   * out before. Call it inside {@link exclusive}.
   *
   * @throws ServiceError TIMEOUT when messages may have been lost on their way; the next pull hands them out again.
   */
  async pull(most: number, maxBytes: number, deadline: Deadline): Promise<PullResult> {
    // Another gateway may have what is missing here.
    let mayAsk = this.place.isShared() ? 2 : 5;
    let behind = 0;
    for (let attempt = 0; ; ) {
      await this.#js.whenConnected(deadline);
      await this.prepare(deadline);
      const isHeld = this.#isHeld;
      const isAlone = isHeld || this.failures.isLastChance(this.#position);
      const batch = isAlone ? 1 : most;
      const options = { batch, maxBytes, waitMs: 0, arrived: this.#arrivals.note };
      const connection = this.#js.epoch;
      let result = await this.#js.reads.run(() =>
        connection === this.#js.epoch ? this.#js.fetcher.pull(this.#jsStream, this.#durable, options) : LOST,
      );
      if (result.end === "lost") {
        // Messages may have been on their way that nobody will see: they are handed out again.
        this.#rewind = true;
        if (++attempt > 2 || msLeft(deadline) === 0) throw timedOut("the storage did not answer in time");
        continue;
      }
      if (result.end === "missing" && result.messages.length === 0) {
        // Gone by inactivity, or without a leader for now.
        this.#connection = 0;
        if (++attempt > 2) throw unavailable("the storage can't hand out events now");
        continue;
      }
      if (result.messages.length === 0 && result.end === "empty" && behind < MOST_BEHIND && this.#isBehind()) {
        await pause(2 ** ++behind, deadline);
        continue;
      }
      if (attempt < 2 && this.isRepeat(result.messages)) {
        attempt++;
        // Handed out once and not committed in time. All that came after is handed out again too, or its order is lost.
        this.noteRepeat();
        continue;
      }
      result.messages.sort((a, b) => a.seq - b.seq);
      const overtaken = mayAsk > 0 ? await this.#overtaken(result.messages, deadline) : undefined;
      this.#arrivals.notePulled();
      if (overtaken !== undefined) {
        const before = result.messages.filter(({ seq }) => seq < overtaken);
        await this.giveBack(result.messages.slice(before.length));
        if (before.length === 0) {
          mayAsk--;
          if (mayAsk === 0) this.#stopAsking(result.messages);
          else await pause(ASK_AGAIN_MS, deadline);
          continue;
        }
        result = { messages: before, end: "full" };
      }
      const gapless = await this.#upToGap(result, deadline);
      this.accept(gapless);
      if (!isAlone || gapless.end !== "full") return gapless;
      if (!isHeld) return { ...gapless, end: "empty" };
      await this.giveBack(gapless.messages);
      return { messages: [], end: "empty" };
    }
  }

  /**
   * Cuts a pull before events that the storage has lost: a partition never deletes in the middle, so a gap that neither
   * retention nor another gateway's poll explains is damage, and nobody is led past it without being told.
   *
   * @throws ServiceError INVALID_OFFSET when the gap comes first; a seek behind it goes on.
   */
  async #upToGap(result: PullResult, deadline: Deadline): Promise<PullResult> {
    const { messages } = result;
    let before = this.#position;
    for (const [index, { seq }] of messages.entries()) {
      if (seq > before + 1) {
        const { stream, partition } = this.place;
        const loss = await lostBetween(this.#js, stream, partition, before, seq - 1, deadline);
        if (loss) {
          await this.giveBack(messages.slice(index));
          this.#position = before;
          if (index > 0) return { messages: messages.slice(0, index), end: "empty" };
          throw loss;
        }
      }
      before = Math.max(before, seq);
    }
    return result;
  }

  /** Whether the durable has not heard yet of what was published here: a poll right after it would miss it. */
  #isBehind(): boolean {
    const { stream, partition, isShared } = this.place;
    return (
      !isShared() && this.#js.publisher.storedLately(partitionSubject(stream, partition)) > this.#arrivals.received
    );
  }

  /** Whether something that was not handed out yet has to come before a message. */
  isOvertaking(message: Delivered): boolean {
    return this.#arrivals.isOvertaking(message);
  }

  /** @returns the first sequence still to come that has to be before some of `messages`, or before what comes next. */
  async #overtaken(messages: readonly Delivered[], deadline: Deadline): Promise<number | undefined> {
    if (this.#arrivals.firstAwaited(messages) === undefined) return undefined;
    const { stream, partition } = this.place;
    const { startOffset, lost } = await partitionState(this.#js, stream, partition, deadline);
    if (lost > 0) this.#arrivals.forgetMissing();
    this.#arrivals.forgetUpTo(Math.max(startOffset, this.resume));
    return this.#arrivals.firstAwaited(messages);
  }

  /** What has to be before `messages` does not come: another gateway has it, or else nobody. */
  #stopAsking(messages: readonly Delivered[]): void {
    const [next] = messages;
    const someMissing = this.#arrivals.forgetMissing();
    if (!this.place.isShared()) this.#rewind ||= next !== undefined || someMissing;
    else if (next) this.#arrivals.forgetReturnedUpTo(next.seq - 1);
  }

  /** Its first event that is not done is out for the last time: what comes after it waits for what becomes of it. */
  get #isHeld(): boolean {
    return this.#position > this.resume && this.failures.isLastChance(this.resume);
  }

  /** Waits for the first message. Not inside {@link exclusive}; what comes is to be given to {@link accept} there. */
  async wait(waitMs: number, signal: AbortSignal): Promise<PullResult> {
    if (this.#isHeld) {
      await pauseUntil(deadlineIn(Math.min(waitMs, HELD_MS)), signal);
      return { messages: [], end: "full" };
    }
    const options = { batch: 1, waitMs, arrived: this.#arrivals.noteWaited };
    const result = await this.#js.fetcher.pull(this.#jsStream, this.#durable, options, signal);
    if (signal.aborted && result.messages.length === 0) this.#arrivals.noteGaveUp();
    return result;
  }

  /** Notes that messages were handed out. */
  accept(result: PullResult): void {
    const last = result.messages.at(-1);
    if (last) {
      // A wait's message is noted later than it came.
      if (last.seq >= this.#position) {
        this.#position = last.seq;
        this.#lastConsumerSeq = last.consumerSeq;
      }
      this.#pending = last.pending;
      this.#arrivals.noteHandedOut(result.messages);
    } else if (result.end === "empty") this.#pending = 0;
  }

  /** Whether some message was delivered before, and not only because its poll was given back. */
  isRepeat(messages: readonly Delivered[]): boolean {
    return messages.some((message) => message.deliveries > 1 && !this.#arrivals.isReturning(message));
  }

  /** Returns messages that reached nobody: they come first in the next pull. Call it inside {@link exclusive}. */
  async giveBack(messages: readonly Delivered[]): Promise<void> {
    for (const message of messages) {
      this.#arrivals.noteGivenBack(message);
      giveBack(this.#js, message.reply);
    }
    const first = messages[0];
    if (!first) return;
    this.#position = Math.min(this.#position, first.seq - 1);
    // The next pull must not overtake them on their way to the server.
    await this.#js.nc.flush().catch(() => this.forgetHandedOut());
  }

  /** Moves the position, and where handing out resumes, to `offset`. Call it inside {@link exclusive}. */
  async seek(offset: number, deadline: Deadline): Promise<void> {
    await this.prepare(deadline);
    await this.#entry.store((record) => movedTo(record, offset), deadline);
    if (this.place.streamed) return;
    for (let at = offset; ; at = this.#entry.record.resume) {
      await this.#reset(at, deadline);
      // A commit or seek by way of another gateway may have come in between; its place counts.
      await this.#entry.load(deadline);
      if (this.#entry.record.resume === at) return;
    }
  }

  /**
   * Checks a commit. Call it inside {@link exclusive}, before {@link commit}.
   *
   * @throws ServiceError INVALID_OFFSET when `offset` is outside the partition's range.
   */
  async checkCommit(offset: number, deadline: Deadline): Promise<void> {
    await this.prepare(deadline);
    if (this.#handedOut(offset)) return;
    // Other gateways may have handed out more than this one knows.
    const { stream, partition } = this.place;
    const [state] = await Promise.all([
      partitionState(this.#js, stream, partition, deadline),
      this.refresh(deadline),
      this.reload(deadline),
    ]);
    const name = `"${stream}"/${partition}`;
    if (this.#handedOut(offset)) return;
    if (offset < state.startOffset)
      throw invalidOffset(`offset ${offset} is below startOffset ${state.startOffset} of ${name}`);
    if (offset >= state.endOffset)
      throw invalidOffset(`offset ${offset} is not below endOffset ${state.endOffset} of ${name}`);
  }

  /** Stores a checked commit; the position moves only when it lies elsewhere. Call it inside {@link exclusive}. */
  async commit(offset: number, deadline: Deadline): Promise<void> {
    await this.#done(
      (record) =>
        offset + 1 < record.resume
          ? { ...movedTo(record, offset + 1), committed: offset }
          : doneUpTo(record, offset + 1),
      deadline,
    );
  }

  /** Single events are done, whatever lies before them. Call it inside {@link exclusive}. */
  async passOver(offsets: readonly number[], deadline: Deadline): Promise<void> {
    await this.#done((record) => passOver(record, offsets), deadline);
  }

  async #done(change: (record: OffsetRecord) => OffsetRecord, deadline: Deadline): Promise<void> {
    // The entry before the floor: a crash in between leaves the floor behind, and that is seen and mended.
    const before = await this.#entry.store(change, deadline);
    const { resume } = this.#entry.record;
    this.#arrivals.forgetReturnedUpTo(resume);
    if (this.place.streamed || resume === before.resume) return;
    let [deliveredSeq, deliveredConsumerSeq] = [this.#position, this.#lastConsumerSeq];
    if (this.place.isShared()) {
      // Another gateway may have moved the durable, also back.
      const state = await durableState(this.#js, this.#jsStream, this.#durable, deadline);
      if (!state) {
        this.#connection = 0;
        return;
      }
      this.#adopt(state);
      ({ deliveredSeq, deliveredConsumerSeq } = state);
    }
    // Of what other gateways had stored until now, so that a commit behind theirs goes back.
    if (resume < before.resume || resume > deliveredSeq) return this.#reset(resume, deadline);
    const consumerSeq = deliveredConsumerSeq - (deliveredSeq - resume);
    if (consumerSeq > 0) acknowledge(this.#js, this.#jsStream, this.#durable, resume, consumerSeq);
  }

  /** Whether an event was handed out, by whichever gateway, as far as it can be known here. Call it inside {@link exclusive}. */
  async wasHandedOut(offset: number, deadline: Deadline): Promise<boolean> {
    // Only the gateway that holds a stream knows what it has sent.
    if (this.place.streamed && !this.#stream) return true;
    if (this.#handedOut(offset) || this.failures.has(offset)) return true;
    await this.refresh(deadline);
    return this.#handedOut(offset);
  }

  /** Neither behind what is done nor ahead of what was handed out. */
  #handedOut(offset: number): boolean {
    return offset + 1 >= this.#entry.record.resume && offset < (this.#stream?.next() ?? this.#position);
  }

  /** Deletes the durable, for good. */
  async remove(deadline: Deadline): Promise<void> {
    this.#connection = 0;
    await deleteDurable(this.#js, this.#jsStream, this.#durable, deadline);
  }

  /** What another gateway has stored, when it is newer. */
  stored(record: OffsetRecord, revision: number): void {
    this.#entry.stored(record, revision);
  }

  async #reset(resume: number, deadline: Deadline): Promise<void> {
    // Before it: another poll's wait may get the first message earlier than the reset is known to be done.
    this.#arrivals.restartAt(resume);
    try {
      await resetDurable(this.#js, this.#jsStream, this.#durable, resume + 1, deadline);
    } catch (error) {
      // A next owner, who has removed it, says so in the entry.
      await this.#entry.load(deadline);
      throw error;
    }
    this.#arrivals.forget();
    this.#lastConsumerSeq = 0;
    this.#position = resume;
    await this.refresh(deadline);
  }

  #adopt(state: DurableState): void {
    // What was on its way to a wait that was given up is still to come.
    const toCome = this.#arrivals.toCome(state.deliveredSeq);
    this.#position = Math.max(state.deliveredSeq - toCome, this.#entry.record.resume);
    this.#lastConsumerSeq = state.deliveredConsumerSeq - toCome;
    this.#pending = state.pending + toCome;
    this.#arrivals.forgetReturnedUpTo(Math.max(state.floorSeq, this.#entry.record.resume));
  }
}

/** What comes of a pull whose connection broke before it was sent. */
const LOST: Promise<PullResult> = Promise.resolve({ messages: [], end: "lost" });
/** nats-server takes what is given back a moment after it has come. */
const ASK_AGAIN_MS = 2;
/** How often a durable is asked that has not heard of what was published: 126 ms in all. */
const MOST_BEHIND = 6;
/** While events are held, it is looked so often whether they are any more. */
const HELD_MS = 100;
