import type { Deadline } from "../domain/deadline.ts";
import { failuresAt } from "../domain/deliveries.ts";
import { invalidArgument, invalidOffset, quotaExceeded, ServiceError } from "../domain/errors.ts";
import { MAX_PASSED, MAX_RETURNED } from "../domain/limits.ts";
import { mapLimit } from "../domain/map-limit.ts";
import { partitionState } from "../jetstream/partitions.ts";
import type { Catalog } from "./catalog.ts";
import type { DeadLetter } from "./dead-letters.ts";
import type { GroupPartition } from "./group-partition.ts";
import { type Committer, type EventPlace, type GroupPlace, groupPlaces, inPartitions } from "./group-places.ts";
import type { GroupInStream, Groups } from "./groups.ts";
import type { ReturnedEvent } from "./returned.ts";

export interface NackOptions {
  /** Until they are handed out again, in milliseconds. */
  readonly delayMs: number;
  /** Why, for the header of a dead letter. */
  readonly reason: string | undefined;
  readonly by: Committer;
  readonly deadline: Deadline;
}

/** What becomes of a returned event. */
export interface Nacked {
  readonly place: EventPlace;
  readonly outcome: "returned" | "deadLettered";
  /** How often it has been handed out. */
  readonly deliveries: number;
}

const PARALLEL = 32;
/** A dead letter that can't be stored now is tried again after so long, or after the caller's delay. */
const AGAIN_MS = 1000;

/**
 * Takes back events that a consumer could not process. Each is stored as returned, or as a dead letter when it has been
 * handed out often enough, and then passes its place; a crash in between hands it out twice. All are checked before any
 * is taken.
 *
 * @returns one result each, in order.
 * @throws ServiceError STREAM_NOT_FOUND, CONSUMER_GROUP_NOT_FOUND, INVALID_OFFSET for an event that is done or not there
 * or, where deliveries are bounded, was not handed out, INVALID_ARGUMENT, NOT_PARTITION_OWNER, QUOTA_EXCEEDED when too many wait.
 */
export async function nack(
  catalog: Catalog,
  groups: Groups,
  group: string,
  entries: readonly EventPlace[],
  options: NackOptions,
): Promise<Nacked[]> {
  const { deadline } = options;
  const places = await groupPlaces(catalog, groups, group, entries, options.by, deadline);
  const named = new Set<string>();
  for (const [index, { stream, partition, offset }] of entries.entries()) {
    const name = `${stream}/${partition}/${offset}`;
    if (named.has(name)) throw invalidArgument(`events[${index}]`, "names an event that an earlier entry names");
    named.add(name);
  }
  return inPartitions(groups, places, options.by, deadline, async (targets) => {
    await mapLimit([...new Set(targets)], PARALLEL, async (target) => {
      await target.prepare(deadline);
      await target.reload(deadline);
    });
    const known = await mapLimit(places, PARALLEL, ({ open, partition, offset }) =>
      open.returned.find(partition, offset, deadline),
    );
    await check(places, targets, known, deadline);
    const results = await mapLimit(places, PARALLEL, (place, i) =>
      takeBack(place, targets[i]!, known[i], entries[i]!, options),
    );
    const passing = Map.groupBy(
      places.map(({ offset }, i) => ({ offset, target: targets[i]!, isNew: known[i] === undefined })),
      ({ target }) => target,
    );
    await mapLimit([...passing], PARALLEL, ([target, its]) =>
      target.passOver(
        its.filter(({ isNew }) => isNew).map(({ offset }) => offset),
        deadline,
      ),
    );
    return results;
  });
}

async function check(
  places: readonly GroupPlace[],
  targets: readonly GroupPartition[],
  known: readonly (ReturnedEvent | undefined)[],
  deadline: Deadline,
): Promise<void> {
  const fresh = places.map((place, i) => ({ ...place, target: targets[i]!, event: known[i] }));
  for (const { open, partition, offset, target, event } of fresh) {
    const isDone = event ? event.done : offset < target.resume || target.isPassed(offset);
    const place = `offset ${offset} of "${open.stream.name}"/${partition}`;
    if (isDone) throw invalidOffset(`${place} is done already`);
    // Where deliveries are counted, one must have been.
    if (open.deadLetters && !event && !(await target.wasHandedOut(offset, deadline)))
      throw invalidOffset(`${place} was not handed out yet`);
  }
  for (const [target, its] of Map.groupBy(fresh, (each) => each.target)) {
    const { stream, partition } = target.place;
    const { endOffset } = await partitionState(its[0]!.open.js, stream, partition, deadline);
    const beyond = its.find(({ offset }) => offset >= endOffset);
    if (beyond)
      throw invalidOffset(`offset ${beyond.offset} is not below endOffset ${endOffset} of "${stream}"/${partition}`);
    const passed = (target.progress.passed?.length ?? 0) + its.filter(({ event }) => !event).length;
    if (passed > MAX_PASSED)
      throw full(`"${stream}"/${partition} has ${MAX_PASSED} returned events ahead of one that is not committed`);
  }
  for (const [open, its] of Map.groupBy(fresh, (each) => each.open))
    if (open.returned.count() + its.filter(({ event }) => !event).length > MAX_RETURNED)
      throw full(`consumer group "${open.group}" has ${MAX_RETURNED} returned events in "${open.stream.name}"`);
}

async function takeBack(
  { open, partition, offset }: GroupPlace,
  target: GroupPartition,
  known: ReturnedEvent | undefined,
  place: EventPlace,
  { delayMs, reason, deadline }: NackOptions,
): Promise<Nacked> {
  const deliveries = known?.deliveries ?? failuresAt(target.progress.failures, offset) + 1;
  const at = known ?? { partition, offset, revision: 0 };
  const letter = { partition, offset, deliveries, reason: reason ?? "it was returned" };
  const isDead = await deadLettered(open, letter, deadline);
  const dueMs = Date.now() + (mayDie(open, deliveries) ? Math.max(delayMs, AGAIN_MS) : delayMs);
  const record = { deliveries, dueMs, reason: reason ?? known?.reason };
  if (isDead) await open.returned.settle({ ...at, deliveries, dueMs }, deadline);
  // Where another gateway hands it out or settles it at this moment, that stands.
  else await open.returned.put(at, record, deadline);
  return { place, outcome: isDead ? "deadLettered" : "returned", deliveries };
}

const mayDie = ({ deadLetters }: GroupInStream, deliveries: number): boolean =>
  deadLetters !== undefined && deliveries >= deadLetters.maxDeliveries;

/** Makes an event a dead letter that has been handed out often enough. @returns whether it is one. */
async function deadLettered(open: GroupInStream, letter: DeadLetter, deadline: Deadline): Promise<boolean> {
  if (!mayDie(open, letter.deliveries)) return false;
  try {
    await open.deadLetters!.store([letter], deadline);
    return true;
  } catch (error) {
    if (error instanceof ServiceError) return false;
    throw error;
  }
}

const full = (description: string): ServiceError =>
  quotaExceeded("returned-events", `${description}: commit, or process the returned ones, first`, 1000);
