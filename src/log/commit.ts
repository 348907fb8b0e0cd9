import type { Deadline } from "../domain/deadline.ts";
import { invalidArgument } from "../domain/errors.ts";
import type { Catalog } from "./catalog.ts";
import type { GroupPartition } from "./group-partition.ts";
import { type Committer, type EventPlace, type GroupPlace, groupPlaces, inPartitions } from "./group-places.ts";
import type { Groups } from "./groups.ts";
import type { ReturnedEvent } from "./returned.ts";

/**
 * Stores what a group has processed; answers once it is stored. All entries are checked before any is applied. An entry
 * that names a returned event settles that event and moves nothing.
 *
 * @throws ServiceError STREAM_NOT_FOUND, CONSUMER_GROUP_NOT_FOUND, INVALID_OFFSET, INVALID_ARGUMENT, NOT_PARTITION_OWNER.
 */
export async function commit(
  catalog: Catalog,
  groups: Groups,
  group: string,
  entries: readonly EventPlace[],
  by: Committer,
  deadline: Deadline,
): Promise<void> {
  const places = await groupPlaces(catalog, groups, group, entries, by, deadline);
  await inPartitions(groups, places, by, deadline, async (targets) => {
    const returned = await Promise.all(places.map((place, i) => returnedAt(place, targets[i]!, deadline)));
    const moved = new Set<GroupPartition>();
    for (const [index, target] of targets.entries()) {
      if (returned[index]) continue;
      if (moved.has(target))
        throw invalidArgument(`offsets[${index}]`, "names a partition that an earlier entry names");
      moved.add(target);
    }
    await Promise.all(
      places.map(({ offset }, i) => (returned[i] ? undefined : targets[i]!.checkCommit(offset, deadline))),
    );
    await Promise.all(
      places.map(async ({ open, partition, offset }, i) => {
        const [event, target] = [returned[i], targets[i]!];
        if (event) return open.returned.settle(event, deadline);
        const isRewind = offset + 1 < target.resume;
        await target.commit(offset, deadline);
        if (isRewind) await open.returned.drop(partition, offset + 1, deadline);
      }),
    );
  });
}

/**
 * The returned event that an entry means, if any: one that is handed out again, or was and is done. One that still waits
 * was the last of what the caller has processed otherwise, and the entry commits that.
 */
async function returnedAt(
  { open, partition, offset }: GroupPlace,
  target: GroupPartition,
  deadline: Deadline,
): Promise<ReturnedEvent | undefined> {
  const known = open.returned.known(partition, offset);
  if (known?.out) return known;
  await target.prepare(deadline);
  const isBehind = offset < target.resume;
  if (!isBehind && !target.isPassed(offset)) return undefined;
  const found = await open.returned.find(partition, offset, deadline);
  return found?.out || (isBehind && found?.done) ? found : undefined;
}
