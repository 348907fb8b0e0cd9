import { randomBytes } from "node:crypto";
import { AckPolicy, DeliverPolicy, ReplayPolicy } from "@nats-io/jetstream";
import { deadlineIn, pauseUntil } from "../domain/deadline.ts";
import { type JetStream, READ_BYTES } from "./connection.ts";
import type { Delivered } from "./fetch.ts";

/** Messages that may be on their way at once. */
const BATCH = 1000;
const WAIT_MS = 30_000;
/** The server drops a consumer whose gateway has ended after this long. */
const INACTIVE_MS = 60_000;
const RETRY_MS = 200;
const REQUEST_MS = 5000;

/**
 * Gives the messages of a JetStream stream from `seq` on as they are stored, each once and in order, until the signal is
 * aborted. Whatever happens to the connection or the consumer, it goes on behind the last message given.
 *
 * Uses a consumer without acknowledgements whose own sequence shows whether anything is missing (NATS ADR-17).
 */
export async function follow(
  js: JetStream,
  jsStream: string,
  seq: number,
  onMessage: (message: Delivered) => void,
  signal: AbortSignal,
): Promise<void> {
  let next = seq;
  while (!signal.aborted) {
    const name = `f-${randomBytes(9).toString("hex")}`;
    try {
      await js.call(deadlineIn(REQUEST_MS), () =>
        js.jsm.consumers.add(jsStream, {
          name,
          ack_policy: AckPolicy.None,
          deliver_policy: DeliverPolicy.StartSequence,
          opt_start_seq: next,
          replay_policy: ReplayPolicy.Instant,
          inactive_threshold: INACTIVE_MS * 1_000_000,
          mem_storage: true,
          num_replicas: 1,
        }),
      );
      let expected = 1;
      let whole = true;
      const take = (message: Delivered) => {
        whole &&= message.consumerSeq === expected++;
        if (!whole) return;
        next = message.seq + 1;
        onMessage(message);
      };
      while (whole && !signal.aborted) {
        const options = { batch: BATCH, maxBytes: READ_BYTES, waitMs: WAIT_MS, onMessage: take };
        const { end } = await js.fetcher.pull(jsStream, name, options, signal);
        if (end === "lost" || end === "missing") break;
      }
    } catch {
      // The stream has no leader for now, or is gone: whoever follows it is told so from elsewhere.
    }
    if (js.connected) void js.jsm.consumers.delete(jsStream, name).catch(() => {});
    await pauseUntil(deadlineIn(signal.aborted ? 0 : RETRY_MS), signal);
  }
}
