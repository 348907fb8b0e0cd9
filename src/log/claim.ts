import type { Deadline } from "../domain/deadline.ts";
import { notPartitionOwner } from "../domain/errors.ts";
import { type Membership, ownedBy } from "../domain/membership.ts";
import type { GroupPartition } from "./group-partition.ts";
import type { GroupInStream, Groups } from "./groups.ts";
import type { MemberIdentity } from "./members.ts";

/** Who reads for a group. */
export interface Reader {
  /** Undefined: the group's callers are one logical consumer. */
  readonly member?: MemberIdentity;
  /** Reads only these partitions; undefined: all that it may. */
  readonly partitions?: readonly number[];
}

/** What a reader may read until the group's members change. */
export interface Claim {
  /** Of a member: the generation it is told, and all partitions assigned to it. */
  readonly assignment: { readonly generation: number; readonly partitions: readonly number[] } | undefined;
  /** What it reads of them, in order of their numbers. */
  readonly partitions: readonly GroupPartition[];
  /** The members that this was read from. */
  readonly state: Membership | undefined;
}

/**
 * Shows that the reader is there and gives what it may read now.
 *
 * @throws ServiceError NOT_PARTITION_OWNER for a reader without a name in a group that has members;
 * CONSUMER_GROUP_NOT_FOUND once the group is deleted.
 */
export async function claim(groups: Groups, group: GroupInStream, reader: Reader, deadline: Deadline): Promise<Claim> {
  const { stream, members } = group;
  const { member } = reader;
  const wanted = reader.partitions ? [...new Set(reader.partitions)].sort((a, b) => a - b) : range(stream.partitions);
  if (member) groups.sweep(group);
  for (;;) {
    group.deleted.throwIfAborted();
    const state = await (member ? members.claim(member, stream.partitions, deadline) : members.live(deadline));
    const [first] = state?.members ?? [];
    if (first && !member)
      throw notPartitionOwner(
        `consumer group "${group.group}" has members in "${stream.name}", such as "${first.id}": name yourself by consumerId`,
      );
    const owned = member && state ? ownedBy(state, member.id) : wanted;
    const read = reader.partitions ? owned.filter((index) => wanted.includes(index)) : owned;
    const partitions = read.map((index) => group.partition(index));
    // An epoch that has begun since may be another member's.
    if (partitions.some(({ place }) => place.epoch !== (state?.partitions[place.partition]?.since ?? 0))) continue;
    const assignment = member && state && { generation: state.generation, partitions: owned };
    return { assignment, partitions, state };
  }
}

const range = (count: number): number[] => Array.from({ length: count }, (_, i) => i);
