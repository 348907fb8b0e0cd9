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
const stored = {
  eventId: "evt_5hXq2tR8wZkC3mVb",
  partition: 1,
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
      partition: 1,
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
        { eventId: "evt_6kYr3uS9xAlD4nWc", partition: 1, offset: 1 },
        { eventId: "evt_7lZs4vT0yBmE5oXd", partition: 0, offset: 0 },
      ],
    },
  },
  "millrace.v1.EventService.Poll": {
    path: orders,
    query: { consumerGroup: "billing", limit: 1, partition: 1 },
    answer: {
      events: [stored],
      metadata: {
        consumerGroup: "billing",
        lag: 1,
        nextOffset: 1,
        partitions: [{ partition: 1, nextOffset: 1, lag: 1 }],
      },
    },
  },
  "millrace.v1.EventService.ReadPartition": {
    path: { ...orders, partition: 1 },
    query: { offset: "earliest", limit: 1 },
    answer: { events: [stored], metadata: { startOffset: 0, endOffset: 2, nextOffset: 1 } },
  },
  "millrace.v1.ConsumerGroupService.Commit": {
    path: { consumerGroup: "billing" },
    body: { offsets: [{ stream: "orders", partition: 1, offset: 0 }] },
    answer: { status: "committed", committedOffsets: [{ stream: "orders", partition: 1, offset: 0 }] },
  },
  "millrace.v1.StreamService.DeleteStream": {
    path: orders,
    answer: { status: "deleted", streamName: "orders", deletedAt: "2026-01-31T12:30:00.000Z" },
  },
};
