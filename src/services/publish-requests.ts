import { isUtf8 } from "node:buffer";
import { WireType } from "@bufbuild/protobuf/wire";
import { CompressionType } from "../../gen/millrace/v1/streams_pb.js";
import { type EventFields, JSON_TYPE, type RefusedEvent } from "../domain/event.ts";

/** Numbers of the fields of the requests and of what stands in them; a test holds them equal to the schema. */
const { Varint, LengthDelimited } = WireType;
const STREAM_NAME_TAG = (1 << 3) | LengthDelimited;
/** Of `events` in a batch, of `event` in a single publish. */
const EVENT_TAG = (2 << 3) | LengthDelimited;
const OPTIONS_TAG = (3 << 3) | LengthDelimited;
const OptionTag = {
  COMPRESSION: (1 << 3) | Varint,
  TIMEOUT: (2 << 3) | Varint,
  ATOMIC: (3 << 3) | Varint,
} as const;
const Tag = {
  KEY: (1 << 3) | LengthDelimited,
  DATA: (3 << 3) | LengthDelimited,
  CONTENT_TYPE: (4 << 3) | LengthDelimited,
  HEADERS: (5 << 3) | LengthDelimited,
  PARTITION_KEY: (6 << 3) | LengthDelimited,
  PARTITION: (7 << 3) | Varint,
  EVENT_ID: (8 << 3) | LengthDelimited,
  EXPECTED_OFFSET: (9 << 3) | Varint,
} as const;
const HEADER_NAME_TAG = (1 << 3) | LengthDelimited;
const HEADER_VALUE_TAG = (2 << 3) | LengthDelimited;

/** A PublishRequest; no rule of the schema is checked. */
export interface PublishFields {
  readonly streamName: string;
  readonly event: EventFields;
}

/** A PublishBatchRequest; no rule of the schema is checked. */
export interface BatchFields {
  readonly streamName: string;
  readonly events: readonly (EventFields | RefusedEvent)[];
  readonly compression: CompressionType;
  readonly timeout: number | undefined;
  readonly atomic: boolean;
}

/**
 * Reads a PublishRequest straight from its bytes, of which payloads are views.
 *
 * @returns undefined for whatever is not in the plain form that encoders write, right or wrong: protobuf's own decoder
 * has to see to that. So has it to events with a `value`.
 */
export function readPublish(bytes: Uint8Array): PublishFields | undefined {
  return read(bytes, (reader) => reader.publish());
}

/** Reads a PublishBatchRequest as {@link readPublish} does, at a third of the cost of its message. */
export function readBatch(bytes: Uint8Array): BatchFields | undefined {
  return read(bytes, (reader) => reader.batch());
}

/** Thrown ready-made, since it is no failure. */
const NOT_PLAIN = new Error("not in plain form");

function read<T>(bytes: Uint8Array, of: (reader: Reader) => T): T | undefined {
  try {
    return of(new Reader(bytes));
  } catch (error) {
    if (error === NOT_PLAIN) return undefined;
    throw error;
  }
}

type Draft<T> = { -readonly [K in keyof T]: T[K] };

const JSON_TYPE_BYTES = Buffer.from(JSON_TYPE);
/** A varint of more bytes may not be exact. */
const MAX_VARINT_BYTES = 7;
const MAX_INT32 = 2 ** 31 - 1;

class Reader {
  readonly #bytes: Buffer;
  #at = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
  }

  publish(): PublishFields {
    const { length } = this.#bytes;
    let streamName = "";
    let event: EventFields | undefined;
    while (this.#at < length) {
      const tag = this.#byte();
      if (tag === STREAM_NAME_TAG) streamName = this.#text(length);
      else if (tag === EVENT_TAG && event === undefined) event = this.#event(this.#fieldEnd(length));
      else throw NOT_PLAIN;
    }
    if (event === undefined) throw NOT_PLAIN;
    return { streamName, event };
  }

  batch(): BatchFields {
    const { length } = this.#bytes;
    let streamName = "";
    const events: EventFields[] = [];
    let options: Options | undefined;
    while (this.#at < length) {
      const tag = this.#byte();
      if (tag === EVENT_TAG) events.push(this.#event(this.#fieldEnd(length)));
      else if (tag === STREAM_NAME_TAG) streamName = this.#text(length);
      // A second one would have to be merged into the first.
      else if (tag === OPTIONS_TAG && options === undefined) options = this.#options(this.#fieldEnd(length));
      else throw NOT_PLAIN;
    }
    return { streamName, events, ...(options ?? NO_OPTIONS) };
  }

  #event(end: number): EventFields {
    // One shape, and the one that REST's events have, which keeps the code that handles them fast.
    const event: Draft<EventFields> = {
      key: undefined,
      value: undefined,
      headers: undefined,
      partitionKey: undefined,
      partition: undefined,
      eventId: undefined,
      data: undefined,
      contentType: undefined,
      expectedOffset: undefined,
    };
    let headers: Record<string, string> | undefined;
    while (this.#at < end) {
      switch (this.#byte()) {
        case Tag.KEY:
          event.key = this.#text(end);
          break;
        case Tag.DATA:
          event.data = this.#view(end);
          break;
        case Tag.CONTENT_TYPE:
          event.contentType = this.#contentType(end);
          break;
        case Tag.HEADERS:
          headers ??= Object.create(null) as Record<string, string>;
          this.#header(headers, this.#fieldEnd(end));
          break;
        case Tag.PARTITION_KEY:
          event.partitionKey = this.#text(end);
          break;
        case Tag.PARTITION:
          event.partition = this.#int32();
          break;
        case Tag.EVENT_ID:
          event.eventId = this.#text(end);
          break;
        case Tag.EXPECTED_OFFSET:
          event.expectedOffset = this.#varint();
          break;
        default:
          throw NOT_PLAIN;
      }
    }
    this.#ended(end);
    if (headers) event.headers = Object.entries(headers);
    return event;
  }

  #header(headers: Record<string, string>, end: number): void {
    let name = "";
    let value = "";
    while (this.#at < end) {
      const tag = this.#byte();
      if (tag === HEADER_NAME_TAG) name = this.#text(end);
      else if (tag === HEADER_VALUE_TAG) value = this.#text(end);
      else throw NOT_PLAIN;
    }
    headers[name] = value;
  }

  #options(end: number): Options {
    const options: Draft<Options> = { ...NO_OPTIONS };
    while (this.#at < end) {
      const tag = this.#byte();
      const value = this.#int32();
      if (tag === OptionTag.COMPRESSION) options.compression = value;
      else if (tag === OptionTag.TIMEOUT) options.timeout = value;
      else if (tag === OptionTag.ATOMIC) options.atomic = value !== 0;
      else throw NOT_PLAIN;
    }
    this.#ended(end);
    return options;
  }

  /** A message whose last field goes beyond it is not plain; only a number can get here so. */
  #ended(end: number): void {
    if (this.#at !== end) throw NOT_PLAIN;
  }

  #byte(): number {
    if (this.#at >= this.#bytes.length) throw NOT_PLAIN;
    return this.#bytes[this.#at++]!;
  }

  #varint(): number {
    let byte = this.#byte();
    if (byte < 0x80) return byte;
    let value = byte & 0x7f;
    let scale = 128;
    for (let count = 1; ; count++, scale *= 128) {
      if (count === MAX_VARINT_BYTES) throw NOT_PLAIN;
      byte = this.#byte();
      value += (byte & 0x7f) * scale;
      if (byte < 0x80) return value;
    }
  }

  #int32(): number {
    const value = this.#varint();
    if (value > MAX_INT32) throw NOT_PLAIN;
    return value;
  }

  /** Reads a length. @returns where the field ends, within what ends at `end`. */
  #fieldEnd(end: number): number {
    const length = this.#varint();
    const fieldEnd = this.#at + length;
    if (fieldEnd > end) throw NOT_PLAIN;
    return fieldEnd;
  }

  #view(end: number): Uint8Array {
    const fieldEnd = this.#fieldEnd(end);
    const view = this.#bytes.subarray(this.#at, fieldEnd);
    this.#at = fieldEnd;
    return view;
  }

  #text(end: number): string {
    const fieldEnd = this.#fieldEnd(end);
    const bytes = this.#bytes;
    const start = this.#at;
    this.#at = fieldEnd;
    for (let i = start; i < fieldEnd; i++)
      if (bytes[i]! > 0x7f) {
        if (!isUtf8(bytes.subarray(start, fieldEnd))) throw NOT_PLAIN;
        return bytes.toString("utf8", start, fieldEnd);
      }
    return bytes.toString("latin1", start, fieldEnd);
  }

  /** The one that most events have is not made anew for each of them. */
  #contentType(end: number): string {
    const bytes = this.#bytes;
    const start = this.#at;
    if (this.#fieldEnd(end) - this.#at === JSON_TYPE_BYTES.length) {
      let same = 0;
      while (same < JSON_TYPE_BYTES.length && bytes[this.#at + same] === JSON_TYPE_BYTES[same]) same++;
      if (same === JSON_TYPE_BYTES.length) {
        this.#at += same;
        return JSON_TYPE;
      }
    }
    this.#at = start;
    return this.#text(end);
  }
}

type Options = Pick<BatchFields, "compression" | "timeout" | "atomic">;
const NO_OPTIONS: Options = { compression: CompressionType.UNSPECIFIED, timeout: undefined, atomic: false };
