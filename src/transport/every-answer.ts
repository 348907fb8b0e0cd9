import { type IncomingMessage, type OutgoingHttpHeaders, ServerResponse } from "node:http";
import { constants, Http2ServerResponse } from "node:http2";
import type { FastifyReply, FastifyRequest } from "fastify";
import type { ByteBudget } from "../domain/byte-budget.ts";

/** What may stand in a log line and a header as it is. */
const REQUEST_ID = /^[A-Za-z0-9._:-]{1,128}$/;

/** The request id that a caller has chosen, if it is well-formed. */
export function ownRequestId(req: IncomingMessage): string | undefined {
  const id = req.headers["x-request-id"];
  return typeof id === "string" && REQUEST_ID.test(id) ? id : undefined;
}

/** What `writeHead` takes behind the status. */
type Head = [statusMessage?: string, headers?: OutgoingHttpHeaders] | [headers?: OutgoingHttpHeaders];

/**
 * Adds the headers that every answer has, whichever part of the service gives it. To set them before `writeHead` would
 * cost a publish several percent.
 */
function withAlways(status: number, requestId: string | undefined, [first, second]: Head): [OutgoingHttpHeaders] {
  const headers = typeof first === "object" ? first : second;
  // RFC 9110, 15.5.2; RFC 6750, 3.
  if (status === 401) return withAlways(0, requestId, [{ ...headers, "www-authenticate": "Bearer" }]);
  if (requestId === undefined) return [{ ...headers }];
  return [{ ...headers, "x-request-id": requestId, "x-content-type-options": "nosniff" }];
}

/** An answer over HTTP/1.1. */
export class Http1Answer extends ServerResponse {
  requestId: string | undefined = undefined;

  override writeHead(status: number, ...head: never): this {
    return super.writeHead(status, ...withAlways(status, this.requestId, head));
  }
}

/** An answer over HTTP/2. */
export class Http2Answer extends Http2ServerResponse {
  requestId: string | undefined = undefined;

  override writeHead(status: number, ...head: never): this {
    return super.writeHead(status, ...withAlways(status, this.requestId, head));
  }
}

/** Bytes of an answer that a connection may keep unread; what is less is left to its other bounds. */
const UNREAD_BYTES = 64 * 1024;

/** What is done about whole answers that their callers leave unread. */
export interface UnreadLimits {
  /** Longest time in which a caller takes nothing. */
  readonly timeoutMs: number;
  /** Holds what is unread. */
  readonly held: ByteBudget;
}

/**
 * Answers over HTTP/1.1 that end their connection when their caller takes nothing of them for too long, and say that it
 * ends where they begin while the server is closing.
 */
export const http1Answers = ({ timeoutMs, held }: UnreadLimits, isClosing: () => boolean) =>
  class extends Http1Answer {
    override writeHead(status: number, ...head: never): this {
      if (isClosing()) this.shouldKeepAlive = false;
      return super.writeHead(status, ...head);
    }

    override end(...rest: never[]): this {
      super.end(...(rest as []));
      const { socket } = this;
      if (socket && !this.closed && socket.writableLength > UNREAD_BYTES) {
        hold(this, socket.writableLength, held);
        socket.setTimeout(timeoutMs); // Node ends the connection then
        // Before Node's own, which sets the time for idle connections.
        this.prependOnceListener("finish", () => socket.setTimeout(0));
      }
      return this;
    }
  };

/** The same over HTTP/2, for their stream alone. */
export const http2Answers = ({ timeoutMs, held }: UnreadLimits) =>
  class extends Http2Answer {
    override end(...rest: never[]): this {
      super.end(...(rest as []));
      const { stream } = this;
      if (stream && !stream.destroyed && stream.writableLength > UNREAD_BYTES) {
        hold(this, stream.writableLength, held);
        stream.setTimeout(timeoutMs, () => stream.close(constants.NGHTTP2_CANCEL));
      }
      return this;
    }
  };

function hold(answer: Http1Answer | Http2Answer, bytes: number, budget: ByteBudget): void {
  const held = budget.hold();
  held.take(bytes);
  answer.once("close", () => held[Symbol.dispose]());
}

/** Says of an answer which request it is for. */
export function answers(reply: FastifyReply, req: FastifyRequest): void {
  (reply.raw as Http1Answer).requestId = req.id;
}
