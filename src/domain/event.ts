import { type ErrorDetail, invalidArguments, notSerializable, type ServiceError } from "./errors.ts";
import { toCompactJson } from "./json.ts";
import { MAX_CONTENT_TYPE_BYTES, MAX_EVENT_ID_BYTES, MAX_HEADERS, MAX_HEADERS_BYTES, MAX_KEY_BYTES } from "./limits.ts";

/** Media type that marks a payload as a JSON value. */
export const JSON_TYPE = "application/json";
/** Media type of bytes whose publisher names none. */
export const DEFAULT_DATA_TYPE = "application/octet-stream";

/** An event on its way in. `payload` is compact JSON when `contentType` is {@link JSON_TYPE}, else any bytes. */
export interface NewEvent {
  readonly payload: Uint8Array;
  readonly contentType: string;
  readonly key?: string | undefined;
  readonly partitionKey?: string | undefined;
  readonly partition?: number | undefined;
  readonly headers?: ReadonlyArray<readonly [string, string]> | undefined;
  readonly eventId?: string | undefined;
  /** Publish only when the partition's end offset is this. */
  readonly expectedOffset?: number | undefined;
}

/** An event as it is stored. Offsets are below 2^53, as JetStream sequences in practice are. */
export interface StoredEvent {
  readonly eventId: string;
  readonly partition: number;
  readonly offset: number;
  /** Milliseconds since 1970, by the storage's clock. */
  readonly timestampMs: number;
  readonly key: string | undefined;
  readonly headers: ReadonlyArray<readonly [string, string]> | undefined;
  /** Compact JSON when `contentType` is {@link JSON_TYPE}, else any bytes; never compressed. */
  readonly payload: Uint8Array;
  readonly contentType: string;
  /** Of a returned event that is handed out again: how often it has been, with this time. */
  readonly deliveryAttempt?: number | undefined;
}

/** Where an event was stored. */
export interface Ack {
  readonly eventId: string;
  readonly partition: number;
  readonly offset: number;
  readonly duplicate: boolean;
}

const ASCII = /^[\x20-\x7e]*$/;

/** Length in UTF-8, without the cost of a real count for short ASCII text. */
function byteLength(text: string): number {
  return ASCII.test(text) ? text.length : Buffer.byteLength(text);
}

/**
 * What is wrong with an event apart from its payload and its partition's existence; empty when it can be published.
 * The same rules stand in events.proto for readers of the schema, and a test holds the two equal.
 *
 * @param prefix put before each field's path, such as `events[3].`.
 */
const MAX_OFFSET = Number.MAX_SAFE_INTEGER;

function eventFaults(event: EventFields, prefix: string): ErrorDetail[] {
  const faults: ErrorDetail[] = [];
  const fault = (field: string, description: string) => faults.push({ field: prefix + field, description });
  const text = (field: string, value: string | undefined, maxBytes: number) => {
    if (value === undefined) return;
    if (byteLength(value) > maxBytes) fault(field, `must be at most ${maxBytes} bytes`);
    else if (!value.isWellFormed()) fault(field, "must be valid Unicode");
  };
  text("key", event.key, MAX_KEY_BYTES);
  text("partitionKey", event.partitionKey, MAX_KEY_BYTES);
  text("eventId", event.eventId, MAX_EVENT_ID_BYTES);
  if (event.eventId === "") fault("eventId", "must not be empty");
  if (event.partition !== undefined && (event.partition < 0 || event.partition > 999))
    fault("partition", "must be from 0 to 999");
  if (event.expectedOffset !== undefined && !(event.expectedOffset >= 0 && event.expectedOffset <= MAX_OFFSET))
    fault("expectedOffset", "must be a whole number from 0 below 2^53");
  const { contentType } = event;
  if (contentType !== undefined && (contentType.length > MAX_CONTENT_TYPE_BYTES || !ASCII.test(contentType)))
    fault("contentType", `must be printable ASCII, at most ${MAX_CONTENT_TYPE_BYTES} bytes`);
  if (event.headers) headerFaults(event.headers, fault);
  if (event.value === undefined && event.data === undefined) fault("value", "is required, or data in its place");
  if (event.value !== undefined && contentType !== undefined && !IS_JSON_TYPE.test(contentType))
    fault("contentType", "goes with data; a value is always application/json");
  return faults;
}

function headerFaults(headers: NonNullable<NewEvent["headers"]>, fault: (field: string, description: string) => void) {
  if (headers.length > MAX_HEADERS) fault("headers", `must be at most ${MAX_HEADERS}`);
  let bytes = 0;
  for (const [name, value] of headers) {
    bytes += byteLength(name) + byteLength(value);
    if (name === "") fault("headers", "a name must not be empty");
    if (!name.isWellFormed() || !value.isWellFormed()) fault(`headers.${name.toWellFormed()}`, "must be valid Unicode");
  }
  if (bytes > MAX_HEADERS_BYTES) fault("headers", `must be at most ${MAX_HEADERS_BYTES} bytes together`);
}

/** An event as a caller gives it, in any protocol; types are right, bounds are not checked. */
export interface EventFields extends Omit<NewEvent, "payload" | "contentType" | "expectedOffset"> {
  /** A JSON value, compact and valid. Exactly one of `value` and `data` is given. */
  readonly value?: Uint8Array | undefined;
  readonly data?: Uint8Array | undefined;
  readonly contentType?: string | undefined;
  readonly expectedOffset?: number | bigint | undefined;
}

/** An event that can't be published, with the id that its publisher knows it by. */
export interface RefusedEvent {
  readonly eventId: string | undefined;
  readonly error: ServiceError;
}

/** Whether an event of a batch was refused before it could be stored. */
export const isRefused = (event: object): event is RefusedEvent => "error" in event;

const IS_JSON_TYPE = /^\s*application\/json\s*(;|$)/i;

/**
 * Checks an event and gives it its stored form.
 *
 * @param prefix put before the paths of fields at fault, such as `events[3].`.
 * @throws ServiceError INVALID_ARGUMENT naming all fields at fault, SERIALIZATION_ERROR for `data` that is said to be
 * JSON and is not.
 */
export function newEvent(fields: EventFields, prefix = ""): NewEvent {
  const { value, data, contentType } = fields;
  if (!isSurelyFine(fields)) {
    const faults = eventFaults(fields, prefix);
    if (faults.length > 0) throw invalidArguments(faults);
  }
  if (value !== undefined) return shaped(fields, value, JSON_TYPE);
  if (contentType !== JSON_TYPE && (contentType === undefined || !IS_JSON_TYPE.test(contentType)))
    return shaped(fields, data!, contentType || DEFAULT_DATA_TYPE);
  try {
    return shaped(fields, toCompactJson(data!), JSON_TYPE);
  } catch (error) {
    throw notSerializable(`${prefix}data: not JSON as its content type says: ${(error as Error).message}`);
  }
}

/** One shape for all events, which keeps the code that handles them fast. */
function shaped(fields: EventFields, payload: Uint8Array, contentType: string): NewEvent {
  return {
    payload,
    contentType,
    key: fields.key,
    partitionKey: fields.partitionKey,
    partition: fields.partition,
    headers: fields.headers,
    eventId: fields.eventId,
    expectedOffset: fields.expectedOffset === undefined ? undefined : Number(fields.expectedOffset),
  };
}

/** A quick look that most events pass: nothing near any bound. The others are checked in full. */
export function isSurelyFine(fields: EventFields): boolean {
  return (
    (fields.value === undefined) !== (fields.data === undefined) &&
    fields.headers === undefined &&
    fields.partition === undefined &&
    fields.expectedOffset === undefined &&
    (fields.contentType === undefined || (fields.value === undefined && fields.contentType === JSON_TYPE)) &&
    isShort(fields.key) &&
    isShort(fields.partitionKey) &&
    (fields.eventId === undefined || (fields.eventId !== "" && isShort(fields.eventId)))
  );
}

/** At most 40 UTF-16 units are at most 120 bytes. */
const isShort = (text: string | undefined): boolean => text === undefined || (text.length <= 40 && text.isWellFormed());
