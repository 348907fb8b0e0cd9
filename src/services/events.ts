import { create, toJson } from "@bufbuild/protobuf";
import { type Timestamp, timestampFromMs, type Value, ValueSchema } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError, type ServiceImpl } from "@connectrpc/connect";
import {
  AssignmentSchema,
  type Event,
  EventSchema,
  type EventService,
  PayloadFormat,
  type PollResponse,
  PollResponseSchema,
  type PublishBatchResponse,
  PublishBatchResponseSchema,
  type PublishEvent,
  type PublishResponse,
  PublishResponseSchema,
  PublishStatus,
  type ReadPartitionResponse,
  ReadPartitionResponseSchema,
  type SubscribeResponse,
  SubscribeResponseSchema,
} from "../../gen/millrace/v1/events_pb.js";
import { CompressionType } from "../../gen/millrace/v1/streams_pb.js";
import { type Deadline, deadlineIn } from "../domain/deadline.ts";
import { invalidArgument, notSerializable, ServiceError, timedOut } from "../domain/errors.ts";
import { type EventFields, JSON_TYPE, type RefusedEvent, type StoredEvent } from "../domain/event.ts";
import { toCompactJson } from "../domain/json.ts";
import { DEFAULT_CALL_TIMEOUT_MS } from "../domain/limits.ts";
import { isStreamName } from "../domain/names.ts";
import type { Principal } from "../domain/principal.ts";
import { resumeToken } from "../domain/resume-token.ts";
import type { PollResult } from "../log/poll.ts";
import { principalKey } from "./access.ts";
import type { Consumer } from "./consumer.ts";
import { type CallContext, deadlineOf } from "./deadline.ts";
import { eventsField } from "./event-bytes.ts";
import { type Producer, parseIdempotencyKey } from "./producer.ts";
import type { BatchFields } from "./publish-requests.ts";
import { resultOf, resultsField } from "./publish-results.ts";
import { valueOfJson } from "./value.ts";

/** The EventService over messages; REST's hot paths call {@link Producer} and {@link Consumer} themselves. */
export function eventService(producer: Producer, consumer: Consumer): ServiceImpl<typeof EventService> {
  return {
    async publish(request, context) {
      return publishOne(producer, request.streamName, fieldsOf(request.event!), context);
    },

    async publishBatch({ streamName, events, options }, context) {
      const { compression = CompressionType.UNSPECIFIED, atomic = false, timeout } = options ?? {};
      const fields = { streamName, events: events.map(fieldsOrRefused), compression, atomic, timeout };
      return publishMany(producer, fields, context);
    },

    async *publishStream(requests, { signal, values }) {
      let stream = "";
      async function* source() {
        for await (const request of requests) {
          stream = request.streamName || stream;
          if (!isStreamName(stream)) throw invalidArgument("streamName", "must be given on the first message");
          yield {
            stream,
            fields: request.event
              ? fieldsOrRefused(request.event)
              : { eventId: undefined, error: invalidArgument("event", "is required") },
          };
        }
      }
      const deadline = () => deadlineIn(DEFAULT_CALL_TIMEOUT_MS);
      for await (const outcome of producer.publishStream(source(), deadline, values.get(principalKey), signal))
        yield { result: resultOf(outcome) };
    },

    async poll(request, context) {
      const result = await consumer.poll(request, deadlineOf(context), context.signal, principalOf(context));
      if (context.signal.aborted) {
        await result.giveBack();
        throw context.signal.reason;
      }
      const answer = create(PollResponseSchema, {
        metadata: {
          consumerGroup: request.consumerGroup,
          lag: BigInt(result.lag),
          ...assignmentFields(request.consumerId, result.assignment),
          nextOffset: BigInt(result.nextOffset),
          partitions: result.partitions.map((each) => ({
            partition: each.partition,
            nextOffset: BigInt(each.nextOffset),
            lag: BigInt(each.lag),
            ...(each.committedOffset === undefined ? {} : { committedOffset: BigInt(each.committedOffset) }),
          })),
        },
      });
      return withEvents(answer, result.events, request.payload, context);
    },

    async *subscribe(request, context) {
      const deadline = deadlineIn(DEFAULT_CALL_TIMEOUT_MS);
      const deliveries = consumer.subscribe(request, deadline, context.signal, principalOf(context));
      for await (const { events, assignment, caughtUp, heartbeat, positions } of deliveries) {
        const answer = create(SubscribeResponseSchema, { caughtUp, heartbeat });
        if (assignment) answer.assignment = assignmentMessage(assignment.consumerId, assignment);
        if (positions) answer.resumeToken = resumeToken(positions);
        yield withEvents(answer, events, request.payload, context);
      }
      const { reason } = context.signal;
      if (reason instanceof ConnectError && reason.code === Code.DeadlineExceeded)
        throw timedOut("the subscription has come to its caller's deadline");
    },

    async readPartition(request, context) {
      const { events, state, nextOffset } = await consumer.readPartition(
        request,
        deadlineOf(context),
        context.signal,
        principalOf(context),
      );
      const answer = create(ReadPartitionResponseSchema, {
        metadata: {
          startOffset: BigInt(state.startOffset),
          endOffset: BigInt(state.endOffset),
          nextOffset: BigInt(nextOffset),
        },
      });
      return withEvents(answer, events, request.payload, context);
    },
  };
}

function assignmentFields(consumerId: string | undefined, assignment: PollResult["assignment"]) {
  if (consumerId === undefined || assignment === undefined) return {};
  return { generation: BigInt(assignment.generation), assignment: assignmentMessage(consumerId, assignment) };
}

function assignmentMessage(consumerId: string, { generation, partitions }: NonNullable<PollResult["assignment"]>) {
  return create(AssignmentSchema, { consumerId, generation: BigInt(generation), partitions: [...partitions] });
}

const principalOf = ({ values }: CallContext): Principal => values.get(principalKey);

/** Publish, once its request is read. */
export async function publishOne(
  producer: Producer,
  streamName: string,
  fields: EventFields,
  context: CallContext,
): Promise<PublishResponse> {
  const key = parseIdempotencyKey(context.requestHeader.get("idempotency-key"));
  const ack = await producer.publish(streamName, fields, key, deadlineOf(context));
  return create(PublishResponseSchema, {
    eventId: ack.eventId,
    partition: ack.partition,
    offset: BigInt(ack.offset),
    timestamp: timestampFromMs(Date.now()),
    status: PublishStatus.PUBLISHED,
    ...(ack.duplicate ? { duplicate: true } : {}),
  });
}

/** PublishBatch, once its request is read. */
export async function publishMany(
  producer: Producer,
  batch: BatchFields,
  context: CallContext,
): Promise<PublishBatchResponse> {
  const { batchId, successCount, outcomes } = await producer.publishBatch(batch.streamName, {
    events: batch.events,
    gzip: batch.compression === CompressionType.GZIP,
    atomic: batch.atomic,
    idempotencyKey: parseIdempotencyKey(context.requestHeader.get("idempotency-key")),
    deadline: batchDeadline(deadlineOf(context), batch.timeout),
  });
  const failureCount = outcomes.length - successCount;
  const answer = create(PublishBatchResponseSchema, {
    batchId,
    totalEvents: outcomes.length,
    successCount,
    failureCount,
  });
  if (isBinary(context)) answer.$unknown = resultsField(outcomes);
  else answer.results = outcomes.map(resultOf);
  return answer;
}

/** A batch's own time, within the call's. */
export function batchDeadline(callDeadline: Deadline, timeoutMs: number | undefined): Deadline {
  return timeoutMs === undefined ? callDeadline : deadlineIn(timeoutMs);
}

/** An event message as fields. @throws ServiceError SERIALIZATION_ERROR for a value that JSON can't hold. */
export function fieldsOf(event: PublishEvent): EventFields {
  const { payload } = event;
  return {
    key: event.key,
    partitionKey: event.partitionKey,
    partition: event.partition,
    eventId: event.eventId,
    expectedOffset: event.expectedOffset,
    contentType: event.contentType,
    headers: headersOf(event.headers),
    data: payload.case === "data" ? payload.value : undefined,
    value: payload.case === "value" ? jsonOf(payload.value) : undefined,
  };
}

function headersOf(headers: Record<string, string>): EventFields["headers"] {
  for (const _ in headers) return Object.entries(headers);
  return undefined;
}

function fieldsOrRefused(event: PublishEvent): EventFields | RefusedEvent {
  try {
    return fieldsOf(event);
  } catch (error) {
    if (error instanceof ServiceError) return { eventId: event.eventId, error };
    throw error;
  }
}

function jsonOf(value: Value): Uint8Array {
  try {
    // Also checks the depth, which the JSON scanner bounds.
    return toCompactJson(Buffer.from(JSON.stringify(toJson(ValueSchema, value))));
  } catch (error) {
    throw notSerializable(`value: ${(error as Error).message}`);
  }
}

/** Puts events into an answer, already encoded where the caller wants bytes in a binary protocol. */
function withEvents<M extends PollResponse | SubscribeResponse | ReadPartitionResponse>(
  answer: M,
  events: readonly StoredEvent[],
  format: PayloadFormat,
  context: CallContext,
): M {
  if (format === PayloadFormat.DATA && isBinary(context)) answer.$unknown = eventsField(events);
  else answer.events = events.map((event) => messageOf(event, format));
  return answer;
}

/** Whether the answer leaves in protobuf's binary form. */
const isBinary = ({ requestHeader }: CallContext): boolean => BINARY_TYPE.test(requestHeader.get("content-type") ?? "");
const BINARY_TYPE = /^application\/((connect\+)?proto|grpc(-web)?(\+proto)?)$/;

/** One event as a message. */
export function messageOf(event: StoredEvent, format: PayloadFormat): Event {
  const message = create(EventSchema, {
    eventId: event.eventId,
    partition: event.partition,
    offset: BigInt(event.offset),
    timestamp: timestampFromMs(event.timestampMs) as Timestamp,
  });
  if (event.key !== undefined) message.key = event.key;
  if (event.deliveryAttempt !== undefined) message.deliveryAttempt = event.deliveryAttempt;
  if (event.headers) for (const [name, value] of event.headers) defineEntry(message.headers, name, value);
  const value =
    format === PayloadFormat.DATA || event.contentType !== JSON_TYPE ? undefined : valueOfJson(event.payload);
  if (value) message.payload = { case: "value", value };
  else {
    message.payload = { case: "data", value: event.payload };
    message.contentType = event.contentType;
  }
  return message;
}

/** Sets a member whatever its name, `__proto__` too. */
function defineEntry(target: Record<string, string>, name: string, value: string): void {
  if (name === "__proto__")
    Object.defineProperty(target, name, { value, enumerable: true, configurable: true, writable: true });
  else target[name] = value;
}
