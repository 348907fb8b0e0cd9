import type { Deadline } from "../domain/deadline.ts";
import { ErrorCode, notPartitionOwner, partitionNotFound, ServiceError } from "../domain/errors.ts";
import type { Owner } from "../domain/quota.ts";
import type { Catalog } from "./catalog.ts";
import type { GroupPartition } from "./group-partition.ts";
import type { GroupInStream, Groups } from "./groups.ts";

/** An event by its place. */
export interface EventPlace {
  readonly stream: string;
  readonly partition: number;
  readonly offset: number;
}

/** Who says what becomes of a group's events. */
export interface Committer {
  /** Undefined: nobody's name is checked, as for an operator or a group without members. */
  readonly memberId?: string | undefined;
  /** The generation that the member was told with the events. */
  readonly generation?: number | undefined;
  /** Whose the group is where it is new in a stream. */
  readonly owner: Owner;
}

/** An event in a group. */
export interface GroupPlace {
  readonly open: GroupInStream;
  readonly partition: number;
  readonly offset: number;
}

/**
 * Finds the group in the stream of each event.
 *
 * @throws ServiceError STREAM_NOT_FOUND, CONSUMER_GROUP_NOT_FOUND, INVALID_ARGUMENT, QUOTA_EXCEEDED.
 */
export function groupPlaces(
  catalog: Catalog,
  groups: Groups,
  group: string,
  entries: readonly EventPlace[],
  { owner }: Committer,
  deadline: Deadline,
): Promise<GroupPlace[]> {
  return Promise.all(
    entries.map(async ({ stream: name, partition, offset }) => {
      const stream = await catalog.find(name, deadline);
      if (partition >= stream.partitions) throw partitionNotFound(name, partition, stream.partitions);
      return { open: await groups.find(group, stream, owner, deadline), partition, offset };
    }),
  );
}

/**
 * Runs `task` alone in the partitions of some places, each in the epoch in which `by` may say what becomes of its events.
 *
 * @param task gets the partition of each place.
 * @throws ServiceError NOT_PARTITION_OWNER; what the task throws.
 */
export function inPartitions<T>(
  groups: Groups,
  places: readonly GroupPlace[],
  by: Committer,
  deadline: Deadline,
  task: (targets: readonly GroupPartition[]) => Promise<T>,
): Promise<T> {
  const opened = places.map(({ open }) => open);
  return groups.during(opened, () => inEpoch(places, by, deadline, task));
}

async function inEpoch<T>(
  places: readonly GroupPlace[],
  by: Committer,
  deadline: Deadline,
  task: (targets: readonly GroupPartition[]) => Promise<T>,
): Promise<T> {
  for (let attempt = 0; ; attempt++) {
    const targets = places.map(({ open, partition }) => open.partition(partition));
    if (by.memberId !== undefined) await checkMember(places, by.memberId, by.generation, deadline);
    try {
      // An epoch that began during the check may be another member's: it was not what was checked.
      for (const [index, { open, partition }] of places.entries())
        if (open.partition(partition) !== targets[index])
          throw notPartitionOwner(`"${open.stream.name}"/${partition} changes hands`);
      return await allExclusive([...new Set(targets)], () => task(targets));
    } catch (error) {
      // A later epoch has begun: a member that still owns the partition there is let through, anyone else is told.
      if (!(error instanceof ServiceError) || error.code !== ErrorCode.NOT_PARTITION_OWNER || attempt === 5)
        throw error;
      await Promise.all(places.map(({ open }) => open.members.reload(deadline)));
    }
  }
}

/** @throws ServiceError NOT_PARTITION_OWNER. */
async function checkMember(
  places: readonly GroupPlace[],
  memberId: string,
  generation: number | undefined,
  deadline: Deadline,
): Promise<void> {
  const byGroup = Map.groupBy(places, ({ open }) => open);
  for (const [open, its] of byGroup)
    await open.members.checkCommit(memberId, [...new Set(its.map(({ partition }) => partition))], generation, deadline);
}

/** Holds all partitions at once, taken in one order everywhere so that two callers can't wait for each other. */
function allExclusive<T>(targets: GroupPartition[], task: () => Promise<T>): Promise<T> {
  targets.sort((a, b) => (a.place.key < b.place.key ? -1 : 1));
  const hold = (index: number): Promise<T> =>
    index === targets.length ? task() : targets[index]!.exclusive(() => hold(index + 1));
  return hold(0);
}
