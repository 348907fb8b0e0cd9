/** The paths of the service itself, which no proto file describes. */
import type { Operation } from "./document.ts";
import { ANY_REQUEST } from "./errors.ts";
import type { JsonSchema } from "./rules.ts";

const operation = (
  operationId: string,
  summary: string,
  responses: Readonly<Record<string, JsonSchema>>,
  /** Where callers are asked who they are. */
  needsRight = false,
): Readonly<Record<string, Operation>> => ({
  get: {
    operationId,
    tags: ["Operation"],
    summary,
    description: `${summary}.`,
    ...(needsRight ? {} : { security: [{}] }),
    responses: {
      ...responses,
      ...Object.fromEntries(
        [...(needsRight ? [401, 403] : []), ...ANY_REQUEST].map((status) => [
          status,
          { $ref: `#/components/responses/Error${status}` },
        ]),
      ),
    },
  },
});

const json = (description: string, schema: JsonSchema) => ({
  description,
  content: { "application/json": { schema } },
});
const text = (description: string, type: string) => ({
  description,
  content: { [type]: { schema: { type: "string" } } },
});

const readiness: JsonSchema = {
  type: "object",
  required: ["status", "reasons", "partitions"],
  properties: {
    status: {
      type: "string",
      enum: ["ready", "degraded", "unavailable"],
      description: "`degraded`: serves, but the partitions named are at fault.",
    },
    reasons: { type: "array", items: { type: "string" }, description: "Why it is unavailable." },
    partitions: {
      type: "array",
      items: {
        type: "object",
        required: ["stream", "partition", "problem", "description"],
        properties: {
          stream: { type: "string" },
          partition: { type: "integer" },
          problem: { type: "string", enum: ["lost_events", "no_leader", "full_store"] },
          lostEvents: { type: "integer" },
          description: { type: "string" },
        },
      },
    },
  },
};

export const operatorPaths: Readonly<Record<string, Readonly<Record<string, Operation>>>> = {
  "/healthz": operation("healthz", "Whether the process is alive", {
    200: json("It is.", { type: "object", required: ["status"], properties: { status: { const: "ok" } } }),
  }),
  "/readyz": operation("readyz", "Whether JetStream is reachable and takes writes, and which partitions are at fault", {
    200: json("It can serve.", readiness),
    503: json("It can't serve now.", readiness),
  }),
  "/metrics": operation(
    "metrics",
    "Figures of the service for Prometheus",
    { 200: text("Prometheus' text format.", "text/plain") },
    true,
  ),
  "/openapi.json": operation("openapi", "This document", { 200: json("OpenAPI 3.1.", { type: "object" }) }),
  "/docs": operation("docs", "The API reference for people", { 200: text("A page.", "text/html") }),
};
