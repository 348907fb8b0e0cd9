import { AckPolicy, type ConsumerInfo, DeliverPolicy, ReplayPolicy } from "@nats-io/jetstream";
import { type Deadline, deadlineIn, pauseUntil } from "../domain/deadline.ts";
import { unavailable } from "../domain/errors.ts";
import type { JetStream } from "./connection.ts";
import { JsError, jsErrorCode, toServiceError } from "./errors.ts";

/** Where a durable consumer stands. */
export interface DurableState {
  /** Last sequence below which all is acknowledged, and its consumer sequence. */
  readonly floorSeq: number;
  readonly floorConsumerSeq: number;
  /** Last sequence delivered, and its consumer sequence. */
  readonly deliveredSeq: number;
  readonly deliveredConsumerSeq: number;
  /** Messages never delivered. */
  readonly pending: number;
}

/** An unused durable goes after this long; what it knew beyond the stored offsets is then forgotten. */
const INACTIVE_MS = 24 * 3600 * 1000;
/** A reset that takes so long may be of a consumer that is gone. */
const RESET_LOOK_MS = 200;
/** Most pulls that wait on one durable at once. */
const MAX_WAITING = 4096;

/** The state of a durable, or undefined when there is none. */
export async function durableState(
  js: JetStream,
  jsStream: string,
  durable: string,
  deadline: Deadline,
): Promise<DurableState | undefined> {
  try {
    return stateOf(await js.call(deadline, () => js.jsm.consumers.info(jsStream, durable)));
  } catch (error) {
    if (jsErrorCode(error) === JsError.CONSUMER_NOT_FOUND) return undefined;
    throw toServiceError(error);
  }
}

/**
 * Creates a durable that delivers from the start of the JetStream stream, or gives the state of the one there is.
 * Whoever needs another start resets it: a reset can't go below the start that a durable was created with.
 *
 * @param ackWaitMs after it, what was delivered and not acknowledged is delivered again.
 */
export async function createDurable(
  js: JetStream,
  jsStream: string,
  durable: string,
  ackWaitMs: number,
  deadline: Deadline,
): Promise<DurableState> {
  try {
    const info = await js.call(deadline, () =>
      js.jsm.consumers.add(jsStream, {
        durable_name: durable,
        ack_policy: AckPolicy.All,
        ack_wait: ackWaitMs * 1_000_000,
        max_ack_pending: -1,
        max_deliver: -1,
        max_waiting: MAX_WAITING,
        deliver_policy: DeliverPolicy.All,
        replay_policy: ReplayPolicy.Instant,
        inactive_threshold: INACTIVE_MS * 1_000_000,
      }),
    );
    return stateOf(info);
  } catch (error) {
    // There with other settings, from before they were changed.
    const state = await durableState(js, jsStream, durable, deadline);
    if (state) return state;
    throw toServiceError(error);
  }
}

/**
 * Sets position and floor of a durable so that it delivers from `seq` on next, forward or back, and forgets what was
 * delivered and not acknowledged. Needs nats-server 2.14.
 *
 * @throws ServiceError UNAVAILABLE when the durable is gone.
 */
export async function resetDurable(
  js: JetStream,
  jsStream: string,
  durable: string,
  seq: number,
  deadline: Deadline,
): Promise<void> {
  const over = new AbortController();
  const ask = () => {
    // Given up, it must not move a consumer that was made anew meanwhile.
    over.signal.throwIfAborted();
    return js.jsm.consumers.reset(jsStream, durable, seq);
  };
  const asked = js.call(deadline, ask).finally(() => over.abort());
  asked.catch(() => {});
  // nats-server does not answer for a consumer that is gone.
  while (!over.signal.aborted) {
    await pauseUntil(deadlineIn(RESET_LOOK_MS), over.signal);
    if (over.signal.aborted || (await durableState(js, jsStream, durable, deadline))) continue;
    over.abort();
    throw unavailable("the storage can't answer now");
  }
  try {
    await asked;
  } catch (error) {
    throw toServiceError(error);
  }
}

/** Deletes a durable, if it is there. */
export async function deleteDurable(
  js: JetStream,
  jsStream: string,
  durable: string,
  deadline: Deadline,
): Promise<void> {
  try {
    await js.call(deadline, () => js.jsm.consumers.delete(jsStream, durable));
  } catch (error) {
    const code = jsErrorCode(error);
    if (code !== JsError.CONSUMER_NOT_FOUND && code !== JsError.STREAM_NOT_FOUND) throw toServiceError(error);
  }
}

/**
 * Acknowledges everything up to `seq`, without waiting for an answer: the stored offset is the truth, the floor follows.
 * JetStream takes it when `consumerSeq` is above the floor's and not above the delivered one's.
 */
export function acknowledge(js: JetStream, jsStream: string, durable: string, seq: number, consumerSeq: number): void {
  js.nc.publish(`$JS.ACK.${jsStream}.${durable}.1.${seq}.${consumerSeq}.0.0`);
}

/** Returns a delivered message: it comes first in the next pull. */
export function giveBack(js: JetStream, reply: string): void {
  js.nc.publish(reply, "-NAK");
}

function stateOf(info: ConsumerInfo): DurableState {
  return {
    floorSeq: info.ack_floor.stream_seq,
    floorConsumerSeq: info.ack_floor.consumer_seq,
    deliveredSeq: info.delivered.stream_seq,
    deliveredConsumerSeq: info.delivered.consumer_seq,
    pending: info.num_pending,
  };
}
