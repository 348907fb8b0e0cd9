/** The API reference at `/docs`: the OpenAPI document and the RPC services as one page without scripts. */
import type { DescService } from "@bufbuild/protobuf";
import { comments } from "../../../gen/comments.js";
import type { OpenApiDocument, Operation } from "../openapi/document.ts";
import type { JsonSchema } from "../openapi/rules.ts";
import { escapeHtml, inline, markdown, slug } from "./markdown.ts";
import { STYLE } from "./style.ts";

interface Parameter {
  readonly name: string;
  readonly in: string;
  readonly required: boolean;
  readonly description?: string;
  readonly schema: JsonSchema;
  readonly example?: unknown;
}
interface Place {
  readonly verb: string;
  readonly path: string;
  readonly operation: Operation;
}

/** @param services whose RPCs are listed. */
export function docsPage(document: OpenApiDocument, services: readonly DescService[]): string {
  const places: Place[] = Object.entries(document.paths).flatMap(([path, verbs]) =>
    Object.entries(verbs).map(([verb, operation]) => ({ verb, path, operation })),
  );
  const tags = document.tags.map((tag) => ({
    ...tag,
    places: places.filter(({ operation }) => operation.tags[0] === tag.name),
  }));
  const named = Object.entries(document.components.schemas).sort(([a], [b]) => (a < b ? -1 : 1));
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Millrace API</title>
<style>${STYLE}</style>
</head>
<body>
<nav aria-label="Contents">
<strong>Millrace API</strong>
<a href="#start">Start</a><a href="#quick-start">Quick start</a><a href="#errors">Errors</a><a href="#rpc">gRPC, gRPC-Web, Connect</a><a href="#schemas">Schemas</a><a href="/openapi.json">openapi.json</a>
${tags.map((tag) => `<h3>${escapeHtml(tag.name)}</h3>${tag.places.map(navLink).join("")}`).join("\n")}
</nav>
<main>
<h1 id="start">Millrace API</h1>
<p class="dim">Version ${escapeHtml(document.info.version)}</p>
${markdown(document.info.description)}
${QUICK_START}
${tags.map((tag) => `<h2 id="${slug(tag.name)}">${escapeHtml(tag.name)}</h2><p>${inline(tag.description)}</p>${tag.places.map(section).join("\n")}`).join("\n")}
${rpcSection(services)}
<h2 id="schemas">Schemas</h2>
${named.map(([name, schema]) => `<h3 id="schema-${name}">${name}</h3>${schemaBlock(schema)}`).join("\n")}
</main>
</body>
</html>
`;
}

const QUICK_START = `<h2 id="quick-start">Quick start</h2>
${code(`B=http://127.0.0.1:8080/api/v1
curl -X POST $B/streams -H 'content-type: application/json' -d '{"name":"orders","partitions":4}'
curl -X POST $B/streams/orders/events -H 'content-type: application/json' -d '{"key":"user-123","value":{"amount":42}}'
curl "$B/streams/orders/events?consumerGroup=billing"`)}
<p>The same with gRPC; the service describes itself by reflection:</p>
${code(`grpcurl -plaintext 127.0.0.1:8080 list
grpcurl -plaintext -d '{"stream_name":"orders","consumer_group":"audit"}' 127.0.0.1:8080 millrace.v1.EventService/Poll`)}`;

const navLink = ({ verb, operation }: Place): string =>
  `<a href="#${operation.operationId}"><span class="verb ${verb}">${verb.toUpperCase()}</span>${escapeHtml(title(operation))}</a>`;

/** `createStream` is shown as `Create stream`. */
function title({ operationId }: Operation): string {
  const words = operationId.replace(/(?<=[a-z])(?=[A-Z])/g, " ").toLowerCase();
  return `${words[0]!.toUpperCase()}${words.slice(1)}`;
}

function section({ verb, path, operation }: Place): string {
  const parameters = (operation.parameters ?? []) as unknown as readonly Parameter[];
  const body = mediaOf(operation.requestBody);
  const statuses = Object.entries(operation.responses);
  const failures = statuses.filter(([, response]) => "$ref" in response).map(([status]) => status);
  return `<h3 id="${operation.operationId}">${escapeHtml(title(operation))}</h3>
<div class="path"><span class="verb ${verb}">${verb.toUpperCase()}</span>${escapeHtml(path)}</div>
${markdown(operation.description)}
${parameters.length > 0 ? `<h4>Parameters</h4>${parameterTable(parameters)}` : ""}
${body.map(({ type, schema }) => `<h4>Body <span class="dim">${type}</span></h4>${schemaBlock(schema)}`).join("")}
${isComplete(operation, parameters) ? `<h4>Example</h4>${code(curl({ verb, path, operation }, parameters, body[0]?.example))}` : ""}
${statuses
  .filter(([, response]) => !("$ref" in response))
  .map(([status, response]) => success(status, response))
  .join("\n")}
${failures.length > 0 ? `<h4>Failures</h4><ul class="codes">${failures.map((status) => `<li><a href="#errors">${status}</a></li>`).join("")}</ul>` : ""}`;
}

/** Whether a request can be shown that works as it stands. */
const isComplete = ({ requestBody }: Operation, parameters: readonly Parameter[]): boolean =>
  parameters.every(({ required, example }) => !required || example !== undefined) &&
  (requestBody?.required !== true || mediaOf(requestBody).some(({ example }) => example !== undefined));

interface Media {
  readonly type: string;
  readonly schema: JsonSchema;
  readonly example: unknown;
}
const mediaOf = (holder: JsonSchema | undefined): Media[] =>
  Object.entries((holder?.content ?? {}) as Record<string, { schema: JsonSchema; example?: unknown }>).map(
    ([type, { schema, example }]) => ({ type, schema, example }),
  );

function success(status: string, response: JsonSchema): string {
  const media = mediaOf(response);
  const example = media.find((each) => each.example !== undefined)?.example;
  const forms = media
    .map(({ type, schema }) => {
      // One without a type says in words what it is.
      const isText = schema.type === undefined && typeof schema.description === "string";
      return `<p><span class="dim">${type}</span> ${isText ? inline(String(schema.description)) : typeText(schema)}</p>`;
    })
    .join("");
  return `<h4>${status}</h4><p>${inline(String(response.description))}</p>${forms}${example === undefined ? "" : code(typeof example === "string" ? example : JSON.stringify(example, null, 2))}`;
}

function curl({ verb, path, operation }: Place, parameters: readonly Parameter[], body: unknown): string {
  const filled = path.replace(/\{(\w+)\}/g, (_, name: string) =>
    String(parameters.find((each) => each.name === name)?.example ?? name),
  );
  const query = parameters
    .filter((each) => each.in === "query" && each.example !== undefined)
    .map((each) => `${each.name}=${encodeURIComponent(String(each.example))}`)
    .join("&");
  const isStream = mediaOf(operation.responses[200]).some(({ type }) => type === "text/event-stream");
  const method = isStream ? " -N" : verb === "get" ? "" : ` -X ${verb.toUpperCase()}`;
  const url = `http://127.0.0.1:8080${filled}${query && `?${query}`}`;
  const data = body === undefined ? "" : ` \\\n  -H 'content-type: application/json' \\\n  -d '${bodyText(body)}'`;
  return `curl${method} "${url}"${data}`;
}

/** Over several lines where it would leave the screen. */
function bodyText(body: unknown): string {
  const text = JSON.stringify(body);
  return text.length <= 72 ? text : JSON.stringify(body, null, 2);
}

const parameterTable = (parameters: readonly Parameter[]): string =>
  fieldTable(
    parameters.map(({ name, in: place, required, description, schema }) => ({
      name,
      place,
      required,
      description: description ?? "",
      schema,
    })),
  );

function schemaBlock(schema: JsonSchema): string {
  const {
    properties,
    required = [],
    description,
  } = schema as { properties?: Record<string, JsonSchema>; required?: string[]; description?: string };
  if (!properties) return `<p>${typeText(schema)}</p>`;
  const fields = Object.entries(properties).map(([name, each]) => ({
    name,
    required: required.includes(name),
    description: String(each.description ?? ""),
    schema: each,
  }));
  return `${description ? `<p>${inline(description)}</p>` : ""}${fieldTable(fields)}`;
}

function fieldTable(
  fields: readonly { name: string; place?: string; required: boolean; description: string; schema: JsonSchema }[],
): string {
  const rows = fields.map(
    ({ name, place, required, description, schema }) =>
      `<tr><td><code>${name}</code>${place ? ` <span class="dim">${place}</span>` : ""}${required ? ' <span class="need">required</span>' : ""}</td><td>${typeText(schema)}</td><td>${inline(description)}${enumText(schema)}</td></tr>`,
  );
  return `<div class="wide fields"><table><thead><tr><th>Name</th><th>Type</th><th>Meaning</th></tr></thead><tbody>${rows.join("")}</tbody></table></div>`;
}

const enumText = (schema: JsonSchema): string =>
  ((schema["x-enum-descriptions"] as string[] | undefined) ?? []).map((line) => `<br>${inline(line)}`).join("");

function typeText(schema: JsonSchema): string {
  if (typeof schema.$ref === "string") {
    const name = schema.$ref.split("/").at(-1)!;
    return `<a href="#schema-${name}">${name}</a>`;
  }
  if (Array.isArray(schema.anyOf)) return schema.anyOf.map(typeText).join(", or ");
  if (schema.type === "object" && schema.properties)
    return `<code>{${Object.keys(schema.properties).map(escapeHtml).join(", ")}}</code>`;
  if (schema.type === "array") return `array of ${typeText((schema.items ?? {}) as JsonSchema)}${bounds(schema)}`;
  if (schema.type === "object" && typeof schema.additionalProperties === "object")
    return `map of ${typeText(schema.additionalProperties as JsonSchema)}${bounds(schema)}`;
  const format = schema.format
    ? ` <span class="dim">${schema.format}</span>`
    : schema.contentEncoding
      ? ` <span class="dim">${schema.contentEncoding}</span>`
      : "";
  if (Array.isArray(schema.type)) return schema.type.join(" or ");
  return `${schema.type ?? "any JSON"}${format}${bounds(schema)}`;
}

/** Bounds that say more than the type itself. */
function bounds(schema: JsonSchema): string {
  const { minimum, maximum, minItems, maxItems, minLength, maxLength, minProperties, maxProperties } = schema as Record<
    string,
    number | undefined
  >;
  const isType = maximum !== undefined && maximum >= 2 ** 31 - 1 && (minimum ?? 0) < 0;
  const from = isType ? undefined : (minimum ?? minItems ?? minLength ?? minProperties);
  const to = isType ? undefined : (maximum ?? maxItems ?? maxLength ?? maxProperties);
  if (from === undefined && to === undefined) return "";
  return ` <span class="dim">${from ?? 0}…${to === undefined || to === Number.MAX_SAFE_INTEGER ? "" : to}</span>`;
}

function rpcSection(services: readonly DescService[]): string {
  const rows = services.flatMap((service) =>
    service.methods.map((method) => {
      const arrow = {
        unary: "",
        server_streaming: " → stream",
        client_streaming: "stream →",
        bidi_streaming: "stream ↔ stream",
      }[method.methodKind];
      return `<tr><td><code>${service.typeName}/${method.name}</code> <span class="dim">${arrow}</span></td><td>${inline(comments[`${service.typeName}.${method.name}`] ?? "")}</td></tr>`;
    }),
  );
  return `<h2 id="rpc">gRPC, gRPC-Web, Connect</h2>
<p>Every RPC is <code>POST /&lt;service&gt;/&lt;method&gt;</code> on the same port. <code>grpcurl</code> and <code>buf curl</code> need no files: reflection (v1 and v1alpha) and <code>grpc.health.v1.Health</code> are served. A failure is the status of the table above with a <code>google.rpc.ErrorInfo</code> whose <code>reason</code> is the message and whose <code>metadata.code</code> is the number.</p>
<div class="wide fields"><table><thead><tr><th>RPC</th><th>Meaning</th></tr></thead><tbody>${rows.join("")}</tbody></table></div>`;
}

function code(text: string): string {
  return `<pre tabindex="0"><code>${escapeHtml(text)}</code></pre>`;
}
