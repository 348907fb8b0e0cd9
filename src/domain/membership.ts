import { assign } from "./assignment.ts";

/**
 * Who of a group may read and commit which partitions of a stream.
 *
 * Every change is a pure step from one state to the next, which a gateway stores by compare-and-set; time comes in as an
 * argument. A partition changes hands only when its owner has let it go: by having seen the generation that takes it
 * away, by leaving, or by staying away too long. So within one generation a partition never has two owners.
 */
export interface Membership {
  /** Grows with every change of who shall have what. */
  readonly generation: number;
  readonly members: readonly Member[];
  /** By partition. */
  readonly partitions: readonly Holding[];
  /** Members that were taken out by name, the last ones, and by which generation: who read for them then is not let in again. */
  readonly dismissed?: readonly { readonly id: string; readonly generation: number }[];
}

export interface Member {
  readonly id: string;
  /** When it was last heard of, in milliseconds since 1970. */
  readonly seenMs: number;
  /** The generation that it was last told. */
  readonly told: number;
  /** The open stream of a member that subscribes, as `<gateway>.<number>`; undefined for one that polls. */
  readonly session?: string;
}

export interface Holding {
  /** Undefined: nobody. */
  readonly owner?: string;
  /** The generation since which it is so: a commit or position of an earlier one is void. */
  readonly since: number;
  /** Who gets it once the owner lets it go. */
  readonly next?: string;
  /** The last seek: whoever has the partition first in this generation or a later one begins at the offset. */
  readonly seek?: { readonly generation: number; readonly offset: number };
}

/** One that has not heard of its dismissal before so many others are dismissed joins again. */
const MAX_DISMISSED = 100;

/** The state of a stream of so many partitions before the first member. */
export const noMembers = (partitions: number): Membership => ({
  generation: 0,
  members: [],
  partitions: Array.from({ length: partitions }, () => ({ since: 0 })),
});

/** The partitions that a member may read. */
export function ownedBy(state: Membership, id: string): number[] {
  return state.partitions.flatMap(({ owner }, partition) => (owner === id ? [partition] : []));
}

export const memberOf = (state: Membership, id: string): Member | undefined =>
  state.members.find((member) => member.id === id);

/** Members that have not been heard of for longer than `timeoutMs`. */
export const lapsed = (state: Membership, nowMs: number, timeoutMs: number): Member[] =>
  state.members.filter((member) => nowMs - member.seenMs > timeoutMs);

/** Notes that a member is there; a new one joins and gets its share as partitions become free. */
export function enter(state: Membership, id: string, nowMs: number, session?: string): Membership {
  const known = memberOf(state, id);
  const member: Member = {
    id,
    seenMs: Math.max(nowMs, known?.seenMs ?? 0),
    told: known?.told ?? 0,
    ...(session === undefined ? {} : { session }),
  };
  if (!known) return shareAnew({ ...state, members: [...state.members, member] });
  const entered = { ...state, members: state.members.map((each) => (each === known ? member : each)) };
  // What another stream of the same name was sent may never be processed.
  const replaced = known.session !== undefined && known.session !== session;
  return replaced ? restart(entered, ownedBy(state, id)) : entered;
}

/** Takes members out; what they had is free at once. */
export function leave(state: Membership, ids: readonly string[]): Membership {
  const members = state.members.filter(({ id }) => !ids.includes(id));
  return members.length === state.members.length ? state : shareAnew({ ...state, members });
}

/** Takes a member out by name, with the stream or poll by which it reads. */
export function dismiss(state: Membership, id: string): Membership {
  const left = leave(state, [id]);
  const { generation } = left;
  return { ...left, dismissed: [...(state.dismissed ?? []), { id, generation }].slice(-MAX_DISMISSED) };
}

/** Whether a member was taken out by name since it was told a generation. */
export const isDismissed = ({ dismissed = [] }: Membership, id: string, told: number): boolean =>
  dismissed.some((each) => each.id === id && each.generation > told);

/** Follows the stream: added partitions are shared out. */
export function resize(state: Membership, partitions: number): Membership {
  if (state.partitions.length >= partitions) return state;
  const added = Array.from({ length: partitions - state.partitions.length }, () => ({ since: state.generation }));
  return shareAnew({ ...state, partitions: [...state.partitions, ...added] });
}

/** The member sees the present generation and lets go what this one takes away. */
export function acknowledge(state: Membership, id: string): Membership {
  const { generation } = state;
  return {
    ...state,
    members: state.members.map((member) => (member.id === id ? { ...member, told: generation } : member)),
    partitions: state.partitions.map((holding) =>
      holding.owner === id && holding.next !== undefined
        ? { ...seekOf(holding), owner: holding.next, since: generation }
        : holding,
    ),
  };
}

/**
 * Makes void what was handed out of some partitions and not committed: their owners go on in a new generation.
 *
 * @param offsets where to go on, by partition; without them, behind what is committed.
 */
export function restart(
  state: Membership,
  partitions: readonly number[],
  offsets?: ReadonlyMap<number, number>,
): Membership {
  const generation = state.generation + 1;
  return {
    ...state,
    generation,
    partitions: state.partitions.map((holding, partition): Holding => {
      if (!partitions.includes(partition)) return holding;
      const offset = offsets?.get(partition);
      return { ...holding, since: generation, ...(offset === undefined ? {} : { seek: { generation, offset } }) };
    }),
  };
}

/**
 * Why a member may not commit in a partition; undefined when it may.
 *
 * The generation it names may be an earlier one as long as it has had the partition ever since; one that polls must
 * not name an earlier one than its last answer did. Without one, what it was last told counts.
 */
export function commitFault(
  state: Membership,
  id: string,
  partition: number,
  generation: number | undefined,
): string | undefined {
  const member = memberOf(state, id);
  if (!member) return `"${id}" is no member now`;
  const holding = state.partitions[partition];
  if (holding?.owner !== id) return `partition ${partition} is not assigned to "${id}"`;
  const { told } = member;
  const named = generation ?? told;
  // One that it was not told yet, but heard of by a heartbeat, says nothing of what it was handed.
  if (named < holding.since || named > told || (member.session === undefined && named < told))
    return `generation ${named} of "${id}" is void in partition ${partition}`;
  return undefined;
}

function shareAnew(state: Membership): Membership {
  const generation = state.generation + 1;
  const ids = state.members.map(({ id }) => id);
  const targets = assign(
    state.partitions.map(({ owner, next }) => next ?? owner),
    ids,
  );
  const partitions = state.partitions.map((holding, partition): Holding => {
    const { owner, since } = holding;
    const target = targets[partition];
    const seek = seekOf(holding);
    if (target === undefined) return { ...seek, since: owner === undefined ? since : generation };
    if (owner === target) return { ...seek, owner, since };
    // It stays with its owner until that one lets it go.
    if (owner !== undefined && ids.includes(owner)) return { ...seek, owner, since, next: target };
    return { ...seek, owner: target, since: generation };
  });
  return { ...state, generation, partitions };
}

const seekOf = ({ seek }: Holding): Pick<Holding, "seek"> => (seek === undefined ? {} : { seek });
