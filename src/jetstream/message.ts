import type { Msg } from "@nats-io/transport-node";
import { DEFAULT_DATA_TYPE, type NewEvent } from "../domain/event.ts";

/**
 * The stored form of an event: the payload's own bytes, and the rest as NATS headers. Text that headers can't carry is
 * percent-encoded; the publisher's headers stand under a prefix, because names such as `Nats-Rollup` are commands to
 * the server.
 */

const TYPE = "Mr-Type";
const ENCODING = "Mr-Encoding";
const KEY = "Mr-Key";
const PARTITION_KEY = "Mr-Partition-Key";
const USER_PREFIX = "Mr-H-";
const ID = "Nats-Msg-Id";
const EXPECTED_LAST_SEQUENCE = "Nats-Expected-Last-Sequence";

const START = "NATS/1.0\r\n";
/** Bytes that stand for themselves in a header's value; blanks do only inside, since both ends are trimmed. */
const PLAIN_VALUE = /^[\x21-\x24\x26-\x7e]*$/;
const PLAIN_NAME = /^[\x21-\x24\x26-\x39\x3b-\x7e]+$/;

/** How a stored payload is compressed. Snappy's blocks are what S2, its extension, reads as well. */
export type PayloadCodec = "gzip" | "snappy";

/** What is written beside the payload. */
export interface StoredFields extends Pick<NewEvent, "key" | "partitionKey" | "headers" | "contentType"> {
  readonly eventId: string;
  /** How the payload is compressed; undefined: not at all. */
  readonly codec?: PayloadCodec | undefined;
  readonly expectedOffset?: number | undefined;
  /** Further complete header lines, for atomic batches. */
  readonly extra?: string | undefined;
}

/** The header block of an event. */
export function encodeHeader(fields: StoredFields): Buffer {
  let text = `${START}${TYPE}: ${encodeValue(fields.contentType)}\r\n${ID}: ${encodeValue(fields.eventId)}\r\n`;
  if (fields.key !== undefined) text += `${KEY}: ${encodeValue(fields.key)}\r\n`;
  if (fields.partitionKey !== undefined) text += `${PARTITION_KEY}: ${encodeValue(fields.partitionKey)}\r\n`;
  if (fields.codec !== undefined) text += `${ENCODING}: ${fields.codec}\r\n`;
  if (fields.expectedOffset !== undefined) text += `${EXPECTED_LAST_SEQUENCE}: ${fields.expectedOffset}\r\n`;
  if (fields.headers)
    for (const [name, value] of fields.headers) text += `${USER_PREFIX}${encodeName(name)}: ${encodeValue(value)}\r\n`;
  if (fields.extra !== undefined) text += fields.extra;
  return Buffer.from(`${text}\r\n`, "latin1");
}

/** A header block of the given lines, for messages that are not events. */
export function headerOf(lines: Readonly<Record<string, string | number>>): Buffer {
  let text = START;
  for (const name in lines) text += `${name}: ${lines[name]}\r\n`;
  return Buffer.from(`${text}\r\n`, "latin1");
}

/** What {@link decodeHeader} finds. */
export interface DecodedHeader {
  /** Undefined for a message that was not written by Millrace. */
  contentType: string | undefined;
  eventId: string | undefined;
  key: string | undefined;
  headers: [string, string][] | undefined;
  codec: PayloadCodec | undefined;
}

/** Reads a header block. Lines that are not Millrace's are passed over. */
export function decodeHeader(block: Uint8Array | undefined): DecodedHeader {
  const out: DecodedHeader = {
    contentType: undefined,
    eventId: undefined,
    key: undefined,
    headers: undefined,
    codec: undefined,
  };
  if (!block) return out;
  const text = Buffer.from(block.buffer, block.byteOffset, block.length).toString("latin1");
  let at = text.indexOf("\r\n") + 2;
  while (at < text.length) {
    const end = text.indexOf("\r\n", at);
    if (end <= at) break;
    const colon = text.indexOf(":", at);
    if (colon > at && colon < end) decodeLine(out, text.slice(at, colon), text.slice(colon + 1, end).trim());
    at = end + 2;
  }
  return out;
}

function decodeLine(out: DecodedHeader, name: string, value: string): void {
  switch (name) {
    case TYPE:
      out.contentType = decodeText(value) || DEFAULT_DATA_TYPE;
      return;
    case ID:
      out.eventId = decodeText(value);
      return;
    case KEY:
      out.key = decodeText(value);
      return;
    case ENCODING:
      if (value === "gzip" || value === "snappy") out.codec = value;
      return;
    default:
      if (name.startsWith(USER_PREFIX))
        out.headers = [...(out.headers ?? []), [decodeText(name.slice(USER_PREFIX.length)), decodeText(value)]];
  }
}

const encodeValue = (text: string): string => (PLAIN_VALUE.test(text) ? text : percentEncode(text));
const encodeName = (text: string): string => (PLAIN_NAME.test(text) ? text : percentEncode(text));

function percentEncode(text: string): string {
  let out = "";
  for (const byte of Buffer.from(text, "utf8"))
    out +=
      byte > 0x20 && byte < 0x7f && byte !== 0x25 && byte !== 0x3a
        ? String.fromCharCode(byte)
        : `%${byte.toString(16).padStart(2, "0")}`;
  return out;
}

function decodeText(text: string): string {
  if (!text.includes("%")) return text;
  const bytes = Buffer.allocUnsafe(text.length);
  let length = 0;
  for (let i = 0; i < text.length; i++) {
    const hex = text.charCodeAt(i) === 0x25 ? Number.parseInt(text.slice(i + 1, i + 3), 16) : Number.NaN;
    if (Number.isNaN(hex)) bytes[length++] = text.charCodeAt(i);
    else {
      bytes[length++] = hex;
      i += 2;
    }
  }
  return bytes.toString("utf8", 0, length);
}

/** The client's messages know the bytes of subject, reply, header and payload together; their type leaves it out. */
type SizedMsg = Msg & { size(): number };

/** A received message's header block as bytes: it stands right before the payload in what was received. */
export function headerBlock(msg: Msg): Uint8Array | undefined {
  const { data } = msg;
  const length = (msg as SizedMsg).size() - msg.subject.length - (msg.reply?.length ?? 0) - data.length;
  return length > 0 ? new Uint8Array(data.buffer, data.byteOffset - length, length) : undefined;
}
