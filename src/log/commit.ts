import type { Deadline } from "../domain/deadline.ts";
import { invalidArgument, partitionNotFound } from "../domain/errors.ts";
import type { Catalog } from "./catalog.ts";
import type { GroupPartition } from "./group-partition.ts";
import type { Groups } from "./groups.ts";

/** The last processed event of one partition. */
export interface CommitEntry {
  readonly stream: string;
  readonly partition: number;
  readonly offset: number;
}

/**
 * Stores what a group has processed; answers once it is stored. All entries are checked before any is applied.
 *
 * @throws ServiceError STREAM_NOT_FOUND, CONSUMER_GROUP_NOT_FOUND, INVALID_OFFSET, INVALID_ARGUMENT.
 */
export async function commit(
  catalog: Catalog,
  groups: Groups,
  group: string,
  entries: readonly CommitEntry[],
  deadline: Deadline,
): Promise<void> {
  const places = await Promise.all(
    entries.map(async ({ stream: name, partition, offset }) => {
      const stream = await catalog.find(name, deadline);
      if (partition >= stream.partitions) throw partitionNotFound(name, partition, stream.partitions);
      const open = await groups.find(group, stream, deadline);
      return { target: open.partition(partition), offset };
    }),
  );
  const targets = new Set<GroupPartition>();
  for (const [index, { target }] of places.entries()) {
    if (targets.has(target))
      throw invalidArgument(`offsets[${index}]`, "names a partition that an earlier entry names");
    targets.add(target);
  }
  await allExclusive([...targets], async () => {
    await Promise.all(places.map(({ target, offset }) => target.checkCommit(offset, deadline)));
    await Promise.all(places.map(({ target, offset }) => target.commit(offset, deadline)));
  });
}

/** Holds all partitions at once, taken in one order everywhere so that two commits can't wait for each other. */
function allExclusive(targets: GroupPartition[], task: () => Promise<void>): Promise<void> {
  targets.sort((a, b) => (a.place.key < b.place.key ? -1 : 1));
  const hold = (index: number): Promise<void> =>
    index === targets.length ? task() : targets[index]!.exclusive(() => hold(index + 1));
  return hold(0);
}
