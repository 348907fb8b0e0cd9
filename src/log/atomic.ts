import { randomBytes } from "node:crypto";
import type { Deadline } from "../domain/deadline.ts";
import { ErrorCode, invalidArgument, partitionNotFound, ServiceError } from "../domain/errors.ts";
import { type Ack, isRefused, type NewEvent, type RefusedEvent } from "../domain/event.ts";
import { MAX_ATOMIC_BATCH_EVENTS } from "../domain/limits.ts";
import { batchLines, findDuplicate, publishAtomic } from "../jetstream/atomic-batch.ts";
import type { JetStream } from "../jetstream/connection.ts";
import { partitionState } from "../jetstream/partitions.ts";
import {
  type Appender,
  type AppendOptions,
  checkRoom,
  expectationFailed,
  type Outcome,
  type Prepared,
  storedBytes,
} from "./append.ts";
import type { StreamRecord } from "./catalog.ts";

/**
 * Stores all events or none, by JetStream's atomic batch publish (NATS ADR-50), which spans one JetStream stream: hence
 * one partition.
 *
 * @returns one outcome each; when one event is at fault all carry an error.
 * @throws ServiceError INVALID_ARGUMENT for a batch that can't be atomic; what JetStream refuses as a whole.
 */
export async function appendAtomic(
  js: JetStream,
  appender: Appender,
  stream: StreamRecord,
  events: readonly (NewEvent | RefusedEvent)[],
  options: AppendOptions,
): Promise<Outcome[]> {
  if (events.length > MAX_ATOMIC_BATCH_EVENTS)
    throw invalidArgument("events", `an atomic batch has at most ${MAX_ATOMIC_BATCH_EVENTS} events`);
  const faulty = events.findIndex(isRefused);
  if (faulty >= 0) return allFailed(events, faulty);
  const good = events as readonly NewEvent[];
  const placeless = good.findIndex(({ partition }) => (partition ?? 0) >= stream.partitions);
  if (placeless >= 0) {
    const error = partitionNotFound(stream.name, good[placeless]!.partition!, stream.partitions);
    return allFailed(withFault(good, placeless, error), placeless);
  }
  checkDistinctIds(good);
  const partition = commonPartition(appender, stream, good);
  const expected = expectedStart(good);

  const batchId = randomBytes(12).toString("hex");
  const prepared: Prepared[] = [];
  for (const [index, event] of good.entries()) {
    const { expectedOffset: _, ...rest } = event;
    try {
      const first = index === 0 && expected !== undefined ? { expectedOffset: expected } : {};
      prepared.push(
        await appender.prepare(
          stream,
          { ...rest, ...first, partition },
          options.gzip ?? false,
          batchLines(batchId, index, good.length),
        ),
      );
    } catch (error) {
      if (!(error instanceof ServiceError)) throw error;
      return allFailed(withFault(good, index, error), index);
    }
  }
  const bytes = prepared.reduce((sum, each) => sum + storedBytes(each), 0);
  checkRoom(stream, bytes, "the batch");
  return publish(js, stream, partition, prepared, options.deadline);
}

async function publish(
  js: JetStream,
  stream: StreamRecord,
  partition: number,
  prepared: readonly Prepared[],
  deadline: Deadline,
): Promise<Outcome[]> {
  const end = await publishAtomic(js, prepared, deadline);
  const from = end.kind === "stored" ? end.lastSeq - prepared.length : 0;
  switch (end.kind) {
    case "stored":
      return prepared.map(
        ({ eventId }, index): Ack => ({ eventId, partition, offset: from + index, duplicate: false }),
      );
    case "expectation":
      throw expectationFailed(
        stream,
        partition,
        (await partitionState(js, stream.name, partition, deadline)).endOffset,
      );
    case "duplicate":
      return earlierBatch(js, partition, prepared, deadline);
  }
}

/** Some id was stored before. When all were, this is a repeat of a stored batch and gets the same answer. */
async function earlierBatch(
  js: JetStream,
  partition: number,
  prepared: readonly Prepared[],
  deadline: Deadline,
): Promise<Outcome[]> {
  const found = await Promise.all(
    prepared.map(({ subject, eventId }) => findDuplicate(js, subject, eventId, deadline)),
  );
  const known = prepared.filter((_, index) => found[index] !== undefined).map(({ eventId }) => eventId);
  if (known.length < prepared.length)
    throw new ServiceError(
      ErrorCode.ALREADY_EXISTS,
      `nothing was stored: ${known.length} of the ids were published before`,
      {
        details: known.slice(0, 10).map((eventId) => ({ field: "eventId", description: eventId })),
      },
    );
  return prepared.map(
    ({ eventId }, index): Ack => ({ eventId, partition, offset: found[index]! - 1, duplicate: true }),
  );
}

/** An id is stored once, so that two events of one id can't both be. */
function checkDistinctIds(events: readonly NewEvent[]): void {
  const first = new Map<string, number>();
  for (const [index, { eventId }] of events.entries()) {
    if (eventId === undefined) continue;
    const other = first.get(eventId);
    if (other !== undefined) throw invalidArgument(`events[${index}].eventId`, `is that of events[${other}] too`);
    first.set(eventId, index);
  }
}

function commonPartition(appender: Appender, stream: StreamRecord, events: readonly NewEvent[]): number {
  const named = events.filter(
    (event) => event.partition !== undefined || event.partitionKey !== undefined || event.key !== undefined,
  );
  // Events that name no partition go where the others do; when none does, all go to one.
  const chosen = new Set(
    (named.length > 0 ? named : events.slice(0, 1)).map((event) => appender.choosePartition(stream, event)),
  );
  const [partition] = chosen;
  if (chosen.size > 1)
    throw invalidArgument(
      "options.atomic",
      `the events belong to ${chosen.size} partitions; an atomic batch is stored in one`,
    );
  return partition!;
}

/** Where the batch must begin, from the events' expected offsets. */
function expectedStart(events: readonly NewEvent[]): number | undefined {
  let start: number | undefined;
  for (const [index, { expectedOffset }] of events.entries()) {
    if (expectedOffset === undefined) continue;
    if (start !== undefined && start !== expectedOffset - index)
      throw invalidArgument(
        `events[${index}].expectedOffset`,
        "contradicts that of an earlier event of this atomic batch",
      );
    start = expectedOffset - index;
  }
  if (start !== undefined && start < 0) throw invalidArgument("events", "the expected offsets can't hold together");
  return start;
}

const withFault = (
  events: readonly (NewEvent | RefusedEvent)[],
  index: number,
  error: ServiceError,
): (NewEvent | RefusedEvent)[] => events.with(index, { eventId: events[index]!.eventId, error });

function allFailed(events: readonly (NewEvent | RefusedEvent)[], faulty: number): Outcome[] {
  const others = new ServiceError(
    ErrorCode.PRECONDITION_FAILED,
    `not stored, because event ${faulty} of this atomic batch is at fault`,
  );
  return events.map((event) => (isRefused(event) ? event : { eventId: event.eventId, error: others }));
}
