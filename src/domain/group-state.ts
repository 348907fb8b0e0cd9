import { AGGREGATORS, type Aggregator, type Place, RawJson } from "./aggregate.ts";
import { mapValueToJson } from "./map-json.ts";
import type { AggregateSpec } from "./topology.ts";

/** What is known of one group: how many events, and each aggregate. As JSON: `[count, ...accs]`. */
export interface GroupAcc {
  count: number;
  readonly accs: unknown[];
}

/** A session of a group, `[start, end)`; its end is its last event's time plus the gap. */
export interface Session extends GroupAcc {
  start: number;
  end: number;
}

export type GroupJson = unknown[];

/** The aggregates of a processor over groups. */
export class GroupMath {
  readonly specs: readonly AggregateSpec[];
  readonly #aggregators: readonly Aggregator[];

  constructor(specs: readonly AggregateSpec[]) {
    this.specs = specs;
    this.#aggregators = specs.map(({ aggregation }) => AGGREGATORS[aggregation]);
  }

  create(): GroupAcc {
    return { count: 0, accs: this.#aggregators.map((each) => each.create()) };
  }

  add(group: GroupAcc, values: readonly unknown[], place: Place): void {
    group.count++;
    for (let i = 0; i < values.length; i++) group.accs[i] = this.#aggregators[i]!.add(group.accs[i], values[i], place);
  }

  /** Merges `from` into `into`; `from` must not be used afterwards. */
  merge(into: GroupAcc, from: GroupAcc): void {
    into.count += from.count;
    for (let i = 0; i < into.accs.length; i++) into.accs[i] = this.#aggregators[i]!.merge(into.accs[i], from.accs[i]);
  }

  /**
   * Adds a session to those of its group, and merges all that it touches.
   *
   * @param sessions of one group, in any order, at least a gap apart; changed in place.
   */
  addSession(sessions: Session[], added: Session): void {
    for (let i = sessions.length - 1; i >= 0; i--) {
      const other = sessions[i]!;
      if (other.start >= added.end || added.start >= other.end) continue;
      this.merge(added, other);
      added.start = Math.min(added.start, other.start);
      added.end = Math.max(added.end, other.end);
      sessions.splice(i, 1);
    }
    sessions.push(added);
  }

  toJson(group: GroupAcc): GroupJson {
    return [group.count, ...this.#aggregators.map((each, i) => each.toJson(group.accs[i]))];
  }

  fromJson(json: GroupJson): GroupAcc {
    return { count: json[0] as number, accs: this.#aggregators.map((each, i) => each.fromJson(json[i + 1])) };
  }

  /** Each result's name and JSON text. */
  results(group: GroupAcc): [name: string, json: string][] {
    return this.specs.map(({ as }, i) => {
      const result = this.#aggregators[i]!.result(group.accs[i]);
      return [as, result instanceof RawJson ? result.text : mapValueToJson(result)];
    });
  }
}
