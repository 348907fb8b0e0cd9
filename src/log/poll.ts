import type { Holding } from "../domain/byte-budget.ts";
import { type Deadline, deadlineIn, msLeft, pauseUntil } from "../domain/deadline.ts";
import { ErrorCode, invalidOffset, ServiceError, streamNotFound } from "../domain/errors.ts";
import type { StoredEvent } from "../domain/event.ts";
import { mapLimit } from "../domain/map-limit.ts";
import { type JetStream, READ_BYTES } from "../jetstream/connection.ts";
import type { Delivered } from "../jetstream/fetch.ts";
import { type PartitionState, partitionStates } from "../jetstream/partitions.ts";
import type { Catalog, StreamRecord } from "./catalog.ts";
import { type Claim, claim, type Reader } from "./claim.ts";
import { decodeEvent, eventBytes } from "./decode.ts";
import type { GroupPartition } from "./group-partition.ts";
import type { GroupInStream, Groups } from "./groups.ts";
import { type HandedOut, putBack, takeReturned } from "./hand-out-returned.ts";

export interface PollOptions {
  readonly reader: Reader;
  /** Moves the position of the polled partitions there first. */
  readonly seekTo: number | undefined;
  /** Most events, from 1. */
  readonly limit: number;
  /** Most bytes of payloads, keys and headers; one event is handed out all the same. */
  readonly maxBytes: number;
  /** How long to wait for the first event when there is none. */
  readonly waitMs: number;
  readonly filter: ((event: StoredEvent) => boolean) | undefined;
  readonly autoCommit: boolean;
  /** Takes what is handed out; where it is full, less is. */
  readonly holding: Holding;
  /** For everything but the wait. */
  readonly deadline: Deadline;
  /** The caller is gone: what was taken for it is given back. */
  readonly signal: AbortSignal;
  /** The gateway is draining: waits end, with what there is. */
  readonly draining: AbortSignal;
}

/** Where the group is in one partition after a poll. */
export interface PolledPartition {
  readonly partition: number;
  readonly nextOffset: number;
  readonly lag: number;
  readonly committedOffset: number | undefined;
}

export interface PollResult {
  /** In offset order within each partition. */
  readonly events: StoredEvent[];
  readonly partitions: PolledPartition[];
  readonly lag: number;
  readonly nextOffset: number;
  /** What is assigned to the member that polled, and the generation of its commits. */
  readonly assignment: Claim["assignment"];
  /** Returns the events, in order, when the answer could not be sent. */
  giveBack(): Promise<void>;
}

/** Partitions asked at once; more only queue up in front of the server. */
const PARALLEL = 64;
/** A round asks only as many partitions as are needed when each gives this many events, so that few requests carry many. */
const SMALLEST_SHARE = 64;

/** Hands out a group's next events and moves its position past them. @throws ServiceError. */
export async function poll(
  catalog: Catalog,
  groups: Groups,
  group: GroupInStream,
  options: PollOptions,
): Promise<PollResult> {
  const { stream } = group;
  const { reader } = options;
  const workMs = msLeft(options.deadline);
  let { seekTo } = options;
  let waitMs = options.waitMs;
  let { deadline } = options;
  let member = reader.member;
  for (let attempt = 0; ; ) {
    // Partitions may have been added while it waited.
    const present = await catalog.find(stream.name, deadline);
    if (present.id !== stream.id) throw streamNotFound(stream.name);
    group.stream = present;
    const claimed = await claim(groups, group, member ? { ...reader, member } : reader, deadline);
    if (member) member = { ...member, entered: claimed.assignment!.generation };
    const changes = new Changes(catalog, group, claimed, options);
    const run = new Poll(group, claimed, options, deadline);
    try {
      if (seekTo !== undefined && claimed.partitions.length > 0) {
        await seek(groups.js, group, claimed.partitions, seekTo, deadline);
        seekTo = undefined;
      }
      await run.take();
      const waitUntil = deadlineIn(waitMs);
      // A member renews its lease while it waits, and learns what others leave to it.
      const until = Math.min(waitUntil, run.returnedDue(), member ? deadlineIn(group.members.claimMs) : waitUntil);
      while (run.events.length === 0 && msLeft(until) > 0 && !changes.signal.aborted) {
        const came = await run.wait(until, changes.signal);
        deadline = deadlineIn(workMs);
        group.deleted.throwIfAborted();
        if (came) await run.take(deadline);
      }
      if (options.signal.aborted) throw options.signal.reason;
      if (options.autoCommit) await run.commit();
      waitMs = msLeft(waitUntil);
      if (run.events.length > 0 || waitMs === 0 || options.draining.aborted) {
        const result = await run.result();
        group.deleted.throwIfAborted();
        return result;
      }
    } catch (error) {
      await run.giveBack();
      // Another gateway knew of a change before this one.
      if (!isNotOwner(error) || ++attempt > 5) throw error;
      await group.members.reload(deadline);
    } finally {
      changes.close();
    }
  }
}

/** Ends the waits of a poll: its caller is gone, the gateway drains, or what it may read or the stream has changed. */
class Changes {
  readonly #over = new AbortController();
  readonly #ends: readonly AbortSignal[];
  readonly #end = () => this.#over.abort(WAIT_OVER);
  readonly #unlisten: readonly (() => void)[];

  constructor(catalog: Catalog, group: GroupInStream, { state }: Claim, { signal, draining }: PollOptions) {
    this.#ends = [signal, draining];
    for (const each of this.#ends) {
      if (each.aborted) this.#end();
      else each.addEventListener("abort", this.#end, { once: true });
    }
    this.#unlisten = [
      group.members.onChange(this.#end),
      group.returned.onChange(this.#end),
      catalog.onChange(group.stream.name, this.#end),
    ];
    if (group.members.state !== state) this.#end();
  }

  get signal(): AbortSignal {
    return this.#over.signal;
  }

  close(): void {
    for (const unlisten of this.#unlisten) unlisten();
    for (const each of this.#ends) each.removeEventListener("abort", this.#end);
  }
}

/**
 * What the partitions that a poll is to move hold.
 *
 * @throws ServiceError INVALID_OFFSET when the offset is beyond the end of all, or before what some of them kept.
 */
export async function checkSeek(
  js: JetStream,
  stream: StreamRecord,
  partitions: readonly number[],
  offset: number,
  deadline: Deadline,
): Promise<PartitionState[]> {
  const states = await partitionStates(js, stream, deadline);
  const polled = partitions.map((partition) => states[partition]!);
  const name = `"${stream.name}"`;
  const end = Math.max(...polled.map((state) => state.endOffset));
  if (offset > end)
    throw invalidOffset(`offset ${offset} is above endOffset ${end} of the polled partitions of ${name}`);
  const cut = polled.find((state) => offset < state.startOffset);
  if (cut) throw invalidOffset(`offset ${offset} is below startOffset ${cut.startOffset} of ${name}/${cut.partition}`);
  return polled;
}

/** Moves the position of all partitions; each ends at its end where the offset lies beyond. */
async function seek(
  js: JetStream,
  group: GroupInStream,
  partitions: readonly GroupPartition[],
  offset: number,
  deadline: Deadline,
): Promise<void> {
  const indexes = partitions.map(({ place }) => place.partition);
  const polled = await checkSeek(js, group.stream, indexes, offset, deadline);
  await mapLimit(partitions, PARALLEL, (partition, index) =>
    partition.exclusive(async () => {
      await partition.seek(Math.min(offset, polled[index]!.endOffset), deadline);
      await group.returned.drop(partition.place.partition, 0, deadline);
    }),
  );
}

class Poll {
  events: StoredEvent[] = [];
  readonly #group: GroupInStream;
  readonly #partitions: readonly GroupPartition[];
  readonly #options: PollOptions;
  /** Everything taken for this poll, filtered out or not, by place among the polled partitions. */
  readonly #taken: Delivered[][];
  /** Returned events, each the only one of its partition in this answer. */
  readonly #returned = new Map<number, HandedOut>();
  /** Place of the partition that the next round begins with. */
  #turn: number;
  /** Position and lag of a partition are as of this poll. */
  readonly #fresh: boolean[];
  /** Places of partitions that the answer says nothing of. */
  readonly #leftOut = new Set<number>();
  /** Something was committed for this poll. */
  #committed = false;
  readonly #claim: Claim;
  #deadline: Deadline;
  #bytes = 0;
  #full = false;

  constructor(group: GroupInStream, claimed: Claim, options: PollOptions, deadline: Deadline) {
    const { partitions } = claimed;
    this.#group = group;
    this.#claim = claimed;
    this.#partitions = partitions;
    this.#options = options;
    this.#deadline = deadline;
    this.#taken = partitions.map(() => []);
    this.#fresh = partitions.map(() => false);
    this.#turn = partitions.length > 0 ? group.turn++ % partitions.length : 0;
  }

  /** Takes what is there, in rounds over the partitions that may have more, until nothing is or enough is taken. */
  async take(deadline = this.#deadline): Promise<void> {
    this.#deadline = deadline;
    if (this.#group.returned.some) await this.#takeReturned(this.#group.returned.inTurn);
    await this.#takeNext();
    if (this.events.length === 0 && this.#group.returned.some) await this.#takeReturned(() => true);
    this.#sort();
  }

  /** When the next returned event is due. */
  returnedDue(): Deadline {
    if (!this.#group.returned.some) return Number.POSITIVE_INFINITY;
    const dueMs = this.#group.returned.nextDueMs(new Set(this.#partitions.map(({ place }) => place.partition)));
    return deadlineIn(Math.max(0, dueMs - Date.now()));
  }

  /** Takes the returned event that is due from every partition that gives nothing else and for which `has` holds. */
  async #takeReturned(has: (partition: number) => boolean): Promise<void> {
    const { limit, filter, signal } = this.#options;
    for (const [
      place,
      {
        place: { partition },
      },
    ] of this.#partitions.entries()) {
      if (this.events.length >= limit || signal.aborted) return;
      if (this.#taken[place]!.length > 0 || this.#returned.has(place) || !has(partition)) continue;
      const next = await takeReturned(this.#group, partition, this.#deadline);
      if (!next) continue;
      if (filter && !filter(next.event)) await this.#group.returned.settle(next.entry, this.#deadline);
      else {
        this.#returned.set(place, next);
        this.#add(next.event, eventBytes(next.event));
      }
    }
  }

  async #takeNext(): Promise<void> {
    const count = this.#partitions.length;
    let open = range(count)
      .map((i) => (this.#turn + i) % count)
      .filter((place) => !this.#returned.has(place));
    let lanes = 0;
    while (open.length > 0 && !this.#enough()) {
      const wanted = this.#options.limit - this.events.length;
      // As few partitions as can give what is wanted; more with every round that gave too little.
      lanes = Math.min(Math.max(Math.ceil(wanted / SMALLEST_SHARE), lanes * 4), open.length, wanted, PARALLEL);
      const asked = open.slice(0, lanes);
      const shares = splitEvenly(wanted, lanes);
      const maxBytes = Math.max(1, Math.floor((this.#options.maxBytes - this.#bytes) / lanes));
      const more = await Promise.all(asked.map((place, i) => this.#takeFrom(place, shares[i]!, maxBytes)));
      open = [...open.slice(lanes), ...asked.filter((_, i) => more[i])];
    }
  }

  /** Waits until some partition has an event. @returns whether one came. */
  async wait(until: Deadline, signal: AbortSignal): Promise<boolean> {
    const over = new AbortController();
    const stop = () => over.abort(WAIT_OVER);
    signal.addEventListener("abort", stop, { once: true });
    try {
      if (this.#partitions.length === 0) await pauseUntil(until, over.signal);
      const waits = this.#partitions.map(async (partition, place) => {
        const result = await partition.wait(Math.max(1, Math.ceil(msLeft(until))), over.signal);
        if (result.messages.length > 0 || result.end !== "empty") stop();
        // What comes a second time comes with all that followed it: the next round takes it in order.
        if (result.end === "lost") partition.forgetHandedOut();
        else if (partition.isRepeat(result.messages)) partition.noteRepeat();
        else if (result.messages.length > 0)
          await partition.exclusive(async () => {
            if (partition.isOvertaking(result.messages[0]!)) return partition.giveBack(result.messages);
            partition.accept(result);
            return void (await this.#accept(place, result.messages, result.end));
          });
        return result.messages.length > 0 || result.end !== "empty";
      });
      const came = (await Promise.all(waits)).some(Boolean);
      this.#sort();
      return came;
    } finally {
      signal.removeEventListener("abort", stop);
    }
  }

  /**
   * Commits everything taken. What is committed must be answered, or nobody gets it: where it fails, the partition is
   * left out of the answer.
   *
   * @throws the first failure when nothing could be committed.
   */
  async commit(): Promise<void> {
    const failures: unknown[] = [];
    for (const { entry } of this.#returned.values()) {
      await this.#group.returned.settle(entry, this.#deadline);
      this.#committed = true;
    }
    await mapLimit(this.#partitions, PARALLEL, async (partition, place) => {
      const last = this.#taken[place]!.at(-1);
      if (!last) return;
      try {
        await partition.exclusive(() => partition.commit(last.seq - 1, this.#deadline));
        this.#committed = true;
      } catch (error) {
        failures.push(error);
        this.#leftOut.add(place);
      }
    });
    if (failures.length > 0 && !this.#committed) throw failures[0];
    for (const place of this.#leftOut) {
      const partition = this.#partitions[place]!;
      const messages = this.#taken[place]!.splice(0);
      this.events = this.events.filter((event) => event.partition !== partition.place.partition);
      await partition.exclusive(() => partition.giveBack(messages));
    }
  }

  async result(): Promise<PollResult> {
    const deadline = this.#deadline;
    await mapLimit(this.#partitions, PARALLEL, async (partition, place) => {
      if (this.#leftOut.has(place)) return;
      if (this.#fresh[place] && !(this.#group.shared && this.#taken[place]!.length === 0)) return;
      try {
        await partition.exclusive(async () => {
          await partition.prepare(deadline);
          await partition.refresh(deadline);
        });
      } catch (error) {
        if (!this.#committed) throw error;
        if (this.#taken[place]!.length === 0) this.#leftOut.add(place);
      }
    });
    const partitions = this.#partitions
      .map(
        (partition, place): PolledPartition => ({
          partition: partition.place.partition,
          nextOffset: this.#taken[place]!.at(-1)?.seq ?? partition.position,
          lag: partition.pending,
          committedOffset: partition.committed,
        }),
      )
      .filter((_, place) => !this.#leftOut.has(place));
    const last = this.events.findLast(({ deliveryAttempt }) => deliveryAttempt === undefined);
    return {
      events: this.events,
      partitions,
      lag: partitions.reduce((sum, { lag }) => sum + lag, 0),
      nextOffset: last ? last.offset + 1 : (partitions[0]?.nextOffset ?? 0),
      assignment: this.#claim.assignment,
      giveBack: () => this.giveBack(),
    };
  }

  async giveBack(): Promise<void> {
    this.#options.holding[Symbol.dispose]();
    const returned = [...this.#returned.values()];
    this.#returned.clear();
    await Promise.all(returned.map((each) => putBack(this.#group, each, this.#deadline)));
    await Promise.all(
      this.#partitions.map(async (partition, place) => {
        const messages = this.#taken[place]!.splice(0);
        if (messages.length > 0) await partition.exclusive(() => partition.giveBack(messages));
      }),
    );
  }

  /** @returns whether the partition may have more. */
  #takeFrom(place: number, batch: number, maxBytes: number): Promise<boolean> {
    const partition = this.#partitions[place]!;
    return partition.exclusive(async () => {
      if (this.#options.signal.aborted) return false;
      const deadline = this.#deadline;
      const readBytes = Math.min(maxBytes, READ_BYTES);
      let { messages, end } = await partition.pull(batch, readBytes, deadline);
      if (end === "tooLarge" && readBytes < maxBytes)
        if (messages.length > 0) end = "full";
        else ({ messages, end } = await partition.pull(1, maxBytes, deadline));
      // The next event alone is too large: handed out all the same when it would be the only one.
      if (end === "tooLarge" && messages.length === 0 && this.events.length === 0)
        ({ messages, end } = await partition.pull(1, 0, deadline));
      const all = await this.#accept(place, messages, end);
      return all && end === "full";
    });
  }

  /** Adds messages to the answer and gives back those that it has no room for. @returns whether there was room for all. */
  async #accept(place: number, messages: readonly Delivered[], end: string): Promise<boolean> {
    const partition = this.#partitions[place]!;
    this.#fresh[place] = true;
    const { filter, limit, maxBytes } = this.#options;
    for (const [i, message] of messages.entries()) {
      const before = this.#taken[place]!.at(-1)?.seq ?? message.seq - 1;
      // Handed out again meanwhile, because it is long ago or by way of another gateway: it is in the answer already.
      if (message.seq <= before) continue;
      // A member has the partition to itself: what is missing between went to an answer that nobody got.
      if (message.seq > before + 1 && this.#claim.assignment) {
        partition.forgetHandedOut();
        this.#fresh[place] = false;
        return false;
      }
      const event = decodeEvent(partition.place.partition, message);
      if (!partition.isPassed(event.offset) && (!filter || filter(event))) {
        const bytes = eventBytes(event);
        if (this.events.length >= limit || (this.events.length > 0 && this.#bytes + bytes > maxBytes)) {
          this.#full = true;
          await partition.giveBack(messages.slice(i));
          this.#fresh[place] = false;
          return false;
        }
        this.#add(event, bytes);
      }
      this.#taken[place]!.push(message);
    }
    if (end === "tooLarge" && this.events.length > 0) this.#full = true;
    return true;
  }

  #add(event: StoredEvent, bytes: number): void {
    this.events.push(event);
    this.#bytes += bytes;
    this.#options.holding.take(bytes);
  }

  #enough(): boolean {
    return (
      this.#full ||
      (this.events.length > 0 && this.#options.holding.isFull) ||
      this.events.length >= this.#options.limit ||
      this.#bytes >= this.#options.maxBytes ||
      this.#options.signal.aborted
    );
  }

  /** Several rounds may have taken turns over the partitions. */
  #sort(): void {
    if (this.#partitions.length > 1) this.events.sort((a, b) => a.partition - b.partition || a.offset - b.offset);
  }
}

/** A ready-made reason: an abort without one builds an exception with a stack. */
const WAIT_OVER = new Error("the wait is over");

const isNotOwner = (error: unknown): boolean =>
  error instanceof ServiceError && error.code === ErrorCode.NOT_PARTITION_OWNER;

const range = (count: number): number[] => Array.from({ length: count }, (_, i) => i);

/** `total` in `parts` whole numbers that differ by at most 1. */
function splitEvenly(total: number, parts: number): number[] {
  return range(parts).map((i) => Math.floor(total / parts) + (i < total % parts ? 1 : 0));
}
