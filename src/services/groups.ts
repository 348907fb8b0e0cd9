import type { MessageInitShape } from "@bufbuild/protobuf";
import { timestampFromMs, timestampMs } from "@bufbuild/protobuf/wkt";
import type { HandlerContext, ServiceImpl } from "@connectrpc/connect";
import {
  type CommitRequest,
  CommitStatus,
  type ConsumerGroupSchema,
  type ConsumerGroupService,
  ConsumerGroupState,
  NackOutcome,
  type NackRequest,
  type PartitionOffset,
  type SeekRequest,
} from "../../gen/millrace/v1/consumers_pb.js";
import { DeleteStatus } from "../../gen/millrace/v1/streams_pb.js";
import type { Deadline } from "../domain/deadline.ts";
import {
  ErrorCode,
  groupNotFound,
  invalidArgument,
  invalidOffset,
  isStreamNotFound,
  ServiceError,
} from "../domain/errors.ts";
import { ownedBy } from "../domain/membership.ts";
import { type Position, parsePosition } from "../domain/position.ts";
import type { Catalog } from "../log/catalog.ts";
import { createGroup, describeGroup, type GroupDescription, seekGroup, streamsOf } from "../log/group-admin.ts";
import type { Committer, EventPlace } from "../log/group-places.ts";
import type { GroupInStream, GroupSettings, Groups } from "../log/groups.ts";
import { maySeeGroup, principalKey } from "./access.ts";
import { type Consumer, checkGroupName } from "./consumer.ts";
import { type CallContext, deadlineOf } from "./deadline.ts";
import type { OwnerOf } from "./quotas.ts";
import { createdKey } from "./streams.ts";

const DEFAULT_PAGE = 100;
/** Describing or moving a group in a thousand partitions takes a while. */
const ADMIN_TIMEOUT_MS = 60_000;

/** Keeps what consumer groups have processed, and lets operators see and move them. */
export function groupService(
  consumer: Consumer,
  catalog: Catalog,
  groups: Groups,
  ownerOf: OwnerOf,
): ServiceImpl<typeof ConsumerGroupService> {
  /** A group in some streams, but for those that are deleted meanwhile. @throws ServiceError CONSUMER_GROUP_NOT_FOUND. */
  const described = async (group: string, found: readonly GroupInStream[], deadline: Deadline) => {
    const descriptions = await Promise.all(
      found.map(async (open) => {
        try {
          return await catalog.during(open.stream, () => describeGroup(groups, open, deadline));
        } catch (error) {
          if (isStreamNotFound(error)) return undefined;
          throw error;
        }
      }),
    );
    const streams = descriptions.filter((each) => each !== undefined);
    if (streams.length === 0) throw groupNotFound(group);
    return { group: groupMessage(group, streams) };
  };

  /** The streams of a group that the caller may see. @throws ServiceError CONSUMER_GROUP_NOT_FOUND for none. */
  const shownStreams = async (group: string, only: string | undefined, context: HandlerContext, deadline: Deadline) => {
    const { rights } = context.values.get(principalKey);
    const found = await streamsOf(catalog, groups, group, only, deadline);
    const shown = found.filter(({ stream }) => maySeeGroup(rights, group, stream.name));
    if (shown.length === 0) throw groupNotFound(group);
    return shown;
  };

  const committer = (request: CommitRequest | NackRequest, { values }: CallContext): Committer => ({
    ...memberOf(request),
    owner: ownerOf(values.get(principalKey)),
  });

  return {
    async createConsumerGroup(request, context) {
      const { consumerGroup } = request;
      checkGroupName("consumerGroup", consumerGroup);
      const deadline = deadlineOf(context, ADMIN_TIMEOUT_MS);
      const start = request.offset ? parsePosition(request.offset) : "earliest";
      const { ackWait, sessionTimeout, maxDeliveries, deadLetterStream } = request.config ?? {};
      if ((maxDeliveries === undefined) !== (deadLetterStream === undefined))
        throw invalidArgument("config.maxDeliveries", "goes with config.deadLetterStream, and it with maxDeliveries");
      if (deadLetterStream === request.stream)
        throw invalidArgument("config.deadLetterStream", "must be another stream than the one that is read");
      const settings: Partial<GroupSettings> = {
        ...(ackWait === undefined ? {} : { ackWaitMs: ackWait }),
        ...(sessionTimeout === undefined ? {} : { sessionTimeoutMs: sessionTimeout }),
        ...(maxDeliveries === undefined ? {} : { maxDeliveries }),
        ...(deadLetterStream === undefined ? {} : { deadLetterStream }),
      };
      const stream = await catalog.find(request.stream, deadline);
      const owner = ownerOf(context.values.get(principalKey));
      if (deadLetterStream !== undefined) await catalog.findOrCreate(deadLetterStream, stream, owner, deadline);
      const { open, created } = await catalog.during(stream, () =>
        createGroup(groups, consumerGroup, stream, start, settings, owner, deadline),
      );
      if (!created && !has(open, settings))
        throw new ServiceError(
          ErrorCode.ALREADY_EXISTS,
          `consumer group "${consumerGroup}" exists in "${stream.name}" with other settings`,
        );
      context.values.set(createdKey, created);
      return described(consumerGroup, [open], deadline);
    },

    async listConsumerGroups(request, context) {
      const deadline = deadlineOf(context);
      const size = request.pageSize ?? DEFAULT_PAGE;
      const { rights } = context.values.get(principalKey);
      const records = await groups.records(undefined, deadline);
      const byGroup = Map.groupBy(
        records.filter(({ group, stream }) => catalog.known(stream) && maySeeGroup(rights, group, stream)),
        ({ group }) => group,
      );
      const names = [...byGroup.keys()]
        .filter((name) => name.startsWith(request.prefix) && name > request.pageToken)
        .filter((name) => !request.stream || byGroup.get(name)!.some(({ stream }) => stream === request.stream))
        .sort();
      const page = names.slice(0, size);
      const consumerGroups = await Promise.all(
        page.map(async (name) => {
          const open = await shownStreams(name, undefined, context, deadline).catch(() => []);
          const states = await Promise.all(open.map(({ members }) => members.live(deadline)));
          return {
            consumerGroup: name,
            streams: open.map(({ stream }) => stream.name),
            members: states.reduce((sum, state) => sum + (state?.members.length ?? 0), 0),
          };
        }),
      );
      return { consumerGroups, ...(names.length > size ? { nextPageToken: page.at(-1)! } : {}) };
    },

    async getConsumerGroup(request, context) {
      const deadline = deadlineOf(context, ADMIN_TIMEOUT_MS);
      const { consumerGroup } = request;
      if (request.stream !== undefined) await catalog.find(request.stream, deadline);
      const found = await shownStreams(consumerGroup, request.stream, context, deadline);
      return described(consumerGroup, found, deadline);
    },

    async deleteConsumerGroup(request, context) {
      const deadline = deadlineOf(context, ADMIN_TIMEOUT_MS);
      const { consumerGroup } = request;
      if (request.stream !== undefined) await catalog.find(request.stream, deadline);
      let isDeleted = false;
      for (const open of await shownStreams(consumerGroup, request.stream, context, deadline))
        isDeleted = (await groups.delete(open, deadline)) || isDeleted;
      // Other calls have, or their streams are gone.
      if (!isDeleted) throw groupNotFound(consumerGroup);
      return { status: DeleteStatus.DELETED, consumerGroup };
    },

    async seek(request, context) {
      const deadline = deadlineOf(context, ADMIN_TIMEOUT_MS);
      const position = seekPosition(request);
      const partitions = [...request.partitions, ...(request.partition === undefined ? [] : [request.partition])];
      const stream = await catalog.find(request.stream, deadline);
      const owner = ownerOf(context.values.get(principalKey));
      const moved = await catalog.during(stream, async () => {
        const open = await groups.find(request.consumerGroup, stream, owner, deadline);
        const indexes = partitions.length > 0 ? partitions : undefined;
        return groups.during([open], () => seekGroup(groups, open, indexes, position, deadline));
      });
      return {
        consumerGroup: request.consumerGroup,
        stream: stream.name,
        partitions: moved.map((each) => ({ partition: each.partition, position: BigInt(each.position) })),
      };
    },

    async heartbeat(request, context) {
      const deadline = deadlineOf(context);
      const stream = await catalog.find(request.stream, deadline);
      const open = await groups.get(request.consumerGroup, stream, deadline);
      if (!open) throw groupNotFound(request.consumerGroup);
      const state = await open.members.renew(request.consumerId, deadline);
      return { generation: BigInt(state.generation), partitions: ownedBy(state, request.consumerId) };
    },

    async leave(request, context) {
      const deadline = deadlineOf(context);
      if (request.stream !== undefined) await catalog.find(request.stream, deadline);
      const streams: string[] = [];
      for (const open of await shownStreams(request.consumerGroup, request.stream, context, deadline))
        if (await open.members.leave(request.consumerId, deadline)) streams.push(open.stream.name);
      return { streams };
    },

    async commit(request, context) {
      const entries = placesOf("offsets", request.offsets);
      await consumer.commit(request.consumerGroup, entries, committer(request, context), deadlineOf(context));
      return { status: CommitStatus.COMMITTED, committedOffsets: request.offsets };
    },

    async nack(request, context) {
      const results = await consumer.nack(request.consumerGroup, placesOf("events", request.events), {
        delayMs: request.delay ?? 0,
        reason: request.reason,
        by: committer(request, context),
        deadline: deadlineOf(context),
      });
      return {
        events: results.map(({ place, outcome, deliveries }) => ({
          stream: place.stream,
          partition: place.partition,
          offset: BigInt(place.offset),
          outcome: OUTCOMES[outcome],
          deliveries,
        })),
      };
    },
  };
}

const OUTCOMES = { returned: NackOutcome.RETURNED, deadLettered: NackOutcome.DEAD_LETTERED } as const;

/** @throws ServiceError INVALID_OFFSET. */
function placesOf(field: string, offsets: readonly PartitionOffset[]): EventPlace[] {
  return offsets.map(({ stream, partition, offset }, index) => {
    const place = Number(offset);
    if (place < 0 || !Number.isSafeInteger(place))
      throw invalidOffset(`${field}[${index}].offset ${offset} is not a whole number from 0 below 2^53`);
    return { stream, partition, offset: place };
  });
}

/** @throws ServiceError INVALID_ARGUMENT for a generation that nobody is named with. */
function memberOf({ consumerId: memberId, generation }: CommitRequest | NackRequest): Omit<Committer, "owner"> {
  if (generation !== undefined && memberId === undefined) throw invalidArgument("generation", "goes with consumerId");
  return { memberId, generation: generation === undefined ? undefined : Number(generation) };
}

/** @throws ServiceError INVALID_ARGUMENT, INVALID_OFFSET. */
function seekPosition({ offset, timestamp }: SeekRequest): Position {
  if ((offset === undefined) === (timestamp === undefined))
    throw invalidArgument("offset", "is required, or timestamp in its place");
  return timestamp ? { timeMs: timestampMs(timestamp) } : parsePosition(offset!);
}

function has({ record }: GroupInStream, settings: Partial<GroupSettings>): boolean {
  return Object.entries(settings).every(([name, value]) => record[name as keyof GroupSettings] === value);
}

const STATES = {
  empty: ConsumerGroupState.EMPTY,
  stable: ConsumerGroupState.STABLE,
  rebalancing: ConsumerGroupState.REBALANCING,
} as const;

function groupMessage(
  consumerGroup: string,
  streams: readonly GroupDescription[],
): MessageInitShape<typeof ConsumerGroupSchema> {
  const messages = streams.map(streamMessage);
  const rank = Math.max(...messages.map(({ state }) => state));
  return {
    consumerGroup,
    state: rank,
    lag: messages.reduce((sum, { lag }) => sum + lag, 0n),
    streams: messages,
  };
}

function streamMessage({ record, state, generation, members, partitions }: GroupDescription) {
  return {
    stream: record.stream,
    state: STATES[state],
    generation: BigInt(generation),
    config: {
      ackWait: record.ackWaitMs,
      sessionTimeout: record.sessionTimeoutMs,
      ...(record.maxDeliveries === undefined ? {} : { maxDeliveries: record.maxDeliveries }),
      ...(record.deadLetterStream === undefined ? {} : { deadLetterStream: record.deadLetterStream }),
    },
    createdAt: timestampFromMs(record.createdAtMs),
    lag: BigInt(partitions.reduce((sum, { lag }) => sum + lag, 0)),
    members: members.map((member) => ({
      consumerId: member.id,
      partitions: [...member.partitions],
      generation: BigInt(member.told),
      lastSeen: timestampFromMs(member.seenMs),
      subscribed: member.session !== undefined,
    })),
    partitions: partitions.map((each) => ({
      partition: each.partition,
      ...(each.owner === undefined ? {} : { consumerId: each.owner }),
      position: BigInt(each.position),
      ...(each.committed === undefined ? {} : { committedOffset: BigInt(each.committed) }),
      startOffset: BigInt(each.startOffset),
      endOffset: BigInt(each.endOffset),
      lag: BigInt(each.lag),
      lagSeconds: each.lagMs / 1000,
      returned: BigInt(each.returned),
    })),
  };
}
