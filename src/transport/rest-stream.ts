import type { OutgoingHttpHeaders, ServerResponse } from "node:http";
import { create } from "@bufbuild/protobuf";
import type { FastifyReply, FastifyRequest } from "fastify";
import {
  PartitionStartSchema,
  PayloadFormat,
  type SubscribeRequest,
  SubscribeRequestSchema,
} from "../../gen/millrace/v1/events_pb.js";
import { deadlineIn } from "../domain/deadline.ts";
import { invalidArgument, type ServiceError } from "../domain/errors.ts";
import { DEFAULT_CALL_TIMEOUT_MS } from "../domain/limits.ts";
import { whileValid } from "../domain/principal.ts";
import type { Delivery } from "../log/subscribe.ts";
import { authorize } from "../services/access.ts";
import type { Consumer } from "../services/consumer.ts";
import { principalOf } from "./access.ts";
import { restErrorBody } from "./errors.ts";
import { queryOf } from "./rest.ts";
import { decodeRequest, type RestRoute } from "./rest-routes.ts";
import { eventLines, sseLines } from "./rest-stream-text.ts";
import { validate } from "./validation.ts";
import { writable } from "./writable.ts";

/** A stream of events as Server-Sent Events (WHATWG HTML, 9.2) or as JSON lines. */
export async function subscribeOverHttp(
  consumer: Consumer,
  req: FastifyRequest,
  reply: FastifyReply,
  route: RestRoute,
  signal: AbortSignal,
  fail: (error: unknown) => ServiceError,
): Promise<void> {
  const request = requestOf(req, route);
  const principal = principalOf(req);
  authorize(route.method, principal, request);
  validate(SubscribeRequestSchema, request);
  const asLines = JSON_LINES.test(req.headers.accept ?? "");
  const asData = request.payload === PayloadFormat.DATA;
  const textOf = (delivery: Delivery) => (asLines ? eventLines(delivery, asData) : sseLines(delivery, asData));

  const over = new AbortController();
  const ends = AbortSignal.any([signal, over.signal]);
  const deadline = deadlineIn(DEFAULT_CALL_TIMEOUT_MS);
  const deliveries = whileValid(consumer.subscribe(request, deadline, ends, principal), principal);
  // What is refused is refused before the answer begins.
  const first = await deliveries.next();
  reply.hijack();
  const res = reply.raw;
  res.writeHead(200, {
    ...(reply.getHeaders() as OutgoingHttpHeaders),
    "content-type": asLines ? "application/x-ndjson" : "text/event-stream; charset=utf-8",
    "cache-control": "no-cache, no-transform",
    // Proxies that buffer answers would hold events back.
    "x-accel-buffering": "no",
  });
  try {
    if (!asLines) await send(res, RETRY);
    for (let next = first; !next.done; next = await deliveries.next()) await send(res, textOf(next.value));
  } catch (error) {
    if (signal.aborted) return;
    const body = JSON.stringify(restErrorBody(fail(error)));
    await send(res, asLines ? `${body}\n` : `event: error\ndata: ${body}\n\n`);
  } finally {
    over.abort();
    await deliveries.return(undefined);
    res.end();
  }
}

const JSON_LINES = /application\/(x-)?(ndjson|jsonl|jsonlines)/i;
/** Milliseconds after which a browser connects again when the stream has ended. */
const RETRY = "retry: 1000\n\n";

function requestOf(req: FastifyRequest, route: RestRoute): SubscribeRequest {
  const { starts, ...query } = queryOf(req);
  const request = decodeRequest(route, req.params as Record<string, string>, query, undefined) as SubscribeRequest;
  request.starts = (starts === undefined ? [] : [starts].flat()).map((text) => {
    const [, partition, offset] = /^(\d{1,4}):(.+)$/.exec(text) ?? [];
    if (partition === undefined || offset === undefined)
      throw invalidArgument("starts", `"${text}" is not a partition and its start, such as 0:latest`);
    return create(PartitionStartSchema, { partition: Number(partition), offset });
  });
  const lastEventId = req.headers["last-event-id"];
  // A browser that connects again repeats its URL; what it has seen counts. A group knows by its commits.
  if (typeof lastEventId === "string" && lastEventId !== "" && request.consumerGroup === undefined)
    request.resumeToken = lastEventId;
  return request;
}

/** Writes and waits until the connection takes more. */
async function send(res: ServerResponse, chunk: string | Buffer): Promise<void> {
  if (chunk.length > 0 && !res.destroyed && !res.write(chunk)) await writable(res);
}
