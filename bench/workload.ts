import { create, toBinary } from "@bufbuild/protobuf";
import { PublishBatchRequestSchema, PublishEventSchema, PublishRequestSchema } from "../gen/millrace/v1/events_pb.js";
import { JSON_TYPE } from "../src/domain/event.ts";

/** What every contender carries: events with a key and a JSON value of 256 bytes, for streams of 4 partitions. */

export const PARTITIONS = 4;
export const POLL_EVENTS = 500;
const VALUE_BYTES = 256;
const KEYS = 1000;

export interface SampleEvent {
  readonly key: string;
  readonly value: Record<string, unknown>;
  /** `value` as JSON. */
  readonly payload: Buffer;
}

/** The `i`-th event; neighbours have other keys and values. */
export function sampleEvent(i: number): SampleEvent {
  const members = {
    orderId: `o-${100_000 + i}`,
    customer: { id: 70_000 + i, name: "Ada Example", vip: i % 2 === 0 },
    items: [
      { sku: "A-1", quantity: 2, price: 19.99 },
      { sku: "B-22", quantity: 1, price: 5 },
    ],
    total: 44.98,
    note: "",
  };
  const value = { ...members, note: "n".repeat(Math.max(0, VALUE_BYTES - JSON.stringify(members).length)) };
  return { key: `user-${i % KEYS}`, value, payload: Buffer.from(JSON.stringify(value)) };
}

/** `count` batches of `size` events. */
export const sampleBatches = (count: number, size: number): SampleEvent[][] =>
  Array.from({ length: count }, (_, batch) => Array.from({ length: size }, (_, i) => sampleEvent(batch * size + i)));

/** Body of a REST publish. */
export const publishBody = ({ key, value }: SampleEvent): string => JSON.stringify({ key, value });

/** Body of a REST batch. */
export const batchBody = (events: readonly SampleEvent[]): string =>
  JSON.stringify({ events: events.map(({ key, value }) => ({ key, value })) });

/** A PublishRequest of the event as `data`. */
export const publishMessage = (streamName: string, { key, payload }: SampleEvent): Uint8Array =>
  toBinary(PublishRequestSchema, create(PublishRequestSchema, { streamName, event: dataEvent(key, payload) }));

/** A PublishBatchRequest of the events as `data`. */
export const batchMessage = (streamName: string, events: readonly SampleEvent[]): Uint8Array =>
  toBinary(
    PublishBatchRequestSchema,
    create(PublishBatchRequestSchema, {
      streamName,
      events: events.map(({ key, payload }) => dataEvent(key, payload)),
    }),
  );

const dataEvent = (key: string, data: Uint8Array) =>
  create(PublishEventSchema, { key, payload: { case: "data", value: data }, contentType: JSON_TYPE });
