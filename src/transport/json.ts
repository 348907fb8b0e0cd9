import {
  type DescEnum,
  type DescField,
  type DescMessage,
  fromJson,
  type JsonObject,
  type JsonValue,
  type Message,
  type MessageShape,
  ScalarType,
  toJson,
} from "@bufbuild/protobuf";
import { type ReflectMessage, reflect } from "@bufbuild/protobuf/reflect";
import { FeatureSet_FieldPresence } from "@bufbuild/protobuf/wkt";
import { invalidArgument, type ServiceError } from "../domain/errors.ts";

/**
 * REST's JSON: protobuf's, but 64-bit integers are numbers, enum values are lower-case words without their type's
 * prefix, and fields without presence are always written, empty maps excepted.
 */

/** The word of an enum value: `COMPRESSION_TYPE_GZIP` is `gzip`. */
export function enumWord(desc: DescEnum, number: number): string | number {
  const value = desc.value[number];
  return value ? value.localName.toLowerCase() : number;
}

/** A message as REST's JSON. */
export function toRestJson(schema: DescMessage, message: Message): JsonValue {
  return writeMessage(reflect(schema, message as MessageShape<DescMessage>));
}

function writeMessage(message: ReflectMessage): JsonValue {
  if (message.desc.typeName === "google.protobuf.Timestamp")
    return isoMs(toJson(message.desc, message.message) as string);
  if (message.desc.typeName.startsWith("google.protobuf.")) return toJson(message.desc, message.message);
  const out: JsonObject = {};
  for (const field of message.fields) {
    if (!message.isSet(field) && (field.presence !== FeatureSet_FieldPresence.IMPLICIT || field.fieldKind === "map"))
      continue;
    out[field.jsonName] = writeField(message, field);
  }
  return out;
}

function writeField(message: ReflectMessage, field: DescField): JsonValue {
  switch (field.fieldKind) {
    case "scalar":
      return writeScalar(message.get(field));
    case "enum":
      return enumWord(field.enum, message.get(field) as number);
    case "message":
      return writeMessage(message.get(field));
    case "list": {
      const items: JsonValue[] = [];
      for (const item of message.get(field)) items.push(writeItem(field, field.listKind, item));
      return items;
    }
    case "map": {
      const entries: [string, JsonValue][] = [];
      for (const [name, item] of message.get(field))
        entries.push([String(name), writeItem(field, field.mapKind, item)]);
      return Object.fromEntries(entries);
    }
  }
}

function writeItem(field: DescField, kind: "scalar" | "enum" | "message", item: unknown): JsonValue {
  if (kind === "message") return writeMessage(item as ReflectMessage);
  return kind === "enum" ? enumWord(field.enum!, item as number) : writeScalar(item);
}

function writeScalar(value: unknown): JsonValue {
  if (typeof value === "bigint") {
    const number = Number(value);
    return Number.isSafeInteger(number) ? number : String(value);
  }
  if (value instanceof Uint8Array) return Buffer.from(value.buffer, value.byteOffset, value.length).toString("base64");
  return value as JsonValue;
}

/** Milliseconds always, as the contract's times have them. */
const isoMs = (text: string): string => new Date(text).toISOString();

/**
 * REST's JSON as a message.
 *
 * @throws ServiceError INVALID_ARGUMENT that names the field: unknown, of a wrong type, or a number that JSON can't carry
 * exactly.
 */
export function fromRestJson(schema: DescMessage, json: JsonObject): Message {
  const input = readObject(schema, json, "");
  try {
    return fromJson(schema, input);
  } catch (error) {
    throw ofProtobuf(error as Error, faultyPath(schema, input, ""));
  }
}

/**
 * protobuf's own refusal, `cannot decode field a.b.C.name from JSON: reason`, in the API's words.
 *
 * @param path of the field; undefined when it takes more than one field to be refused.
 */
function ofProtobuf(error: Error, path: string | undefined): ServiceError {
  const match = /^cannot decode (?:field|message) (\S+) from JSON: (.*)$/s.exec(error.message);
  const name = match?.[1]?.split(".").at(-1) ?? "body";
  const reason = match?.[2] ?? error.message;
  return invalidArgument(path ?? camelCase(name.replace(/[^\w]/g, "")), reason);
}

/** The first field that protobuf refuses alone, which its own refusal names without its place. */
function faultyPath(schema: DescMessage, input: JsonObject, path: string): string | undefined {
  // In the order in which protobuf reads them.
  for (const [name, value] of Object.entries(input)) {
    const field = schema.fields.find(({ jsonName }) => jsonName === name)!;
    if (value === null) continue;
    const own = path + name;
    const isList = field.fieldKind === "list";
    const items = isList ? (value as JsonValue[]) : [value];
    for (const [index, item] of items.entries()) {
      const at = isList ? `${own}[${index}]` : own;
      const isOurs = field.message && !field.message.typeName.startsWith("google.protobuf.");
      const within = isOurs && field.fieldKind !== "map" && faultyPath(field.message, item as JsonObject, `${at}.`);
      if (within) return within;
      if (!isReadable(schema, { [field.jsonName]: isList ? [item] : item })) return at;
    }
  }
  return undefined;
}

function isReadable(schema: DescMessage, input: JsonObject): boolean {
  try {
    fromJson(schema, input);
    return true;
  } catch {
    return false;
  }
}

const camelCase = (name: string): string => name.replace(/_([a-z0-9])/g, (_, letter: string) => letter.toUpperCase());

/** What must be there though protobuf can't tell its absence from 0: nothing is committed by a slip. */
const NEEDED: Readonly<Record<string, readonly string[]>> = { "millrace.v1.PartitionOffset": ["partition"] };

/** Checks names and numbers, and turns enum words into protobuf's names. */
function readObject(schema: DescMessage, json: JsonObject, path: string): JsonObject {
  if (schema.typeName.startsWith("google.protobuf.")) return json;
  const out: JsonObject = {};
  for (const [name, value] of Object.entries(json)) {
    const field = schema.fields.find((each) => each.jsonName === name || each.name === name);
    if (!field) throw invalidArgument(path + name, "is not a known field");
    if (out[field.jsonName] !== undefined) throw invalidArgument(path + name, "is given twice");
    out[field.jsonName] = readValue(field, value, path + name);
  }
  for (const name of NEEDED[schema.typeName] ?? [])
    if ((out[name] ?? null) === null) throw invalidArgument(path + name, "is required");
  return out;
}

function readValue(field: DescField, value: JsonValue, path: string): JsonValue {
  if (field.fieldKind === "list") {
    if (!Array.isArray(value)) throw invalidArgument(path, "must be an array");
    return value.map((item, index) => {
      if (item === null && field.listKind === "message" && field.message.typeName !== "google.protobuf.Value")
        throw invalidArgument(`${path}[${index}]`, "must not be null");
      return readItem(field, item, `${path}[${index}]`);
    });
  }
  return readItem(field, value, path);
}

function readItem(field: DescField, value: JsonValue, path: string): JsonValue {
  if (typeof value === "number" && Math.abs(value) > Number.MAX_SAFE_INTEGER)
    throw invalidArgument(path, "is beyond 2^53, where JSON numbers are not exact");
  if (value === null) return value;
  // A position may be a word, a time or an offset, and offsets are numbers.
  if (field.name === "offset" && field.scalar === ScalarType.STRING && Number.isInteger(value)) return String(value);
  if (field.enum) return readEnum(field.enum, value, path);
  if (field.message && !field.message.typeName.startsWith("google.protobuf.")) {
    if (typeof value !== "object" || Array.isArray(value)) throw invalidArgument(path, "must be an object");
    return readObject(field.message, value, `${path}.`);
  }
  return value;
}

function readEnum(desc: DescEnum, value: JsonValue, path: string): JsonValue {
  const words = desc.values.filter((each) => each.number !== 0);
  const found = words.find((each) => each.localName.toLowerCase() === value);
  if (!found)
    throw invalidArgument(path, `must be one of ${words.map((each) => each.localName.toLowerCase()).join(", ")}`);
  return found.name;
}

/** One text of a path or query as the JSON that its field takes. @throws ServiceError INVALID_ARGUMENT. */
export function fromText(field: DescField, text: string, name: string): JsonValue {
  if (field.scalar === ScalarType.BOOL) {
    if (text === "true" || text === "false") return text === "true";
    throw invalidArgument(name, "must be true or false");
  }
  // protobuf takes "1e2" and " 1" for integers too.
  const isNumber = field.scalar === ScalarType.INT32 || field.scalar === ScalarType.INT64;
  if (isNumber && !/^-?[0-9]{1,19}$/.test(text)) throw invalidArgument(name, "must be a whole number");
  return text;
}
