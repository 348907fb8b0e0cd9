import type { FunctionRequest, OperationRequest, ProcessorSettings } from "../support/processor-clients.ts";
import type { Chance } from "../support/random.ts";
import type { Aggregate, Stage, Step, Taken, Topology } from "./expected.ts";
import type { OracleWindow } from "./oracle.ts";
import { DISORDER_MS, MEMBERS, type Member, USERS } from "./random-events.ts";

/** What a random topology may be of; `stored`: windows by the time of storage. */
export const FAMILIES = ["direct", "tumbling", "hopping", "session", "stored"] as const;
export type Family = (typeof FAMILIES)[number];

/** Rows of the table `users` that must be there; the other users have none. */
export const USER_ROWS: ReadonlyMap<string, { readonly country: string; readonly level: number }> = new Map(
  USERS.slice(1).map((user, i) => [user, { country: `c${i % 3}`, level: i }]),
);

const lookup = (into: string, onMissing: "null" | "drop" | "error"): FunctionRequest => ({
  lookup: { table: "users", key: "value.userId", into, onMissing },
});

/** Functions that must be installed, by name. */
export const FUNCTIONS: Readonly<Record<string, FunctionRequest>> = {
  userOrNull: lookup("user", "null"),
  knownUsers: lookup("user", "drop"),
  userOrError: lookup("user", "error"),
  score: { cel: { merge: { score: "value.amount * 2 + 1" } } },
};

type Members = Record<string, unknown>;

function member(value: unknown, name: string): unknown {
  if (typeof value !== "object" || value === null || !Object.hasOwn(value, name)) throw new Error(`no ${name}`);
  return (value as Members)[name];
}

function number(value: unknown, name: string): number {
  const found = member(value, name);
  if (typeof found !== "number") throw new Error(`${name} is no number`);
  return found;
}

function text(value: unknown, name: string): string {
  const found = member(value, name);
  if (typeof found !== "string") throw new Error(`${name} is no text`);
  return found;
}

const merged = (value: unknown, more: Members): Members => ({ ...(value as Members), ...more });

function filter(predicate: string, keeps: (value: unknown, event: Parameters<Step["run"]>[1]) => boolean): Step {
  return { operation: { type: "filter", predicate }, run: (value, event) => (keeps(value, event) ? value : undefined) };
}

function randomFilter(chance: Chance, family: Family): Step {
  const low = chance.below(40);
  const high = low + 20 + chance.below(60);
  const users = chance.some(USERS, 8);
  const key = `k${chance.below(5)}`;
  const all = [
    () => filter(`value.amount > ${low}`, (value) => number(value, "amount") > low),
    () =>
      filter(`value.amount >= ${low} && value.amount < ${high}`, (value) => {
        const amount = number(value, "amount");
        return amount >= low && amount < high;
      }),
    () => filter(`value.price <= ${low}5.5`, (value) => number(value, "price") <= Number(`${low}5.5`)),
    () =>
      filter(`value.userId in ${JSON.stringify(users)}`, (value) => users.includes(member(value, "userId") as never)),
    () => filter('value.g.startsWith("g") || value.g == ""', (value) => /^(g|$)/.test(text(value, "g"))),
    () => filter(`key != "${key}"`, (_, event) => event.key !== key),
    () => filter("offset % 3 != 0", (_, { offset }) => offset % 3 !== 0),
    ...(family === "direct" ? [() => filter("partition != 1", (_, { partition }) => partition !== 1)] : []),
  ];
  return chance.pick(all)();
}

/** A map that writes out all members, `changes` among them. */
function rewrite(as: "expression" | "replace", changes: Readonly<Record<string, readonly [string, Taken]>>): Step {
  const members = new Map<string, readonly [string, Taken]>([
    ...MEMBERS.map((name) => [name, [`value.${name}`, (value: unknown) => member(value, name)]] as const),
    ...Object.entries(changes),
  ]);
  const replace = Object.fromEntries([...members].map(([name, [cel]]) => [name, cel]));
  const literal = [...members].map(([name, [cel]]) => `${JSON.stringify(name)}: ${cel}`).join(", ");
  return {
    operation: { type: "map", ...(as === "replace" ? { project: { replace } } : { expression: `{${literal}}` }) },
    run: (value, event) => Object.fromEntries([...members].map(([name, [, take]]) => [name, take(value, event)])),
  };
}

function merge(changes: Readonly<Record<string, readonly [string, Taken]>>): Step {
  const entries = Object.entries(changes);
  return {
    operation: { type: "map", project: { merge: Object.fromEntries(entries.map(([name, [cel]]) => [name, cel])) } },
    run: (value, event) =>
      merged(value, Object.fromEntries(entries.map(([name, [, take]]) => [name, take(value, event)]))),
  };
}

/** Joins a user's row in; `missing` says what becomes of a value whose user has none. */
function withUser(name: string, missing: (value: unknown) => unknown): Step {
  return {
    operation: { type: "map", function: name },
    run(value) {
      const isObject = typeof value === "object" && value !== null && Object.hasOwn(value, "userId");
      const row = isObject ? USER_ROWS.get(String((value as Members).userId)) : undefined;
      return row ? merged(value, { user: row }) : missing(value);
    },
  };
}

const noRow = () => {
  throw new Error("no row");
};
const orNull = (value: unknown) =>
  typeof value === "object" && value !== null && !Array.isArray(value) ? merged(value, { user: null }) : value;

function randomMap(chance: Chance): Step {
  const by = 1 + chance.below(4);
  const more = chance.below(10);
  const amount = [`value.amount * ${by} + ${more}`, (value: unknown) => number(value, "amount") * by + more] as const;
  const double = ["value.price * 2.0", (value: unknown) => number(value, "price") * 2] as const;
  const isBig = [`value.amount > ${more}`, (value: unknown) => number(value, "amount") > more] as const;
  return chance.pick([
    () => rewrite("expression", { amount }),
    () => rewrite("replace", { amount, price: double }),
    () => merge({ amount, big: isBig }),
    () => merge({ price: double }),
    () => withUser("enrichWithUserData", (value) => value),
    () => withUser("userOrNull", orNull),
    () => withUser("knownUsers", () => undefined),
    () => withUser("userOrError", noRow),
    () => ({
      operation: { type: "map", function: "score" } as const,
      run: (value: unknown) => merged(value, { score: number(value, "amount") * 2 + 1 }),
    }),
  ])();
}

const SIZES = [1000, 2500, 5000, 12_000];

function randomWindow(chance: Chance, family: Family): OracleWindow {
  const shape = family === "stored" ? chance.pick(["tumbling", "hopping", "session"] as const) : family;
  const duration = chance.pick(family === "stored" ? SIZES.slice(0, 3) : SIZES);
  if (shape === "session") return { windowType: "session", gap: chance.pick([100, 200, 400, 1000, 3000]) };
  if (shape === "hopping") {
    const advance = chance.pick([duration, duration / 2, Math.floor(duration / 3)]);
    return { windowType: "hopping", duration, advance };
  }
  return { windowType: "tumbling", duration };
}

/** Event time as the service reads it: not before 1970, and not ahead of the event's storage by more than 5 minutes. */
const eventTime: Taken<number> = (value, { timestamp }) => {
  const found = member(value, "t");
  const timeMs = typeof found === "string" ? Date.parse(found) : found;
  if (typeof timeMs !== "number" || !(timeMs >= 0 && timeMs <= Date.parse(timestamp) + 300_000))
    throw new Error("no time");
  return timeMs;
};

/** A group is a scalar and not longer than 1024 bytes. */
const scalar =
  (take: Taken): Taken =>
  (value, event) => {
    const found = take(value, event);
    if ((typeof found === "object" && found !== null) || Buffer.byteLength(String(found)) > 1024)
      throw new Error("no group");
    return found;
  };

const ofMember = (name: Member) => ({ text: name, name, take: scalar((value) => member(value, name)) });

function randomGroup(chance: Chance, hasUser: boolean) {
  return chance.pick([
    undefined,
    ...(["g", "g", "h", "userId", "constructor", "__proto__"] as const).map(ofMember),
    {
      text: 'value.g + "/" + value.userId',
      name: "group",
      take: scalar((value) => `${text(value, "g")}/${text(value, "userId")}`),
    },
    ...(hasUser
      ? [{ text: "user.country", name: "country", take: (value: unknown) => member(member(value, "user"), "country") }]
      : []),
  ]);
}

const numeric =
  (name: Member): Taken =>
  (value) =>
    member(value, name) === null ? null : number(value, name);
const comparable =
  (name: Member): Taken =>
  (value) => {
    const found = member(value, name);
    if (found !== null && typeof found !== "number" && typeof found !== "string") throw new Error("not comparable");
    if (typeof found === "string" && found.length > 8192) throw new Error("too long");
    return found;
  };
/** `first` and `last` keep the JSON of no more than 8192 characters. */
const kept =
  (name: Member): Taken =>
  (value) => {
    const found = member(value, name);
    if (JSON.stringify(found).length > 8192) throw new Error("too long");
    return found;
  };
const anything =
  (name: Member): Taken =>
  (value) =>
    member(value, name);

const NUMBERS = ["amount", "price", "maybe"] as const;
const FIELDS: Readonly<Record<Aggregate["operation"]["aggregation"], [readonly Member[], (name: Member) => Taken]>> = {
  count: [["maybe", "tag"], anything],
  sum: [NUMBERS, numeric],
  avg: [NUMBERS, numeric],
  min: [["amount", "maybe", "mixed", "g"], comparable],
  max: [["price", "maybe", "mixed", "userId"], comparable],
  first: [["id", "maybe", "mixed", "tag"], kept],
  last: [["id", "maybe", "mixed", "tag"], kept],
  distinct_count: [["g", "h", "mixed", "tag", "userId"], anything],
};

/** One of each aggregation that is drawn, and the plain count as `n`. */
function randomAggregates(chance: Chance, groupBy: string | undefined): Aggregate[] {
  const drawn = chance.some(Object.keys(FIELDS) as (keyof typeof FIELDS)[], 1 + chance.below(5));
  const computed = drawn.map((aggregation): Aggregate => {
    const [fields, takes] = FIELDS[aggregation];
    const field = chance.pick(fields);
    const as = chance.in(0.5) ? { as: `the_${aggregation}` } : {};
    return {
      operation: { type: "aggregate", aggregation, field, ...as },
      as: as.as ?? aggregation,
      take: takes(field),
    };
  });
  const count = { type: "aggregate", aggregation: "count", as: "n" } as const;
  const all = chance.some<Aggregate>(
    [{ operation: count, as: "n", take: () => true }, ...computed],
    computed.length + 1,
  );
  return all.map((each, i) =>
    groupBy === undefined || (i > 0 && chance.in(0.5)) ? each : { ...each, operation: { ...each.operation, groupBy } },
  );
}

function randomStage(chance: Chance, family: Family, hasUser: boolean): Stage {
  const window = randomWindow(chance, family);
  const stored = family === "stored";
  // An event that is late for its session and yet ends after the watermark begins another one: when depends on others.
  const grace = stored
    ? chance.pick([0, 0, 300])
    : family === "session"
      ? DISORDER_MS + chance.below(1000)
      : chance.pick([0, 300, 1000, DISORDER_MS, 2 * DISORDER_MS]);
  const group = randomGroup(chance, hasUser);
  return {
    operation: { type: "window", ...window, grace, ...(stored ? {} : { timestampField: "t" }) },
    window,
    grace,
    time: stored ? undefined : eventTime,
    group: group && { name: group.name, take: group.take },
    aggregates: randomAggregates(chance, group?.text),
  };
}

/** Steps on rows. Some fail on rows whose aggregate is null. */
function randomAfter(chance: Chance, { aggregates }: Stage): Step[] {
  const least = chance.below(4);
  const twice = ["value.n * 2", (row: unknown) => number(row, "n") * 2] as const;
  const label = ['"from " + value.windowStart', (row: unknown) => `from ${text(row, "windowStart")}`] as const;
  const ofNumbers = aggregates.find(
    ({ operation: { aggregation, field } }) =>
      (aggregation === "avg" && field === "maybe") || (aggregation === "min" && field === "mixed"),
  );
  const all = [
    filter(`value.n > ${least}`, (row) => number(row, "n") > least),
    merge({ twice, label }),
    rewriteRow(twice, label),
    ...(ofNumbers ? [filter(`value.${ofNumbers.as} < 40`, (row) => number(row, ofNumbers.as) < 40)] : []),
  ];
  return chance.some(all.slice(0, 2), chance.pick([0, 1, 2])).concat(chance.in(0.4) ? chance.pick(all.slice(2)) : []);
}

function rewriteRow(twice: readonly [string, Taken], label: readonly [string, Taken]): Step {
  const run: Step["run"] = (row, event) => ({ twice: twice[1](row, event), label: label[1](row, event) });
  return { operation: { type: "map", expression: `{"twice": ${twice[0]}, "label": ${label[0]}}` }, run };
}

/** Some operations only count what they fail on. */
function withPolicies(chance: Chance, { before, stage, after }: Topology): Topology {
  const some = <T extends { readonly operation: OperationRequest }>(each: T): T =>
    chance.in(0.15) ? { ...each, operation: { ...each.operation, onError: "skip" } } : each;
  return {
    before: before.map(some),
    stage: stage && { ...some(stage), aggregates: stage.aggregates.map(some) },
    after: after.map(some),
  };
}

/** A random processor: what it computes, and its settings. */
export function randomTopology(chance: Chance, family: Family): { topology: Topology; config: ProcessorSettings } {
  const maps = Array.from({ length: chance.pick([0, 1, 1, 2]) }, () => randomMap(chance));
  const filters = Array.from({ length: chance.pick([0, 1, 1]) }, () => randomFilter(chance, family));
  const before = chance.in(0.5) ? [...filters, ...maps] : [...maps, ...filters];
  if (family === "direct" && before.length === 0) before.push(randomFilter(chance, family));
  const last = maps.at(-1)?.operation.function ?? "score";
  const stage = family === "direct" ? undefined : randomStage(chance, family, last !== "score");
  const topology = { before, stage, after: stage ? randomAfter(chance, stage) : [] };
  return {
    topology: withPolicies(chance, topology),
    config: {
      parallelism: 1 + chance.below(4),
      checkpointInterval: chance.pick([100, 500, 2000, 10_000, 60_000]),
      // A partition is idle only at the end: what is published during faults may pause for long.
      idleTimeout: 86_400_000,
    },
  };
}
