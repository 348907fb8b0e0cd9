import {
  type DescField,
  type DescMessage,
  type DescMethod,
  type DescService,
  getOption,
  hasOption,
  type JsonObject,
  type JsonValue,
  type Message,
} from "@bufbuild/protobuf";
import { http as httpOption } from "../../gen/google/api/annotations_pb.js";
import type { HttpRule } from "../../gen/google/api/http_pb.js";
import { invalidArgument, ServiceError } from "../domain/errors.ts";
import { fromRestJson, fromText, toRestJson } from "./json.ts";

/** One REST route of an RPC, from its `google.api.http` rule. */
export interface RestRoute {
  readonly method: DescMethod;
  readonly httpMethod: string;
  /** With `:name` for each parameter and `::` for a colon. */
  readonly path: string;
  /** The fields that the path's parameters fill. */
  readonly params: ReadonlyMap<string, DescField>;
  /** Which field the body is; `*`: the whole message; undefined: there is none. */
  readonly body: "*" | DescField | undefined;
  readonly responseBody: DescField | undefined;
}

/** Every route of a service, in the order of its proto file. @throws for a rule that can't work. */
export function restRoutes(service: DescService): RestRoute[] {
  return service.methods.flatMap((method) => {
    if (!hasOption(method, httpOption)) return [];
    const rule = getOption(method, httpOption);
    return [rule, ...rule.additionalBindings].map((each) => routeOf(method, each));
  });
}

function routeOf(method: DescMethod, rule: HttpRule): RestRoute {
  const { case: verb, value } = rule.pattern;
  if (verb === undefined || verb === "custom") throw new Error(`${method}: unsupported http rule`);
  const params = new Map<string, DescField>();
  // A verb's colon (`streams:verb`) is doubled, since Fastify would take it for a parameter's.
  const path = value.replaceAll(":", "::").replace(/\{(\w+)\}/g, (_, name: string) => {
    params.set(name, fieldOf(method.input, name));
    return `:${name}`;
  });
  if (/[{}]/.test(path)) throw new Error(`${method}: unsupported path ${value}`);
  return {
    method,
    httpMethod: verb.toUpperCase(),
    path,
    params,
    body: rule.body === "" ? undefined : rule.body === "*" ? "*" : fieldOf(method.input, rule.body),
    responseBody: rule.responseBody === "" ? undefined : fieldOf(method.output, rule.responseBody),
  };
}

function fieldOf(message: DescMessage, name: string): DescField {
  const field = message.fields.find((each) => each.name === name);
  if (!field) throw new Error(`${message.typeName} has no field ${name}`);
  return field;
}

/**
 * The parts of a request as its message.
 *
 * @param body the parsed body; undefined when there was none.
 * @throws ServiceError INVALID_ARGUMENT.
 */
export function decodeRequest(
  route: RestRoute,
  params: Readonly<Record<string, string>>,
  query: Readonly<Record<string, string | string[]>>,
  body: JsonValue | undefined,
): Message {
  const { input } = route.method;
  let json: JsonObject = {};
  if (route.body === "*") {
    if (body !== undefined && (typeof body !== "object" || body === null || Array.isArray(body)))
      throw invalidArgument("body", "must be a JSON object");
    json = { ...body }; // and not assign(), which sets the prototype by a member of that name
  } else if (route.body && body !== undefined) json[route.body.jsonName] = body;
  for (const [name, text] of Object.entries(query)) {
    const field =
      route.body === "*" ? undefined : input.fields.find((each) => each.jsonName === name || each.name === name);
    if (!field || [...route.params.values()].includes(field)) throw invalidArgument(name, "is not a known parameter");
    if (json[field.jsonName] !== undefined) throw invalidArgument(name, "is given twice");
    json[field.jsonName] = readQuery(field, text, name);
  }
  for (const [name, field] of route.params) {
    if (json[field.jsonName] !== undefined || json[name] !== undefined)
      throw invalidArgument(field.jsonName, "is given by the path; leave it out of the body");
    json[field.jsonName] = fromText(field, params[name] ?? "", field.jsonName);
  }
  try {
    return fromRestJson(input, json);
  } catch (error) {
    throw withoutBodyPrefix(error, route);
  }
}

function readQuery(field: DescField, text: string | string[], name: string): JsonValue {
  if (field.fieldKind === "list") return [text].flat().map((each) => fromText(field, each, name));
  if (Array.isArray(text)) throw invalidArgument(name, "is given more than once");
  return fromText(field, text, name);
}

/** Where the body is one field, its caller knows nothing of that field's name. */
export function withoutBodyPrefix(error: unknown, route: RestRoute): unknown {
  if (!(error instanceof ServiceError) || route.body === undefined || route.body === "*") return error;
  const prefix = `${route.body.jsonName}.`;
  const details = error.details.map((detail) =>
    detail.field?.startsWith(prefix) ? { ...detail, field: detail.field.slice(prefix.length) } : detail,
  );
  const { httpStatus, retryAfterMs, subject } = error;
  return new ServiceError(error.code, error.message.replaceAll(prefix, ""), {
    details,
    httpStatus,
    subject,
    ...(retryAfterMs === undefined ? {} : { retryAfterMs }),
  });
}

/** A response message as the body of its answer. */
export function encodeResponse(route: RestRoute, message: Message): JsonValue {
  const json = toRestJson(route.method.output, message);
  return route.responseBody ? ((json as JsonObject)[route.responseBody.jsonName] ?? {}) : json;
}
