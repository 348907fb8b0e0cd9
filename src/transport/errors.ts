import type { create } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import { ViolationsSchema } from "../../gen/buf/validate/validate_pb.js";
import {
  BadRequestSchema,
  ErrorInfoSchema,
  PreconditionFailureSchema,
  QuotaFailureSchema,
  RetryInfoSchema,
} from "../../gen/google/rpc/error_details_pb.js";
import { ErrorCode, errorRule, notSerializable, ServiceError } from "../domain/errors.ts";
import { violated } from "./validation.ts";

/** The domain of the ErrorInfo that every RPC error carries. */
export const ERROR_DOMAIN = "millrace";

/**
 * Any failure as one that its caller is told. A failure that is neither a {@link ServiceError} nor Connect's own is a
 * bug: it becomes INTERNAL with itself as the cause, for the log alone.
 */
export function toServiceError(error: unknown, requestId: string): ServiceError {
  if (error instanceof ServiceError) return error;
  if (error instanceof ConnectError) return ofConnect(error, requestId);
  return internal(requestId, error);
}

const internal = (requestId: string, cause: unknown): ServiceError =>
  new ServiceError(ErrorCode.INTERNAL, `internal error, request ${requestId}`, { cause });

/** What Connect says of a message that can't be decoded. It calls that internal, but it is the caller's fault. */
const UNDECODABLE = /^(?:parse binary:|received compressed envelope)/;
const UNKNOWN_COMPRESSION = /^unknown compression /;

/** What Connect itself refuses, before or instead of a call. */
function ofConnect(error: ConnectError, requestId: string): ServiceError {
  if (error.cause instanceof ServiceError) return error.cause;
  const text = error.rawMessage;
  if (UNDECODABLE.test(text)) return notSerializable(text);
  if (UNKNOWN_COMPRESSION.test(text)) return notSerializable(text, 415);
  switch (error.code) {
    case Code.InvalidArgument: {
      const [violations] = error.findDetails(ViolationsSchema);
      return violations ? violated(violations) : notSerializable(text);
    }
    case Code.ResourceExhausted:
      return notSerializable(text, 413);
    case Code.DeadlineExceeded:
      return new ServiceError(ErrorCode.TIMEOUT, text);
    case Code.Canceled:
      return new ServiceError(ErrorCode.TIMEOUT, "the caller went away");
    case Code.Unavailable:
      return new ServiceError(ErrorCode.UNAVAILABLE, text);
    case Code.Unimplemented:
    case Code.NotFound:
      return new ServiceError(ErrorCode.NOT_FOUND, text);
    default:
      return internal(requestId, error);
  }
}

/**
 * The RPC form: status, ErrorInfo with the code's name and number, and the details that fit the code.
 *
 * @param status in place of the code's own.
 */
export function toConnectError(error: ServiceError, status?: Code): ConnectError {
  const rule = errorRule(error.code);
  const connect = new ConnectError(error.message, status ?? (rule.status as Code), undefined, undefined, error);
  const metadata: Record<string, string> = { code: String(error.code) };
  const endOffset = error.details.find((detail) => detail.endOffset !== undefined)?.endOffset;
  if (endOffset !== undefined) metadata.endOffset = String(endOffset);
  add(connect, ErrorInfoSchema, { reason: rule.name, domain: ERROR_DOMAIN, metadata });
  const fields = error.details.map(({ field, description }) => ({ field: field ?? "", description }));
  if (error.code === ErrorCode.INVALID_ARGUMENT) add(connect, BadRequestSchema, { fieldViolations: fields });
  if (error.code === ErrorCode.PRECONDITION_FAILED && fields.length > 0)
    add(connect, PreconditionFailureSchema, {
      violations: fields.map(({ field, description }) => ({ type: "OFFSET", subject: field, description })),
    });
  if (error.code === ErrorCode.QUOTA_EXCEEDED)
    add(connect, QuotaFailureSchema, { violations: [{ subject: error.subject ?? "", description: error.message }] });
  if (error.retryAfterMs !== undefined) {
    const ms = Math.ceil(error.retryAfterMs);
    add(connect, RetryInfoSchema, { retryDelay: { seconds: BigInt(Math.floor(ms / 1000)), nanos: (ms % 1000) * 1e6 } });
    connect.metadata.set("retry-after", retryAfterText(error.retryAfterMs));
  }
  return connect;
}

function add(error: ConnectError, schema: Parameters<typeof create>[0], value: object): void {
  error.details.push({ desc: schema, value: value as never });
}

/** The REST form of an error: its body, to be sent with `error.httpStatus`. */
export function restErrorBody(error: ServiceError): { error: object } {
  return {
    error: {
      code: error.code,
      message: errorRule(error.code).name,
      description: error.message,
      ...(error.details.length > 0 ? { details: error.details } : {}),
    },
  };
}

/** As `Retry-After` says it: whole seconds, never too early. */
const retryAfterText = (ms: number): string => String(Math.max(1, Math.ceil(ms / 1000)));

/** The headers that go with it. */
export function restErrorHeaders(error: ServiceError): Record<string, string> {
  return {
    ...(error.retryAfterMs === undefined ? {} : { "retry-after": retryAfterText(error.retryAfterMs) }),
    ...(error.allow === undefined ? {} : { allow: error.allow.join(", ") }),
  };
}

/** A failure of Connect's own in the service's form, under its own code. */
export function connectFailure(code: Code, message: string, requestId: string): ConnectError {
  return toConnectError(toServiceError(new ConnectError(message, code), requestId), ownStatus(code));
}

/** The status of a failure of Connect's own: the one it has, such as RESOURCE_EXHAUSTED for a message over the limit. */
export const ownStatus = (code: Code): Code | undefined => (code === Code.Internal ? undefined : code);

/** What Connect refuses by an HTTP status alone. @param code in place of the table's. */
export function statusFailure(status: number, message: string, requestId: string, code?: Code): ConnectError {
  switch (status) {
    case 405:
      return toConnectError(new ServiceError(ErrorCode.METHOD_NOT_ALLOWED, message), code);
    case 415:
      return toConnectError(notSerializable(message, 415), code);
    case 505:
      return toConnectError(new ServiceError(ErrorCode.NOT_FOUND, message), code);
    default:
      return toConnectError(internal(requestId, new Error(message)), code);
  }
}
