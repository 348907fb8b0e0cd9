import { create } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import type { ServiceImpl } from "@connectrpc/connect";
import { PayloadFormat } from "../../gen/millrace/v1/events_pb.js";
import {
  type ProcessorService,
  type SideEvent,
  SideEventSchema,
  SideKind,
} from "../../gen/millrace/v1/processors_pb.js";
import { invalidArgument } from "../domain/errors.ts";
import { JSON_TYPE } from "../domain/event.ts";
import { validateJson } from "../domain/json.ts";
import type { JetStream } from "../jetstream/connection.ts";
import type { Processors } from "../processing/processors.ts";
import { readSideEvents, type SideRecord } from "../processing/side-reader.ts";
import { deadlineOf } from "./deadline.ts";
import { messageOf } from "./events.ts";
import { checkShown } from "./shown.ts";

const DEFAULT_PAGE = 100;
const MAX_BYTES = 8 * 1024 * 1024;
const CALL_MS = 10_000;
const TOKEN = /^\d{1,15}$/;

/** The part of the ProcessorService that answers what was set aside. @param draining ends the waits. */
export function sideEventCalls(
  js: JetStream,
  processors: Processors,
  draining: AbortSignal,
): Pick<ServiceImpl<typeof ProcessorService>, "listSideEvents"> {
  return {
    async listSideEvents(request, context) {
      const waitMs = request.timeout ?? 0;
      const deadline = deadlineOf(context, CALL_MS + waitMs);
      const token = request.pageToken ?? "";
      if (token !== "" && !TOKEN.test(token)) throw invalidArgument("pageToken", "is none that an answer gave");
      await checkShown(processors, request.processorId, context);
      const { id } = await processors.record(request.processorId, deadline);
      const query = {
        kind: KINDS.get(request.kind),
        after: Number(token),
        limit: request.pageSize ?? DEFAULT_PAGE,
        maxBytes: MAX_BYTES,
        waitMs: Math.min(waitMs, Math.max(0, deadline - performance.now() - 500)),
      };
      const signal = AbortSignal.any([context.signal, draining]);
      const found = await readSideEvents(js, id, query, deadline, signal);
      return { events: found.map(sideMessage), nextPageToken: String(found.at(-1)?.seq ?? query.after) };
    },
  };
}

const KINDS: ReadonlyMap<SideKind, "dlq" | "late"> = new Map([
  [SideKind.DLQ, "dlq"],
  [SideKind.LATE, "late"],
]);

function sideMessage({ setAsideAtMs, meta, event }: SideRecord): SideEvent {
  const { eventId, payload, contentType, headers, timestamp } = messageOf(event, formatOf(event));
  return create(SideEventSchema, {
    kind: meta.kind === "late" ? SideKind.LATE : SideKind.DLQ,
    reason: meta.reason,
    operation: meta.operation,
    generation: meta.generation,
    setAsideAt: timestampFromMs(setAsideAtMs),
    stream: meta.source,
    ...(meta.isResult ? {} : { partition: meta.partition, offset: BigInt(meta.offset) }),
    eventId,
    ...(timestamp ? { timestamp } : {}),
    ...(meta.key === undefined ? {} : { key: meta.key }),
    payload,
    ...(contentType === undefined ? {} : { contentType }),
    headers,
    ...(meta.headersLeftOut ? { headersLeftOut: true } : {}),
  });
}

/** A side event may be one that is not what its content type says, written past Millrace. */
function formatOf({ contentType, payload }: SideRecord["event"]): PayloadFormat {
  if (contentType !== JSON_TYPE) return PayloadFormat.DATA;
  try {
    validateJson(payload);
    return PayloadFormat.VALUE;
  } catch {
    return PayloadFormat.DATA;
  }
}
