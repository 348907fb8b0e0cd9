import { type Deadline, msLeft, pause } from "../domain/deadline.ts";
import { timedOut } from "../domain/errors.ts";
import type { JetStream } from "./connection.ts";
import { headerBlock } from "./message.ts";

/** A message as it lies in its JetStream stream. */
export interface DirectMessage {
  readonly seq: number;
  readonly timestampMs: number;
  readonly header: Uint8Array | undefined;
  readonly data: Uint8Array;
}

/**
 * Reads messages from `seq` on by batched direct gets (NATS ADR-31), which any replica may answer. The caller knows
 * from the leader that message `seq` exists or has existed, so an answer without any is asked for again: that replica
 * was behind.
 *
 * @returns at least one message, fewer than `batch` when `maxBytes` is reached or no more are there; none only when
 * none is left at all.
 */
export async function readMessages(
  js: JetStream,
  jsStream: string,
  request: { readonly seq: number; readonly batch: number; readonly maxBytes: number },
  deadline: Deadline,
): Promise<DirectMessage[]> {
  const { seq, batch, maxBytes } = request;
  for (let attempt = 0; ; attempt++) {
    const messages = await js.call(deadline, () => ask(js, jsStream, { seq, batch, max_bytes: maxBytes }, deadline));
    if (messages.length > 0 || attempt >= 20) return messages;
    const { state } = await js.call(deadline, () => js.jsm.streams.info(jsStream));
    if (state.last_seq < seq || state.messages === 0) return messages;
    if (msLeft(deadline) === 0) throw timedOut("the storage did not answer in time");
    await pause(50, deadline);
  }
}

/** The server counts nanoseconds since 1970 in 64 bits with a sign, and takes what lies beyond them for another time. */
const LAST_TIME_MS = Math.floor(2 ** 63 / 1e6) - 1;

/** Sequence of the first message stored at a time or later; undefined when there is none. */
export async function sequenceAtTime(
  js: JetStream,
  jsStream: string,
  timeMs: number,
  deadline: Deadline,
): Promise<number | undefined> {
  const request = { start_time: new Date(Math.min(Math.max(timeMs, 0), LAST_TIME_MS)).toISOString(), batch: 1 };
  const [message] = await js.call(deadline, () => ask(js, jsStream, request, deadline));
  return message?.seq;
}

async function ask(js: JetStream, jsStream: string, request: object, deadline: Deadline): Promise<DirectMessage[]> {
  const messages: DirectMessage[] = [];
  const body = JSON.stringify(request);
  const answers = await js.nc.requestMany(`$JS.API.DIRECT.GET.${jsStream}`, body, {
    maxWait: Math.max(1, Math.min(5000, msLeft(deadline))),
    noMux: true,
  });
  for await (const msg of answers) {
    const header = headerBlock(msg);
    if (!header) continue;
    if (header[STATUS_AT] === SPACE) {
      const { code, description } = msg.headers!;
      if (code === 204 || code === 404 || code === 408) break;
      throw timedOut(`the storage refused to read (${code} ${description})`);
    }
    messages.push(direct(header, msg.data));
  }
  return messages;
}

/** Behind `NATS/1.0` the first line of a header has a space and the status, if it has one. */
const STATUS_AT = 8;
const SPACE = 0x20;
const SEQUENCE = Buffer.from("\r\nNats-Sequence: ", "latin1");
const TIME = Buffer.from("\r\nNats-Time-Stamp: ", "latin1");

/** Looks for two lines only: the client's own reading of all headers costs more than all else that is done to an event. */
function direct(header: Uint8Array, data: Uint8Array): DirectMessage {
  const bytes = Buffer.from(header.buffer, header.byteOffset, header.byteLength);
  return {
    seq: Number(lineOf(bytes, SEQUENCE)),
    timestampMs: Date.parse(lineOf(bytes, TIME)),
    header,
    data,
  };
}

/** The server adds its lines behind those of the publisher. */
function lineOf(bytes: Buffer, name: Buffer): string {
  const from = bytes.lastIndexOf(name) + name.length;
  return bytes.toString("latin1", from, bytes.indexOf("\r", from, "latin1"));
}
