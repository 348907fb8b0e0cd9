import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { createContextKey, type ServiceImpl } from "@connectrpc/connect";
import {
  CompressionType,
  type CreateStreamRequest,
  DeleteStatus,
  type PartitionDetail,
  PartitionDetailSchema,
  type StreamSchema,
  type StreamService,
} from "../../gen/millrace/v1/streams_pb.js";
import type { Deadline } from "../domain/deadline.ts";
import { isStreamNotFound } from "../domain/errors.ts";
import { mapLimit } from "../domain/map-limit.ts";
import type { JetStream } from "../jetstream/connection.ts";
import { type PartitionState, partitionStates } from "../jetstream/partitions.ts";
import type { Catalog, Compression, SettingsChange, StreamRecord } from "../log/catalog.ts";
import { maySeeStream, principalKey } from "./access.ts";
import { deadlineOf } from "./deadline.ts";
import type { OwnerOf } from "./quotas.ts";

const DEFAULT_PAGE = 100;
/** Creating or deleting a thousand partitions takes seconds. */
const ADMIN_TIMEOUT_MS = 60_000;

/** Creates, describes, changes and deletes streams. */
export function streamService(js: JetStream, catalog: Catalog, ownerOf: OwnerOf): ServiceImpl<typeof StreamService> {
  /** The stream and its partitions' states: of its next life, where it was deleted and made anew. @throws ServiceError. */
  const present = async (record: StreamRecord, deadline: Deadline): Promise<[StreamRecord, PartitionState[]]> => {
    try {
      return [record, await partitionStates(js, record, deadline)];
    } catch (error) {
      const found = await catalog.refresh(record.name, deadline);
      if (found.id === record.id) throw error;
      return present(found, deadline);
    }
  };
  const described = async (
    record: StreamRecord,
    deadline: Deadline,
  ): Promise<{ stream: MessageInitShape<typeof StreamSchema> }> => {
    const [stream, states] = await present(record, deadline);
    return { stream: { ...summary(stream, states), partitionDetails: states.map(detail) } };
  };
  /** Undefined for a stream that has been deleted meanwhile. */
  const listed = async (record: StreamRecord, deadline: Deadline) => {
    try {
      return summary(...(await present(record, deadline)));
    } catch (error) {
      if (isStreamNotFound(error)) return undefined;
      throw error;
    }
  };
  return {
    async createStream(request, context) {
      const deadline = deadlineOf(context, ADMIN_TIMEOUT_MS);
      const { record, created } = await catalog.create(
        request.name,
        settingsOf(request),
        ownerOf(context.values.get(principalKey)),
        deadline,
      );
      context.values.set(createdKey, created);
      return described(record, deadline);
    },
    async getStream(request, context) {
      const deadline = deadlineOf(context);
      return described(await catalog.find(request.streamName, deadline), deadline);
    },
    async listStreams(request, context) {
      const deadline = deadlineOf(context);
      const size = request.pageSize ?? DEFAULT_PAGE;
      const { rights } = context.values.get(principalKey);
      const found = catalog.list(request.prefix ?? "", request.pageToken ?? "", size + 1, (name) =>
        maySeeStream(rights, name),
      );
      const page = found.slice(0, size);
      const streams = await mapLimit(page, 4, (record) => listed(record, deadline));
      return {
        streams: streams.filter((each) => each !== undefined),
        ...(found.length > size ? { nextPageToken: page.at(-1)!.name } : {}),
      };
    },
    async updateStream(request, context) {
      const deadline = deadlineOf(context, ADMIN_TIMEOUT_MS);
      const owner = (id: string) => ownerOf({ id });
      return described(await catalog.update(request.streamName, settingsOf(request), owner, deadline), deadline);
    },
    async deleteStream(request, context) {
      await catalog.delete(request.streamName, deadlineOf(context, ADMIN_TIMEOUT_MS));
      return { status: DeleteStatus.DELETED, streamName: request.streamName, deletedAt: timestampFromMs(Date.now()) };
    },
  };
}

/** Whether the call made something new, which REST says with its status. */
export const createdKey = createContextKey(false, { description: "created" });

const COMPRESSIONS: Record<CompressionType, Compression | undefined> = {
  [CompressionType.UNSPECIFIED]: undefined,
  [CompressionType.NONE]: "none",
  [CompressionType.GZIP]: "gzip",
  [CompressionType.S2]: "s2",
};
const COMPRESSION_TYPES = { none: CompressionType.NONE, gzip: CompressionType.GZIP, s2: CompressionType.S2 } as const;

function settingsOf(request: Pick<CreateStreamRequest, "partitions" | "replicationFactor" | "config">): SettingsChange {
  const { config } = request;
  return {
    partitions: request.partitions,
    replicationFactor: request.replicationFactor,
    retentionMs: numberOf(config?.retentionMs),
    compression: config && COMPRESSIONS[config.compressionType],
    maxMessageBytes: config?.maxMessageBytes,
    maxBytes: numberOf(config?.maxBytes),
    duplicateWindowMs: numberOf(config?.duplicateWindowMs),
  };
}

const numberOf = (value: bigint | undefined): number | undefined => (value === undefined ? undefined : Number(value));

function summary(record: StreamRecord, states: readonly PartitionState[]) {
  return {
    name: record.name,
    partitions: record.partitions,
    replicationFactor: record.replicationFactor,
    totalMessages: BigInt(states.reduce((sum, { messages }) => sum + messages, 0)),
    totalSize: BigInt(states.reduce((sum, { bytes }) => sum + bytes, 0)),
    config: {
      compressionType: COMPRESSION_TYPES[record.compression],
      maxMessageBytes: record.maxMessageBytes,
      duplicateWindowMs: BigInt(record.duplicateWindowMs),
      ...(record.retentionMs === undefined ? {} : { retentionMs: BigInt(record.retentionMs) }),
      ...(record.maxBytes === undefined ? {} : { maxBytes: BigInt(record.maxBytes) }),
    },
    createdAt: timestampFromMs(record.createdAtMs),
  };
}

function detail(state: PartitionState): PartitionDetail {
  return create(PartitionDetailSchema, {
    partition: state.partition,
    ...(state.leader === undefined ? {} : { leader: state.leader }),
    replicas: [...state.replicas],
    startOffset: BigInt(state.startOffset),
    endOffset: BigInt(state.endOffset),
  });
}
