import type { JsonSchema } from "./rules.ts";

/** A position in a body: a word, a time or an offset, and offsets are numbers too; see `transport/json.ts`. */
const POSITION: JsonSchema = { type: ["string", "integer"], minimum: 0, maximum: Number.MAX_SAFE_INTEGER };

/** Keywords that the service checks by code and not by a rule of the schema, by the field's full name. */
export const HINTS: Readonly<Record<string, JsonSchema>> = {
  "millrace.v1.PollRequest.offset": {
    pattern: "^(earliest|latest|[0-9]{1,16})?$",
    examples: ["earliest", "latest", "42"],
  },
  "millrace.v1.ReadPartitionRequest.offset": { pattern: "^(earliest|latest|[0-9]{1,16})?$", examples: ["earliest"] },
  "millrace.v1.PollRequest.filter": { examples: ["value.amount > 100 && key.startsWith('user-')"] },
  "millrace.v1.ReadPartitionRequest.filter": { examples: ["value.amount > 100"] },
  "millrace.v1.CreateConsumerGroupRequest.offset": { ...POSITION, examples: ["latest", 42] },
  "millrace.v1.SeekRequest.offset": { ...POSITION, examples: ["earliest", 42, "2026-01-31T12:00:00Z"] },
  "millrace.v1.DryRunSource.offset": { ...POSITION, examples: ["earliest", 42] },
  "millrace.v1.PartitionOffset.offset": { minimum: 0 },
  "millrace.v1.ErrorDetail.field": { examples: ["events[3].key"] },
};
