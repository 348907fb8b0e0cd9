import type { OutgoingHttpHeaders } from "node:http";
import type { FastifyReply, FastifyRequest } from "fastify";
import {
  EventService,
  PayloadFormat,
  type PollRequest,
  PollRequestSchema,
  type ReadPartitionRequest,
  ReadPartitionRequestSchema,
} from "../../gen/millrace/v1/events_pb.js";
import { deadlineIn } from "../domain/deadline.ts";
import { invalidArgument, invalidArguments, notSerializable } from "../domain/errors.ts";
import type { RefusedEvent } from "../domain/event.ts";
import { DEFAULT_CALL_TIMEOUT_MS, MAX_CALL_TIMEOUT_MS } from "../domain/limits.ts";
import { isStreamName } from "../domain/names.ts";
import { authorize } from "../services/access.ts";
import type { Consumer } from "../services/consumer.ts";
import { batchDeadline } from "../services/events.ts";
import { type Producer, parseIdempotencyKey } from "../services/producer.ts";
import { principalOf } from "./access.ts";
import { wasAnswered } from "./answered.ts";
import {
  type BatchOptions,
  BodyError,
  type EventError,
  isEventError,
  parseBatchBody,
  parsePublishBody,
} from "./publish-body.ts";
import { type HotHandler, queryOf } from "./rest.ts";
import { readRestBody } from "./rest-body.ts";
import { decodeRequest } from "./rest-routes.ts";
import { subscribeOverHttp } from "./rest-stream.ts";
import { batchText, pollBuffer, publishedText, readBuffer } from "./rest-text.ts";
import { validate } from "./validation.ts";

/**
 * REST's hot paths, by the RPC that each stands for: the request is read once, straight from its bytes, and the answer
 * is assembled around the stored bytes. A test holds them equal to the generic way.
 */
export function hotHandlers(producer: Producer, consumer: Consumer): ReadonlyMap<string, HotHandler> {
  return new Map<string, HotHandler>([
    ["Publish", (req, reply) => publish(producer, req, reply)],
    ["PublishBatch", (req, reply) => publishBatch(producer, req, reply)],
    [
      "Poll",
      async (req, reply, route, caller) => {
        const request = decodeRequest(
          route,
          req.params as Record<string, string>,
          queryOf(req),
          undefined,
        ) as PollRequest;
        authorize(route.method, principalOf(req), request);
        validate(PollRequestSchema, request);
        await poll(consumer, request, req, reply, caller());
      },
    ],
    ["Subscribe", (req, reply, route, caller, fail) => subscribeOverHttp(consumer, req, reply, route, caller(), fail)],
    [
      "ReadPartition",
      async (req, reply, route, caller) => {
        const params = req.params as Record<string, string>;
        const request = decodeRequest(route, params, queryOf(req), undefined) as ReadPartitionRequest;
        authorize(route.method, principalOf(req), request);
        validate(ReadPartitionRequestSchema, request);
        const result = await consumer.readPartition(
          request,
          deadlineIn(DEFAULT_CALL_TIMEOUT_MS),
          caller(),
          principalOf(req),
        );
        send(reply, readBuffer(result, request.payload === PayloadFormat.DATA));
      },
    ],
  ]);
}

async function publish(producer: Producer, req: FastifyRequest, reply: FastifyReply): Promise<void> {
  authorize(EventService.method.publish, principalOf(req), { streamName: streamParam(req) });
  const stream = streamName(req);
  const key = parseIdempotencyKey(headerOf(req, "idempotency-key"));
  const fields = parsed(parsePublishBody, await readRestBody(req.raw));
  const ack = await producer.publish(stream, fields, key, deadlineIn(DEFAULT_CALL_TIMEOUT_MS));
  send(reply, publishedText(ack, Date.now()));
}

async function publishBatch(producer: Producer, req: FastifyRequest, reply: FastifyReply): Promise<void> {
  authorize(EventService.method.publishBatch, principalOf(req), { streamName: streamParam(req) });
  const stream = streamName(req);
  const idempotencyKey = parseIdempotencyKey(headerOf(req, "idempotency-key"));
  const { events, options } = parsed(parseBatchBody, await readRestBody(req.raw));
  checkOptions(options);
  const result = await producer.publishBatch(stream, {
    events: events.map((event) => (isEventError(event) ? refused(event) : event)),
    gzip: options?.compression === "gzip",
    atomic: options?.atomic ?? false,
    idempotencyKey,
    deadline: batchDeadline(deadlineIn(DEFAULT_CALL_TIMEOUT_MS), options?.timeout),
  });
  send(reply, batchText(result));
}

async function poll(
  consumer: Consumer,
  request: PollRequest,
  req: FastifyRequest,
  reply: FastifyReply,
  signal: AbortSignal,
): Promise<void> {
  const result = await consumer.poll(request, deadlineIn(DEFAULT_CALL_TIMEOUT_MS), signal, principalOf(req));
  // Whoever does not get the answer has not been handed the events.
  reply.raw.once("close", () => {
    if (!wasAnswered(reply.raw)) void result.giveBack();
  });
  if (signal.aborted) return void (await result.giveBack());
  send(reply, pollBuffer(request.consumerGroup, request.consumerId, result, request.payload === PayloadFormat.DATA));
}

function send(reply: FastifyReply, body: string | Buffer): void {
  reply.hijack();
  const length = typeof body === "string" ? Buffer.byteLength(body) : body.length;
  reply.raw.writeHead(200, {
    ...(reply.getHeaders() as OutgoingHttpHeaders),
    "content-type": "application/json; charset=utf-8",
    "content-length": length,
  });
  if (typeof body === "string") reply.raw.end(body, length === body.length ? "latin1" : "utf8");
  else reply.raw.end(body);
}

const streamParam = (req: FastifyRequest): string => (req.params as { stream_name: string }).stream_name;

function streamName(req: FastifyRequest): string {
  const name = streamParam(req);
  if (!isStreamName(name)) throw invalidArgument("streamName", "must be 1 to 128 letters, digits, _ and -");
  // Parameters belong into the body here.
  const [unknown] = Object.keys(queryOf(req));
  if (unknown !== undefined) throw invalidArgument(unknown, "is not a known parameter");
  return name;
}

const headerOf = (req: FastifyRequest, name: string): string | undefined => {
  const value = req.headers[name];
  return Array.isArray(value) ? value[0] : value;
};

function parsed<T>(parse: (body: Buffer) => T, body: Buffer): T {
  try {
    return parse(body);
  } catch (error) {
    if (!(error instanceof BodyError)) throw error;
    throw error.kind === "field" ? invalidArguments(error.violations) : notSerializable(error.message);
  }
}

function refused({ eventId, kind, violations }: EventError): RefusedEvent {
  const fault = invalidArguments(violations);
  return { eventId, error: kind === "field" ? fault : notSerializable(fault.message) };
}

function checkOptions(options: BatchOptions | undefined): void {
  if (options?.compression !== undefined && options.compression !== "none" && options.compression !== "gzip")
    throw invalidArgument("options.compression", "must be none or gzip");
  if (options?.timeout !== undefined && (options.timeout < 1 || options.timeout > MAX_CALL_TIMEOUT_MS))
    throw invalidArgument("options.timeout", `must be from 1 to ${MAX_CALL_TIMEOUT_MS}`);
}
