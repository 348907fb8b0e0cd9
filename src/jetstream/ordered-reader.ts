import { AckPolicy, type ConsumerConfig, DeliverPolicy, ReplayPolicy } from "@nats-io/jetstream";
import { type Deadline, deadlineIn, pause } from "../domain/deadline.ts";
import { ErrorCode, ServiceError } from "../domain/errors.ts";
import { type JetStream, READ_BYTES } from "./connection.ts";
import { JsError, jsErrorCode, toServiceError } from "./errors.ts";
import type { Delivered, PullOptions, PullResult } from "./fetch.ts";

/** The JetStream stream is not there. */
export class StreamGone extends Error {}

/** Messages before the place to read from were removed. */
export class Truncated extends Error {
  readonly firstSeq: number;

  constructor(firstSeq: number) {
    super(`the first message is ${firstSeq}`);
    this.firstSeq = firstSeq;
  }
}

export interface ReaderOptions {
  readonly jsStream: string;
  readonly filter: string;
  /** First sequence to read. */
  readonly from: number;
  /** Whether messages of the subject have consecutive sequences, so that a gap at the start is a loss. */
  readonly dense: boolean;
  /** Begin with the first message stored at or after this moment instead, by the storage's clock. */
  readonly fromTimeMs?: number;
  /** Only the last message of each subject. */
  readonly lastPerSubject?: boolean;
  readonly headersOnly?: boolean;
  readonly batch: number;
  /** Most bytes of one batch, default `READ_BYTES`; a larger message comes alone. */
  readonly maxBytes?: number;
}

/** What a read came to. */
export interface ReadBatch {
  readonly messages: readonly Delivered[];
  /** The storage had no more messages when it answered. */
  readonly atEnd: boolean;
  /** A moment of this process's clock that is not after the storage's answer, however late that was looked at. */
  readonly asOfMs: number;
}

type Pulled = PullResult & Pick<ReadBatch, "asOfMs">;

const CALL_MS = 5000;
/** The storage forgets a consumer that nobody reads after this long. */
const INACTIVE_MS = 30_000;

/**
 * Reads the messages of a subject in order, each exactly once: an unacknowledged consumer in memory that is made anew from
 * the last message read whenever its own count has a gap, it has gone, or the connection was lost. Without that check
 * messages were lost, see docs/adr/0010.
 */
export class OrderedReader {
  readonly #js: JetStream;
  readonly #options: ReaderOptions;
  #next: number;
  #consumer: { name: string; epoch: number } | undefined;
  #consumerSeq = 0;
  #ahead: Promise<Pulled> | undefined;
  #pending = 0;

  constructor(js: JetStream, options: ReaderOptions) {
    this.#js = js;
    this.#options = options;
    this.#next = options.from;
  }

  /** Messages that the consumer has not delivered, when last heard of. */
  get pending(): number {
    return this.#pending;
  }

  /**
   * What comes next; waits at most `waitMs` for the first message.
   *
   * @param signal ends the wait; what was delivered by then is returned, and never as the end.
   * @throws StreamGone, Truncated; ServiceError UNAVAILABLE or TIMEOUT when the storage is out of reach.
   */
  async read(waitMs: number, signal: AbortSignal): Promise<ReadBatch> {
    const consumer = await this.#open(deadlineIn(CALL_MS));
    const { batch, maxBytes = READ_BYTES } = this.#options;
    const take = { batch, waitMs: 0, maxBytes };
    let result = await (this.#ahead ?? this.#pull(consumer.name, take, signal));
    this.#ahead = undefined;
    if (result.messages.length === 0 && result.end === "empty" && waitMs > 0 && !signal.aborted)
      result = await this.#pull(consumer.name, { ...take, batch: 1, waitMs }, signal);
    // One message alone may be larger than what a batch may hold.
    if (result.messages.length === 0 && result.end === "tooLarge")
      result = await this.#pull(consumer.name, { batch: 1, waitMs: 0 }, signal);
    if (result.end === "missing" || result.end === "lost" || consumer.epoch !== this.#js.epoch) {
      await this.#forget();
      await pause(50);
    }
    const messages = this.#checked(result.messages);
    const last = messages.at(-1);
    if (last) this.#pending = last.pending;
    // A pull that was broken off looks as if nothing had come: the storage said nothing of the kind.
    const atEnd = !signal.aborted && (result.end === "empty" || (last !== undefined && last.pending === 0));
    // While these are worked on, the next are on their way.
    if (!atEnd && this.#consumer && result.end === "full" && !signal.aborted)
      this.#ahead = this.#pull(this.#consumer.name, take, signal);
    return { messages, atEnd: atEnd && this.#consumer !== undefined, asOfMs: result.asOfMs };
  }

  /** Ends the consumer. */
  async close(): Promise<void> {
    const name = this.#consumer?.name;
    await this.#forget();
    if (name !== undefined && this.#js.connected)
      await this.#js
        .call(deadlineIn(1000), () => this.#js.jsm.consumers.delete(this.#options.jsStream, name))
        .catch(() => {});
  }

  async #pull(name: string, options: PullOptions, signal: AbortSignal): Promise<Pulled> {
    let askedAtMs = 0;
    const ask = () => {
      askedAtMs = Date.now();
      return this.#js.fetcher.pull(this.#options.jsStream, name, options, signal);
    };
    // What waits for messages to come must not keep a place.
    const result = await (options.waitMs > 0 ? ask() : this.#js.reads.run(ask));
    const waitedInVain = result.messages.length === 0 && result.end === "empty" && !signal.aborted;
    return { ...result, asOfMs: waitedInVain ? askedAtMs + options.waitMs : askedAtMs };
  }

  async #forget(): Promise<void> {
    this.#consumer = undefined;
    await this.#ahead?.catch(() => {});
    this.#ahead = undefined;
  }

  /** The messages up to a gap in the consumer's count, after which it is made anew. */
  #checked(messages: readonly Delivered[]): readonly Delivered[] {
    for (const [index, message] of messages.entries()) {
      if (message.consumerSeq !== this.#consumerSeq + 1) {
        this.#consumer = undefined;
        return messages.slice(0, index);
      }
      this.#consumerSeq++;
      this.#next = message.seq + 1;
    }
    return messages;
  }

  #start(): Partial<ConsumerConfig> {
    const { fromTimeMs, lastPerSubject } = this.#options;
    if (this.#next > 1) return { deliver_policy: DeliverPolicy.StartSequence, opt_start_seq: this.#next };
    if (lastPerSubject) return { deliver_policy: DeliverPolicy.LastPerSubject };
    if (fromTimeMs === undefined) return { deliver_policy: DeliverPolicy.All };
    return { deliver_policy: DeliverPolicy.StartTime, opt_start_time: new Date(Math.max(0, fromTimeMs)).toISOString() };
  }

  async #open(deadline: Deadline): Promise<{ name: string; epoch: number }> {
    if (this.#consumer) return this.#consumer;
    const { jsStream, filter, dense, headersOnly = false } = this.#options;
    const { epoch } = this.#js;
    try {
      if (dense) {
        const { state } = await this.#js.call(deadline, () => this.#js.jsm.streams.info(jsStream));
        if (state.first_seq > this.#next && state.first_seq > 1) throw new Truncated(state.first_seq);
      }
      const info = await this.#js.call(deadline, () =>
        this.#js.jsm.consumers.add(jsStream, {
          ack_policy: AckPolicy.None,
          replay_policy: ReplayPolicy.Instant,
          mem_storage: true,
          num_replicas: 1,
          inactive_threshold: INACTIVE_MS * 1_000_000,
          filter_subject: filter,
          headers_only: headersOnly,
          ...this.#start(),
        }),
      );
      this.#pending = info.num_pending;
      this.#consumerSeq = 0;
      this.#consumer = { name: info.name, epoch };
      return this.#consumer;
    } catch (error) {
      if (jsErrorCode(error) === JsError.STREAM_NOT_FOUND) throw new StreamGone(jsStream);
      throw error instanceof Truncated ? error : asServiceError(error);
    }
  }
}

function asServiceError(error: unknown): unknown {
  const failure = toServiceError(error);
  return failure instanceof ServiceError && failure.code === ErrorCode.INTERNAL
    ? new ServiceError(ErrorCode.UNAVAILABLE, failure.message, { cause: failure })
    : failure;
}
