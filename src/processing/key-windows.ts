import { type GroupAcc, GroupMath, type Session } from "../domain/group-state.ts";
import { hash32 } from "../domain/hash.ts";
import type { WindowStage } from "../domain/topology.ts";
import type { BlobRef, KeySnapshot, WindowSummary } from "./checkpoint.ts";
import { type ExchangeMessage, PACK_BYTES, type PartitionMark, type SessionJson } from "./exchange.ts";

/** A group of a window that is closed. */
export interface ClosedGroup {
  readonly start: number;
  readonly end: number;
  readonly group: string;
  readonly acc: GroupAcc;
}

interface WindowState {
  readonly start: number;
  readonly end: number;
  count: number;
  closed: boolean;
  readonly groups: Map<string, GroupAcc>;
  readonly shards: Shards;
}

/** Into how many shards a window's groups are divided, which of them changed, and under which keys each is stored. */
interface Shards {
  n: number;
  readonly dirty: Set<number>;
  keys: (readonly string[] | undefined)[];
}

const GROUPS_PER_SHARD = 3000;
/** The pseudo window that holds all sessions. */
const SESSIONS = -1;
const MAX_SUMMARIES = 100;
/** Closed windows are kept for queries as long as there are no more, and no more groups in them. */
const MAX_RECENT_WINDOWS = 8;
const MAX_RECENT_GROUPS = 20_000;

const newShards = (): Shards => ({ n: 1, dirty: new Set(), keys: [] });

/**
 * The window state of the groups that one lane holds. It is a function of the exchange messages in their order and of nothing
 * else: whoever applies the same ones from the same snapshot closes the same windows with the same results.
 */
export class KeyWindows {
  readonly #stage: WindowStage;
  readonly #lanes: number;
  readonly #math: GroupMath;
  readonly #windows = new Map<number, WindowState>();
  readonly #sessions = new Map<string, Session[]>();
  readonly #sessionShards = newShards();
  readonly #marks = new Map<number, PartitionMark>();
  readonly #heard = new Set<number>();
  #sessionCount = 0;
  #recent: WindowState[] = [];
  #dropped: string[] = [];
  /** Windows that end here or before, grace included, are closed. */
  watermark = Number.NEGATIVE_INFINITY;
  /** Events that came for a closed window all the same; only when partitions were added. */
  lost = 0;

  constructor(stage: WindowStage, lanes: number) {
    this.#stage = stage;
    this.#lanes = lanes;
    this.#math = new GroupMath(stage.aggregates);
  }

  get math(): GroupMath {
    return this.#math;
  }

  /** How far every partition is, as far as told. */
  get marks(): ReadonlyMap<number, PartitionMark> {
    return this.#marks;
  }

  /** Groups in open windows. */
  get groupCount(): number {
    let count = this.#sessionCount;
    for (const window of this.#windows.values()) if (!window.closed) count += window.groups.size;
    return count;
  }

  /** Merges one message in. @returns the groups whose windows it closed, by window. */
  apply(message: ExchangeMessage): ClosedGroup[] {
    for (const [start, groups] of message.d ?? []) {
      const window = this.#windowAt(start);
      for (const [group, json] of groups) {
        const acc = this.#math.fromJson(json);
        if (window.closed || window.end + this.#stage.graceMs <= this.watermark) {
          this.lost += acc.count;
          continue;
        }
        const present = window.groups.get(group);
        if (present) this.#math.merge(present, acc);
        else window.groups.set(group, acc);
        window.count += acc.count;
        window.shards.dirty.add(shardOf(group, window.shards.n));
      }
    }
    for (const [group, sessions] of message.s ?? []) this.#mergeSessions(group, sessions);
    if (!message.w) return [];
    this.#heard.add(message.g);
    for (const mark of message.w) this.#marks.set(mark[0], mark);
    return this.#close();
  }

  /** The partition with the lowest watermark, which the windows wait for. */
  get holder(): number | null {
    let holder: PartitionMark | undefined;
    for (const mark of this.#marks.values()) if (!holder || (mark[1] ?? -1) < (holder[1] ?? -1)) holder = mark;
    return holder?.[0] ?? null;
  }

  /** Open windows and the last closed ones. */
  summaries(): WindowSummary[] {
    const found: WindowSummary[] = [];
    for (const { start, end, count, closed } of this.#windows.values())
      if (count > 0) found.push([start, end, count, closed ? 1 : 0]);
    const sessions = new Map<number, [number, number]>();
    for (const list of this.#sessions.values())
      for (const { start, end, count } of list) {
        const known = sessions.get(start) ?? [end, 0];
        sessions.set(start, [Math.max(known[0], end), known[1] + count]);
      }
    for (const [start, [end, count]] of sessions) found.push([start, end, count, 0]);
    return found.sort((a, b) => a[0] - b[0]).slice(-MAX_SUMMARIES);
  }

  /** The groups of a window, or of the sessions that begin then. */
  groupsAt(start: number): { end: number; closed: boolean; groups: [string, GroupAcc, number][] } | undefined {
    const window = this.#windows.get(start);
    if (window && window.count > 0)
      return {
        end: window.end,
        closed: window.closed,
        groups: [...window.groups].map(([g, acc]) => [g, acc, window.end]),
      };
    const groups: [string, GroupAcc, number][] = [];
    for (const [group, list] of this.#sessions)
      for (const session of list) if (session.start === start) groups.push([group, session, session.end]);
    return groups.length === 0
      ? undefined
      : { end: Math.max(...groups.map(([, , end]) => end)), closed: false, groups };
  }

  /** Whether anything changed since the last snapshot. */
  get isDirty(): boolean {
    if (this.#sessionShards.dirty.size > 0 || this.#dropped.length > 0) return true;
    for (const window of this.#windows.values()) if (window.shards.dirty.size > 0) return true;
    return false;
  }

  /**
   * What changed since the last snapshot, as texts to be stored.
   *
   * @param newKey gives each stored part its key.
   * @returns the whole snapshot, what to store for it, and the keys that it no longer needs.
   */
  snapshot(
    seq: number,
    newKey: () => string,
  ): { snapshot: KeySnapshot; texts: [key: string, text: string][]; obsolete: string[] } {
    const texts: [string, string][] = [];
    const obsolete = this.#dropped;
    this.#dropped = [];
    const blobs: BlobRef[] = [];
    const save = (
      window: number,
      closed: boolean,
      shards: Shards,
      groups: Map<string, unknown>,
      entries: (group: string, state: never) => string[],
    ) => {
      grow(shards, groups.size, obsolete);
      const lists = new Map<number, string[]>();
      for (const shard of shards.dirty) lists.set(shard, []);
      if (lists.size > 0)
        for (const [group, state] of groups) {
          const list = lists.get(shardOf(group, shards.n));
          if (list) for (const entry of entries(group, state as never)) list.push(entry);
        }
      for (const [shard, list] of lists) {
        obsolete.push(...(shards.keys[shard] ?? []));
        const parts = inParts(list).map((text): [string, string] => [newKey(), text]);
        shards.keys[shard] = parts.map(([key]) => key);
        texts.push(...parts);
      }
      shards.dirty.clear();
      for (const [shard, keys = []] of shards.keys.entries())
        for (const key of keys) blobs.push({ key, window, shard, shards: shards.n, closed });
    };
    for (const { start, closed, shards, groups } of this.#windows.values())
      save(start, closed, shards, groups, (group, acc: GroupAcc) => [JSON.stringify([group, this.#math.toJson(acc)])]);
    // Each of its own, since a group may have more than a message can hold.
    save(SESSIONS, false, this.#sessionShards, this.#sessions, (group, list: Session[]) =>
      list.map((each) => JSON.stringify([group, [this.#sessionJson(each)]])),
    );
    const snapshot = { seq, marks: [...this.#marks.values()], heard: [...this.#heard], blobs };
    return { snapshot, texts, obsolete };
  }

  /** Fills an empty state from a snapshot. @param texts of its parts, in their order. */
  restore(snapshot: KeySnapshot, texts: readonly string[]): void {
    for (const mark of snapshot.marks) this.#marks.set(mark[0], mark);
    for (const lane of snapshot.heard) this.#heard.add(lane);
    for (const [index, { key, window: start, shard, shards, closed }] of snapshot.blobs.entries()) {
      const list = JSON.parse(texts[index]!) as [string, unknown[]][];
      if (start === SESSIONS) {
        for (const [group, sessions] of list) {
          const present = this.#sessions.get(group) ?? [];
          for (const json of sessions as unknown as SessionJson[]) present.push(this.#sessionOf(json));
          this.#sessions.set(group, present);
        }
        this.#sessionShards.n = shards;
        addKey(this.#sessionShards, shard, key);
        continue;
      }
      const window = this.#windowAt(start);
      for (const [group, json] of list) {
        const acc = this.#math.fromJson(json);
        window.groups.set(group, acc);
        window.count += acc.count;
      }
      window.shards.n = shards;
      addKey(window.shards, shard, key);
      if (closed && !window.closed) {
        window.closed = true;
        this.#recent.push(window);
      }
    }
    for (const list of this.#sessions.values()) this.#sessionCount += list.length;
    this.watermark = this.#lowest();
  }

  #windowAt(start: number): WindowState {
    let window = this.#windows.get(start);
    if (!window) {
      const { window: spec } = this.#stage;
      const end = spec.type === "session" ? start : start + spec.durationMs;
      window = { start, end, count: 0, closed: false, groups: new Map(), shards: newShards() };
      this.#windows.set(start, window);
    }
    return window;
  }

  #mergeSessions(group: string, added: readonly SessionJson[]): void {
    let list = this.#sessions.get(group);
    if (!list) {
      list = [];
      this.#sessions.set(group, list);
    }
    const before = list.length;
    for (const json of added) this.#math.addSession(list, this.#sessionOf(json));
    this.#sessionCount += list.length - before;
    this.#sessionShards.dirty.add(shardOf(group, this.#sessionShards.n));
  }

  /** The lowest watermark; none as long as some lane or partition has told nothing. */
  #lowest(): number {
    if (this.#heard.size < this.#lanes || this.#marks.size === 0) return Number.NEGATIVE_INFINITY;
    let lowest = Number.POSITIVE_INFINITY;
    for (const [, watermark] of this.#marks.values()) lowest = Math.min(lowest, watermark ?? Number.NEGATIVE_INFINITY);
    return lowest;
  }

  #close(): ClosedGroup[] {
    const lowest = this.#lowest();
    if (lowest <= this.watermark) return [];
    this.watermark = lowest;
    const { graceMs } = this.#stage;
    const closed: ClosedGroup[] = [];
    const ended = [...this.#windows.values()].filter((each) => !each.closed && each.end + graceMs <= lowest);
    for (const window of ended.sort((a, b) => a.start - b.start)) {
      const { start, end, groups } = window;
      for (const [group, acc] of groups) closed.push({ start, end, group, acc });
      window.closed = true;
      this.#recent.push(window);
    }
    for (const [group, list] of this.#sessions) {
      const kept = list.filter((each) => each.end + graceMs > lowest);
      if (kept.length === list.length) continue;
      for (const session of list)
        if (!kept.includes(session)) closed.push({ start: session.start, end: session.end, group, acc: session });
      this.#sessionCount -= list.length - kept.length;
      if (kept.length > 0) this.#sessions.set(group, kept);
      else this.#sessions.delete(group);
      this.#sessionShards.dirty.add(shardOf(group, this.#sessionShards.n));
    }
    this.#forgetOld();
    return closed;
  }

  #forgetOld(): void {
    let groups = this.#recent.reduce((sum, window) => sum + window.groups.size, 0);
    while (this.#recent.length > MAX_RECENT_WINDOWS || (this.#recent.length > 0 && groups > MAX_RECENT_GROUPS)) {
      const window = this.#recent.shift()!;
      groups -= window.groups.size;
      this.#windows.delete(window.start);
      this.#dropped.push(...keysOf(window.shards));
    }
  }

  #sessionJson(session: Session): SessionJson {
    return [session.start, session.end, this.#math.toJson(session)];
  }

  #sessionOf([start, end, acc]: SessionJson): Session {
    return { start, end, ...this.#math.fromJson(acc) };
  }
}

const shardOf = (group: string, n: number): number => Math.floor(hash32(group, 0x9747b28c) / 4096) % n;

const keysOf = ({ keys }: Shards): string[] => keys.flatMap((each) => each ?? []);

function addKey(shards: Shards, shard: number, key: string): void {
  shards.keys[shard] = [...(shards.keys[shard] ?? []), key];
}

/** Texts of a shard's groups as JSON lists that each fit a message, however much there is to a group. */
function inParts(groups: readonly string[]): string[] {
  const parts: string[] = [];
  let part: string[] = [];
  let chars = 0;
  for (const text of groups) {
    if (part.length > 0 && chars + text.length > PACK_BYTES) {
      parts.push(`[${part.join(",")}]`);
      part = [];
      chars = 0;
    }
    part.push(text);
    chars += text.length + 1;
  }
  return [...parts, `[${part.join(",")}]`];
}

/** Divides anew when there are too many groups for the present number of parts: then all of them change. */
function grow(shards: Shards, groups: number, obsolete: string[]): void {
  let n = shards.n;
  while (groups > n * GROUPS_PER_SHARD) n *= 2;
  if (n === shards.n) return;
  obsolete.push(...keysOf(shards));
  shards.n = n;
  shards.keys = [];
  shards.dirty.clear();
  for (let shard = 0; shard < n; shard++) shards.dirty.add(shard);
}
