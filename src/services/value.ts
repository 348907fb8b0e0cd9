import { create, fromJson, type JsonObject, type JsonValue } from "@bufbuild/protobuf";
import { NullValue, type Value, ValueSchema } from "@bufbuild/protobuf/wkt";

/**
 * JSON text as the message that RPC clients get. Numbers become doubles; half a surrogate pair, which UTF-8 can't
 * carry, becomes U+FFFD. A client that needs every digit and character asks for `data`.
 */
export function valueOfJson(json: Uint8Array): Value {
  const text = Buffer.from(json.buffer, json.byteOffset, json.length).toString("utf8");
  const parsed = JSON.parse(text) as JsonValue;
  if (parsed === null) return create(ValueSchema, { kind: { case: "nullValue", value: NullValue.NULL_VALUE } });
  return fromJson(ValueSchema, /\\u[dD]/.test(text) ? wellFormed(parsed) : parsed);
}

function wellFormed(value: JsonValue): JsonValue {
  if (typeof value === "string") return value.toWellFormed();
  if (Array.isArray(value)) return value.map(wellFormed);
  if (value === null || typeof value !== "object") return value;
  const entries = Object.entries(value).map(([name, member]) => [name.toWellFormed(), wellFormed(member)] as const);
  return Object.fromEntries(entries) as JsonObject;
}
