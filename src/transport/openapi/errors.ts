/** The error table as the document's answers. */

import { comments } from "../../../gen/comments.js";
import { ErrorCodeSchema } from "../../../gen/millrace/v1/errors_pb.js";
import { ERROR_RULES, ErrorCode } from "../../domain/errors.ts";
import type { RestRoute } from "../rest-routes.ts";
import type { JsonSchema } from "./rules.ts";

/** Statuses in place of a code's own. */
const MORE_STATUSES: readonly (readonly [ErrorCode, number])[] = [
  [ErrorCode.SERIALIZATION_ERROR, 413],
  [ErrorCode.SERIALIZATION_ERROR, 415],
  [ErrorCode.SERIALIZATION_ERROR, 431],
  [ErrorCode.TIMEOUT, 408],
];
const GRPC_NAMES =
  "OK CANCELLED UNKNOWN INVALID_ARGUMENT DEADLINE_EXCEEDED NOT_FOUND ALREADY_EXISTS PERMISSION_DENIED RESOURCE_EXHAUSTED FAILED_PRECONDITION ABORTED OUT_OF_RANGE UNIMPLEMENTED INTERNAL UNAVAILABLE DATA_LOSS UNAUTHENTICATED".split(
    " ",
  );

export const ERROR_TABLE = ERROR_RULES.map((rule) => ({
  ...rule,
  grpc: GRPC_NAMES[rule.status]!,
  meaning: comments[`${ErrorCodeSchema.typeName}.${ErrorCodeSchema.value[rule.code]!.name}`] ?? "",
}));

/** Each status that an error can have, as a response component named `Error<status>`. */
export function errorResponses(): Record<string, JsonSchema> {
  const byStatus = new Map<number, (typeof ERROR_TABLE)[number][]>();
  const own = ERROR_TABLE.map((entry) => [entry, entry.http] as const);
  const more = MORE_STATUSES.map(
    ([code, status]) => [ERROR_TABLE.find((each) => each.code === code)!, status] as const,
  );
  for (const [entry, status] of [...own, ...more]) byStatus.set(status, [...(byStatus.get(status) ?? []), entry]);
  return Object.fromEntries(
    [...byStatus].map(([status, entries]) => [
      `Error${status}`,
      {
        description: entries.map(({ code, name, meaning }) => `${code} ${name}: ${meaning}`).join("\n\n"),
        ...(HEADERS[status] ? { headers: HEADERS[status] } : {}),
        content: {
          "application/json": {
            schema: { $ref: "#/components/schemas/ErrorBody" },
            examples: Object.fromEntries(
              entries.map(({ code, name, meaning }) => [
                name,
                { value: { error: { code, message: name, description: meaning } } },
              ]),
            ),
          },
        },
      },
    ]),
  );
}

const RETRY_AFTER = { description: "Seconds to wait before the call is worth repeating.", schema: { type: "integer" } };
const HEADERS: Readonly<Record<number, JsonSchema>> = {
  401: { "WWW-Authenticate": { description: "Always `Bearer`.", schema: { type: "string" } } },
  405: { Allow: { description: "The methods that the path has.", schema: { type: "string" } } },
  429: { "Retry-After": RETRY_AFTER },
  503: { "Retry-After": RETRY_AFTER },
};

/** What the HTTP server itself refuses: a request that takes too long, headers that are too large. */
export const ANY_REQUEST: readonly number[] = [408, 431];

/** RPCs that find something in the way of what they make or move; so do those that a member of a group calls. */
const IN_CONFLICT: ReadonlySet<string> = new Set([
  "CreateStream",
  "PublishBatch",
  "CreateConsumerGroup",
  "Seek",
  "CreateProcessor",
  "CreateSavepoint",
]);
/** RPCs that miss nothing: they list, or what they name need not be there. */
const MISSING_NOTHING = /^(List(?!SideEvents)|CreateStream$|CreateApiKey$|Put|DeleteRow$)/;

/** The statuses that a route can fail with. */
export function errorStatuses(route: RestRoute): number[] {
  const { name, input } = route.method;
  const hasMember = input.fields.some((field) => field.name === "consumer_id");
  return [
    400,
    401,
    403,
    ...(MISSING_NOTHING.test(name) ? [] : [404]),
    ...(hasMember || IN_CONFLICT.has(name) ? [409] : []),
    ...(name.startsWith("Publish") || name === "CreateSavepoint" ? [412] : []),
    ...(route.body === undefined ? [] : [413, 415]),
    ...ANY_REQUEST,
    429,
    500,
    503,
    504,
  ];
}
