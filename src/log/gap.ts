import type { Deadline } from "../domain/deadline.ts";
import { invalidOffset, type ServiceError } from "../domain/errors.ts";
import type { JetStream } from "../jetstream/connection.ts";
import { partitionState } from "../jetstream/partitions.ts";

/**
 * What is to be said of a gap between two events that follow each other: a partition never deletes in the middle, so one
 * that retention does not explain is damage, and no reader is led past it without being told.
 *
 * @param next the offset that was to come.
 * @param found the one that came.
 * @returns undefined when the events in between have expired.
 */
export async function lostBetween(
  js: JetStream,
  stream: string,
  partition: number,
  next: number,
  found: number,
  deadline: Deadline,
): Promise<ServiceError | undefined> {
  const { lost, startOffset } = await partitionState(js, stream, partition, deadline);
  if (lost === 0 || startOffset > next) return undefined;
  return invalidOffset(
    `offsets ${next} to ${found - 1} of "${stream}"/${partition} are lost in the storage; seek to ${found} to go on behind them`,
  );
}
