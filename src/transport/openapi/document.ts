/** The OpenAPI 3.1 document of the REST API, made from the services' descriptors when the service starts. */
import type { DescField, DescService } from "@bufbuild/protobuf";
import { comments } from "../../../gen/comments.js";
import { ErrorSchema } from "../../../gen/millrace/v1/errors_pb.js";
import { type RestRoute, restRoutes } from "../rest-routes.ts";
import { ERROR_TABLE, errorResponses, errorStatuses } from "./errors.ts";
import { EXAMPLES } from "./examples.ts";
import { LIVE_PARAMETERS, liveContent } from "./live-reading.ts";
import { operatorPaths } from "./operator-paths.ts";
import type { JsonSchema } from "./rules.ts";
import { isRequired, Schemas } from "./schemas.ts";

export interface OpenApiDocument extends JsonSchema {
  readonly openapi: string;
  readonly info: { readonly title: string; readonly version: string; readonly description: string } & JsonSchema;
  readonly tags: readonly { readonly name: string; readonly description: string }[];
  readonly paths: Readonly<Record<string, Readonly<Record<string, Operation>>>>;
  readonly components: { readonly schemas: Readonly<Record<string, JsonSchema>> } & JsonSchema;
}

export interface Operation extends JsonSchema {
  readonly operationId: string;
  readonly tags: readonly string[];
  readonly summary: string;
  readonly description: string;
  readonly parameters?: readonly JsonSchema[];
  readonly requestBody?: JsonSchema;
  readonly responses: Readonly<Record<string, JsonSchema>>;
}

/** @param version of the service. */
export function openApiDocument(services: readonly DescService[], version: string): OpenApiDocument {
  const schemas = new Schemas();
  const paths: Record<string, Record<string, Operation>> = {};
  for (const service of services)
    for (const route of restRoutes(service)) {
      const path = route.path.replace(/::|:(\w+)/g, (_, name?: string) =>
        name === undefined ? ":" : `{${route.params.get(name)!.jsonName}}`,
      );
      paths[path] = { ...paths[path], [route.httpMethod.toLowerCase()]: operation(route, schemas) };
    }
  const error = schemas.messageRef(ErrorSchema, "answer");
  return {
    openapi: "3.1.0",
    info: {
      title: "Millrace",
      version,
      description: description(),
      license: { name: "Apache-2.0", identifier: "Apache-2.0" },
    },
    servers: [{ url: "/" }],
    tags: [
      ...services
        .filter((each) => restRoutes(each).length > 0)
        .map((each) => ({ name: tagOf(each), description: comments[each.typeName] ?? "" })),
      { name: "Operation", description: "Health, metrics and the description of the service itself." },
    ],
    paths: { ...paths, ...operatorPaths },
    components: {
      schemas: {
        ...schemas.components,
        ErrorBody: {
          type: "object",
          description: "The body of every failure.",
          properties: { error },
          required: ["error"],
        },
      },
      responses: errorResponses(),
      securitySchemes: {
        bearer: { type: "http", scheme: "bearer", description: "An API key or a JWT, where the service asks for one." },
      },
    },
    security: [{}, { bearer: [] }],
  };
}

function operation(route: RestRoute, schemas: Schemas): Operation {
  const { method } = route;
  const name = `${method.parent.typeName}.${method.name}`;
  const text = comments[name] ?? "";
  const example = EXAMPLES[name];
  const parameters = [
    ...[...route.params.values()].map((field) => parameter(field, "path", schemas, example?.path)),
    ...queryFields(route).map((field) => parameter(field, "query", schemas, example?.query)),
    ...(method.methodKind === "server_streaming" ? LIVE_PARAMETERS : []),
    ...(IDEMPOTENCY_KEY[method.name] ? [idempotencyKey(IDEMPOTENCY_KEY[method.name]!)] : []),
  ];
  const errors = errorStatuses(route).map((status) => [
    String(status),
    { $ref: `#/components/responses/Error${status}` },
  ]);
  return {
    operationId: method.localName,
    tags: [tagOf(method.parent)],
    summary: text.split(/(?<=\.)\s/, 1)[0]!.replace(/\.$/, ""),
    description: `${text}\n\nAs an RPC: \`${method.parent.typeName}/${method.name}\`.`,
    ...(parameters.length > 0 ? { parameters } : {}),
    ...requestBody(route, schemas, example?.body),
    responses: { ...answers(route, schemas, example?.answer), ...Object.fromEntries(errors) },
  };
}

function requestBody(route: RestRoute, schemas: Schemas, example: unknown): JsonSchema {
  const { body, method } = route;
  if (body === undefined) return {};
  const inPath = new Set(route.params.values());
  const fields = method.input.fields.filter((field) => !inPath.has(field));
  const schema = body === "*" ? schemas.body(method.input, fields) : schemas.messageRef(body.message!, "request");
  // No body is an empty object.
  const required = body !== "*" || fields.some((field) => isRequired(field, "request"));
  const media = { schema, ...(example === undefined ? {} : { example }) };
  return { requestBody: { required, content: { "application/json": media } } };
}

/** What a success answers; a stream of messages comes as Server-Sent Events or as lines of JSON. */
function answers(route: RestRoute, schemas: Schemas, example: unknown): Record<string, JsonSchema> {
  const { method, responseBody } = route;
  if (method.methodKind === "server_streaming")
    return { 200: { description: "Events as they come.", content: liveContent(schemas, example) } };
  const schema = schemas.messageRef(responseBody?.message ?? method.output, "answer");
  const comment = comments[(responseBody?.message ?? method.output).typeName] ?? "Success.";
  const media = { "application/json": { schema, ...(example === undefined ? {} : { example }) } };
  const done = { description: comment, content: media };
  if (!method.name.startsWith("Create")) return { 200: done };
  const isNew = { ...done, description: `${comment} It is new.` };
  const before = THERE_BEFORE.get(method.name);
  return { 201: isNew, ...(before === undefined ? {} : { 200: { ...done, description: `${comment} ${before}` } }) };
}

/** When a call that creates something is answered with what was there before. */
const THERE_BEFORE: ReadonlyMap<string, string> = new Map([
  ["CreateStream", "It was there before, with the same settings."],
  ["CreateConsumerGroup", "It was there before, with the same settings."],
  ["CreateProcessor", "An earlier call with the same Idempotency-Key made it."],
]);

function queryFields(route: RestRoute): DescField[] {
  if (route.body === "*") return [];
  const taken = new Set<DescField>([...route.params.values(), ...(route.body ? [route.body] : [])]);
  // Messages have no form in a query.
  return route.method.input.fields.filter((field) => !taken.has(field) && !field.message && route.body === undefined);
}

function parameter(
  field: DescField,
  place: "path" | "query",
  schemas: Schemas,
  example: Readonly<Record<string, unknown>> | undefined,
): JsonSchema {
  const { description, ...schema } = schemas.field(field, "request");
  const value = example?.[field.jsonName];
  return {
    name: field.jsonName,
    in: place,
    required: place === "path" || isRequired(field, "request"),
    ...(description ? { description } : {}),
    schema: place === "path" && schema.type === "string" && !schema.minLength ? { minLength: 1, ...schema } : schema,
    ...(value === undefined ? {} : { example: field.fieldKind === "list" ? [value] : value }),
  };
}

/** What the header does, by the RPC's name. */
const IDEMPOTENCY_KEY: Readonly<Record<string, string>> = {
  Publish: "The same as `eventId`: a repeat under the same key stores nothing and answers the first one's offset.",
  PublishBatch: "Event *i* gets the id `<key>.<i>` where it has none, so that a repeat stores nothing.",
  CreateProcessor: "A repeat under the same key answers the processor that the first call made.",
};
const idempotencyKey = (description: string): JsonSchema => ({
  name: "Idempotency-Key",
  in: "header",
  required: false,
  description,
  schema: { type: "string", minLength: 1, maxLength: 128 },
});

/** `ConsumerGroupService` is shown as `Consumer groups`. */
function tagOf(service: DescService): string {
  const words = service.name
    .replace(/Service$/, "")
    .replace(/(?<=[a-z])(?=[A-Z])/g, " ")
    .toLowerCase();
  return `${words[0]!.toUpperCase()}${words.slice(1)}s`;
}

function description(): string {
  const rows = ERROR_TABLE.map(
    ({ code, name, http, grpc, retryable, mayHaveEffect, meaning }) =>
      `| ${code} | ${name} | ${http} | ${grpc} | ${retryable ? "yes" : "no"} | ${mayHaveEffect ? "perhaps" : "no"} | ${meaning} |`,
  );
  return `Event streaming over gRPC, gRPC-Web, Connect and HTTP/JSON on one port, stored in NATS JetStream.

Names are \`lowerCamelCase\`; offsets, counts, sizes and milliseconds are JSON numbers; times are RFC 3339 in UTC with milliseconds; absent
optional fields are left out; a field that a request may not have is refused with a message that names it.

## Errors

\`{"error":{"code":1001,"message":"STREAM_NOT_FOUND","description":"…","details":[…]}}\`

| Code | Message | HTTP | gRPC | Retry helps | Took effect | Meaning |
|---|---|---|---|---|---|---|
${rows.join("\n")}
`;
}
