import { type Deadline, msLeft, pause } from "../domain/deadline.ts";
import { timedOut } from "../domain/errors.ts";
import { type JetStream, READ_BYTES } from "./connection.ts";
import type { DirectMessage } from "./direct-gets.ts";

/** A silent server is given up after this time. */
const MAX_WAIT_MS = 5000;

/**
 * Reads messages from `seq` on by batched direct gets (NATS ADR-31), which any replica may answer. The caller knows
 * from the leader that message `seq` exists or has existed, so an answer without any is asked for again: that replica
 * was behind.
 *
 * @returns at least one message, fewer than `batch` when `maxBytes` or `READ_BYTES` is reached or no more are there; none
 * only when none is left at all.
 */
export async function readMessages(
  js: JetStream,
  jsStream: string,
  request: { readonly seq: number; readonly batch: number; readonly maxBytes: number },
  deadline: Deadline,
): Promise<DirectMessage[]> {
  const { seq, batch } = request;
  const what = { seq, batch, max_bytes: Math.min(request.maxBytes, READ_BYTES) };
  for (let attempt = 0; ; attempt++) {
    const messages = await js.call(deadline, () => js.reads.run(() => ask(js, jsStream, what, deadline)));
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

function ask(js: JetStream, jsStream: string, request: object, deadline: Deadline): Promise<DirectMessage[]> {
  return js.directGets.ask(jsStream, JSON.stringify(request), Math.max(1, Math.min(MAX_WAIT_MS, msLeft(deadline))));
}
