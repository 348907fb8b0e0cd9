import type { Deadline } from "../domain/deadline.ts";
import { ServiceError } from "../domain/errors.ts";
import type { StoredEvent } from "../domain/event.ts";
import type { GroupInStream } from "./groups.ts";
import { readEvent } from "./read-event.ts";
import type { ReturnedEvent } from "./returned.ts";

/** A returned event that is handed out again, and its entry, which says so. */
export interface HandedOut {
  readonly event: StoredEvent;
  readonly entry: ReturnedEvent;
}

/** A dead letter that can't be stored now is tried again after so long. */
const AGAIN_MS = 1000;

/**
 * Takes the returned event of a partition that is due longest. When it is not committed within the group's ackWait, it
 * is due again; one that has been handed out often enough becomes a dead letter instead.
 */
export async function takeReturned(
  group: GroupInStream,
  partition: number,
  deadline: Deadline,
): Promise<HandedOut | undefined> {
  const { returned, record, deadLetters, js, stream } = group;
  for (;;) {
    const nowMs = Date.now();
    const entry = returned.due(partition, nowMs);
    if (!entry) return undefined;
    const { offset, deliveries, reason } = entry;
    if (deadLetters && deliveries >= deadLetters.maxDeliveries) {
      try {
        const why = reason ?? "it was not committed in time";
        await deadLetters.store([{ partition, offset, deliveries, reason: why }], deadline);
        await returned.settle(entry, deadline);
      } catch (error) {
        if (!(error instanceof ServiceError)) throw error;
        await returned.put(entry, { deliveries, dueMs: nowMs + AGAIN_MS, reason }, deadline);
      }
      continue;
    }
    const leased = { deliveries: deliveries + 1, dueMs: nowMs + record.ackWaitMs, out: true } as const;
    // Another gateway came first, and the watch may not have told yet.
    if (!(await returned.put(entry, leased, deadline))) {
      await returned.find(partition, offset, deadline);
      continue;
    }
    const event = await readEvent(js, stream.name, partition, offset, deadline);
    const held = returned.known(partition, offset);
    // Dropped meanwhile, by a seek or with the group.
    if (!held) continue;
    if (event) return { event: { ...event, deliveryAttempt: held.deliveries }, entry: held };
    // Retention has taken it.
    await returned.settle(held, deadline);
  }
}

/** Puts back an event that did not reach its caller, as if it had not been handed out. */
export async function putBack(group: GroupInStream, { entry }: HandedOut, deadline: Deadline): Promise<void> {
  const { deliveries, reason } = entry;
  await group.returned.put(entry, { deliveries: deliveries - 1, dueMs: Date.now(), reason }, deadline);
}
