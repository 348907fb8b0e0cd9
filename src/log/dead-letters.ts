import { createHash } from "node:crypto";
import type { Logger } from "pino";
import type { Deadline } from "../domain/deadline.ts";
import { mapLimit } from "../domain/map-limit.ts";
import type { JetStream } from "../jetstream/connection.ts";
import type { Appender } from "./append.ts";
import type { StreamRecord } from "./catalog.ts";
import { readEvent } from "./read-event.ts";

/** An event that was handed out too often. */
export interface DeadLetter {
  readonly partition: number;
  readonly offset: number;
  /** How often it was handed out. */
  readonly deliveries: number;
  readonly reason: string;
}

/** Where a group's events go that were handed out too often. */
export interface DeadLetters {
  /** How often an event is handed out at most. */
  readonly maxDeliveries: number;
  /**
   * Stores events, each with its key, payload and headers and with headers that say where it was and why it is there. The
   * same event is stored once within the target's duplicate window. Those that retention has taken are passed over.
   *
   * @throws ServiceError when one can't be stored; the others may be.
   */
  store(letters: readonly DeadLetter[], deadline: Deadline): Promise<void>;
}

/** What {@link deadLettersTo} needs of a group and of the service. */
export interface DeadLetterContext {
  readonly js: JetStream;
  readonly appender: Appender;
  readonly findStream: (name: string, deadline: Deadline) => Promise<StreamRecord>;
  readonly log: Logger;
}

const PARALLEL = 32;
const PREFIX = "millrace-dead-letter-";

/** Dead letters of a group in a stream, which go to the stream `target`. */
export function deadLettersTo(
  context: DeadLetterContext,
  group: string,
  source: { readonly id: string; readonly name: string },
  { maxDeliveries, deadLetterStream }: { readonly maxDeliveries: number; readonly deadLetterStream: string },
): DeadLetters {
  const { js, appender, findStream, log } = context;
  const store = async (letters: readonly DeadLetter[], deadline: Deadline): Promise<void> => {
    const target = await findStream(deadLetterStream, deadline);
    await mapLimit(letters, PARALLEL, async ({ partition, offset, deliveries, reason }) => {
      const event = await readEvent(js, source.name, partition, offset, deadline);
      if (!event) return;
      const origin: [string, string][] = Object.entries({
        group,
        stream: source.name,
        partition: String(partition),
        offset: String(offset),
        "event-id": event.eventId,
        timestamp: new Date(event.timestampMs).toISOString(),
        deliveries: String(deliveries),
        reason,
      }).map(([name, value]) => [PREFIX + name, value]);
      const own = (event.headers ?? []).filter(([name]) => !name.startsWith(PREFIX));
      await appender.append(
        target,
        {
          payload: event.payload,
          contentType: event.contentType,
          key: event.key,
          headers: [...own, ...origin],
          eventId: letterId(group, source.id, partition, offset),
        },
        { deadline },
      );
    });
  };
  return {
    maxDeliveries,
    async store(letters, deadline) {
      if (letters.length === 0) return;
      const about = { group, stream: source.name, deadLetterStream, events: letters.length };
      try {
        await store(letters, deadline);
        log.info(about, "events were handed out too often and are dead letters now");
      } catch (error) {
        log.warn({ ...about, err: error }, "dead letters could not be stored; their events stay in the group");
        throw error;
      }
    },
  };
}

/** The same for the same event of a group, so that storing it again changes nothing. */
function letterId(group: string, streamId: string, partition: number, offset: number): string {
  const hash = createHash("sha256")
    .update(JSON.stringify([group, streamId, partition, offset]))
    .digest("base64url");
  return `dead_${hash}`;
}
