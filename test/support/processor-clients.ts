import type { DescMethodUnary } from "@bufbuild/protobuf";
import { FunctionService } from "../../gen/millrace/v1/functions_pb.js";
import { ProcessorService } from "../../gen/millrace/v1/processors_pb.js";
import { TableService } from "../../gen/millrace/v1/tables_pb.js";

/** The calls for processors and tables over every protocol; the answers have the form that they have over REST. */
export interface ProcessorApi {
  create(request: NewProcessor, idempotencyKey?: string): Promise<ProcessorInfo>;
  get(processorId: string): Promise<ProcessorInfo>;
  list(request?: PageRequest): Promise<{ processors: ProcessorInfo[]; nextPageToken?: string }>;
  update(processorId: string, change: ProcessorChange): Promise<ProcessorInfo>;
  delete(processorId: string): Promise<{ status: string; processorId: string; deletedAt: string }>;
  pause(processorId: string): Promise<ProcessorInfo>;
  resume(processorId: string): Promise<ProcessorInfo>;
  reset(processorId: string, start?: StartWord): Promise<ProcessorInfo>;
  metrics(processorId: string): Promise<MetricsAnswer>;
  window(processorId: string, windowStart: string, page?: PageRequest): Promise<WindowAnswer>;
  dryRun(request: DryRunRequest): Promise<DryRunAnswer>;
  sideEvents(processorId: string, request?: SideEventsRequest): Promise<SideEventsAnswer>;
  createSavepoint(processorId: string, name: string): Promise<SavepointInfo>;
  getSavepoint(name: string): Promise<SavepointInfo>;
  listSavepoints(
    request?: PageRequest & { processorId?: string },
  ): Promise<{ savepoints: SavepointInfo[]; nextPageToken?: string }>;
  deleteSavepoint(name: string): Promise<object>;
  restore(processorId: string, savepoint: string): Promise<ProcessorInfo>;
  putFunction(name: string, body: FunctionRequest): Promise<FunctionInfo>;
  getFunction(name: string): Promise<FunctionInfo>;
  listFunctions(page?: PageRequest): Promise<{ functions: FunctionInfo[]; nextPageToken?: string }>;
  deleteFunction(name: string): Promise<object>;
  putRow(table: string, key: string, value: unknown): Promise<TableRow>;
  putRows(table: string, rows: readonly { key: string; value: unknown }[]): Promise<{ rowCount: number }>;
  getRow(table: string, key: string): Promise<TableRow>;
  listRows(table: string, page?: PageRequest): Promise<{ rows: TableRow[]; nextPageToken?: string }>;
  deleteRow(table: string, key: string): Promise<object>;
}

export type StartWord = "earliest" | "latest" | "checkpoint";
export interface PageRequest {
  pageSize?: number;
  pageToken?: string;
}
export interface OperationRequest {
  type?: "filter" | "map" | "window" | "aggregate";
  predicate?: string;
  function?: string;
  expression?: string;
  project?: { merge?: Record<string, string>; replace?: Record<string, string> };
  windowType?: "tumbling" | "hopping" | "session";
  duration?: number;
  advance?: number;
  gap?: number;
  grace?: number;
  timestampField?: string;
  aggregation?: "count" | "sum" | "avg" | "min" | "max" | "first" | "last" | "distinct_count";
  groupBy?: string;
  field?: string;
  as?: string;
  onError?: "dlq" | "skip" | "fail";
}
export interface ProcessorSettings {
  parallelism?: number;
  checkpointInterval?: number;
  startFrom?: StartWord;
  idleTimeout?: number;
  onTruncation?: "fail" | "continue";
}
export interface NewProcessor {
  name: string;
  source: string;
  operations: readonly OperationRequest[];
  sink: string;
  config?: ProcessorSettings;
  savepoint?: string;
}
export interface DryRunRequest {
  processorId?: string;
  operations?: readonly OperationRequest[];
  events?: readonly {
    key?: string;
    value?: unknown;
    data?: string;
    contentType?: string;
    headers?: Record<string, string>;
    partition?: number;
    timestamp?: string;
  }[];
  source?: { stream?: string; partition?: number; offset?: string; limit?: number };
  timeout?: number;
}
export interface DryRunStep {
  operation: number;
  outcome: "passed" | "dropped" | "failed" | "windowed" | "late";
  value?: unknown;
  error?: string;
  part?: number;
  eventTime?: string;
  windows?: { windowStart: string; windowEnd: string }[];
  group?: unknown;
}
export interface DryRunAnswer {
  events: { partition: number; offset: number; steps: DryRunStep[] }[];
  results: {
    windowStart: string;
    windowEnd: string;
    group?: unknown;
    eventsCount: number;
    value: unknown;
    steps: DryRunStep[];
  }[];
  incomplete?: string;
}
export interface SideEventsRequest extends PageRequest {
  kind?: "dlq" | "late";
  timeout?: number;
}
export interface SideEventsAnswer {
  events: {
    kind: "dlq" | "late";
    reason: string;
    operation: number;
    generation: number;
    setAsideAt: string;
    stream: string;
    partition?: number;
    offset?: number;
    eventId: string;
    timestamp: string;
    key?: string;
    value?: unknown;
    data?: string;
    contentType?: string;
    headers?: Record<string, string>;
    headersLeftOut?: boolean;
  }[];
  nextPageToken: string;
}
export interface SavepointInfo {
  name: string;
  processorId: string;
  generation: number;
  source: string;
  parallelism: number;
  createdAt: string;
  partitions: { partition: number; nextOffset: number }[];
  size: number;
}
export interface FunctionRequest {
  cel?: { expression?: string; merge?: Record<string, string>; replace?: Record<string, string> };
  lookup?: { table: string; key: string; into: string; onMissing?: "pass" | "null" | "drop" | "error" };
}
export interface FunctionInfo extends FunctionRequest {
  name: string;
  version: string;
  origin: "shipped" | "installed" | "module";
  module?: { file: string };
  installedAt?: string;
}
export interface ProcessorChange {
  operations?: readonly OperationRequest[];
  sink?: string;
  config?: ProcessorSettings;
  start?: StartWord;
}
export interface ProcessorTotals {
  eventsProcessed: number;
  throughput: number;
  avgLatency: number;
  lag: number;
  errorRate: number;
}
export interface ProcessorInfo extends NewProcessor {
  processorId: string;
  config: ProcessorSettings;
  status: string;
  statusReason?: string;
  generation: number;
  createdAt: string;
  metrics: ProcessorTotals;
}
export interface MetricsAnswer {
  processorId: string;
  status: string;
  statusReason?: string;
  metrics: ProcessorTotals;
  windows: { windowStart: string; windowEnd: string; eventsCount: number; closed: boolean }[];
  counters: { filtered: number; errors: number; deadLetters: number; late: number; emitted: number };
  partitions: {
    partition: number;
    nextOffset: number;
    lag: number;
    watermark?: string;
    idle: boolean;
    holdsWatermark: boolean;
  }[];
}
export interface WindowAnswer {
  processorId: string;
  windowStart: string;
  windowEnd: string;
  eventsCount: number;
  closed: boolean;
  groups: { group?: unknown; eventsCount: number; values: Record<string, unknown>; windowEnd: string }[];
  nextPageToken?: string;
}
export interface TableRow {
  key: string;
  value: unknown;
  updatedAt: string;
}

/** One REST call; `path` begins after `/api/v1`. */
export type RestCall = <T>(
  method: string,
  path: string,
  query?: object,
  body?: unknown,
  options?: { headers?: Readonly<Record<string, string>> },
) => Promise<T>;

/** One RPC, with the request and the answer as plain objects. */
export type RpcCall = <T>(
  method: DescMethodUnary,
  request: object,
  options?: { headers?: Readonly<Record<string, string>> },
) => Promise<T>;

const idempotency = (key: string | undefined) => (key === undefined ? {} : { headers: { "idempotency-key": key } });

/** @param part encodes one part of a path. */
export function restProcessors(call: RestCall, part: (text: string) => string): ProcessorApi {
  const at = (id: string, more = "") => `/processors/${part(id)}${more}`;
  const rows = (table: string) => `/tables/${part(table)}/rows`;
  const row = (table: string, key: string) => `${rows(table)}/${part(key)}`;
  return {
    create: (request, key) => call("POST", "/processors", {}, request, idempotency(key)),
    get: (id) => call("GET", at(id)),
    list: (request) => call("GET", "/processors", request),
    update: (id, change) => call("PATCH", at(id), {}, change),
    delete: (id) => call("DELETE", at(id)),
    pause: (id) => call("POST", at(id, "/pause")),
    resume: (id) => call("POST", at(id, "/resume")),
    reset: (id, start) => call("POST", at(id, "/reset"), {}, start === undefined ? {} : { start }),
    metrics: (id) => call("GET", at(id, "/metrics")),
    window: (id, windowStart, page) => call("GET", at(id, `/windows/${part(windowStart)}`), page),
    dryRun: (request) => call("POST", "/processors:dryRun", {}, request),
    sideEvents: (id, request) => call("GET", at(id, "/sideEvents"), request),
    createSavepoint: (id, name) => call("POST", at(id, "/savepoints"), {}, { name }),
    getSavepoint: (name) => call("GET", `/savepoints/${part(name)}`),
    listSavepoints: (request) => call("GET", "/savepoints", request),
    deleteSavepoint: (name) => call("DELETE", `/savepoints/${part(name)}`),
    restore: (id, savepoint) => call("POST", at(id, "/restore"), {}, { savepoint }),
    putFunction: (name, body) => call("PUT", `/functions/${part(name)}`, {}, body),
    getFunction: (name) => call("GET", `/functions/${part(name)}`),
    listFunctions: (page) => call("GET", "/functions", page),
    deleteFunction: (name) => call("DELETE", `/functions/${part(name)}`),
    putRow: (table, key, value) => call("PUT", row(table, key), {}, { value }),
    putRows: (table, list) => call("POST", rows(table), {}, { rows: list }),
    getRow: (table, key) => call("GET", row(table, key)),
    listRows: (table, page) => call("GET", rows(table), page),
    deleteRow: (table, key) => call("DELETE", row(table, key)),
  };
}

export function rpcProcessors(call: RpcCall): ProcessorApi {
  const { method } = ProcessorService;
  const tables = TableService.method;
  const functions = FunctionService.method;
  type Answer = { processor: ProcessorInfo };
  const processor = async (rpc: DescMethodUnary, request: object, key?: string) =>
    (await call<Answer>(rpc, request, idempotency(key))).processor;
  return {
    create: (request, key) => processor(method.createProcessor, request, key),
    get: (processorId) => processor(method.getProcessor, { processorId }),
    list: (request = {}) => call(method.listProcessors, request),
    update: (processorId, change) => processor(method.updateProcessor, { processorId, ...change }),
    delete: (processorId) => call(method.deleteProcessor, { processorId }),
    pause: (processorId) => processor(method.pauseProcessor, { processorId }),
    resume: (processorId) => processor(method.resumeProcessor, { processorId }),
    reset: (processorId, start) => processor(method.resetProcessor, { processorId, start }),
    metrics: (processorId) => call(method.getProcessorMetrics, { processorId }),
    window: (processorId, windowStart, page) => call(method.getWindow, { processorId, windowStart, ...page }),
    dryRun: (request) => call(method.dryRun, request),
    sideEvents: (processorId, request) => call(method.listSideEvents, { processorId, ...request }),
    createSavepoint: async (processorId, name) =>
      (await call<{ savepoint: SavepointInfo }>(method.createSavepoint, { processorId, name })).savepoint,
    getSavepoint: async (name) => (await call<{ savepoint: SavepointInfo }>(method.getSavepoint, { name })).savepoint,
    listSavepoints: (request = {}) => call(method.listSavepoints, request),
    deleteSavepoint: (name) => call(method.deleteSavepoint, { name }),
    restore: (processorId, savepoint) => processor(method.restoreProcessor, { processorId, savepoint }),
    putFunction: async (name, body) =>
      (await call<{ function: FunctionInfo }>(functions.putFunction, { name, ...body })).function,
    getFunction: async (name) => (await call<{ function: FunctionInfo }>(functions.getFunction, { name })).function,
    listFunctions: (page = {}) => call(functions.listFunctions, page),
    deleteFunction: (name) => call(functions.deleteFunction, { name }),
    putRow: async (table, key, value) => (await call<{ row: TableRow }>(tables.putRow, { table, key, value })).row,
    putRows: (table, rows) => call(tables.putRows, { table, rows }),
    getRow: async (table, key) => (await call<{ row: TableRow }>(tables.getRow, { table, key })).row,
    listRows: (table, page) => call(tables.listRows, { table, ...page }),
    deleteRow: (table, key) => call(tables.deleteRow, { table, key }),
  };
}
