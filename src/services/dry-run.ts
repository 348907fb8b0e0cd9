import { create, fromJson, type JsonValue, type MessageInitShape } from "@bufbuild/protobuf";
import { timestampFromMs, timestampMs, ValueSchema } from "@bufbuild/protobuf/wkt";
import type { ServiceImpl } from "@connectrpc/connect";
import { PublishEventSchema } from "../../gen/millrace/v1/events_pb.js";
import {
  type DryRunEvent,
  type DryRunRequest,
  type DryRunStepSchema,
  type ProcessorService,
  StepOutcome,
} from "../../gen/millrace/v1/processors_pb.js";
import { invalidArgument } from "../domain/errors.ts";
import { newEvent, type StoredEvent } from "../domain/event.ts";
import type { DryRunPiece, DryRuns } from "../processing/dry-runs.ts";
import type { Processors } from "../processing/processors.ts";
import type { TraceStep } from "../processing/trace.ts";
import { deadlineOf } from "./deadline.ts";
import { fieldsOf } from "./events.ts";
import { operationFields } from "./operations.ts";
import { checkShown } from "./shown.ts";
import { valueOfJson } from "./value.ts";

const DEFAULT_TIMEOUT_MS = 2000;
const CALL_MS = 30_000;
const DEFAULT_LIMIT = 10;
/** Times beyond have no windows that a timestamp can hold. */
const MAX_TIME_MS = Date.UTC(3000, 0, 1) - 1;

/** The part of the ProcessorService that tries operations out. */
export function dryRunCalls(
  dryRuns: DryRuns,
  processors: Processors,
): Pick<ServiceImpl<typeof ProcessorService>, "dryRun"> {
  return {
    async dryRun(request, context) {
      const { processorId, operations } = request;
      if ((processorId === undefined) === (operations.length === 0))
        throw invalidArgument("operations", "give either operations or processorId");
      if (processorId !== undefined) await checkShown(processors, processorId, context);
      const answer = await dryRuns.run(
        {
          processorId,
          operations: operations.map(operationFields),
          events: eventsOf(request),
          timeoutMs: request.timeout ?? DEFAULT_TIMEOUT_MS,
        },
        deadlineOf(context, CALL_MS),
        context.signal,
      );
      return {
        events: answer.events.map(({ partition, offset, steps }) => ({
          partition,
          offset: BigInt(offset),
          steps: steps.map(stepMessage),
        })),
        results: answer.results.map(({ start, end, group, count, value, steps }) => ({
          windowStart: timestampFromMs(start),
          windowEnd: timestampFromMs(end),
          ...(group === undefined ? {} : { group: valueOfText(group)! }),
          eventsCount: BigInt(count),
          ...optionalValue(value),
          steps: steps.map(stepMessage),
        })),
        ...(answer.incomplete === undefined ? {} : { incomplete: answer.incomplete }),
      };
    },
  };
}

function eventsOf({ events, source }: DryRunRequest): StoredEvent[] | DryRunPiece {
  if ((events.length === 0) === (source === undefined)) throw invalidArgument("events", "give either events or source");
  if (!source) return events.map(storedEvent);
  const { stream, partition = 0, offset = "earliest", limit = DEFAULT_LIMIT } = source;
  if (offset !== "earliest" && !/^\d{1,15}$/.test(offset))
    throw invalidArgument("source.offset", "must be earliest or an offset");
  return { stream, partition, from: offset === "earliest" ? offset : Number(offset), limit };
}

function storedEvent(event: DryRunEvent, index: number): StoredEvent {
  const { key, payload, contentType, headers, partition = 0, timestamp } = event;
  const fields = fieldsOf(
    create(PublishEventSchema, {
      payload,
      headers,
      ...(key === undefined ? {} : { key }),
      ...(contentType === undefined ? {} : { contentType }),
    }),
  );
  const made = newEvent(fields, `events[${index}].`);
  const timeMs = timestamp ? timestampMs(timestamp) : Date.now();
  if (!(timeMs >= 0 && timeMs <= MAX_TIME_MS))
    throw invalidArgument(`events[${index}].timestamp`, "must be from 1970 to 2999");
  return {
    eventId: `dry_${index}`,
    partition,
    offset: index,
    timestampMs: Math.floor(timeMs),
    key: made.key,
    headers: made.headers,
    payload: made.payload,
    contentType: made.contentType,
  };
}

const OUTCOMES: Record<TraceStep["outcome"], StepOutcome> = {
  passed: StepOutcome.PASSED,
  dropped: StepOutcome.DROPPED,
  failed: StepOutcome.FAILED,
  windowed: StepOutcome.WINDOWED,
  late: StepOutcome.LATE,
};

function stepMessage(step: TraceStep): MessageInitShape<typeof DryRunStepSchema> {
  const { operation, outcome, value, error, part, eventTimeMs, windows = [], group } = step;
  return {
    operation,
    outcome: OUTCOMES[outcome],
    ...optionalValue(value),
    ...(error === undefined ? {} : { error }),
    ...(part === undefined ? {} : { part }),
    ...(eventTimeMs === undefined ? {} : { eventTime: timestampFromMs(eventTimeMs) }),
    windows: windows.map(([start, end]) => ({ windowStart: timestampFromMs(start), windowEnd: timestampFromMs(end) })),
    ...(group === undefined ? {} : { group: valueOfText(group)! }),
  };
}

/** A value nested too deeply for a message is left out. */
function optionalValue(text: string | undefined) {
  const value = text === undefined ? undefined : valueOfJson(Buffer.from(text));
  return value ? { value } : {};
}

const valueOfText = (text: string) => create(ValueSchema, fromJson(ValueSchema, JSON.parse(text) as JsonValue));
