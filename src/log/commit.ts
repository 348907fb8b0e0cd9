import type { Deadline } from "../domain/deadline.ts";
import { ErrorCode, invalidArgument, notPartitionOwner, partitionNotFound, ServiceError } from "../domain/errors.ts";
import type { Catalog } from "./catalog.ts";
import type { GroupPartition } from "./group-partition.ts";
import type { GroupInStream, Groups } from "./groups.ts";

/** The last processed event of one partition. */
export interface CommitEntry {
  readonly stream: string;
  readonly partition: number;
  readonly offset: number;
}

/** Who commits. */
export interface Committer {
  /** Undefined: nobody's name is checked, as for an operator or a group without members. */
  readonly memberId?: string | undefined;
  /** The generation that the member was told with the events. */
  readonly generation?: number | undefined;
}

/**
 * Stores what a group has processed; answers once it is stored. All entries are checked before any is applied.
 *
 * @throws ServiceError STREAM_NOT_FOUND, CONSUMER_GROUP_NOT_FOUND, INVALID_OFFSET, INVALID_ARGUMENT, NOT_PARTITION_OWNER.
 */
export async function commit(
  catalog: Catalog,
  groups: Groups,
  group: string,
  entries: readonly CommitEntry[],
  by: Committer,
  deadline: Deadline,
): Promise<void> {
  const places = await Promise.all(
    entries.map(async ({ stream: name, partition, offset }) => {
      const stream = await catalog.find(name, deadline);
      if (partition >= stream.partitions) throw partitionNotFound(name, partition, stream.partitions);
      return { open: await groups.find(group, stream, deadline), partition, offset };
    }),
  );
  const named = new Set<string>();
  for (const [index, { open, partition }] of places.entries()) {
    const place = `${open.stream.name}/${partition}`;
    if (named.has(place)) throw invalidArgument(`offsets[${index}]`, "names a partition that an earlier entry names");
    named.add(place);
  }
  for (let attempt = 0; ; attempt++) {
    const targets = places.map(({ open, partition, offset }) => ({ target: open.partition(partition), offset }));
    if (by.memberId !== undefined) await checkMember(places, by.memberId, by.generation, deadline);
    try {
      // An epoch that began during the check may be another member's: it was not what was checked.
      for (const [index, { open, partition }] of places.entries())
        if (open.partition(partition) !== targets[index]!.target)
          throw notPartitionOwner(`"${open.stream.name}"/${partition} changes hands`);
      return await allExclusive(
        targets.map(({ target }) => target),
        async () => {
          await Promise.all(targets.map(({ target, offset }) => target.checkCommit(offset, deadline)));
          await Promise.all(targets.map(({ target, offset }) => target.commit(offset, deadline)));
        },
      );
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
  places: readonly { readonly open: GroupInStream; readonly partition: number }[],
  memberId: string,
  generation: number | undefined,
  deadline: Deadline,
): Promise<void> {
  const byGroup = Map.groupBy(places, ({ open }) => open);
  for (const [open, its] of byGroup)
    await open.members.checkCommit(
      memberId,
      its.map(({ partition }) => partition),
      generation,
      deadline,
    );
}

/** Holds all partitions at once, taken in one order everywhere so that two commits can't wait for each other. */
function allExclusive(targets: GroupPartition[], task: () => Promise<void>): Promise<void> {
  targets.sort((a, b) => (a.place.key < b.place.key ? -1 : 1));
  const hold = (index: number): Promise<void> =>
    index === targets.length ? task() : targets[index]!.exclusive(() => hold(index + 1));
  return hold(0);
}
