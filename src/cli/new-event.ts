import { randomUUID } from "node:crypto";
import { create, type JsonObject, type JsonValue } from "@bufbuild/protobuf";
import { type PublishEvent, PublishEventSchema } from "../../gen/millrace/v1/events_pb.js";
import { fromRestJson } from "../transport/json.ts";
import { usage } from "./failure.ts";

/** How text becomes events. */
export interface EventShape {
  /** Each text is a string, not JSON. */
  readonly text?: boolean;
  /** Each text is a whole event as the HTTP API has it, with `key`, `value`, `headers` and so on. */
  readonly events?: boolean;
  readonly key?: string;
  /** Path of the value's member that is the key. */
  readonly keyField?: string;
  /** Path of the value's member that is the event's id. */
  readonly idField?: string;
  readonly partitionKey?: string;
  readonly partition?: number;
  readonly header?: readonly (readonly [string, string])[];
}

const JSON_TYPE = "application/json";
/** What a consumed event has beside what can be published. */
const READ_ONLY = ["offset", "timestamp", "deliveryAttempt"];

/** An event with these bytes as its payload. */
export function eventOfBytes(data: Uint8Array, contentType: string, shape: EventShape): PublishEvent {
  return withId(create(PublishEventSchema, { ...common(shape), payload: { case: "data", value: data }, contentType }));
}

/**
 * One event as it was written.
 *
 * @throws CliError that says what is wrong with the text.
 */
export function eventOfText(text: Uint8Array, shape: EventShape): PublishEvent {
  if (shape.text) return eventOfBytes(Buffer.from(JSON.stringify(Buffer.from(text).toString())), JSON_TYPE, shape);
  const json = parseJson(Buffer.from(text).toString());
  if (shape.events) return withId(wholeEvent(json, text, shape));
  // The bytes go as they are, so that no digit is lost.
  const event = eventOfBytes(text, JSON_TYPE, shape);
  if (shape.keyField !== undefined) event.key = fieldText(json, shape.keyField);
  if (shape.idField !== undefined) event.eventId = fieldText(json, shape.idField);
  return event;
}

function common({ key, partitionKey, partition, header }: EventShape) {
  return {
    ...(key === undefined ? {} : { key }),
    ...(partitionKey === undefined ? {} : { partitionKey }),
    ...(partition === undefined ? {} : { partition }),
    headers: Object.fromEntries(header ?? []),
  };
}

/** An id of its own makes it safe to send an event again when an answer is lost. */
function withId(event: PublishEvent): PublishEvent {
  event.eventId ??= `evt_${randomUUID()}`;
  return event;
}

export const isObject = (json: JsonValue): json is JsonObject =>
  json !== null && typeof json === "object" && !Array.isArray(json);

function wholeEvent(json: JsonValue, text: Uint8Array, shape: EventShape): PublishEvent {
  if (!isObject(json)) throw usage("it is no object with an event's fields");
  const fields = Object.fromEntries(Object.entries(json).filter(([name]) => !READ_ONLY.includes(name)));
  const event: JsonObject = { ...fields, ...written(common(shape), fields) };
  if ("value" in event && !("data" in event)) {
    const { value } = parseExactly(Buffer.from(text).toString()) as { value: unknown };
    delete event.value;
    event.data = Buffer.from(JSON.stringify(value)).toString("base64");
    event.contentType ??= JSON_TYPE;
  }
  try {
    return fromRestJson(PublishEventSchema, event) as PublishEvent;
  } catch (error) {
    throw usage((error as Error).message);
  }
}

/** What the options say comes before what an event says; headers are put together. */
function written({ headers, ...options }: ReturnType<typeof common>, fields: JsonObject): JsonObject {
  const own = fields.headers ?? {};
  if (!isObject(own)) return options; // it is refused with the rest
  const all = { ...own, ...headers };
  return { ...options, ...(Object.keys(all).length > 0 ? { headers: all } : {}) };
}

/** JSON whose numbers are written again digit by digit. TypeScript does not know yet that a reviver is told the source. */
function parseExactly(text: string): unknown {
  const { rawJSON } = JSON as unknown as { rawJSON(source: string): unknown };
  const revive = (_name: string, value: unknown, { source }: { source: string }) =>
    typeof value === "number" ? rawJSON(source) : value;
  return JSON.parse(text, revive as (name: string, value: unknown) => unknown);
}

function parseJson(text: string): JsonValue {
  try {
    return JSON.parse(text) as JsonValue;
  } catch (error) {
    throw usage(`it is no JSON (${(error as Error).message}); --text takes it as a string`);
  }
}

/** The member at a path such as `user.id`, as text. @throws CliError when there is none. */
export function fieldText(json: JsonValue, path: string): string {
  let at: JsonValue | undefined = json;
  for (const name of path.split("."))
    at = at !== undefined && isObject(at) && Object.hasOwn(at, name) ? at[name] : undefined;
  if (typeof at === "string") return at;
  if (typeof at === "number" || typeof at === "boolean") return String(at);
  throw usage(`its "${path}" is ${at === undefined ? "missing" : "neither text nor number"}`);
}
