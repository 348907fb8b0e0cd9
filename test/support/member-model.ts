/** What the members of one group saw of one stream. Times are ticks of one clock: `from` the call, `to` its answer. */
export type Observation = PollSeen | PollLost | CommitSeen | LeaveSeen;

interface Seen {
  readonly member: string;
  readonly from: number;
  readonly to: number;
}

export interface PollSeen extends Seen {
  readonly kind: "poll";
  readonly generation: number;
  /** The partitions assigned to the member. */
  readonly assignment: readonly number[];
  readonly events: readonly { readonly partition: number; readonly offset: number }[];
}

/** A poll whose answer was lost: it may have taken events. */
export interface PollLost extends Seen {
  readonly kind: "poll lost";
}

export interface CommitSeen extends Seen {
  readonly kind: "commit";
  readonly generation: number;
  readonly partition: number;
  /** The last event processed. */
  readonly offset: number;
  readonly outcome: "accepted" | "refused" | "unknown";
}

export interface LeaveSeen extends Seen {
  readonly kind: "leave";
  readonly outcome: "accepted" | "unknown";
}

/** What is there when every member has come to the end. */
export interface Quiescence {
  /** Events in each partition. */
  readonly counts: readonly number[];
  /** What the group's description says, in events. */
  readonly lag: number;
}

/**
 * What a history breaks of the contract of members, in words; empty when it keeps it.
 *
 * Members are taken to name the generation of their last answer and never to commit behind a commit.
 *
 * @param history in the order of the answers.
 */
export function violations(history: readonly Observation[], end: Quiescence): string[] {
  return [
    ...secondOwners(history),
    ...staleCommits(history),
    ...brokenOrder(history),
    ...repeats(history),
    ...unfinished(history, end),
  ];
}

function secondOwners(history: readonly Observation[]): string[] {
  const owners = new Map<string, string>();
  const found: string[] = [];
  for (const seen of history) {
    if (seen.kind !== "poll") continue;
    for (const partition of seen.assignment) {
      const place = `partition ${partition} in generation ${seen.generation}`;
      const owner = owners.get(place) ?? seen.member;
      if (owner !== seen.member) found.push(`${place} belongs to ${owner} and to ${seen.member}`);
      owners.set(place, owner);
    }
    for (const { partition, offset } of seen.events)
      if (!seen.assignment.includes(partition))
        found.push(`${seen.member} was handed ${partition}/${offset}, which is not assigned to it`);
  }
  return found;
}

function staleCommits(history: readonly Observation[]): string[] {
  const found: string[] = [];
  for (const commit of history) {
    if (commit.kind !== "commit" || commit.outcome !== "accepted") continue;
    const { member, partition, offset, generation } = commit;
    const before = history.filter((seen) => seen.to < commit.from);
    const next = before.find(
      (seen) =>
        seen.kind === "poll" &&
        seen.member !== member &&
        seen.generation > generation &&
        seen.assignment.includes(partition),
    );
    const text = `${member}'s commit of ${partition}/${offset} in generation ${generation} was accepted`;
    if (next) found.push(`${text} after ${next.member} had the partition`);
    const own = before.filter((seen) => seen.member === member);
    const left = own.findLast((seen) => seen.kind === "leave" && seen.outcome === "accepted");
    const isBack = own.some((seen) => seen.kind.startsWith("poll") && left !== undefined && seen.to > left.from);
    if (left && !isBack) found.push(`${text} after it had left`);
    const told = own.findLast((seen) => seen.kind === "poll");
    if (!told?.assignment.includes(partition)) found.push(`${text} though the partition was not assigned to it`);
  }
  return found;
}

/** Each answer goes on where its member was, or behind a commit, or before: never beyond an event nobody was handed. */
function brokenOrder(history: readonly Observation[]): string[] {
  const found: string[] = [];
  const next = new Map<string, number>();
  for (const seen of history) {
    if (seen.kind !== "poll") continue;
    for (const key of next.keys()) {
      const [partition, member] = split(key);
      // What it had is another's meanwhile.
      if (member === seen.member && !seen.assignment.includes(partition)) next.delete(key);
    }
    const inAnswer = new Map<number, number>();
    for (const { partition, offset } of seen.events) {
      const key = `${partition} ${seen.member}`;
      const last = inAnswer.get(partition);
      if (last !== undefined && offset !== last + 1)
        found.push(`${seen.member} was handed ${partition}/${offset} after ${partition}/${last} in one answer`);
      const reached = Math.max(next.get(key) ?? 0, committable(history, partition, seen.to) + 1);
      const mayMiss = history.some(
        (each) => each.kind === "poll lost" && each.member === seen.member && each.from < seen.to,
      );
      if (last === undefined && offset > reached && !mayMiss)
        found.push(`${seen.member} was handed ${partition}/${offset} although ${partition}/${reached} is next`);
      inAnswer.set(partition, offset);
      next.set(key, offset + 1);
    }
  }
  return found;
}

/** The last offset that may be committed at a time. */
function committable(history: readonly Observation[], partition: number, at: number): number {
  const offsets = history.map((seen) =>
    seen.kind === "commit" && seen.partition === partition && seen.outcome !== "refused" && seen.from < at
      ? seen.offset
      : -1,
  );
  return Math.max(-1, ...offsets);
}

function repeats(history: readonly Observation[]): string[] {
  const found: string[] = [];
  for (const poll of history) {
    if (poll.kind !== "poll") continue;
    for (const { partition, offset } of poll.events) {
      const commits = history.flatMap((seen) => (seen.kind === "commit" && seen.partition === partition ? [seen] : []));
      const accepted = commits.filter((seen) => seen.outcome === "accepted" && seen.to < poll.from);
      // One in flight when its gateway was killed may have gone back.
      const mayRewind = commits.some((seen) => seen.outcome === "unknown" && seen.offset < offset);
      if (!mayRewind && accepted.some((seen) => seen.offset >= offset))
        found.push(`${poll.member} was handed ${partition}/${offset} although it was committed`);
    }
  }
  return found;
}

function unfinished(history: readonly Observation[], { counts, lag }: Quiescence): string[] {
  const found = lag === 0 ? [] : [`at the end the lag is ${lag}`];
  for (const [partition, count] of counts.entries()) {
    const handed = new Set<number>();
    for (const seen of history) {
      if (seen.kind === "poll") {
        for (const event of seen.events) if (event.partition === partition) handed.add(event.offset);
      } else if (seen.kind === "commit" && seen.partition === partition && seen.outcome === "accepted") {
        for (let offset = 0; offset <= seen.offset; offset++)
          if (!handed.has(offset)) found.push(`${partition}/${offset} was committed and never handed out`);
      }
    }
    for (let offset = 0; offset < count; offset++)
      if (!handed.has(offset)) found.push(`${partition}/${offset} was never handed out`);
  }
  return found;
}

function split(key: string): [partition: number, member: string] {
  const at = key.indexOf(" ");
  return [Number(key.slice(0, at)), key.slice(at + 1)];
}
