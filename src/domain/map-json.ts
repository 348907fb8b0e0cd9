import { MAX_JSON_DEPTH } from "./limits.ts";

/**
 * Values of events while operations work on them: JSON, with a Map for every object, so that a key such as `__proto__` is
 * one like any other. Ints of expressions are bigints.
 */
export type MapValue = null | boolean | number | bigint | string | readonly MapValue[] | Map<string, unknown>;

/** The compact JSON text of a value. @throws Error for what JSON has no form for, or that is nested too deeply. */
export function mapValueToJson(value: unknown): string {
  return write(value, 0);
}

function write(value: unknown, depth: number): string {
  switch (typeof value) {
    case "string":
      return JSON.stringify(value);
    case "number":
      if (!Number.isFinite(value)) throw new Error(`${value} is not a JSON number`);
      return String(value);
    case "boolean":
      return value ? "true" : "false";
    case "bigint":
      return value.toString();
    case "object":
      return value === null ? "null" : writeContainer(value, depth);
    default:
      throw new Error(`${typeof value} is not JSON`);
  }
}

function writeContainer(value: object, depth: number): string {
  if (depth >= MAX_JSON_DEPTH) throw new Error(`is nested more than ${MAX_JSON_DEPTH} deep`);
  if (value instanceof Map) {
    let text = "";
    for (const [name, member] of value)
      text += `${text === "" ? "{" : ","}${JSON.stringify(String(name))}:${write(member, depth + 1)}`;
    return text === "" ? "{}" : `${text}}`;
  }
  if (Array.isArray(value)) {
    let text = "";
    for (const item of value) text += `${text === "" ? "[" : ","}${write(item, depth + 1)}`;
    return text === "" ? "[]" : `${text}]`;
  }
  if (value instanceof Uint8Array) return JSON.stringify(Buffer.from(value).toString("base64"));
  throw new Error("is not JSON");
}

/** As {@link mapValueToJson}, with the members of objects in the order of their names: equal values have one text. */
export function canonicalJson(value: unknown): string {
  if (value instanceof Map) {
    const names = [...value.keys()].map(String).sort();
    return `{${names.map((name) => `${JSON.stringify(name)}:${canonicalJson(value.get(name))}`).join(",")}}`;
  }
  if (Array.isArray(value)) return `[${value.map(canonicalJson).join(",")}]`;
  return write(value, 0);
}
