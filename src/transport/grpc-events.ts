import { EventService } from "../../gen/millrace/v1/events_pb.js";
import { CompressionType } from "../../gen/millrace/v1/streams_pb.js";
import { isSurelyFine } from "../domain/event.ts";
import { MAX_BATCH_EVENTS, MAX_CALL_TIMEOUT_MS } from "../domain/limits.ts";
import { isStreamName } from "../domain/names.ts";
import { authorize } from "../services/access.ts";
import { publishMany, publishOne } from "../services/events.ts";
import type { Producer } from "../services/producer.ts";
import { type BatchFields, readBatch, readPublish } from "../services/publish-requests.ts";
import type { BytesCall } from "./grpc-unary.ts";

/**
 * gRPC's hot paths, by the RPC that each stands for: publishing straight from the request's bytes. What is not in the
 * usual form, or breaks a rule of the schema, is left to the generic way, which knows what to say about it.
 */
export function hotCalls(producer: Producer): ReadonlyMap<string, BytesCall> {
  return new Map<string, BytesCall>([
    [
      "Publish",
      (bytes, context, principal) => {
        const request = readPublish(bytes);
        if (request) authorize(EventService.method.publish, principal, { streamName: request.streamName });
        if (!request || !isStreamName(request.streamName) || !isSurelyFine(request.event)) return undefined;
        return publishOne(producer, request.streamName, request.event, context);
      },
    ],
    [
      "PublishBatch",
      (bytes, context, principal) => {
        const batch = readBatch(bytes);
        if (batch) authorize(EventService.method.publishBatch, principal, { streamName: batch.streamName });
        return batch && keepsRules(batch) ? publishMany(producer, batch, context) : undefined;
      },
    ],
  ]);
}

/** The schema's rules for a batch; each event is checked by itself. */
function keepsRules({ streamName, events, compression, timeout }: BatchFields): boolean {
  return (
    isStreamName(streamName) &&
    events.length >= 1 &&
    events.length <= MAX_BATCH_EVENTS &&
    compression <= CompressionType.GZIP &&
    (timeout === undefined || (timeout >= 1 && timeout <= MAX_CALL_TIMEOUT_MS))
  );
}
