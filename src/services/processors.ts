import { create, fromJson, type JsonValue, type MessageInitShape } from "@bufbuild/protobuf";
import { timestampFromMs, ValueSchema } from "@bufbuild/protobuf/wkt";
import type { HandlerContext, ServiceImpl } from "@connectrpc/connect";
import {
  DeleteProcessorStatus,
  type GetProcessorMetricsResponseSchema,
  type ProcessorConfig,
  type ProcessorMetricsSchema,
  type ProcessorSchema,
  type ProcessorService,
  ProcessorStatus,
  StartPosition,
  TruncationPolicy,
} from "../../gen/millrace/v1/processors_pb.js";
import { type Deadline, deadlineIn, pauseUntil } from "../domain/deadline.ts";
import { invalidArgument, resourceNotFound, unavailable } from "../domain/errors.ts";
import { mapLimit } from "../domain/map-limit.ts";
import { groupNameFault } from "../domain/names.ts";
import type { JetStream } from "../jetstream/connection.ts";
import { type GroupView, readWindow, type StatusWord } from "../processing/inspect.ts";
import type { Processors, ProcessorView, SettingsFields } from "../processing/processors.ts";
import type { SavepointStore } from "../processing/savepoint-store.ts";
import { isProcessorNotFound } from "../processing/store.ts";
import { mayUseProcessor, principalKey } from "./access.ts";
import { deadlineOf } from "./deadline.ts";
import { operationFields, operationMessage } from "./operations.ts";
import { parseIdempotencyKey } from "./producer.ts";
import type { OwnerOf } from "./quotas.ts";
import { checkShown, shownSavepoint } from "./shown.ts";
import { createdKey } from "./streams.ts";

const DEFAULT_PAGE = 100;
const DEFAULT_GROUPS = 1000;
const DEFAULT_WATCH_MS = 1000;
/** Creating waits until the processor runs. */
export const LIFE_CYCLE_MS = 30_000;

/** The calls of the ProcessorService that other files hold. */
type Elsewhere =
  | "dryRun"
  | "listSideEvents"
  | "restoreProcessor"
  | `${"create" | "get" | "delete"}Savepoint`
  | "listSavepoints";

/** The part of the ProcessorService that creates, changes and describes processors. @param draining ends watches. */
export function processorService(
  js: JetStream,
  processors: Processors,
  savepoints: SavepointStore,
  ownerOf: OwnerOf,
  draining: AbortSignal,
): Omit<ServiceImpl<typeof ProcessorService>, Elsewhere> {
  const checkUsable = (id: string, context: HandlerContext) => checkShown(processors, id, context);
  return {
    async createProcessor(request, context) {
      const fault = groupNameFault(request.name);
      if (fault) throw invalidArgument("name", fault);
      const { savepoint } = request;
      if (savepoint !== undefined) await shownSavepoint(savepoints, savepoint, context, deadlineOf(context));
      const view = await processors.create(
        {
          name: request.name,
          source: request.source,
          operations: request.operations.map(operationFields),
          sink: request.sink,
          settings: settingsOf(request.config),
          savepoint,
          idempotencyKey: parseIdempotencyKey(context.requestHeader.get("idempotency-key")),
          owner: ownerOf(context.values.get(principalKey)),
        },
        deadlineOf(context, LIFE_CYCLE_MS),
      );
      context.values.set(createdKey, view.created);
      return { processor: processorMessage(view) };
    },

    async getProcessor(request, context) {
      await checkUsable(request.processorId, context);
      return { processor: processorMessage(await processors.get(request.processorId, deadlineOf(context))) };
    },

    async listProcessors(request, context) {
      const deadline = deadlineOf(context);
      const size = request.pageSize ?? DEFAULT_PAGE;
      const { rights } = context.values.get(principalKey);
      const found = processors.list(request.pageToken ?? "", size + 1, (record) => mayUseProcessor(rights, record));
      const page = found.slice(0, size);
      const views = await mapLimit(page, 8, (record) =>
        processors.view(record, deadline).catch((error: unknown) => {
          // Deleted meanwhile.
          if (isProcessorNotFound(error)) return undefined;
          throw error;
        }),
      );
      return {
        processors: views.filter((view) => view !== undefined).map(processorMessage),
        ...(found.length > size ? { nextPageToken: page.at(-1)!.id } : {}),
      };
    },

    async updateProcessor(request, context) {
      await checkUsable(request.processorId, context);
      const view = await processors.update(
        request.processorId,
        {
          operations: request.operations.length === 0 ? undefined : request.operations.map(operationFields),
          sink: request.sink,
          settings: settingsOf(request.config),
          start: STARTS.get(request.start),
          owner: ownerOf(context.values.get(principalKey)),
        },
        deadlineOf(context, LIFE_CYCLE_MS),
      );
      return { processor: processorMessage(view) };
    },

    async deleteProcessor({ processorId }, context) {
      await checkUsable(processorId, context);
      await processors.delete(processorId, deadlineOf(context, LIFE_CYCLE_MS));
      return { status: DeleteProcessorStatus.DELETED, processorId, deletedAt: timestampFromMs(Date.now()) };
    },

    async pauseProcessor({ processorId }, context) {
      await checkUsable(processorId, context);
      return { processor: processorMessage(await processors.pause(processorId, deadlineOf(context, LIFE_CYCLE_MS))) };
    },

    async resumeProcessor({ processorId }, context) {
      await checkUsable(processorId, context);
      return { processor: processorMessage(await processors.resume(processorId, deadlineOf(context, LIFE_CYCLE_MS))) };
    },

    async resetProcessor(request, context) {
      await checkUsable(request.processorId, context);
      const start = STARTS.get(request.start) ?? "earliest";
      if (start === "checkpoint") throw invalidArgument("start", "must be earliest or latest");
      const view = await processors.reset(request.processorId, start, deadlineOf(context, LIFE_CYCLE_MS));
      return { processor: processorMessage(view) };
    },

    async getProcessorMetrics(request, context) {
      await checkUsable(request.processorId, context);
      return metricsMessage(await processors.get(request.processorId, deadlineOf(context)));
    },

    async *watchMetrics(request, context) {
      await checkUsable(request.processorId, context);
      const interval = request.interval ?? DEFAULT_WATCH_MS;
      const signal = AbortSignal.any([context.signal, draining]);
      while (!signal.aborted) {
        yield { metrics: metricsMessage(await processors.get(request.processorId, deadlineIn(LIFE_CYCLE_MS))) };
        await pauseUntil(deadlineIn(interval), signal);
      }
      if (draining.aborted) throw unavailable("this gateway is stopping: watch again");
    },

    async getWindow(request, context) {
      await checkUsable(request.processorId, context);
      const deadline: Deadline = deadlineOf(context);
      const startMs = parseTime(request.windowStart);
      const { record, window } = await processors.during(request.processorId, async () => {
        const found = await processors.record(request.processorId, deadline);
        return { record: found, window: await readWindow(js, found, startMs, deadline) };
      });
      if (!window) throw resourceNotFound(`there is no window that starts at ${new Date(startMs).toISOString()}`);
      const size = request.pageSize ?? DEFAULT_GROUPS;
      const after = request.pageToken;
      const rest = after === undefined ? window.groups : window.groups.filter(({ group }) => group > after);
      const page = rest.slice(0, size);
      return {
        processorId: record.id,
        windowStart: timestampFromMs(startMs),
        windowEnd: timestampFromMs(window.end),
        eventsCount: BigInt(window.groups.reduce((sum, { count }) => sum + count, 0)),
        closed: window.closed,
        groups: page.map((view) => groupMessage(view, record.topology.stage?.groupBy !== undefined)),
        ...(rest.length > size ? { nextPageToken: page.at(-1)!.group } : {}),
      };
    },
  };
}

const STARTS: ReadonlyMap<StartPosition, "earliest" | "latest" | "checkpoint"> = new Map([
  [StartPosition.EARLIEST, "earliest"],
  [StartPosition.LATEST, "latest"],
  [StartPosition.CHECKPOINT, "checkpoint"],
]);

const STATUSES: Record<StatusWord, ProcessorStatus> = {
  starting: ProcessorStatus.STARTING,
  running: ProcessorStatus.RUNNING,
  paused: ProcessorStatus.PAUSED,
  degraded: ProcessorStatus.DEGRADED,
  failed: ProcessorStatus.FAILED,
  stopped: ProcessorStatus.STOPPED,
};

function settingsOf(config: ProcessorConfig | undefined): SettingsFields {
  const start = config && STARTS.get(config.startFrom);
  if (start === "checkpoint") throw invalidArgument("config.startFrom", "must be earliest or latest");
  return {
    parallelism: config?.parallelism,
    checkpointIntervalMs: config?.checkpointInterval === undefined ? undefined : Number(config.checkpointInterval),
    startFrom: start,
    idleTimeoutMs: config?.idleTimeout === undefined ? undefined : Number(config.idleTimeout),
    onTruncation:
      config?.onTruncation === TruncationPolicy.CONTINUE
        ? "continue"
        : config?.onTruncation === TruncationPolicy.FAIL
          ? "fail"
          : undefined,
  };
}

export function processorMessage(view: ProcessorView): MessageInitShape<typeof ProcessorSchema> {
  const { record, status, reason } = view;
  const { settings } = record;
  return {
    processorId: record.id,
    name: record.name,
    source: record.source,
    operations: record.operations.map(operationMessage),
    sink: record.sink,
    config: {
      parallelism: settings.parallelism,
      checkpointInterval: BigInt(settings.checkpointIntervalMs),
      startFrom: settings.startFrom === "latest" ? StartPosition.LATEST : StartPosition.EARLIEST,
      idleTimeout: BigInt(settings.idleTimeoutMs),
      onTruncation: settings.onTruncation === "continue" ? TruncationPolicy.CONTINUE : TruncationPolicy.FAIL,
    },
    status: STATUSES[status],
    ...(reason === undefined ? {} : { statusReason: reason }),
    generation: record.generation,
    createdAt: timestampFromMs(record.createdAtMs),
    metrics: totals(view),
  };
}

function totals({ metrics }: ProcessorView): MessageInitShape<typeof ProcessorMetricsSchema> {
  const { counts, perSecond, latencyMs, lag } = metrics;
  return {
    eventsProcessed: BigInt(counts.processed),
    throughput: rounded(perSecond),
    avgLatency: rounded(latencyMs),
    lag: BigInt(lag),
    errorRate: counts.processed === 0 ? 0 : Math.min(1, counts.errors / counts.processed),
  };
}

const rounded = (value: number): number => Math.round(value * 1000) / 1000;

function metricsMessage(view: ProcessorView): MessageInitShape<typeof GetProcessorMetricsResponseSchema> {
  const { record, status, reason, metrics } = view;
  const { counts } = metrics;
  return {
    processorId: record.id,
    status: STATUSES[status],
    metrics: totals(view),
    windows: metrics.windows.map(({ start, end, count, closed }) => ({
      windowStart: timestampFromMs(start),
      windowEnd: timestampFromMs(end),
      eventsCount: BigInt(count),
      closed,
    })),
    ...(reason === undefined ? {} : { statusReason: reason }),
    counters: {
      filtered: BigInt(counts.filtered),
      errors: BigInt(counts.errors),
      deadLetters: BigInt(counts.deadLetters),
      late: BigInt(counts.late),
      emitted: BigInt(counts.emitted),
    },
    partitions: metrics.partitions.map((each) => ({
      partition: each.partition,
      nextOffset: BigInt(each.nextOffset),
      lag: BigInt(each.lag),
      ...(each.watermark === null ? {} : { watermark: timestampFromMs(each.watermark) }),
      idle: each.idle,
      holdsWatermark: each.holds,
    })),
  };
}

function groupMessage(view: GroupView, isGrouped: boolean) {
  const values = Object.fromEntries(view.results.map(([name, json]) => [name, JSON.parse(json) as JsonValue]));
  return {
    ...(isGrouped ? { group: valueMessage(JSON.parse(view.group) as JsonValue) } : {}),
    eventsCount: BigInt(view.count),
    values,
    windowEnd: timestampFromMs(view.end),
  };
}

const valueMessage = (json: JsonValue) => create(ValueSchema, fromJson(ValueSchema, json));

/** An RFC 3339 text or milliseconds since 1970. */
function parseTime(text: string): number {
  const found = /^-?\d{1,15}$/.test(text) ? Number(text) : Date.parse(text);
  if (Number.isFinite(found) && Math.abs(found) <= 8.64e15) return found;
  throw invalidArgument("windowStart", "must be an RFC 3339 text or milliseconds since 1970");
}
