import { DEFAULT_DATA_TYPE, JSON_TYPE, type StoredEvent } from "../domain/event.ts";
import { validateJson } from "../domain/json.ts";
import { decodeHeader } from "../jetstream/message.ts";
import { decompressed } from "./payload-codec.ts";

/** A stored message as an event. */
export function decodeEvent(
  partition: number,
  message: { seq: number; timestampMs: number; header: Uint8Array | undefined; data: Uint8Array },
): StoredEvent {
  const { contentType, eventId, key, headers, codec } = decodeHeader(message.header);
  const payload = codec === undefined ? message.data : decompressed(codec, message.data);
  return {
    // A message that did not come through Millrace has no id of its own.
    eventId: eventId ?? `evt_${message.seq}`,
    partition,
    offset: message.seq - 1,
    timestampMs: message.timestampMs,
    key,
    headers,
    payload,
    contentType: contentType ?? foreignType(payload),
    deliveryAttempt: undefined,
  };
}

/** Bytes that an answer needs for an event, roughly: payload, key and headers. */
export function eventBytes(event: StoredEvent): number {
  let bytes = event.payload.length + (event.key?.length ?? 0);
  if (event.headers) for (const [name, value] of event.headers) bytes += name.length + value.length;
  return bytes;
}

/** Only what Millrace checked when it was published is known to be JSON; other messages are looked at. */
function foreignType(payload: Uint8Array): string {
  try {
    validateJson(payload);
    return JSON_TYPE;
  } catch {
    return DEFAULT_DATA_TYPE;
  }
}
