import type { MsgHdrs } from "@nats-io/transport-node";
import { type Deadline, msLeft } from "../domain/deadline.ts";
import { ErrorCode, ServiceError, timedOut } from "../domain/errors.ts";
import { JSON_TYPE } from "../domain/event.ts";
import type { JetStream } from "./connection.ts";
import { apiFailure, isUnreachable, JsError } from "./errors.ts";
import { encodeHeader } from "./message.ts";
import { EncodedHeaders } from "./publish.ts";

/** One message of a batch; its header holds the lines of {@link batchLines}. */
export interface BatchMessage {
  readonly subject: string;
  readonly header: Uint8Array;
  readonly payload: Uint8Array;
}

/** How an atomic batch ended; apart from `stored` nothing of it is stored. */
export type AtomicEnd =
  | { readonly kind: "stored"; readonly lastSeq: number }
  /** The expected last sequence was another one. */
  | { readonly kind: "expectation" }
  /** Some id was stored before. */
  | { readonly kind: "duplicate" };

/** The header lines that make message `index` of `total` part of batch `id` (NATS ADR-50). */
export function batchLines(id: string, index: number, total: number): string {
  const lines = `Nats-Batch-Id: ${id}\r\nNats-Batch-Sequence: ${index + 1}\r\n`;
  return index === total - 1 ? `${lines}Nats-Batch-Commit: 1\r\n` : lines;
}

/**
 * Publishes messages of one stream, all or none.
 *
 * @param check is called before each attempt, and throws when there is to be none.
 * @throws ServiceError TIMEOUT when the outcome is not known, else what JetStream refused.
 */
export async function publishAtomic(
  js: JetStream,
  messages: readonly BatchMessage[],
  deadline: Deadline,
  check: () => void = () => {},
): Promise<AtomicEnd> {
  // Up to the last message nothing can be stored, so a batch that found no leader is sent again from its start.
  const send = async () => {
    check();
    for (const message of messages.slice(0, -1))
      js.nc.publish(message.subject, message.payload, { headers: headersOf(message) });
    const last = messages.at(-1)!;
    try {
      return await js.nc.request(last.subject, last.payload, {
        headers: headersOf(last),
        timeout: Math.max(1, msLeft(deadline)),
      });
    } catch (error) {
      if (isUnreachable(error) && js.connected) throw error;
      throw timedOut(
        "the storage did not confirm in time; the batch may be stored, a repeat with the same event ids is safe",
        error,
      );
    }
  };
  const reply = await js.call(deadline, send, false);
  const { seq, error } = reply.json<{ seq?: number; error?: { err_code: number; description: string } }>();
  if (!error && seq !== undefined) return { kind: "stored", lastSeq: seq };
  switch (error?.err_code) {
    case JsError.WRONG_LAST_SEQUENCE:
    case JsError.WRONG_LAST_SEQUENCE_CONSTANT:
      return { kind: "expectation" };
    case JsError.ATOMIC_DUPLICATE_ID:
      return { kind: "duplicate" };
    default:
      throw apiFailure(error?.err_code ?? 0, error?.description ?? "no reason given");
  }
}

/**
 * The sequence under which an id was stored within the duplicate window, or undefined. Asks by publishing under an
 * expectation that never holds, the one that JetStream looks at only after it has looked for duplicates.
 */
export async function findDuplicate(
  js: JetStream,
  subject: string,
  eventId: string,
  deadline: Deadline,
): Promise<number | undefined> {
  const header = encodeHeader({ contentType: JSON_TYPE, eventId, extra: NEVER_LAST });
  try {
    const { seq } = await js.publisher.publishOne(subject, header, new Uint8Array(0), deadline, true);
    return seq;
  } catch (error) {
    if (error instanceof ServiceError && error.code === ErrorCode.PRECONDITION_FAILED) return undefined;
    throw error;
  }
}

/** No id is stored as a lone percent sign. */
const NEVER_LAST = "Nats-Expected-Last-Msg-Id: %\r\n";

const headersOf = (message: BatchMessage): MsgHdrs => new EncodedHeaders(message.header) as unknown as MsgHdrs;
