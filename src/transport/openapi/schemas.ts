/** Messages and enums as JSON Schema, in the form that REST gives them (see `transport/json.ts`). */
import { type DescEnum, type DescField, type DescMessage, ScalarType } from "@bufbuild/protobuf";
import { FeatureSet_FieldPresence } from "@bufbuild/protobuf/wkt";
import { comments } from "../../../gen/comments.js";
import { enumWord } from "../json.ts";
import { HINTS } from "./hints.ts";
import {
  allowedNumbers,
  innerRules,
  isRequiredOneof,
  type JsonSchema,
  keywordsOf,
  type Rules,
  refusesDefault,
  rulesOf,
} from "./rules.ts";

/** Requests and answers differ: what a caller may leave out, an answer always has. */
export type Direction = "request" | "answer";

/** The schemas of `components.schemas`, made as they are asked for. */
export class Schemas {
  readonly components: Record<string, JsonSchema> = {};

  /** A reference to a message's schema, which is added if it is new; in a request's form it is named `…Input`. */
  messageRef(desc: DescMessage, direction: Direction): JsonSchema {
    const known = WELL_KNOWN[desc.typeName];
    if (known) return known;
    const name = direction === "request" && !/Request$|^Publish/.test(desc.name) ? `${desc.name}Input` : desc.name;
    if (!this.components[name]) {
      this.components[name] = {}; // a message that holds itself finds its name here
      this.components[name] = this.#object(desc, desc.fields, direction);
    }
    return { $ref: `#/components/schemas/${name}` };
  }

  /** A schema for some of a message's fields, such as a body whose other fields stand in the path. */
  body(desc: DescMessage, left: readonly DescField[]): JsonSchema {
    if (left.length === desc.fields.length) return this.messageRef(desc, "request");
    this.components[desc.name] ??= this.#object(desc, left, "request");
    return { $ref: `#/components/schemas/${desc.name}` };
  }

  /** A field's schema with its comment. */
  field(field: DescField, direction: Direction): JsonSchema {
    const rules = rulesOf(field);
    const schema = { ...this.#value(field, rules, direction), ...HINTS[`${field.parent.typeName}.${field.name}`] };
    const description = comments[`${field.parent.typeName}.${field.name}`];
    return description ? { ...schema, description } : schema;
  }

  #object(desc: DescMessage, fields: readonly DescField[], direction: Direction): JsonSchema {
    const properties = Object.fromEntries(fields.map((field) => [field.jsonName, this.field(field, direction)]));
    const required = fields.filter((field) => isRequired(field, direction)).map((field) => field.jsonName);
    const description = comments[desc.typeName];
    return {
      type: "object",
      ...(description ? { description } : {}),
      properties,
      ...(required.length > 0 ? { required } : {}),
      ...(direction === "request" ? { additionalProperties: false } : {}),
      ...this.#oneofs(desc, direction),
    };
  }

  /** Of a oneof at most one member may be there, of a required one exactly one. */
  #oneofs(desc: DescMessage, direction: Direction): JsonSchema {
    if (direction === "answer") return {};
    const rules = desc.oneofs.map((oneof) => {
      const members = oneof.fields.map(({ jsonName }) => ({ required: [jsonName] }));
      return isRequiredOneof(oneof) ? { oneOf: members } : { oneOf: [...members, { not: { anyOf: members } }] };
    });
    return rules.length === 0 ? {} : rules.length === 1 ? rules[0]! : { allOf: rules };
  }

  #value(field: DescField, rules: Rules, direction: Direction): JsonSchema {
    switch (field.fieldKind) {
      case "scalar":
        return { ...scalar(field.scalar, direction), ...keywordsOf(rules) };
      case "enum":
        return words(field.enum, rules, direction);
      case "message":
        return this.messageRef(field.message, direction);
      case "list":
        return { type: "array", items: this.#item(field, innerRules(rules, "items"), direction), ...keywordsOf(rules) };
      case "map": {
        const keys = keywordsOf(innerRules(rules, "keys"));
        return {
          type: "object",
          additionalProperties: this.#item(field, innerRules(rules, "values"), direction),
          ...(Object.keys(keys).length > 0 ? { propertyNames: keys } : {}),
          ...keywordsOf(rules),
        };
      }
    }
  }

  #item(field: DescField & { fieldKind: "list" | "map" }, rules: Rules, direction: Direction): JsonSchema {
    if (field.message) return this.messageRef(field.message, direction);
    if (field.enum) return words(field.enum, rules, direction);
    return { ...scalar(field.scalar!, direction), ...keywordsOf(rules) };
  }
}

/** Fields that the service leaves out of an answer where they are empty. */
const LEFT_OUT_WHEN_EMPTY: ReadonlySet<string> = new Set(["millrace.v1.Error.details"]);

/** Whether a request must name the field, or an answer always does. */
export function isRequired(field: DescField, direction: Direction): boolean {
  const hasPresence = field.presence !== FeatureSet_FieldPresence.IMPLICIT;
  // An empty map is left out of an answer, everything else without presence is written.
  if (direction === "answer")
    return (
      !hasPresence && field.fieldKind !== "map" && !LEFT_OUT_WHEN_EMPTY.has(`${field.parent.typeName}.${field.name}`)
    );
  return hasPresence ? rulesOf(field).required : refusesDefault(rulesOf(field));
}

const words = (desc: DescEnum, rules: Rules, direction: Direction): JsonSchema => {
  const allowed = allowedNumbers(rules);
  const values = desc.values.filter(
    ({ number }) => number !== 0 && (direction === "answer" || !allowed || allowed.includes(number)),
  );
  const lines = values.map(
    ({ number, name }) => `\`${enumWord(desc, number)}\`: ${comments[`${desc.typeName}.${name}`] ?? ""}`,
  );
  return { type: "string", enum: values.map(({ number }) => enumWord(desc, number)), "x-enum-descriptions": lines };
};

/** The largest integer that a JSON number carries exactly; REST refuses larger ones. */
const MAX_EXACT = Number.MAX_SAFE_INTEGER;

function scalar(type: ScalarType, direction: Direction): JsonSchema {
  switch (type) {
    case ScalarType.BOOL:
      return { type: "boolean" };
    case ScalarType.STRING:
      return { type: "string" };
    case ScalarType.BYTES:
      return { type: "string", contentEncoding: "base64", ...(direction === "request" ? { pattern: BASE64 } : {}) };
    case ScalarType.DOUBLE:
    case ScalarType.FLOAT:
      return { type: "number" };
    case ScalarType.UINT32:
    case ScalarType.FIXED32:
      return { type: "integer", minimum: 0, maximum: 2 ** 32 - 1 };
    case ScalarType.UINT64:
    case ScalarType.FIXED64:
      return { type: "integer", format: "int64", minimum: 0, maximum: MAX_EXACT };
    case ScalarType.INT32:
    case ScalarType.SINT32:
    case ScalarType.SFIXED32:
      return { type: "integer", format: "int32", minimum: -(2 ** 31), maximum: 2 ** 31 - 1 };
    default:
      return { type: "integer", format: "int64", minimum: -MAX_EXACT, maximum: MAX_EXACT };
  }
}

const BASE64 = "^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}(?:==)?|[A-Za-z0-9+/]{3}=?)?$";

const WELL_KNOWN: Readonly<Record<string, JsonSchema>> = {
  "google.protobuf.Timestamp": { type: "string", format: "date-time" },
  "google.protobuf.Duration": { type: "string", pattern: "^-?[0-9]+(\\.[0-9]{1,9})?s$" },
  "google.protobuf.Value": {},
  "google.protobuf.Struct": { type: "object" },
  "google.protobuf.ListValue": { type: "array" },
  "google.protobuf.FieldMask": { type: "string" },
  "google.protobuf.Empty": { type: "object" },
};
