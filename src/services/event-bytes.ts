import type { UnknownField } from "@bufbuild/protobuf";
import { WireType } from "@bufbuild/protobuf/wire";
import type { StoredEvent } from "../domain/event.ts";
import { ProtoWriter } from "./proto-writer.ts";

/** Numbers of the fields of `Event`, `Timestamp` and a map's entry; a test holds them equal to the schema. */
const EVENTS_TAG = (1 << 3) | WireType.LengthDelimited;
const Tag = {
  EVENT_ID: (1 << 3) | WireType.LengthDelimited,
  PARTITION: (2 << 3) | WireType.Varint,
  OFFSET: (3 << 3) | WireType.Varint,
  TIMESTAMP: (4 << 3) | WireType.LengthDelimited,
  KEY: (5 << 3) | WireType.LengthDelimited,
  DATA: (7 << 3) | WireType.LengthDelimited,
  CONTENT_TYPE: (8 << 3) | WireType.LengthDelimited,
  HEADERS: (9 << 3) | WireType.LengthDelimited,
  DELIVERY_ATTEMPT: (10 << 3) | WireType.Varint,
  FIRST: (1 << 3) | WireType.LengthDelimited,
  SECOND: (2 << 3) | WireType.LengthDelimited,
  SECONDS: (1 << 3) | WireType.Varint,
  NANOS: (2 << 3) | WireType.Varint,
} as const;

/**
 * The `events` of an answer as the bytes of their field, number 1, with every payload as `data`: a message whose
 * `$unknown` holds it is written like one that holds the events, at a fifth of the cost.
 */
export function eventsField(events: readonly StoredEvent[]): UnknownField[] {
  if (events.length === 0) return [];
  let size = 0;
  for (const event of events) size += mostBytes(event);
  const out = new ProtoWriter(size);
  for (const [index, event] of events.entries()) {
    // The writer of unknown fields puts the first tag itself.
    if (index > 0) out.byte(EVENTS_TAG);
    out.message(() => writeEvent(out, event));
  }
  return [{ no: 1, wireType: WireType.LengthDelimited, data: out.bytes() }];
}

/** More than any event needs beside its texts and payload: tags, lengths, numbers. */
const FIXED_BYTES = 96;

function mostBytes(event: StoredEvent): number {
  let bytes =
    FIXED_BYTES +
    event.payload.length +
    3 * (event.eventId.length + (event.key?.length ?? 0) + event.contentType.length);
  if (event.headers) for (const [name, value] of event.headers) bytes += 3 * (name.length + value.length) + 20;
  return bytes;
}

function writeEvent(out: ProtoWriter, event: StoredEvent): void {
  out.text(Tag.EVENT_ID, event.eventId);
  out.number(Tag.PARTITION, event.partition);
  out.number(Tag.OFFSET, event.offset);
  const seconds = Math.floor(event.timestampMs / 1000);
  out.byte(Tag.TIMESTAMP);
  out.short(() => {
    out.number(Tag.SECONDS, seconds);
    out.number(Tag.NANOS, (event.timestampMs - seconds * 1000) * 1_000_000);
  });
  if (event.key !== undefined) out.text(Tag.KEY, event.key);
  out.byte(Tag.DATA);
  out.varint(event.payload.length);
  out.raw(event.payload);
  out.text(Tag.CONTENT_TYPE, event.contentType);
  if (event.headers)
    for (const [name, value] of event.headers) {
      out.byte(Tag.HEADERS);
      out.message(() => {
        out.text(Tag.FIRST, name);
        out.text(Tag.SECOND, value);
      });
    }
  if (event.deliveryAttempt !== undefined) out.number(Tag.DELIVERY_ATTEMPT, event.deliveryAttempt);
}
