import type { JsonSchema } from "./rules.ts";

/** Keywords that the service checks by code and not by a rule of the schema, by the field's full name. */
export const HINTS: Readonly<Record<string, JsonSchema>> = {
  "millrace.v1.PollRequest.offset": {
    pattern: "^(earliest|latest|[0-9]{1,16})?$",
    examples: ["earliest", "latest", "42"],
  },
  "millrace.v1.ReadPartitionRequest.offset": { pattern: "^(earliest|latest|[0-9]{1,16})?$", examples: ["earliest"] },
  "millrace.v1.PollRequest.filter": { examples: ["value.amount > 100 && key.startsWith('user-')"] },
  "millrace.v1.ReadPartitionRequest.filter": { examples: ["value.amount > 100"] },
  "millrace.v1.PartitionOffset.offset": { minimum: 0 },
  "millrace.v1.ErrorDetail.field": { examples: ["events[3].key"] },
};
