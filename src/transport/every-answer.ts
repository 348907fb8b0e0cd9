import type { IncomingMessage } from "node:http";
import type { FastifyReply, FastifyRequest } from "fastify";

/** What may stand in a log line and a header as it is. */
const REQUEST_ID = /^[A-Za-z0-9._:-]{1,128}$/;

/** The request id that a caller has chosen, if it is well-formed. */
export function ownRequestId(req: IncomingMessage): string | undefined {
  const id = req.headers["x-request-id"];
  return typeof id === "string" && REQUEST_ID.test(id) ? id : undefined;
}

/** Headers of every answer, whichever part of the service gives it. */
export function sayAlways(req: FastifyRequest, reply: FastifyReply): void {
  // On Node's own response: not all answers pass through Fastify's.
  reply.raw.setHeader("x-request-id", req.id);
  reply.raw.setHeader("x-content-type-options", "nosniff");
}
