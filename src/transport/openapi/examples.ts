/** A request of an RPC's REST route and its answer, for readers; `test/api/openapi.test.ts` sends each of them. */
export interface Example {
  readonly path?: Readonly<Record<string, string | number>>;
  readonly query?: Readonly<Record<string, string | number | boolean>>;
  readonly body?: unknown;
  readonly answer: unknown;
}

const config = { compressionType: "none", maxMessageBytes: 1048576, duplicateWindowMs: 120000 };
const summary = {
  name: "orders",
  partitions: 2,
  replicationFactor: 1,
  totalMessages: 0,
  totalSize: 0,
  config,
  createdAt: "2026-01-31T12:00:00.000Z",
};
const partition = (number: number) => ({
  partition: number,
  leader: "n1",
  replicas: ["n1"],
  startOffset: 0,
  endOffset: 0,
});
const stream = { ...summary, partitionDetails: [partition(0), partition(1)] };
const orders = { streamName: "orders" };
const group = {
  consumerGroup: "audit",
  state: "empty",
  lag: 4,
  streams: [
    {
      stream: "orders",
      state: "empty",
      generation: 0,
      config: { ackWait: 30000, sessionTimeout: 30000 },
      createdAt: "2026-01-31T12:05:00.000Z",
      lag: 4,
      members: [],
      partitions: [
        { partition: 0, position: 0, startOffset: 0, endOffset: 2, lag: 2, lagSeconds: 12.5, returned: 0 },
        { partition: 1, position: 0, startOffset: 0, endOffset: 2, lag: 2, lagSeconds: 3.1, returned: 0 },
      ],
    },
  ],
};
const row = { key: "user-123", value: { country: "CH" }, updatedAt: "2026-01-31T12:10:00.000Z" };
const user = { table: "users", key: "user-123" };
const enrich = {
  name: "enrichWithUserData",
  version: "LAcQcZkYuPqFO9Qe",
  origin: "shipped",
  lookup: { table: "users", key: "value.userId", into: "user", onMissing: "pass" },
};
const markLarge = {
  name: "markLarge",
  version: "q7hTz1nWc4kPs9Ra",
  origin: "installed",
  installedAt: "2026-01-31T12:12:00.000Z",
  cel: { merge: { isLarge: "value.amount > 100" } },
};
const metrics = { eventsProcessed: 4, throughput: 0, avgLatency: 2.5, lag: 0, errorRate: 0.25 };
const spending = (above: number) => [
  { type: "filter", predicate: `value.amount > ${above}` },
  { type: "window", windowType: "tumbling", duration: 3600000 },
  { type: "aggregate", aggregation: "sum", field: "amount", groupBy: "key", as: "total" },
];
const processor = {
  processorId: "proc_8bd204b56e784d7b",
  name: "spending",
  source: "orders",
  operations: spending(0),
  sink: "spending",
  config: {
    parallelism: 2,
    checkpointInterval: 10000,
    startFrom: "earliest",
    idleTimeout: 30000,
    onTruncation: "fail",
  },
  status: "running",
  generation: 1,
  createdAt: "2026-01-31T12:15:00.000Z",
  metrics,
};
const { processorId } = processor;
const window = {
  windowStart: "2026-01-31T12:00:00.000Z",
  windowEnd: "2026-01-31T13:00:00.000Z",
  eventsCount: 3,
  closed: false,
};
const savepoint = {
  name: "before-change",
  processorId,
  generation: 1,
  source: "orders",
  parallelism: 2,
  createdAt: "2026-01-31T12:20:00.000Z",
  partitions: [
    { partition: 0, nextOffset: 2 },
    { partition: 1, nextOffset: 2 },
  ],
  size: 51,
};
const apiKey = {
  keyId: "3f9c2b7a51e0d846",
  name: "reports",
  rights: ["consume:orders*", "group:reports"],
  createdAt: "2026-01-31T12:00:00.000Z",
  expiresAt: "2026-05-01T12:00:00.000Z",
};
const stored = {
  eventId: "evt_5hXq2tR8wZkC3mVb",
  partition: 0,
  offset: 0,
  timestamp: "2026-01-31T12:00:01.000Z",
  key: "user-123",
  value: { amount: 42 },
};
const second = { ...stored, eventId: "evt_6kYr3uS9xAlD4nWc0", offset: 1, value: { amount: 7 } };
const billing = { consumerGroup: "billing" };
const worker = "worker-1";

/** By the RPC's full name, in an order in which they can be sent one after the other. */
export const EXAMPLES: Readonly<Record<string, Example>> = {
  "millrace.v1.StreamService.CreateStream": { body: { name: "orders", partitions: 2 }, answer: stream },
  "millrace.v1.StreamService.GetStream": { path: orders, answer: stream },
  "millrace.v1.StreamService.ListStreams": { query: { prefix: "ord" }, answer: { streams: [summary] } },
  "millrace.v1.StreamService.UpdateStream": {
    path: orders,
    body: { config: { retentionMs: 604800000 } },
    answer: { ...stream, config: { ...config, retentionMs: 604800000 } },
  },
  "millrace.v1.EventService.Publish": {
    path: orders,
    body: { key: "user-123", value: { amount: 42 } },
    answer: {
      eventId: stored.eventId,
      partition: 0,
      offset: 0,
      timestamp: stored.timestamp,
      status: "published",
    },
  },
  "millrace.v1.EventService.PublishBatch": {
    path: orders,
    body: {
      events: [
        { key: "user-123", value: { amount: 7 } },
        { key: "user-9", value: { amount: 1 } },
        { key: "user-9", value: { amount: "1 EUR" } },
      ],
    },
    answer: {
      batchId: "batch_q1w2e3r4t5y6",
      totalEvents: 3,
      successCount: 3,
      failureCount: 0,
      results: [
        { eventId: second.eventId, partition: 0, offset: 1 },
        { eventId: "evt_6kYr3uS9xAlD4nWc1", partition: 1, offset: 0 },
        { eventId: "evt_6kYr3uS9xAlD4nWc2", partition: 1, offset: 1 },
      ],
    },
  },
  "millrace.v1.EventService.Poll": {
    path: orders,
    query: { consumerGroup: "billing", consumerId: worker, partition: 0, limit: 2 },
    answer: {
      events: [stored, second],
      metadata: {
        consumerGroup: "billing",
        lag: 0,
        nextOffset: 2,
        partitions: [{ partition: 0, nextOffset: 2, lag: 0 }],
        generation: 1,
        assignment: { consumerId: worker, generation: 1, partitions: [0, 1] },
      },
    },
  },
  "millrace.v1.EventService.Subscribe": { path: orders, query: { partition: 0 }, answer: stored },
  "millrace.v1.EventService.ReadPartition": {
    path: { ...orders, partition: 0 },
    query: { offset: "earliest", limit: 1 },
    answer: { events: [stored], metadata: { startOffset: 0, endOffset: 2, nextOffset: 1 } },
  },
  "millrace.v1.ConsumerGroupService.Commit": {
    path: billing,
    body: { offsets: [{ stream: "orders", partition: 0, offset: 0 }], consumerId: worker, generation: 1 },
    answer: { status: "committed", committedOffsets: [{ stream: "orders", partition: 0, offset: 0 }] },
  },
  "millrace.v1.ConsumerGroupService.Heartbeat": {
    path: billing,
    body: { stream: "orders", consumerId: worker },
    answer: { generation: 1, partitions: [0, 1] },
  },
  "millrace.v1.ConsumerGroupService.Nack": {
    path: billing,
    body: {
      events: [{ stream: "orders", partition: 0, offset: 1 }],
      delay: 60000,
      reason: "the bank does not answer",
      consumerId: worker,
      generation: 1,
    },
    answer: { events: [{ stream: "orders", partition: 0, offset: 1, outcome: "returned", deliveries: 1 }] },
  },
  "millrace.v1.ConsumerGroupService.Leave": {
    path: billing,
    body: { consumerId: worker },
    answer: { streams: ["orders"] },
  },
  "millrace.v1.ConsumerGroupService.CreateConsumerGroup": {
    body: { consumerGroup: "audit", stream: "orders", offset: "earliest" },
    answer: group,
  },
  "millrace.v1.ConsumerGroupService.ListConsumerGroups": {
    query: { stream: "orders" },
    answer: {
      consumerGroups: ["audit", "billing"].map((name) => ({ consumerGroup: name, streams: ["orders"], members: 0 })),
    },
  },
  "millrace.v1.ConsumerGroupService.GetConsumerGroup": { path: { consumerGroup: "audit" }, answer: group },
  "millrace.v1.ConsumerGroupService.Seek": {
    path: { consumerGroup: "audit" },
    body: { stream: "orders", partition: 0, offset: 1 },
    answer: { consumerGroup: "audit", stream: "orders", partitions: [{ partition: 0, position: 1 }] },
  },
  "millrace.v1.ConsumerGroupService.DeleteConsumerGroup": {
    path: { consumerGroup: "audit" },
    answer: { status: "deleted", consumerGroup: "audit" },
  },
  "millrace.v1.TableService.PutRow": { path: user, body: { value: row.value }, answer: row },
  "millrace.v1.TableService.PutRows": {
    path: { table: "users" },
    body: {
      rows: [
        { key: "user-9", value: { country: "NO" } },
        { key: "user-10", value: { country: "PT" } },
      ],
    },
    answer: { rowCount: 2 },
  },
  "millrace.v1.TableService.GetRow": { path: user, answer: row },
  "millrace.v1.TableService.ListRows": {
    path: { table: "users" },
    answer: {
      rows: [
        { ...row, key: "user-10", value: { country: "PT" } },
        row,
        { ...row, key: "user-9", value: { country: "NO" } },
      ],
    },
  },
  "millrace.v1.TableService.DeleteRow": { path: user, answer: {} },
  "millrace.v1.FunctionService.PutFunction": {
    path: { name: markLarge.name },
    body: { cel: markLarge.cel },
    answer: markLarge,
  },
  "millrace.v1.FunctionService.GetFunction": { path: { name: markLarge.name }, answer: markLarge },
  "millrace.v1.FunctionService.ListFunctions": { answer: { functions: [enrich, markLarge] } },
  "millrace.v1.FunctionService.DeleteFunction": { path: { name: markLarge.name }, answer: {} },
  "millrace.v1.ProcessorService.DryRun": {
    body: {
      operations: [
        { type: "filter", predicate: "value.amount > 5" },
        { type: "map", expression: "value.amount * 2" },
      ],
      events: [{ value: { amount: 7 } }, { value: { amount: 1 } }],
    },
    answer: {
      events: [
        {
          partition: 0,
          offset: 0,
          steps: [
            { operation: 0, outcome: "passed", value: { amount: 7 }, windows: [] },
            { operation: 1, outcome: "passed", value: 14, windows: [] },
          ],
        },
        { partition: 0, offset: 1, steps: [{ operation: 0, outcome: "dropped", windows: [] }] },
      ],
      results: [],
    },
  },
  "millrace.v1.ProcessorService.CreateProcessor": {
    body: { name: processor.name, source: "orders", sink: processor.sink, operations: processor.operations },
    answer: processor,
  },
  "millrace.v1.ProcessorService.ListProcessors": { answer: { processors: [processor] } },
  "millrace.v1.ProcessorService.GetProcessor": { path: { processorId }, answer: processor },
  "millrace.v1.ProcessorService.GetProcessorMetrics": {
    path: { processorId },
    answer: {
      processorId,
      status: "running",
      metrics,
      windows: [window],
      counters: { filtered: 0, errors: 1, deadLetters: 1, late: 0, emitted: 0 },
      partitions: [0, 1].map((number) => ({
        partition: number,
        nextOffset: 2,
        lag: 0,
        watermark: "2026-01-31T12:15:01.000Z",
        idle: false,
        holdsWatermark: number === 1,
      })),
    },
  },
  "millrace.v1.ProcessorService.GetWindow": {
    path: { processorId, windowStart: window.windowStart },
    answer: {
      processorId,
      ...window,
      groups: [
        { group: "user-123", eventsCount: 2, values: { total: 49 }, windowEnd: window.windowEnd },
        { group: "user-9", eventsCount: 1, values: { total: 1 }, windowEnd: window.windowEnd },
      ],
    },
  },
  "millrace.v1.ProcessorService.ListSideEvents": {
    path: { processorId },
    query: { kind: "dlq" },
    answer: {
      events: [
        {
          kind: "dlq",
          reason: "found no matching overload for '_>_' applied to '(string, int)'",
          operation: 0,
          generation: 1,
          setAsideAt: "2026-01-31T12:15:01.000Z",
          stream: "orders",
          partition: 1,
          offset: 1,
          eventId: "evt_6kYr3uS9xAlD4nWc2",
          timestamp: "2026-01-31T12:00:02.000Z",
          key: "user-9",
          value: { amount: "1 EUR" },
        },
      ],
      nextPageToken: "1",
    },
  },
  "millrace.v1.ProcessorService.CreateSavepoint": {
    path: { processorId },
    body: { name: savepoint.name },
    answer: savepoint,
  },
  "millrace.v1.ProcessorService.ListSavepoints": { query: { processorId }, answer: { savepoints: [savepoint] } },
  "millrace.v1.ProcessorService.GetSavepoint": { path: { name: savepoint.name }, answer: savepoint },
  "millrace.v1.ProcessorService.UpdateProcessor": {
    path: { processorId },
    body: { operations: spending(10) },
    answer: { ...processor, operations: spending(10), generation: 2 },
  },
  "millrace.v1.ProcessorService.RestoreProcessor": {
    path: { processorId },
    body: { savepoint: savepoint.name },
    answer: { ...processor, operations: spending(10), generation: 2 },
  },
  "millrace.v1.ProcessorService.DeleteSavepoint": { path: { name: savepoint.name }, answer: {} },
  "millrace.v1.ProcessorService.PauseProcessor": {
    path: { processorId },
    answer: { ...processor, operations: spending(10), status: "paused", generation: 2 },
  },
  "millrace.v1.ProcessorService.ResumeProcessor": {
    path: { processorId },
    answer: { ...processor, operations: spending(10), generation: 2 },
  },
  "millrace.v1.ProcessorService.ResetProcessor": {
    path: { processorId },
    body: { start: "latest" },
    answer: { ...processor, operations: spending(10), generation: 2 },
  },
  "millrace.v1.ProcessorService.DeleteProcessor": {
    path: { processorId },
    answer: { status: "deleted", processorId, deletedAt: "2026-01-31T12:25:00.000Z" },
  },
  "millrace.v1.KeyService.CreateApiKey": {
    body: { name: apiKey.name, rights: apiKey.rights, expiresIn: 7776000000 },
    answer: { key: apiKey, secret: `mrk_${apiKey.keyId}_Jq7WnB2xTz0dYc5RmK9vHs4uLe8pGa1fXi6oNb3tQwE` },
  },
  "millrace.v1.KeyService.ListApiKeys": { answer: { keys: [apiKey] } },
  "millrace.v1.KeyService.GetApiKey": { path: { keyId: apiKey.keyId }, answer: apiKey },
  "millrace.v1.KeyService.RevokeApiKey": {
    path: { keyId: apiKey.keyId },
    answer: { status: "revoked", keyId: apiKey.keyId },
  },
  "millrace.v1.StreamService.DeleteStream": {
    path: orders,
    answer: { status: "deleted", streamName: "orders", deletedAt: "2026-01-31T12:30:00.000Z" },
  },
};
