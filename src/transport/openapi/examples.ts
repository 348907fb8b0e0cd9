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
  lag: 3,
  streams: [
    {
      stream: "orders",
      state: "empty",
      generation: 0,
      config: { ackWait: 30000, sessionTimeout: 30000 },
      createdAt: "2026-01-31T12:05:00.000Z",
      lag: 3,
      members: [],
      partitions: [
        { partition: 0, position: 0, startOffset: 0, endOffset: 2, lag: 2, lagSeconds: 12.5, returned: 0 },
        { partition: 1, position: 0, startOffset: 0, endOffset: 1, lag: 1, lagSeconds: 3.1, returned: 0 },
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
const metrics = { eventsProcessed: 3, throughput: 0, avgLatency: 2.5, lag: 0, errorRate: 0 };
const processor = {
  processorId: "proc_8bd204b56e784d7b",
  name: "large-orders",
  source: "orders",
  operations: [{ type: "filter", predicate: "value.amount > 5" }],
  sink: "large-orders",
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
const stored = {
  eventId: "evt_5hXq2tR8wZkC3mVb",
  partition: 0,
  offset: 0,
  timestamp: "2026-01-31T12:00:01.000Z",
  key: "user-123",
  value: { amount: 42 },
};

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
      ],
    },
    answer: {
      batchId: "batch_q1w2e3r4t5y6",
      totalEvents: 2,
      successCount: 2,
      failureCount: 0,
      results: [
        { eventId: "evt_6kYr3uS9xAlD4nWc", partition: 0, offset: 1 },
        { eventId: "evt_7lZs4vT0yBmE5oXd", partition: 1, offset: 0 },
      ],
    },
  },
  "millrace.v1.EventService.Poll": {
    path: orders,
    query: { consumerGroup: "billing", limit: 1, partition: 0 },
    answer: {
      events: [stored],
      metadata: {
        consumerGroup: "billing",
        lag: 1,
        nextOffset: 1,
        partitions: [{ partition: 0, nextOffset: 1, lag: 1 }],
      },
    },
  },
  "millrace.v1.EventService.ReadPartition": {
    path: { ...orders, partition: 0 },
    query: { offset: "earliest", limit: 1 },
    answer: { events: [stored], metadata: { startOffset: 0, endOffset: 2, nextOffset: 1 } },
  },
  "millrace.v1.ConsumerGroupService.Commit": {
    path: { consumerGroup: "billing" },
    body: { offsets: [{ stream: "orders", partition: 0, offset: 0 }] },
    answer: { status: "committed", committedOffsets: [{ stream: "orders", partition: 0, offset: 0 }] },
  },
  "millrace.v1.ConsumerGroupService.CreateConsumerGroup": {
    body: { consumerGroup: "audit", stream: "orders", offset: "earliest" },
    answer: group,
  },
  "millrace.v1.ConsumerGroupService.ListConsumerGroups": {
    query: { stream: "orders" },
    answer: { consumerGroups: [{ consumerGroup: "audit", streams: ["orders"], members: 0 }] },
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
  "millrace.v1.TableService.GetRow": { path: user, answer: row },
  "millrace.v1.TableService.ListRows": { path: { table: "users" }, answer: { rows: [row] } },
  "millrace.v1.TableService.DeleteRow": { path: user, answer: {} },
  "millrace.v1.FunctionService.PutFunction": {
    path: { name: markLarge.name },
    body: { cel: markLarge.cel },
    answer: markLarge,
  },
  "millrace.v1.FunctionService.GetFunction": { path: { name: markLarge.name }, answer: markLarge },
  "millrace.v1.FunctionService.ListFunctions": { answer: { functions: [enrich, markLarge] } },
  "millrace.v1.FunctionService.DeleteFunction": { path: { name: markLarge.name }, answer: {} },
  "millrace.v1.ProcessorService.CreateProcessor": {
    body: { name: processor.name, source: "orders", sink: processor.sink, operations: processor.operations },
    answer: processor,
  },
  "millrace.v1.ProcessorService.ListProcessors": { answer: { processors: [processor] } },
  "millrace.v1.ProcessorService.GetProcessor": { path: { processorId }, answer: processor },
  "millrace.v1.ProcessorService.UpdateProcessor": {
    path: { processorId },
    body: { operations: [{ type: "filter", predicate: "value.amount > 10" }] },
    answer: { ...processor, operations: [{ type: "filter", predicate: "value.amount > 10" }], generation: 2 },
  },
  "millrace.v1.ProcessorService.PauseProcessor": { path: { processorId }, answer: { ...processor, status: "paused" } },
  "millrace.v1.ProcessorService.ResumeProcessor": { path: { processorId }, answer: processor },
  "millrace.v1.ProcessorService.DeleteProcessor": {
    path: { processorId },
    answer: { status: "deleted", processorId, deletedAt: "2026-01-31T12:25:00.000Z" },
  },
  "millrace.v1.StreamService.DeleteStream": {
    path: orders,
    answer: { status: "deleted", streamName: "orders", deletedAt: "2026-01-31T12:30:00.000Z" },
  },
};
