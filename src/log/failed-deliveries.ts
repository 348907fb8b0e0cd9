import type { Deadline } from "../domain/deadline.ts";
import { doneUpTo, failedUpTo, failuresAt, isPassed } from "../domain/deliveries.ts";
import { ErrorCode, ServiceError } from "../domain/errors.ts";
import type { DeadLetters } from "./dead-letters.ts";
import type { OffsetEntry } from "./offset-entry.ts";

/** Whose deliveries {@link FailedDeliveries} counts. */
export interface FailedDeliveriesPlace {
  readonly partition: number;
  /** Takes what was handed out too often; undefined: nothing ever is. */
  readonly deadLetters: DeadLetters | undefined;
}

/** How often events of a group in a partition were handed out in vain, and what becomes of those that were too often. */
export class FailedDeliveries {
  readonly #entry: OffsetEntry;
  readonly #place: FailedDeliveriesPlace;

  constructor(entry: OffsetEntry, place: FailedDeliveriesPlace) {
    this.#entry = entry;
    this.#place = place;
  }

  /** Whether an event becomes a dead letter when it is handed out in vain once more. It then goes alone, and nothing behind it. */
  isLastChance(offset: number): boolean {
    const { deadLetters } = this.#place;
    if (!deadLetters || !this.#entry.record.failures) return false;
    const failures = failuresAt(this.#entry.record.failures, offset);
    return failures > 0 && failures >= deadLetters.maxDeliveries - 1;
  }

  /** Whether an event was handed out in vain before. */
  has(offset: number): boolean {
    return failuresAt(this.#entry.record.failures, offset) > 0;
  }

  /**
   * What was handed out below `upTo` and is not done was handed out in vain. Events to which that has happened too often
   * become dead letters, and are done with that.
   *
   * @throws ServiceError NOT_PARTITION_OWNER. Where dead letters can't be stored, the events are handed out once more.
   */
  async countUpTo(upTo: number, deadline: Deadline): Promise<void> {
    const { deadLetters, partition } = this.#place;
    if (!deadLetters || upTo <= this.#entry.record.resume) return;
    await this.#entry.store((record) => failedUpTo(record, upTo), deadline);
    const { failures = [], resume } = this.#entry.record;
    const end = failures.findLast(([, count]) => count >= deadLetters.maxDeliveries)?.[0] ?? 0;
    try {
      for (let from = resume; from < end; from = this.#entry.record.resume) {
        const to = Math.min(end, from + DEAD_AT_ONCE);
        const offsets = range(from, to).filter((offset) => !isPassed(this.#entry.record, offset));
        await deadLetters.store(
          offsets.map((offset) => ({
            partition,
            offset,
            deliveries: failuresAt(failures, offset),
            reason: "it was not committed in time",
          })),
          deadline,
        );
        await this.#entry.store((record) => doneUpTo(record, to), deadline);
      }
    } catch (error) {
      if (!(error instanceof ServiceError) || error.code === ErrorCode.NOT_PARTITION_OWNER) throw error;
    }
  }
}

/** Dead letters that are stored between two writes of the entry. */
const DEAD_AT_ONCE = 500;

const range = (from: number, to: number): number[] => Array.from({ length: to - from }, (_, i) => from + i);
