import { type GroupAcc, GroupMath, type Session } from "../domain/group-state.ts";
import { hash32 } from "../domain/hash.ts";
import type { WindowStage } from "../domain/topology.ts";
import { windowStarts } from "../domain/window.ts";
import { type ExchangeMessage, PACK_BYTES, type SessionJson } from "./exchange.ts";
import type { Flight } from "./flight.ts";
import type { Grouped } from "./pipeline.ts";

/** The lane that holds a group. */
export const laneOfGroup = (group: string, lanes: number): number => hash32(group) % lanes;

/**
 * What a lane's own events come to since its last commit, per window and group: only that is exchanged, not the events.
 */
export class LocalWindows {
  readonly #stage: WindowStage;
  readonly #math: GroupMath;
  #windows = new Map<number, Map<string, GroupAcc>>();
  #sessions = new Map<string, Session[]>();
  /** Groups held, each window's for itself. */
  size = 0;

  constructor(stage: WindowStage) {
    this.#stage = stage;
    this.#math = new GroupMath(stage.aggregates);
  }

  /**
   * Counts an event in where its windows are still open.
   *
   * @param watermark of the event's partition before this event; windows that end at it or before, grace included, are
   * closed.
   * @returns the latest end of a window that took it, grace included; undefined when it came too late for all.
   */
  add(flight: Flight, { timeMs, group, values }: Grouped, watermark: number | null): number | undefined {
    const { window, graceMs } = this.#stage;
    const isOpen = (end: number) => watermark === null || end + graceMs > watermark;
    const place = flight.place(timeMs);
    if (window.type === "session") {
      const end = timeMs + window.gapMs;
      if (!isOpen(end)) return undefined;
      const session: Session = { start: timeMs, end, ...this.#math.create() };
      this.#math.add(session, values, place);
      let sessions = this.#sessions.get(group);
      if (!sessions) {
        sessions = [];
        this.#sessions.set(group, sessions);
      }
      const before = sessions.length;
      this.#math.addSession(sessions, session);
      this.size += sessions.length - before;
      return end + graceMs;
    }
    let latest: number | undefined;
    for (const start of windowStarts(window, timeMs)) {
      const end = start + window.durationMs;
      if (!isOpen(end)) break;
      latest ??= end + graceMs;
      this.#math.add(this.#groupOf(start, group), values, place);
    }
    return latest;
  }

  /** Empties it into messages for each lane, each at most about {@link PACK_BYTES} long. */
  drain(incarnation: number, from: number, lanes: number): Map<number, ExchangeMessage[]> {
    const packers = Array.from({ length: lanes }, () => new Packer(incarnation, from));
    for (const [start, groups] of this.#windows)
      for (const [group, acc] of groups)
        packers[laneOfGroup(group, lanes)]!.addGroup(start, group, this.#math.toJson(acc));
    for (const [group, sessions] of this.#sessions)
      packers[laneOfGroup(group, lanes)]!.addSessions(
        group,
        sessions.map((each): SessionJson => [each.start, each.end, this.#math.toJson(each)]),
      );
    this.#windows = new Map();
    this.#sessions = new Map();
    this.size = 0;
    return new Map(packers.map((packer, lane) => [lane, packer.messages]));
  }

  #groupOf(start: number, group: string): GroupAcc {
    let groups = this.#windows.get(start);
    if (!groups) {
      groups = new Map();
      this.#windows.set(start, groups);
    }
    let acc = groups.get(group);
    if (!acc) {
      acc = this.#math.create();
      groups.set(group, acc);
      this.size++;
    }
    return acc;
  }
}

type Mutable<T> = T extends readonly (infer U)[] ? U[] : T;

/** Fills messages one after the other. */
class Packer {
  readonly #incarnation: number;
  readonly #from: number;
  readonly messages: ExchangeMessage[] = [];
  #bytes = PACK_BYTES;
  #d: Mutable<NonNullable<ExchangeMessage["d"]>> = [];
  #s: Mutable<NonNullable<ExchangeMessage["s"]>> = [];
  #groups: (readonly [string, unknown[]])[] = [];
  #start: number | undefined;

  constructor(incarnation: number, from: number) {
    this.#incarnation = incarnation;
    this.#from = from;
  }

  addGroup(start: number, group: string, acc: unknown[]): void {
    this.#room(group.length + roughBytes(acc));
    if (this.#start !== start) {
      this.#start = start;
      this.#groups = [];
      this.#d.push([start, this.#groups]);
    }
    this.#groups.push([group, acc]);
  }

  /** A group may have more sessions than a message can hold. */
  addSessions(group: string, sessions: readonly SessionJson[]): void {
    let own: SessionJson[] | undefined;
    for (const session of sessions) {
      const isNew = this.#room(40 + roughBytes(session[2]) + (own ? 0 : group.length));
      if (isNew || !own) {
        own = [];
        this.#s.push([group, own]);
      }
      own.push(session);
    }
  }

  /** @returns whether it began a new message. */
  #room(bytes: number): boolean {
    this.#bytes += bytes;
    if (this.#bytes <= PACK_BYTES) return false;
    this.#d = [];
    this.#s = [];
    this.#start = undefined;
    this.#bytes = bytes;
    this.messages.push({ i: this.#incarnation, g: this.#from, d: this.#d, s: this.#s });
    return true;
  }
}

/** About how long an accumulator's JSON is. */
function roughBytes(json: unknown): number {
  if (typeof json === "string") return json.length + 3;
  if (!Array.isArray(json)) return 12;
  let bytes = 2;
  for (const item of json) bytes += roughBytes(item);
  return bytes;
}
