import { create, fromJson, type JsonObject, type JsonValue } from "@bufbuild/protobuf";
import { NullValue, type Value, ValueSchema } from "@bufbuild/protobuf/wkt";

/** Deeper values break the recursion limit of 100 that binary clients have, at two messages a level. */
const MAX_VALUE_DEPTH = 40;

/**
 * JSON text as the message that RPC clients get, or undefined when it can't be one: nested too deeply, or with a number
 * that no double holds. Other numbers become doubles; half a surrogate pair, which UTF-8 can't carry, becomes U+FFFD. A
 * client that needs every digit and character asks for `data`.
 */
export function valueOfJson(json: Uint8Array): Value | undefined {
  const text = Buffer.from(json.buffer, json.byteOffset, json.length).toString("utf8");
  const parsed = JSON.parse(text) as JsonValue;
  if (parsed === null) return create(ValueSchema, { kind: { case: "nullValue", value: NullValue.NULL_VALUE } });
  if (!fits(parsed, MAX_VALUE_DEPTH)) return undefined;
  return fromJson(ValueSchema, /\\u[dD]/.test(text) ? wellFormed(parsed) : parsed);
}

function fits(value: JsonValue, depth: number): boolean {
  if (typeof value === "number") return Number.isFinite(value);
  if (value === null || typeof value !== "object") return true;
  return depth > 0 && Object.values(value).every((member) => fits(member, depth - 1));
}

function wellFormed(value: JsonValue): JsonValue {
  if (typeof value === "string") return value.toWellFormed();
  if (Array.isArray(value)) return value.map(wellFormed);
  if (value === null || typeof value !== "object") return value;
  const entries = Object.entries(value).map(([name, member]) => [name.toWellFormed(), wellFormed(member)] as const);
  return Object.fromEntries(entries) as JsonObject;
}
