import { JetStreamApiError, JetStreamError } from "@nats-io/jetstream";
import { errors as natsErrors } from "@nats-io/transport-node";
import { ErrorCode, quotaExceeded, ServiceError, timedOut, unavailable } from "../domain/errors.ts";

/** `err_code` numbers of the JetStream API that Millrace tells apart (nats-server, `server/errors.json`). */
export const JsError = {
  NO_SUITABLE_PEERS: 10005,
  TEMPORARILY_UNAVAILABLE: 10008,
  CONSUMER_CREATE_FAILED: 10012,
  CONSUMER_NOT_FOUND: 10014,
  INSUFFICIENT_RESOURCES: 10023,
  MAXIMUM_CONSUMERS: 10026,
  MESSAGE_NOT_FOUND: 10037,
  NOT_ENABLED_FOR_ACCOUNT: 10039,
  STORAGE_EXCEEDED: 10047,
  STREAM_FAILED: 10051,
  MESSAGE_TOO_LARGE: 10054,
  STREAM_NAME_IN_USE: 10058,
  STREAM_NOT_FOUND: 10059,
  WRONG_LAST_MESSAGE_ID: 10070,
  WRONG_LAST_SEQUENCE: 10071,
  REPLICAS_NOT_SUPPORTED: 10074,
  STORE_FAILED: 10077,
  STREAM_NOT_VALID: 10096,
  CONSUMER_STORE_FAILED: 10104,
  STREAM_OFFLINE: 10118,
  CONSUMER_OFFLINE: 10119,
  MESSAGE_ID_IN_PROCESS: 10158,
  WRONG_LAST_SEQUENCE_CONSTANT: 10164,
  ATOMIC_DUPLICATE_ID: 10201,
  RESET_FAILED: 10204,
} as const;

/** The `err_code` of a failed JetStream API call, or undefined when the failure is of another kind. */
export function jsErrorCode(error: unknown): number | undefined {
  return error instanceof JetStreamApiError ? error.code : undefined;
}

/** Whether the same request may be sent again at once because the server refused it before doing anything. */
export function isTransient(error: unknown): boolean {
  const code = jsErrorCode(error);
  if (code !== undefined) return code === JsError.TEMPORARILY_UNAVAILABLE || code === JsError.MESSAGE_ID_IN_PROCESS;
  return isUnreachable(error);
}

/** No server took the request: nobody answers for the subject (no leader now), or there is no connection. */
export function isUnreachable(error: unknown): boolean {
  if (error instanceof natsErrors.RequestError) {
    return error.isNoResponders() || error.message.includes("disconnect");
  }
  if (error instanceof natsErrors.NoRespondersError || error instanceof natsErrors.ConnectionError) return true;
  if (error instanceof natsErrors.ClosedConnectionError) return true;
  return error instanceof JetStreamError && error.name === "JetStreamNotEnabled";
}

function isTimeout(error: unknown): boolean {
  if (error instanceof natsErrors.TimeoutError) return true;
  return error instanceof Error && error.cause instanceof natsErrors.TimeoutError;
}

/** An `err_code` and its text as the failure that callers are told. */
export function apiFailure(code: number, text: string, cause?: unknown): ServiceError {
  switch (code) {
    case JsError.INSUFFICIENT_RESOURCES:
    case JsError.STORAGE_EXCEEDED:
      return quotaExceeded("storage", "the storage is full", 10_000, cause);
    case JsError.MAXIMUM_CONSUMERS:
      return quotaExceeded("storage", "the storage takes no more consumers of this stream", 10_000, cause);
    case JsError.NO_SUITABLE_PEERS:
    case JsError.REPLICAS_NOT_SUPPORTED:
      return new ServiceError(
        ErrorCode.INVALID_ARGUMENT,
        "replicationFactor: the cluster has fewer servers than that",
        {
          cause,
          details: [{ field: "replicationFactor", description: "the cluster has fewer servers than that" }],
        },
      );
    case JsError.MESSAGE_TOO_LARGE:
      return new ServiceError(ErrorCode.SERIALIZATION_ERROR, "the event is larger than the stream allows", {
        cause,
        httpStatus: 413,
      });
    case JsError.TEMPORARILY_UNAVAILABLE:
    case JsError.NOT_ENABLED_FOR_ACCOUNT:
    case JsError.STREAM_NOT_FOUND:
    case JsError.CONSUMER_NOT_FOUND:
    case JsError.STREAM_OFFLINE:
    case JsError.CONSUMER_OFFLINE:
    // nats-server says these of what it is just closing: a stream or consumer being deleted, a server that ends.
    case JsError.STREAM_NOT_VALID:
    case JsError.STREAM_FAILED:
    case JsError.STORE_FAILED:
    case JsError.CONSUMER_CREATE_FAILED:
    case JsError.CONSUMER_STORE_FAILED:
    case JsError.RESET_FAILED:
      return unavailable("the storage can't answer now", cause);
    default:
      return new ServiceError(ErrorCode.INTERNAL, `the storage refused the request (${code}: ${text})`, { cause });
  }
}

/** Any failure of the NATS client as the failure that callers are told; what is none of its kind passes through. */
export function toServiceError(error: unknown): unknown {
  if (error instanceof ServiceError) return error;
  if (error instanceof JetStreamApiError) return apiFailure(error.code, error.message, error);
  if (isTimeout(error)) return timedOut("the storage did not answer in time", error);
  if (isUnreachable(error)) return unavailable("the storage is out of reach", error);
  return error;
}
