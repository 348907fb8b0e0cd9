import { create, fromJson, type JsonValue } from "@bufbuild/protobuf";
import { NullValue, type Value, ValueSchema } from "@bufbuild/protobuf/wkt";

/** Deeper values break the recursion limit of 100 that binary clients have, at two messages a level. */
const MAX_VALUE_DEPTH = 40;

/**
 * JSON text as the message that RPC clients get, or undefined when it can't be one: nested too deeply, with a number that
 * no double holds, or with half a surrogate pair, which UTF-8 can't carry. Other numbers become doubles. A client that needs
 * every digit asks for `data`.
 */
export function valueOfJson(json: Uint8Array): Value | undefined {
  const text = Buffer.from(json.buffer, json.byteOffset, json.length).toString("utf8");
  const parsed = JSON.parse(text) as JsonValue;
  if (parsed === null) return create(ValueSchema, { kind: { case: "nullValue", value: NullValue.NULL_VALUE } });
  // Only an escape can make half a pair.
  if (!fits(parsed, MAX_VALUE_DEPTH) || (/\\u[dD]/.test(text) && !isWellFormed(parsed))) return undefined;
  return fromJson(ValueSchema, parsed);
}

function fits(value: JsonValue, depth: number): boolean {
  if (typeof value === "number") return Number.isFinite(value);
  if (value === null || typeof value !== "object") return true;
  return depth > 0 && Object.values(value).every((member) => fits(member, depth - 1));
}

function isWellFormed(value: JsonValue): boolean {
  if (typeof value === "string") return value.isWellFormed();
  if (value === null || typeof value !== "object") return true;
  return Object.entries(value).every(([name, member]) => name.isWellFormed() && isWellFormed(member));
}
