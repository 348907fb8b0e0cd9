import type { Msg, NatsConnection, Subscription } from "@nats-io/transport-node";
import { createInbox } from "@nats-io/transport-node";
import { JsError } from "./errors.ts";
import { headerBlock } from "./message.ts";

/** A message as a pull delivered it. */
export interface Delivered {
  readonly subject: string;
  readonly seq: number;
  readonly consumerSeq: number;
  /** How many times it was delivered, this time included. */
  readonly deliveries: number;
  readonly timestampMs: number;
  /** Messages after it that the consumer has not delivered. */
  readonly pending: number;
  /** Subject that acknowledges it. */
  readonly reply: string;
  readonly header: Uint8Array | undefined;
  readonly data: Uint8Array;
}

/**
 * How a pull ended. `full`: as many as asked for. `empty`: nothing more is there, or none came in time. `tooLarge`: the
 * next message alone is above `maxBytes`. `missing`: the consumer is gone or has no leader. `lost`: the connection
 * broke or the server fell silent; messages may be on their way that nobody will see.
 */
export type PullEnd = "full" | "empty" | "tooLarge" | "missing" | "lost";

export interface PullResult {
  readonly messages: Delivered[];
  readonly end: PullEnd;
}

export interface PullOptions {
  /** Most messages. */
  readonly batch: number;
  /** Most bytes, as JetStream counts them: subject, header and payload. */
  readonly maxBytes?: number;
  /** How long the server waits for messages; 0: not at all. */
  readonly waitMs: number;
  /** Takes each message as it comes; the result then holds none. */
  readonly onMessage?: (message: Delivered) => void;
  /** Is shown each message as it comes: those of several pulls of one consumer in the order of their delivery. */
  readonly arrived?: (message: Delivered) => void;
}

/** Beyond the wait, a pull without its closing status is given up. */
const SILENCE_MS = 5000;
/** A pull without a wait that has no answer for so long may have met its consumer's deletion: nats-server then gives none. */
const LOOK_MS = 200;
const ACK_PREFIX_TOKENS = 2;

/** Pulls messages of durable consumers; one inbox serves one pull at a time and is used again afterwards. */
export class Fetcher {
  readonly #nc: NatsConnection;
  readonly #idle: Inbox[] = [];
  readonly #busy = new Set<Inbox>();

  constructor(nc: NatsConnection) {
    this.#nc = nc;
  }

  /**
   * Pulls from one consumer. A pull is over only with the server's closing status or the full batch: ending it at
   * "0 pending" loses messages.
   *
   * @param signal ends the wait early. What has been delivered by then is in the result, so that it can be returned.
   */
  async pull(jsStream: string, durable: string, options: PullOptions, signal?: AbortSignal): Promise<PullResult> {
    const inbox = this.#idle.pop() ?? new Inbox(this.#nc);
    this.#busy.add(inbox);
    try {
      const result = await inbox.pull(jsStream, durable, options, signal);
      if (inbox.clean) this.#idle.push(inbox);
      return result;
    } finally {
      this.#busy.delete(inbox);
    }
  }

  /** To be called when the connection breaks: no pull gets an answer any more. */
  disconnected(): void {
    for (const inbox of this.#busy) inbox.lost();
  }

  close(): void {
    this.disconnected();
    for (const inbox of this.#idle.splice(0)) inbox.close();
  }
}

class Inbox {
  readonly #nc: NatsConnection;
  readonly #subject = createInbox();
  readonly #subscription: Subscription;
  #messages: Delivered[] = [];
  #onMessage: ((message: Delivered) => void) | undefined;
  #arrived: ((message: Delivered) => void) | undefined;
  #left = 0;
  #pulls = 0;
  #reply = "";
  #done: ((end: PullEnd) => void) | undefined;
  /** No message of an earlier pull can come here any more. */
  clean = true;

  constructor(nc: NatsConnection) {
    this.#nc = nc;
    this.#subscription = nc.subscribe(`${this.#subject}.*`, { callback: (_error, msg) => this.#received(msg) });
  }

  async pull(jsStream: string, durable: string, options: PullOptions, signal?: AbortSignal): Promise<PullResult> {
    this.#messages = [];
    this.#onMessage = options.onMessage;
    this.#arrived = options.arrived;
    this.#left = options.batch;
    this.#reply = `${this.#subject}.${++this.#pulls}`;
    const ended = new Promise<PullEnd>((resolve) => {
      this.#done = resolve;
    });
    let silence =
      options.waitMs > 0
        ? setTimeout(() => this.lost(), options.waitMs + SILENCE_MS)
        : setTimeout(() => {
            silence = setTimeout(() => this.lost(), SILENCE_MS - LOOK_MS);
            void this.#look(jsStream, durable);
          }, LOOK_MS);
    const cancel = () => void this.#cancel();
    signal?.addEventListener("abort", cancel, { once: true });
    try {
      const request =
        options.waitMs > 0
          ? { batch: options.batch, expires: options.waitMs * 1_000_000, max_bytes: options.maxBytes }
          : { batch: options.batch, no_wait: true, max_bytes: options.maxBytes };
      this.#nc.publish(`$JS.API.CONSUMER.MSG.NEXT.${jsStream}.${durable}`, JSON.stringify(request), {
        reply: this.#reply,
      });
      if (signal?.aborted) cancel();
      const end = await ended;
      return { messages: this.#messages, end };
    } finally {
      clearTimeout(silence);
      signal?.removeEventListener("abort", cancel);
      this.#done = undefined;
    }
  }

  /** Ends the present pull if its consumer is gone. */
  async #look(jsStream: string, durable: string): Promise<void> {
    const reply = this.#reply;
    const answer = await this.#nc
      .request(`$JS.API.CONSUMER.INFO.${jsStream}.${durable}`, "", { timeout: SILENCE_MS })
      .catch(() => undefined);
    const code = answer?.json<{ error?: { err_code: number } }>().error?.err_code;
    const isGone = code === JsError.CONSUMER_NOT_FOUND || code === JsError.STREAM_NOT_FOUND;
    if (!isGone || reply !== this.#reply) return;
    this.clean = false;
    this.#subscription.unsubscribe();
    this.#done?.("missing");
  }

  /** Ends the pull without its closing status. */
  lost(): void {
    this.clean = false;
    this.#subscription.unsubscribe();
    this.#done?.("lost");
  }

  close(): void {
    this.#subscription.unsubscribe();
  }

  /** Takes the pull back: the server drops it with its subscription, and what was on its way still arrives before. */
  async #cancel(): Promise<void> {
    this.clean = false;
    await this.#subscription.drain().catch(() => {});
    this.#done?.("empty");
  }

  #received(msg: Msg): void {
    const reply = msg.reply ?? "";
    if (reply === "") {
      // A status shows the subject it was sent to, so one of an earlier pull is told apart.
      if (msg.subject === this.#reply) this.#done?.(endOf(msg.headers?.code ?? 0, msg.headers?.description ?? ""));
      return;
    }
    const message = delivered(msg, reply);
    this.#arrived?.(message);
    if (this.#onMessage) this.#onMessage(message);
    else this.#messages.push(message);
    if (--this.#left <= 0) this.#done?.("full");
  }
}

/** Statuses that close a pull (NATS ADR-37). */
function endOf(code: number, description: string): PullEnd {
  switch (code) {
    case 404:
    case 408:
      return "empty";
    case 409:
      if (description.includes("MaxBytes")) return "tooLarge";
      return description.includes("Server Shutdown") ? "lost" : "missing";
    default:
      return "missing";
  }
}

/**
 * Reads a message's place from its acknowledgement subject,
 * `$JS.ACK.<stream>.<consumer>.<deliveries>.<seq>.<consumer seq>.<ns>.<pending>`, or the form with domain and account
 * before the stream (NATS ADR-15).
 */
function delivered(msg: Msg, reply: string): Delivered {
  const tokens = reply.split(".");
  const at = (tokens.length >= 11 ? ACK_PREFIX_TOKENS + 2 : ACK_PREFIX_TOKENS) + 2;
  return {
    subject: msg.subject,
    deliveries: Number(tokens[at]),
    seq: Number(tokens[at + 1]),
    consumerSeq: Number(tokens[at + 2]),
    timestampMs: Number(tokens[at + 3]!.slice(0, -6)),
    pending: Number(tokens[at + 4]),
    reply,
    header: headerBlock(msg),
    data: msg.data,
  };
}
