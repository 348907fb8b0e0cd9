import type { Chance } from "../support/random.ts";

/** Most milliseconds of event time that an event is out of order, unless it is late. */
export const DISORDER_MS = 2000;
/** How far back late events are: later than any session and grace of a random topology takes. */
export const LATE_MS = 60_000;

const START_MS = Date.UTC(2026, 0, 1);
const GROUPS = ["g0", "g1", "g2", "g3", "", "a b", "ünï\u2028", "constructor", "__proto__", "toString"];
const OTHERS = [0, 1, 2.5, true, false, null, "1", "null"];
const TAGS = [1, "1", [1], { a: 1 }, { a: [null] }, "__proto__", true, null];
export const USERS = Array.from({ length: 12 }, (_, i) => `u${i}`);

/** The members that an event's value has. */
export const MEMBERS = [
  ...["id", "t", "g", "h", "userId", "amount", "price", "maybe", "mixed", "tag"],
  ...["constructor", "__proto__"],
] as const;
export type Member = (typeof MEMBERS)[number];

export interface NewEvent {
  readonly eventId: string;
  readonly partition: number;
  readonly key?: string;
  readonly value: unknown;
}

/** Events for random topologies: out of order, some late, some of which some operations can make nothing. */
export class RandomEvents {
  readonly #chance: Chance;
  readonly #partitions: number;
  #clock = START_MS;
  #count = 0;

  constructor(chance: Chance, partitions: number) {
    this.#chance = chance;
    this.#partitions = partitions;
  }

  next(count: number): NewEvent[] {
    const chance = this.#chance;
    return Array.from({ length: count }, () => {
      this.#clock += chance.below(30);
      const disorder = chance.below(chance.in(0.9) ? DISORDER_MS / 8 : DISORDER_MS);
      const timeMs = this.#clock - disorder - (chance.in(0.02) ? LATE_MS : 0);
      const event = this.#event(chance.below(this.#partitions), timeMs);
      return chance.in(0.03) ? { ...event, value: spoil(chance, event.value) } : event;
    });
  }

  /** Events in each partition so far ahead that the windows of all others close. */
  closing(): NewEvent[] {
    this.#clock += 2 * LATE_MS;
    return Array.from({ length: 30 * this.#partitions }, (_, i) => this.#event(i % this.#partitions, this.#clock));
  }

  #event(partition: number, timeMs: number) {
    const chance = this.#chance;
    const eventId = `e${this.#count++}`;
    const value: [Member, unknown][] = [
      ["id", eventId],
      ["t", chance.in(0.2) ? new Date(timeMs).toISOString() : timeMs],
      ["g", chance.pick(GROUPS)],
      ["h", chance.pick(OTHERS)],
      ["userId", chance.pick(USERS)],
      ["amount", chance.below(100)],
      ["price", chance.below(100_000) / 100],
      ["maybe", chance.in(0.3) ? null : chance.below(50)],
      // Fewer values than the thousand up to which distinct counts are exact.
      ["mixed", chance.in(0.5) ? chance.below(700) : `m${chance.below(200)}`],
      ["tag", chance.pick(TAGS)],
      ["constructor", chance.pick(GROUPS)],
      ["__proto__", chance.pick(GROUPS)],
    ];
    const key = chance.in(0.7) ? { key: `k${chance.below(5)}` } : {};
    return { eventId, partition, ...key, value: Object.fromEntries(value) as Record<Member, unknown> };
  }
}

/** Values of a wrong type or out of bounds, by the member that they take the place of. */
const BAD: readonly (readonly [Member, unknown])[] = [
  ["t", "soon"],
  ["t", null],
  ["t", -5],
  ["t", Date.UTC(2100, 0, 1)],
  ["t", [START_MS]],
  ["g", { x: 1 }],
  ["g", "x".repeat(2000)],
  ["h", [1]],
  ["userId", { constructor: 1 }],
  ["amount", "12"],
  ["amount", null],
  ["price", true],
  ["maybe", "text"],
  ["mixed", false],
  ["tag", "y".repeat(9000)],
  ["constructor", []],
  ["__proto__", {}],
];

function spoil(chance: Chance, value: Record<Member, unknown>): unknown {
  if (chance.in(0.1)) return chance.pick([7, "text", null, [1], {}]);
  if (chance.in(0.3)) {
    const missing = chance.pick(MEMBERS);
    return Object.fromEntries(Object.entries(value).filter(([name]) => name !== missing));
  }
  const [name, bad] = chance.pick(BAD);
  return Object.fromEntries(Object.entries(value).map(([each, present]) => [each, each === name ? bad : present]));
}
