import type { Deadline } from "../domain/deadline.ts";
import { groupNotFound, invalidOffset, partitionNotFound } from "../domain/errors.ts";
import { mapLimit } from "../domain/map-limit.ts";
import type { Member } from "../domain/membership.ts";
import { ownedBy } from "../domain/membership.ts";
import type { Position } from "../domain/position.ts";
import type { Owner } from "../domain/quota.ts";
import { readMessages } from "../jetstream/direct.ts";
import { partitionStream } from "../jetstream/names.ts";
import { type PartitionState, partitionState, partitionStates } from "../jetstream/partitions.ts";
import type { Catalog, StreamRecord } from "./catalog.ts";
import type { GroupInStream, GroupRecord, GroupSettings, Groups } from "./groups.ts";
import { offsetOf } from "./position.ts";

/** Requests on their way at once. */
const PARALLEL = 32;

export type GroupState = "empty" | "stable" | "rebalancing";

/** A group in one stream, as an operator sees it. */
export interface GroupDescription {
  readonly record: GroupRecord;
  readonly state: GroupState;
  readonly generation: number;
  readonly members: readonly (Member & { readonly partitions: readonly number[] })[];
  readonly partitions: readonly GroupPartitionDescription[];
}

export interface GroupPartitionDescription {
  readonly partition: number;
  readonly owner: string | undefined;
  readonly position: number;
  readonly committed: number | undefined;
  readonly startOffset: number;
  readonly endOffset: number;
  /** Events not committed. */
  readonly lag: number;
  /** Age of the oldest of them in milliseconds; 0 without any. */
  readonly lagMs: number;
  /** Returned events that are not done. */
  readonly returned: number;
}

/**
 * Creates a group in a stream.
 *
 * @returns the group, and whether this call made it; one that exists stays as it is.
 * @throws ServiceError INVALID_OFFSET, QUOTA_EXCEEDED.
 */
export async function createGroup(
  groups: Groups,
  group: string,
  stream: StreamRecord,
  start: Position,
  settings: Partial<GroupSettings>,
  owner: Owner,
  deadline: Deadline,
): Promise<{ open: GroupInStream; created: boolean }> {
  const existing = await groups.get(group, stream, deadline);
  if (existing) return { open: existing, created: false };
  const offsets =
    start === "earliest" ? start : await offsetsOf(groups, stream, range(stream.partitions), start, deadline);
  const created = await groups.create(group, stream, { start: offsets, settings, owner }, deadline);
  return { open: await groups.join(group, stream, { start: "earliest", owner }, deadline), created };
}

/** Everything about a group in a stream. */
export async function describeGroup(
  groups: Groups,
  open: GroupInStream,
  deadline: Deadline,
): Promise<GroupDescription> {
  const { stream, record } = open;
  const state = await open.members.live(deadline);
  const states = await partitionStates(groups.js, stream, deadline);
  const streamed = await groups.streamed(open);
  const partitions = await mapLimit(states, PARALLEL, (each) =>
    describePartition(groups, open, each, streamed.get(each.partition), deadline),
  );
  const members = state?.members ?? [];
  const moving = state?.partitions.some(({ next }) => next !== undefined) ?? false;
  return {
    record,
    state: moving ? "rebalancing" : members.length > 0 ? "stable" : "empty",
    generation: state?.generation ?? 0,
    members: members.map((member) => ({ ...member, partitions: ownedBy(state!, member.id) })),
    partitions,
  };
}

async function describePartition(
  groups: Groups,
  open: GroupInStream,
  { partition, startOffset, endOffset }: PartitionState,
  streamedNext: number | undefined,
  deadline: Deadline,
): Promise<GroupPartitionDescription> {
  const { position, committed, resume } = await open.partition(partition).look(deadline);
  const first = Math.max(resume, startOffset);
  const lag = Math.max(0, endOffset - first);
  const [oldest] =
    lag === 0
      ? []
      : await readMessages(
          groups.js,
          partitionStream(open.stream.name, partition),
          { seq: first + 1, batch: 1, maxBytes: 1 },
          deadline,
        );
  return {
    partition,
    owner: open.members.state?.partitions[partition]?.owner,
    position: Math.max(position, startOffset, streamedNext ?? 0),
    committed,
    startOffset,
    endOffset,
    lag,
    lagMs: oldest ? Math.max(0, Date.now() - oldest.timestampMs) : 0,
    returned: open.returned.count(partition),
  };
}

/**
 * Moves a group. Its members, if it has any, go on from there in a new generation, and their commits of what they were
 * handed before are refused.
 *
 * @param partitions undefined: all.
 * @returns the new position of each partition moved.
 * @throws ServiceError INVALID_OFFSET, INVALID_ARGUMENT; then nothing is moved.
 */
export async function seekGroup(
  groups: Groups,
  open: GroupInStream,
  partitions: readonly number[] | undefined,
  position: Position,
  deadline: Deadline,
): Promise<{ partition: number; position: number }[]> {
  const { stream, members } = open;
  const indexes = partitions ? [...new Set(partitions)].sort((a, b) => a - b) : range(stream.partitions);
  for (const index of indexes)
    if (index >= stream.partitions) throw partitionNotFound(stream.name, index, stream.partitions);
  const offsets = await offsetsOf(groups, stream, indexes, position, deadline);
  if (await members.live(deadline)) {
    await members.seek(new Map(indexes.map((index, place) => [index, offsets[place]!])), stream.partitions, deadline);
    await mapLimit(indexes, PARALLEL, (index) => {
      const target = open.partition(index);
      return target.exclusive(() => target.prepare(deadline));
    });
  } else
    await mapLimit(indexes, PARALLEL, (index, place) => {
      const target = open.partition(index);
      return target.exclusive(() => target.seek(offsets[place]!, deadline));
    });
  await mapLimit(indexes, PARALLEL, (index) => open.returned.drop(index, 0, deadline));
  return indexes.map((partition, place) => ({ partition, position: offsets[place]! }));
}

/** The streams in which a group is, each with the group. @throws ServiceError CONSUMER_GROUP_NOT_FOUND. */
export async function streamsOf(
  catalog: Catalog,
  groups: Groups,
  group: string,
  only: string | undefined,
  deadline: Deadline,
): Promise<GroupInStream[]> {
  const records = await groups.records(group, deadline);
  const named = records.filter(({ stream }) => only === undefined || stream === only);
  const found: GroupInStream[] = [];
  for (const { stream: name } of named.sort((a, b) => (a.stream < b.stream ? -1 : 1))) {
    const stream = catalog.known(name);
    const open = stream && (await groups.get(group, stream, deadline));
    if (open) found.push(open);
  }
  if (found.length === 0) throw groupNotFound(group);
  return found;
}

async function offsetsOf(
  groups: Groups,
  stream: StreamRecord,
  partitions: readonly number[],
  position: Position,
  deadline: Deadline,
): Promise<number[]> {
  const states =
    partitions.length === stream.partitions
      ? await partitionStates(groups.js, stream, deadline)
      : await mapLimit(partitions, PARALLEL, (partition) =>
          partitionState(groups.js, stream.name, partition, deadline),
        );
  const end = Math.max(...states.map(({ endOffset }) => endOffset));
  if (typeof position === "number" && position > end)
    throw invalidOffset(`offset ${position} is above endOffset ${end} of "${stream.name}"`);
  return mapLimit(states, PARALLEL, (state) => offsetOf(groups.js, stream.name, state, position, deadline));
}

const range = (count: number): number[] => Array.from({ length: count }, (_, i) => i);
