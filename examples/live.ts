import { setTimeout } from "node:timers/promises";
import { Audit } from "./audit.ts";
import type { Checks } from "./checks.ts";
import type { Client, NewEvent } from "./client.ts";
import type { Flight } from "./flights-file.ts";
import { GroupMember } from "./group-member.ts";
import { showProgress } from "./progress.ts";

const BATCH_EVENTS = 500;
const LOOK_MS = 10;

/** Events and whoever processed them. */
export interface LiveResult {
  readonly audit: Audit;
  /** The last event committed, by partition. */
  readonly committed: ReadonlyMap<number, number>;
  /** One line for each member. */
  readonly members: readonly string[];
}

/**
 * Three members of a group share a stream while it is written: two read live, one polls. When a quarter of the events is
 * processed, the first is cut off with events in its hands that it has not committed; the others get its partitions and
 * those events, and go on.
 *
 * @param stream exists, with so many partitions, and is empty.
 * @param signal ends the run.
 */
export async function readLive(
  client: Client,
  stream: string,
  group: string,
  partitions: number,
  flights: readonly Flight[],
  events: readonly NewEvent[],
  checks: Checks,
  signal: AbortSignal,
): Promise<LiveResult> {
  const audit = new Audit(flights, partitions);
  await client.createGroup(group, stream);
  const done = new AbortController();
  const over = AbortSignal.any([done.signal, signal]);
  using progress = showProgress(group, events.length);
  const member = (name: string) =>
    new GroupMember<Flight>(client, stream, group, name, (processed) => {
      for (const event of processed) audit.add(event);
      progress.advance(processed.length);
    });
  const [anna, ben, cleo] = [member("anna"), member("ben"), member("cleo")];
  const members = [anna, ben, cleo];
  let died = false;
  const annaReads = anna.stream(over, () => {
    died = audit.rows.length >= events.length / 4;
    return !died;
  });
  const reading = Promise.all([annaReads, ben.stream(over), cleo.poll(over)]);
  try {
    // A member that fails ends the run.
    await Promise.race([
      reading,
      (async () => {
        await until(() => members.every((each) => each.partitions.length === partitions / members.length), over);
        for (let i = 0; i < events.length; i += BATCH_EVENTS) {
          const { results } = await client.publishBatch(stream, events.slice(i, i + BATCH_EVENTS));
          const refused = results.find(({ error }) => error);
          if (refused) throw new Error(`an event was refused: ${refused.error!.description}`);
        }
        await until(() => audit.rows.length >= events.length, over);
        if (died) await until(() => ben.partitions.length + cleo.partitions.length === partitions, over);
      })(),
    ]);
  } finally {
    done.abort();
    await reading.catch(() => {});
  }
  signal.throwIfAborted();

  const committed = new Map<number, number>();
  for (const each of members)
    for (const [partition, offset] of each.committed)
      committed.set(partition, Math.max(offset, committed.get(partition) ?? -1));
  if (died) checks.equal(`${group}: anna died with events that she had not committed`, anna.dropped > 0, true);
  checks.equal(`${group}: events committed twice`, audit.rows.length - new Set(audit.rows).size, 0);
  return {
    audit,
    committed,
    members: members.map(
      ({ name, events, dropped }) =>
        `${name} ${String(events).padStart(6)} events${dropped > 0 ? `, ${dropped} more not committed` : ""}${died && name === anna.name ? ", then cut off" : ""}`,
    ),
  };
}

/** Waits until a condition holds. @throws the signal's reason. */
async function until(condition: () => boolean, signal: AbortSignal): Promise<void> {
  while (!condition()) await setTimeout(LOOK_MS, undefined, { signal });
}
