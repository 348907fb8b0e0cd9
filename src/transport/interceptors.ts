import {
  ConnectError,
  createContextKey,
  type Interceptor,
  type StreamResponse,
  type UnaryResponse,
} from "@connectrpc/connect";
import { ErrorCode, type ServiceError } from "../domain/errors.ts";
import { ownStatus, toConnectError, toServiceError } from "./errors.ts";
import type { CallLog } from "./log.ts";

/** The id under which a call stands in the log. */
export const requestIdKey = createContextKey("", { description: "request id" });

/** Told of what a call failed with. */
export const failedKey = createContextKey<(error: ServiceError) => void>(() => {}, { description: "failed" });

/** Around every RPC: a failure takes the API's form, and one that is a bug goes to the log. */
export function errorInterceptor(log: CallLog): Interceptor {
  return (next) => async (request) => {
    const requestId = request.contextValues.get(requestIdKey);
    const fail = (error: unknown): never => {
      throw rpcFailure(error, requestId, request.method.name, log, request.contextValues.get(failedKey));
    };
    let response: UnaryResponse | StreamResponse;
    try {
      response = await next(request);
    } catch (error) {
      return fail(error);
    }
    if (!response.stream) return response;
    return { ...response, message: mapErrors(response.message, fail) };
  };
}

/** A failure in the form of the RPC protocols, noted in the log. */
export function rpcFailure(
  error: unknown,
  requestId: string,
  method: string,
  log: CallLog,
  failed: (error: ServiceError) => void,
): ConnectError {
  const failure = toServiceError(error, requestId);
  log.failed(method, requestId, failure);
  failed(failure);
  // What Connect itself refused keeps its own code.
  const own = error instanceof ConnectError && !(error.cause instanceof Error) && failure.code !== ErrorCode.INTERNAL;
  return toConnectError(failure, own ? ownStatus(error.code) : undefined);
}

async function* mapErrors<T>(messages: AsyncIterable<T>, fail: (error: unknown) => never): AsyncGenerator<T> {
  try {
    yield* messages;
  } catch (error) {
    fail(error);
  }
}
