import { createInbox, errors, type Msg, type NatsConnection, type Subscription } from "@nats-io/transport-node";
import { timedOut } from "../domain/errors.ts";
import { headerBlock } from "./message.ts";

/** A message as it lies in its JetStream stream. */
export interface DirectMessage {
  readonly seq: number;
  readonly timestampMs: number;
  /** The publisher's lines, without the server's own. */
  readonly header: Uint8Array;
  readonly data: Uint8Array;
}

interface Asked {
  readonly messages: DirectMessage[];
  readonly end: (failure?: unknown) => void;
}

/** Sends direct gets and takes their answers, all by one subscription. */
export class DirectGets {
  readonly #nc: NatsConnection;
  readonly #inbox = createInbox();
  readonly #asked = new Map<string, Asked>();
  readonly #subscription: Subscription;
  #count = 0;

  constructor(nc: NatsConnection) {
    this.#nc = nc;
    this.#subscription = nc.subscribe(`${this.#inbox}.*`, { callback: (_error, msg) => this.#received(msg) });
  }

  /**
   * What came until the closing status, or until the wait is over.
   *
   * @throws the client's errors, as `js.call` expects them; ServiceError TIMEOUT when the storage refuses.
   */
  async ask(jsStream: string, request: string, waitMs: number): Promise<DirectMessage[]> {
    const reply = `${this.#inbox}.${(this.#count++).toString(36)}`;
    const messages: DirectMessage[] = [];
    let timer: NodeJS.Timeout | undefined;
    try {
      await new Promise<void>((resolve, reject) => {
        const end = (failure?: unknown) => (failure === undefined ? resolve() : reject(failure));
        this.#asked.set(reply, { messages, end });
        timer = setTimeout(end, waitMs);
        this.#nc.publish(`$JS.API.DIRECT.GET.${jsStream}`, request, { reply });
      });
    } finally {
      clearTimeout(timer);
      this.#asked.delete(reply);
    }
    return messages;
  }

  /** To be called when the connection breaks: no request gets an answer any more. */
  disconnected(): void {
    for (const { end } of this.#asked.values()) end(new errors.ConnectionError("the connection to NATS broke"));
  }

  close(): void {
    this.disconnected();
    this.#subscription.unsubscribe();
  }

  #received(msg: Msg): void {
    const asked = this.#asked.get(msg.subject);
    const header = headerBlock(msg);
    // What comes after the wait is nobody's.
    if (!asked || !header) return;
    if (header[STATUS_AT] !== SPACE) return void asked.messages.push(direct(header, msg.data));
    const { code, description } = msg.headers!;
    if (code === 204 || code === 404 || code === 408) asked.end();
    else if (code === 503) asked.end(new errors.NoRespondersError(msg.subject));
    else asked.end(timedOut(`the storage refused to read (${code} ${description})`));
  }
}

/** Behind `NATS/1.0` the first line of a header has a space and the status, if it has one. */
const STATUS_AT = 8;
const SPACE = 0x20;
const LF = 0x0a;
const ZERO = 0x30;
const NINE = 0x39;
const letter = (text: string) => text.charCodeAt(0);
/** All of the server's lines begin with `Nats-`; the next two letters tell them apart. */
const NAME_AT = "Nats-".length;
const [BIG_S, BIG_T, SMALL_E, SMALL_T] = [letter("S"), letter("T"), letter("e"), letter("t")];
const SEQUENCE_AT = "Nats-Sequence: ".length;
const TIME_AT = "Nats-Time-Stamp: ".length;

/**
 * Reads the server's lines, which follow those of the publisher and begin with the stream, from the last one on: the
 * client's own reading of all headers costs more than all else that is done to an event.
 */
function direct(block: Uint8Array, data: Uint8Array): DirectMessage {
  let seq = 0;
  let timestampMs = 0;
  // Behind the last line stands an empty one.
  let next = block.length - 2;
  for (;;) {
    let at = next - 1;
    while (at > 0 && block[at - 1] !== LF) at--;
    next = at;
    if (at === 0) throw timedOut("the storage answered with a message that has no place");
    const first = block[at + NAME_AT];
    if (first === BIG_T) timestampMs = timeAt(block, at + TIME_AT);
    else if (first === BIG_S) {
      const second = block[at + NAME_AT + 1];
      if (second === SMALL_E) seq = numberAt(block, at + SEQUENCE_AT);
      else if (second === SMALL_T) break;
    }
  }
  return { seq, timestampMs, header: block.subarray(0, next), data };
}

/** The digits from a place on. */
function numberAt(block: Uint8Array, from: number): number {
  let value = 0;
  for (let at = from; isDigit(block[at]!); at++) value = value * 10 + block[at]! - ZERO;
  return value;
}

/** A time in UTC as Go writes it (RFC 3339): to nanoseconds, without zeros at the end; years have four digits. */
function timeAt(block: Uint8Array, at: number): number {
  const two = (from: number) => (block[at + from]! - ZERO) * 10 + block[at + from + 1]! - ZERO;
  let ms = 0;
  // A point and up to nine digits, or `Z`.
  for (let digit = at + 20, worth = 100; worth > 0.5 && isDigit(block[digit]!); digit++, worth /= 10)
    ms += (block[digit]! - ZERO) * worth;
  return Date.UTC(two(0) * 100 + two(2), two(5) - 1, two(8), two(11), two(14), two(17), ms);
}

const isDigit = (byte: number) => byte >= ZERO && byte <= NINE;
