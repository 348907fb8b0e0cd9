import type { Deadline } from "../domain/deadline.ts";
import { invalidOffset } from "../domain/errors.ts";
import type { Position } from "../domain/position.ts";
import type { JetStream } from "../jetstream/connection.ts";
import { sequenceAtTime } from "../jetstream/direct.ts";
import { partitionStream } from "../jetstream/names.ts";
import type { PartitionState } from "../jetstream/partitions.ts";

/**
 * The offset of a position in a partition: the first event at it or behind it, at most the end.
 *
 * @throws ServiceError INVALID_OFFSET for an offset that is not kept any more.
 */
export async function offsetOf(
  js: JetStream,
  stream: string,
  state: PartitionState,
  position: Position,
  deadline: Deadline,
): Promise<number> {
  const { partition, startOffset, endOffset } = state;
  if (position === "earliest") return startOffset;
  if (position === "latest") return endOffset;
  if (typeof position === "object") {
    const seq = await sequenceAtTime(js, partitionStream(stream, partition), position.timeMs, deadline);
    return seq === undefined ? endOffset : seq - 1;
  }
  if (position < startOffset)
    throw invalidOffset(`offset ${position} is below startOffset ${startOffset} of "${stream}"/${partition}`);
  return Math.min(position, endOffset);
}
