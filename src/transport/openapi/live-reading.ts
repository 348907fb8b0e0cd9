/** What Subscribe takes and answers over REST, where it differs from its messages; see `transport/rest-stream.ts`. */
import { AssignmentSchema, EventSchema } from "../../../gen/millrace/v1/events_pb.js";
import type { JsonSchema } from "./rules.ts";
import type { Schemas } from "./schemas.ts";

/** Parameters beside the fields that a query can hold as they are. */
export const LIVE_PARAMETERS: readonly JsonSchema[] = [
  {
    name: "starts",
    in: "query",
    required: false,
    description:
      "Where single partitions begin, without a group: `0:12`, `1:latest`, `2:2026-01-31T12:00:00Z`; the others follow `offset`.",
    schema: { type: "array", items: { type: "string", pattern: "^[0-9]{1,4}:.+$" }, maxItems: 1000 },
  },
  {
    name: "Last-Event-ID",
    in: "header",
    required: false,
    description:
      "The `id:` of the last event seen, as browsers send it when they connect again; comes before `resumeToken`. With a group it means nothing.",
    schema: { type: "string", maxLength: 32768 },
  },
];

/** @param example of an event. */
export function liveContent(schemas: Schemas, example: unknown): JsonSchema {
  const text = `id: 0:0\ndata: ${JSON.stringify(example)}\n\n`;
  const line = {
    anyOf: [
      schemas.messageRef(EventSchema, "answer"),
      told({ assignment: schemas.messageRef(AssignmentSchema, "answer") }),
      told({ caughtUp: { const: true } }, RESUME_TOKEN),
      told({ heartbeat: { const: true } }, RESUME_TOKEN),
      { $ref: "#/components/schemas/ErrorBody" },
    ],
  };
  // Without a type: readers of such documents disagree on whether it is the text or each event that a schema describes.
  const events = {
    description:
      "Server-Sent Events: the data of each is an event of the stream, or, under `event: assignment`, `caughtUp` or `error`, what that tells.",
  };
  return {
    "text/event-stream": { schema: events, example: text },
    "application/x-ndjson": { schema: line, example },
  };
}

/** Without a group: where to go on after the line. */
const RESUME_TOKEN = { resumeToken: { type: "string" } };

/** A line that tells something beside events. */
const told = (what: JsonSchema, more: JsonSchema = {}): JsonSchema => ({
  type: "object",
  properties: { ...what, ...more },
  required: Object.keys(what),
});
