import type { Delivered } from "../jetstream/fetch.ts";

/**
 * Which of a durable's messages came to this gateway, so that they are handed out in order. A message that is delivered in
 * the moment in which the wait for it is given up finds no subscription. nats-server delivers it again, as it does with
 * what is given back, but what follows may be quicker.
 */
export class Arrivals {
  readonly #isShared: () => boolean;
  /** Highest sequence that came since the durable was last moved. */
  #received = 0;
  /** Sequences below it that did not come. */
  readonly #missing = new Set<number>();
  /** Sequences that came, reached nobody, and come once more. */
  readonly #returned = new Set<number>();
  /** Sequences that came to a wait and were neither handed out nor given back yet. */
  readonly #waited = new Set<number>();
  /** A wait was given up, and what was on its way to it may have been lost. */
  #gaveUp = false;

  /** @param isShared whether other gateways take messages of the durable too. */
  constructor(isShared: () => boolean) {
    this.#isShared = isShared;
  }

  get received(): number {
    return this.#received;
  }

  /** Messages that come once more. */
  get returning(): number {
    return this.#returned.size;
  }

  /** Notes the place of a message among those that came before it. */
  readonly note = ({ seq, deliveries }: Delivered): void => {
    const isAlone = !this.#isShared();
    const isNew = seq > this.#received;
    // Its first delivery reached nobody.
    if (deliveries > 1 && (this.#missing.has(seq) || (isNew && isAlone))) this.#returned.add(seq);
    if (!isNew) return void this.#missing.delete(seq);
    if ((isAlone || this.#gaveUp) && seq - this.#received <= MOST_MISSING)
      for (let missing = this.#received + 1; missing < seq; missing++) this.#missing.add(missing);
    this.#received = seq;
  };

  /** The same for one that came to a wait. */
  readonly noteWaited = (message: Delivered): void => {
    this.note(message);
    this.#waited.add(message.seq);
  };

  /** A wait ended before its message came. */
  noteGaveUp(): void {
    this.#gaveUp = true;
  }

  /** A pull came to its end: what was on its way has come. */
  notePulled(): void {
    this.#gaveUp = false;
  }

  /** Messages have reached a caller. */
  noteHandedOut(messages: readonly Delivered[]): void {
    if (this.#returned.size === 0 && this.#waited.size === 0) return;
    for (const { seq } of messages) {
      this.#returned.delete(seq);
      this.#waited.delete(seq);
    }
  }

  noteGivenBack({ seq }: Delivered): void {
    this.#returned.add(seq);
    this.#waited.delete(seq);
  }

  /** Whether a second delivery of it is no sign of a lost consumer. */
  isReturning({ seq }: Delivered): boolean {
    return this.#returned.has(seq);
  }

  /** Whether something that was not handed out yet has to come before a message. */
  isOvertaking({ seq }: Delivered): boolean {
    return least(this.#missing) < seq || least(this.#returned) < seq;
  }

  /**
   * The first sequence that is still to come and has to be before some of `messages`, or before what comes next where
   * there are none.
   */
  firstAwaited(messages: readonly Delivered[]): number | undefined {
    if (this.#missing.size === 0 && this.#returned.size === 0) return undefined;
    const came = new Set([...this.#waited, ...messages.map(({ seq }) => seq)]);
    const first = Math.min(least(this.#missing), least(this.#returned, came));
    return first < (messages.at(-1)?.seq ?? Number.POSITIVE_INFINITY) ? first : undefined;
  }

  /** What is gone from the storage, or done, up to a sequence does not come any more. */
  forgetUpTo(seq: number): void {
    for (const awaited of [this.#missing, this.#returned])
      for (const each of awaited) if (each <= seq) awaited.delete(each);
  }

  /** What was given back up to a sequence does not come any more. */
  forgetReturnedUpTo(seq: number): void {
    for (const returned of this.#returned) if (returned <= seq) this.#returned.delete(returned);
  }

  /** What did not come does not come any more. @returns whether there was any. */
  forgetMissing(): boolean {
    const some = this.#missing.size > 0;
    this.#missing.clear();
    return some;
  }

  /** The place behind which everything has reached a caller, where the durable counts what comes once more as delivered. */
  before(position: number): number {
    for (const seq of this.#returned) if (seq <= position) position = seq - 1;
    return position;
  }

  /** Messages up to `deliveredSeq` that are on their way here still. */
  toCome(deliveredSeq: number): number {
    return this.#isShared() ? 0 : Math.max(0, deliveredSeq - this.#received);
  }

  /** The durable stands at `seq`, and nothing before it is on its way. */
  continueAt(seq: number): void {
    this.#received = seq;
    this.#missing.clear();
  }

  /** The durable is about to be moved to `seq`: what comes from now on may be behind it already. */
  restartAt(seq: number): void {
    this.#received = seq;
  }

  /** The durable was moved: everything comes anew. */
  forget(): void {
    this.#missing.clear();
    this.#returned.clear();
    this.#waited.clear();
  }
}

/** Gaps above this are not what waits lose. */
const MOST_MISSING = 1000;

function least(seqs: Iterable<number>, without?: ReadonlySet<number>): number {
  let first = Number.POSITIVE_INFINITY;
  for (const seq of seqs) if (seq < first && !without?.has(seq)) first = seq;
  return first;
}
