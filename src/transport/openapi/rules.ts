/** The rules of protovalidate as JSON Schema says them. */
import { type DescField, type DescOneof, getOption, hasOption } from "@bufbuild/protobuf";
import { type ReflectList, type ReflectMessage, reflect } from "@bufbuild/protobuf/reflect";
import {
  type FieldRules,
  FieldRulesSchema,
  field as fieldOption,
  Ignore,
  oneof as oneofOption,
} from "../../../gen/buf/validate/validate_pb.js";

/** JSON Schema, draft 2020-12, as far as the document uses it. */
export interface JsonSchema {
  [keyword: string]: unknown;
}

/** The rules of a field or of its items, by their names in validate.proto's camel case; `kind` is their type's. */
export interface Rules {
  readonly kind: string | undefined;
  readonly required: boolean;
  readonly by: Readonly<Record<string, unknown>>;
}

const NONE: Rules = { kind: undefined, required: false, by: {} };

/** The field's own rules; none where they are not looked at. */
export function rulesOf(field: DescField): Rules {
  return hasOption(field, fieldOption) ? read(getOption(field, fieldOption)) : NONE;
}

/** The rules of a list's `items`, a map's `keys` or its `values`. */
export function innerRules(rules: Rules, part: "items" | "keys" | "values"): Rules {
  const inner = rules.by[part] as ReflectMessage | undefined;
  return inner ? read(inner.message as FieldRules) : NONE;
}

/** Whether one member of the oneof must be there. */
export function isRequiredOneof(oneof: DescOneof): boolean {
  return hasOption(oneof, oneofOption) && getOption(oneof, oneofOption).required;
}

function read(message: FieldRules): Rules {
  if (message.ignore === Ignore.ALWAYS) return NONE;
  const { required } = message;
  const kind = message.type.case;
  if (kind === undefined) return { kind, required, by: {} };
  const rules = reflect(FieldRulesSchema, message);
  const type = rules.fields.find((field) => field.localName === kind)!;
  const value = rules.get(type) as ReflectMessage;
  const set = value.fields.filter((field) => value.isSet(field));
  return { kind, required, by: Object.fromEntries(set.map((field) => [field.localName, value.get(field)])) };
}

/** Keywords for a value under these rules. */
export function keywordsOf({ kind, by }: Rules): JsonSchema {
  switch (kind) {
    case "string":
      return defined({
        pattern: typeof by.pattern === "string" ? ecmaPattern(by.pattern) : undefined,
        minLength: number(by.minLen) ?? number(by.len),
        // A bound in bytes of UTF-8 is one in characters too.
        maxLength: number(by.maxLen) ?? number(by.len) ?? number(by.maxBytes),
        enum: list(by.in),
      });
    case "repeated":
      return defined({
        minItems: number(by.minItems),
        maxItems: number(by.maxItems),
        uniqueItems: by.unique === true || undefined,
      });
    case "map":
      return defined({ minProperties: number(by.minPairs), maxProperties: number(by.maxPairs) });
    case undefined:
    case "bytes":
    case "enum":
    case "bool":
    case "any":
    case "duration":
    case "timestamp":
    case "fieldMask":
      return {};
    default:
      return defined({
        minimum: number(by.gte),
        maximum: number(by.lte),
        exclusiveMinimum: number(by.gt),
        exclusiveMaximum: number(by.lt),
        enum: list(by.in)?.map(number),
      });
  }
}

/** Whether the rules refuse what a field without presence holds when it was left out: "", 0, an empty list. */
export function refusesDefault({ kind, required, by }: Rules): boolean {
  if (required) return true;
  switch (kind) {
    case "string":
      return (
        (number(by.minLen) ?? 0) > 0 ||
        (typeof by.pattern === "string" && !new RegExp(ecmaPattern(by.pattern), "u").test(""))
      );
    case "repeated":
      return (number(by.minItems) ?? 0) > 0;
    case "map":
      return (number(by.minPairs) ?? 0) > 0;
    default:
      return (number(by.gte) ?? 0) > 0 || (by.gt !== undefined && number(by.gt)! >= 0);
  }
}

/** The numbers that an enum's rules allow; undefined: all. */
export const allowedNumbers = ({ by }: Rules): number[] | undefined => list(by.in)?.map((each) => Number(each));

const number = (value: unknown): number | undefined => (value === undefined ? undefined : Number(value));
const list = (value: unknown): unknown[] | undefined => (value === undefined ? undefined : [...(value as ReflectList)]);

/** RE2's form of a code point, `\x{9f}`, in that of JSON Schema. */
const ecmaPattern = (pattern: string): string =>
  pattern.replace(/\\x\{([0-9a-fA-F]+)\}/g, (_, hex: string) => `\\u${hex.padStart(4, "0")}`);

const defined = (keywords: JsonSchema): JsonSchema =>
  Object.fromEntries(Object.entries(keywords).filter(([, value]) => value !== undefined));
