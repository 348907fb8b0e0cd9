import { getOption } from "@bufbuild/protobuf";
import { ErrorCode, ErrorCodeSchema, rule } from "../../gen/millrace/v1/errors_pb.js";

export { ErrorCode };

/** One field at fault (a path such as `events[3].key`) or one fact behind a refusal. */
export interface ErrorDetail {
  readonly field?: string;
  readonly description: string;
  /** Of a refused `expectedOffset`: the offset that the partition's next event gets. */
  readonly endOffset?: number;
}

interface Extra {
  readonly details?: readonly ErrorDetail[];
  readonly cause?: unknown;
  /** HTTP status in place of the code's own, for example 413 or 415 for SERIALIZATION_ERROR. */
  readonly httpStatus?: number;
  readonly retryAfterMs?: number;
  /** Whose quota is used up, for QUOTA_EXCEEDED: `principal:<id>`, `stream:<name>`, `storage` and such. */
  readonly subject?: string | undefined;
  /** Methods that the path has, for METHOD_NOT_ALLOWED. */
  readonly allow?: readonly string[];
}

/** A failure that its caller is told as it is. Any other exception is a bug and becomes INTERNAL at the edge. */
export class ServiceError extends Error {
  readonly code: ErrorCode;
  readonly details: readonly ErrorDetail[];
  readonly httpStatus: number;
  readonly retryAfterMs: number | undefined;
  readonly subject: string | undefined;
  readonly allow: readonly string[] | undefined;

  constructor(code: ErrorCode, description: string, extra: Extra = {}) {
    super(description, extra.cause === undefined ? undefined : { cause: extra.cause });
    this.name = "ServiceError";
    this.code = code;
    this.details = extra.details ?? [];
    this.httpStatus = extra.httpStatus ?? errorRule(code).http;
    this.retryAfterMs = extra.retryAfterMs;
    this.subject = extra.subject;
    this.allow = extra.allow;
  }
}

/** What the schema says of a code. */
export interface ErrorCodeRule {
  readonly code: ErrorCode;
  /** The code's name in the API, such as `STREAM_NOT_FOUND`. */
  readonly name: string;
  /** Number of google.rpc.Code. */
  readonly status: number;
  readonly http: number;
  readonly retryable: boolean;
  readonly mayHaveEffect: boolean;
}

/** Every error code with its rule, in the order of the numbers: the table of errors.proto. */
export const ERROR_RULES: readonly ErrorCodeRule[] = ErrorCodeSchema.values
  .filter((value) => value.number !== ErrorCode.UNSPECIFIED)
  .map((value) => {
    const { status, http, retryable, mayHaveEffect } = getOption(value, rule);
    return { code: value.number, name: value.localName, status, http, retryable, mayHaveEffect };
  });

const ruleByCode = new Map(ERROR_RULES.map((entry) => [entry.code, entry]));

/** The rule of a code of the table. */
export function errorRule(code: ErrorCode): ErrorCodeRule {
  const found = ruleByCode.get(code);
  if (!found) throw new RangeError(`error code ${code} is not in the table`);
  return found;
}

export const streamNotFound = (stream: string): ServiceError =>
  new ServiceError(ErrorCode.STREAM_NOT_FOUND, `stream "${stream}" does not exist`);

export const partitionNotFound = (stream: string, partition: number, partitions: number): ServiceError =>
  invalidArgument("partition", `"${stream}" has no partition ${partition}, its partitions are 0 to ${partitions - 1}`);

/** Whether a failure says that there is no such stream. */
export const isStreamNotFound = (error: unknown): boolean =>
  error instanceof ServiceError && error.code === ErrorCode.STREAM_NOT_FOUND;

export const groupNotFound = (group: string): ServiceError =>
  new ServiceError(ErrorCode.CONSUMER_GROUP_NOT_FOUND, `consumer group "${group}" does not exist`);

/** @param description what is not there: a row or a window. */
export const resourceNotFound = (description: string): ServiceError =>
  new ServiceError(ErrorCode.RESOURCE_NOT_FOUND, description);

export const invalidOffset = (description: string): ServiceError =>
  new ServiceError(ErrorCode.INVALID_OFFSET, description);

export const notPartitionOwner = (description: string): ServiceError =>
  new ServiceError(ErrorCode.NOT_PARTITION_OWNER, description);

export const invalidArgument = (field: string, description: string): ServiceError =>
  invalidArguments([{ field, description }]);

/** All fields at fault at once. */
export const invalidArguments = (details: readonly ErrorDetail[]): ServiceError =>
  new ServiceError(
    ErrorCode.INVALID_ARGUMENT,
    details.map((detail) => (detail.field ? `${detail.field}: ${detail.description}` : detail.description)).join("; "),
    { details },
  );

export const notSerializable = (description: string, httpStatus = 400): ServiceError =>
  new ServiceError(ErrorCode.SERIALIZATION_ERROR, description, { httpStatus });

export const timedOut = (description: string, cause?: unknown): ServiceError =>
  new ServiceError(ErrorCode.TIMEOUT, description, { cause });

export const unavailable = (description: string, cause?: unknown): ServiceError =>
  new ServiceError(ErrorCode.UNAVAILABLE, description, { cause, retryAfterMs: 1000 });

/** @param subject whose quota it is, such as `stream:orders` or `storage`. @param retryAfterMs when a repeat may succeed. */
export function quotaExceeded(
  subject: string,
  description: string,
  retryAfterMs: number,
  cause?: unknown,
): ServiceError {
  // Nobody reads its stack, which would be a good part of what a flood costs.
  const { stackTraceLimit } = Error;
  Error.stackTraceLimit = 0;
  try {
    return new ServiceError(ErrorCode.QUOTA_EXCEEDED, description, { subject, retryAfterMs, cause });
  } finally {
    Error.stackTraceLimit = stackTraceLimit;
  }
}
