import type { ServerResponse } from "node:http";
import { constants, type Http2ServerResponse } from "node:http2";

/**
 * Whether a response that closed had reached its caller's connection as a whole. A reset HTTP/2 stream says that it is
 * finished too, and only its reset code tells.
 */
export function wasAnswered(res: ServerResponse): boolean {
  const { stream } = res as unknown as Partial<Http2ServerResponse>;
  if (stream === undefined) return res.writableFinished;
  return res.writableEnded && (stream.rstCode ?? 0) === constants.NGHTTP2_NO_ERROR;
}
