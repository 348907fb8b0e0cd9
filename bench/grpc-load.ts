import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { CommitRequestSchema } from "../gen/millrace/v1/consumers_pb.js";
import {
  PayloadFormat,
  PollMetadataSchema,
  PollRequestSchema,
  PollResponseSchema,
  PublishBatchResponseSchema,
  PublishResponseSchema,
  PublishStatus,
} from "../gen/millrace/v1/events_pb.js";
import { GrpcConnection, grpcFrame } from "./grpc-client.ts";
import {
  type CommitEntry,
  DIFFERENT_BATCHES,
  DIFFERENT_EVENTS,
  eachWorker,
  type Load,
  type Polled,
  PollWorker,
  type Reader,
  ring,
  verifyEvent,
  type Worker,
} from "./load.ts";
import { batchMessage, POLL_EVENTS, publishMessage, sampleBatches, sampleEvent } from "./workload.ts";

const EVENTS = "/millrace.v1.EventService";
const COMMIT = "/millrace.v1.ConsumerGroupService/Commit";
/** The callers share so many connections, as those of a gRPC channel do. */
const CONNECTIONS = 4;

/** gRPC, with payloads as `data` both ways. */
export class GrpcLoad implements Load {
  readonly #url: string;

  constructor(url: string) {
    this.#url = url;
  }

  async publishers(stream: string, count: number): Promise<Worker[]> {
    const frames = Array.from({ length: DIFFERENT_EVENTS }, (_, i) =>
      grpcFrame(publishMessage(stream, sampleEvent(i))),
    );
    return this.#workers(count, `${EVENTS}/Publish`, frames, 1, (message) => {
      const { status } = fromBinary(PublishResponseSchema, message);
      return status === PublishStatus.PUBLISHED ? 1 : 0;
    });
  }

  async batchers(stream: string, size: number, count: number): Promise<Worker[]> {
    const frames = sampleBatches(DIFFERENT_BATCHES, size).map((events) => grpcFrame(batchMessage(stream, events)));
    return this.#workers(count, `${EVENTS}/PublishBatch`, frames, size, (message) => {
      const { successCount, failureCount, results } = fromBinary(PublishBatchResponseSchema, message);
      return failureCount === 0 && results.length === size ? successCount : 0;
    });
  }

  async pollers(stream: string, groups: string, count: number): Promise<Worker[]> {
    const connections = await this.#open();
    return eachWorker(count, async (i) => {
      return new PollWorker(new GrpcReader(connections[i % CONNECTIONS]!, stream), `${groups}-${i}`);
    });
  }

  async #workers(
    count: number,
    path: string,
    frames: Buffer[],
    events: number,
    read: (message: Buffer) => number,
  ): Promise<Worker[]> {
    const connections = await this.#open();
    return eachWorker(count, async (i) => {
      const connection = connections[i % CONNECTIONS]!;
      const next = ring(frames);
      let calls = 0;
      let sizeRead = 0;
      return {
        step() {
          return connection.call(path, next(), (message) => {
            // Read whole now and then; between, an answer as long as one that was read is as good. Only numbers grow.
            if (calls++ % 64 === 0 || Math.abs(message.length - sizeRead) > 4 * events) {
              const stored = read(message);
              if (stored !== events) throw new Error(`${stored} of ${events} events were stored`);
              sizeRead = message.length;
            }
            return events;
          });
        },
        close: () => connection.close(),
      };
    });
  }

  #open(): Promise<GrpcConnection[]> {
    return Promise.all(Array.from({ length: CONNECTIONS }, () => GrpcConnection.open(this.#url)));
  }
}

class GrpcReader implements Reader {
  readonly #connection: GrpcConnection;
  readonly #stream: string;

  constructor(connection: GrpcConnection, stream: string) {
    this.#connection = connection;
    this.#stream = stream;
  }

  poll(group: string, verify: boolean): Promise<Polled> {
    const request = create(PollRequestSchema, {
      streamName: this.#stream,
      consumerGroup: group,
      limit: POLL_EVENTS,
      payload: PayloadFormat.DATA,
    });
    return this.#connection.call(`${EVENTS}/Poll`, grpcFrame(toBinary(PollRequestSchema, request)), (message) => {
      if (verify) verifyEvents(message);
      return readPoll(message);
    });
  }

  async commit(group: string, entries: readonly CommitEntry[]): Promise<void> {
    const request = create(CommitRequestSchema, {
      consumerGroup: group,
      offsets: entries.map(({ partition, offset }) => ({ stream: this.#stream, partition, offset: BigInt(offset) })),
    });
    await this.#connection.call(COMMIT, grpcFrame(toBinary(CommitRequestSchema, request)), () => {});
  }

  close(): void {
    this.#connection.close();
  }
}

/** Tags of PollResponse: both fields are messages. */
const EVENTS_TAG = 0x0a;
const METADATA_TAG = 0x12;

/** Counts the events of a PollResponse and reads its metadata, without a look into the events. Fields come in any order. */
function readPoll(message: Buffer): Polled {
  let events = 0;
  let metadata: Buffer | undefined;
  for (let at = 0; at < message.length; ) {
    const tag = message[at++];
    let length = 0;
    for (let shift = 0, byte = 0x80; byte >= 0x80; shift += 7) {
      byte = message[at++]!;
      length |= (byte & 0x7f) << shift;
    }
    if (tag === EVENTS_TAG) events++;
    else if (tag === METADATA_TAG) metadata = message.subarray(at, at + length);
    else throw new Error(`an answer to a poll with a field of tag ${tag}`);
    at += length;
  }
  if (metadata === undefined) throw new Error("an answer to a poll without metadata");
  return {
    events,
    partitions: fromBinary(PollMetadataSchema, metadata).partitions.map((each) => ({
      partition: each.partition,
      nextOffset: Number(each.nextOffset),
      committedOffset: each.committedOffset === undefined ? undefined : Number(each.committedOffset),
    })),
  };
}

function verifyEvents(message: Buffer): void {
  for (const { key, payload } of fromBinary(PollResponseSchema, message).events) {
    if (payload.case !== "data") throw new Error(`the payload came as ${payload.case}`);
    verifyEvent(key, Buffer.from(payload.value).toString());
  }
}
