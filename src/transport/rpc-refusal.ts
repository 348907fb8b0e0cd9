/** Answers of calls that never reach a handler (unknown method, failed hook), in the protocol that the caller speaks. */
import { Code, type ConnectError } from "@connectrpc/connect";
import type { UniversalServerResponse } from "@connectrpc/connect/protocol";
import { encodeEnvelope } from "@connectrpc/connect/protocol";
import {
  codeToHttpStatus,
  endStreamFlag,
  endStreamToJson,
  errorToJsonBytes,
} from "@connectrpc/connect/protocol-connect";
import { setTrailerStatus } from "@connectrpc/connect/protocol-grpc";

const GRPC = /^application\/grpc(-web)?(?:\+(?:proto|json))?(?:;|$)/i;
const ANY_GRPC = /^application\/grpc/i;
const CONNECT_STREAM = /^application\/connect\+(?:proto|json)(?:;|$)/i;

/**
 * @param contentType the request's; it tells the protocol. Anything that is neither gRPC nor a Connect stream gets
 *   Connect's unary form, a JSON object with `code` and `message`.
 * @param httpStatus used by that form only; gRPC and streams carry the code in their own place, over HTTP 200.
 */
export function refusal(
  contentType: string | undefined,
  error: ConnectError,
  httpStatus = codeToHttpStatus(error.code),
): UniversalServerResponse {
  const type = contentType ?? "";
  const header = new Headers();
  if (ANY_GRPC.test(type)) {
    // Trailers-Only: the status travels in the headers, for gRPC-Web too.
    header.set("content-type", GRPC.test(type) ? type : "application/grpc");
    setTrailerStatus(header, error);
    return { status: 200, header };
  }
  if (CONNECT_STREAM.test(type)) {
    header.set("content-type", type);
    const end = endStreamToJson(new Headers(), error, undefined);
    const data = new TextEncoder().encode(JSON.stringify(end));
    return { status: 200, header, body: once(encodeEnvelope(endStreamFlag, data)) };
  }
  const body = errorToJsonBytes(error, undefined);
  for (const [name, value] of error.metadata) header.append(name, value);
  header.set("content-type", "application/json");
  header.set("content-length", String(body.byteLength));
  return { status: httpStatus, header, body: once(body) };
}

const HTTP_CODES: Record<number, Code> = {
  400: Code.InvalidArgument,
  401: Code.Unauthenticated,
  403: Code.PermissionDenied,
  404: Code.Unimplemented,
  408: Code.DeadlineExceeded,
  413: Code.ResourceExhausted,
  429: Code.ResourceExhausted,
  431: Code.ResourceExhausted,
  501: Code.Unimplemented,
  502: Code.Unavailable,
  503: Code.Unavailable,
  504: Code.DeadlineExceeded,
};

/** The code for an HTTP status that we would have answered with. As the protocols say, 405, 415 and the rest: UNKNOWN. */
export const codeOfStatus = (status: number): Code =>
  HTTP_CODES[status] ?? (status >= 500 ? Code.Internal : Code.Unknown);

async function* once(bytes: Uint8Array): AsyncIterable<Uint8Array> {
  yield bytes;
}
