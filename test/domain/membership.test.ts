import { describe, expect, test } from "vitest";
import {
  acknowledge,
  commitFault,
  dismiss,
  enter,
  isDismissed,
  lapsed,
  leave,
  type Membership,
  memberOf,
  noMembers,
  ownedBy,
  resize,
  restart,
} from "../../src/domain/membership.ts";
import { seededRandom } from "../support/random.ts";

/** What a poll does to the state: the member is there and sees the present generation. */
const polled = (state: Membership, id: string, nowMs = 0) => acknowledge(enter(state, id, nowMs), id);
const owners = (state: Membership) => state.partitions.map(({ owner }) => owner ?? "-").join("");
const targets = (state: Membership) => state.partitions.map(({ owner, next }) => next ?? owner ?? "-").join("");
/** Members poll in the order of the letters. */
const polledBy = (partitions: number, polls: string) =>
  [...polls].reduce((state, id) => polled(state, id), noMembers(partitions));

describe("members", () => {
  test("that come first get everything", () => {
    expect(owners(polledBy(3, "a"))).toBe("aaa");
  });

  test("that come later get their share only when its owner has seen that", () => {
    const joined = polledBy(4, "ab");
    expect([owners(joined), targets(joined)]).toEqual(["aaaa", "aabb"]);
    expect(owners(polled(joined, "a"))).toBe("aabb");
  });

  test("that poll again change nothing but their lease", () => {
    const stable = polledBy(4, "aba");
    const again = polled(stable, "b", 5);
    expect(again.generation).toBe(stable.generation);
    expect(again.partitions).toEqual(stable.partitions);
    expect(memberOf(again, "b")!.seenMs).toBe(5);
  });

  test("that leave free their partitions at once", () => {
    const left = leave(polledBy(4, "aba"), ["a"]);
    expect(owners(left)).toBe("bbbb");
    expect(left.members.map(({ id }) => id)).toEqual(["b"]);
  });

  test("that leave before they got anything leave things as they were", () => {
    const left = leave(polledBy(2, "ab"), ["b"]);
    expect([owners(left), targets(left)]).toEqual(["aa", "aa"]);
  });

  test("that are dismissed leave, and those that read for them then are known", () => {
    const state = polledBy(2, "bab");
    const left = dismiss(state, "a");
    expect(owners(left)).toBe("bb");
    expect(isDismissed(left, "a", state.generation)).toBe(true);
    expect(isDismissed(left, "b", state.generation)).toBe(false);
    expect(isDismissed(left, "a", polled(left, "a").generation)).toBe(false);
    const many = Array.from({ length: 200 }, (_, n) => `m${n}`);
    const last = many.reduce((each, id) => dismiss(enter(each, id, 0), id), left);
    expect(last.dismissed!.map(({ id }) => id)).toEqual(many.slice(-100));
  });

  test("that are none can't leave", () => {
    const state = polledBy(2, "a");
    expect(leave(state, ["x"])).toBe(state);
  });

  test("the last of which leaves leave nobody", () => {
    const empty = leave(polledBy(2, "a"), ["a"]);
    expect(owners(empty)).toBe("--");
    expect(empty.generation).toBeGreaterThan(1);
  });

  test.each([
    [0, []],
    [100, []],
    [101, ["a"]],
    [151, ["a", "b"]],
  ])("at %d ms have lapsed after more than the timeout of 100: %j", (nowMs, expected) => {
    const state = enter(enter(noMembers(1), "a", 0), "b", 50);
    expect(lapsed(state, nowMs, 100).map(({ id }) => id)).toEqual(expected);
  });

  test("are never seen earlier than before by a gateway whose clock is behind", () => {
    expect(memberOf(enter(enter(noMembers(1), "a", 50), "a", 20), "a")!.seenMs).toBe(50);
  });
});

describe("added partitions", () => {
  test("are shared out", () => {
    const grown = resize(polledBy(2, "aba"), 6);
    expect(owners(grown)).toMatch(/^ab/);
    expect([...owners(grown)].toSorted().join("")).toBe("aaabbb");
  });

  test("wait for the first member", () => {
    expect(owners(polled(resize(noMembers(1), 3), "a"))).toBe("aaa");
  });

  test("are none when there are as many or fewer", () => {
    const state = polledBy(3, "a");
    expect(resize(state, 3)).toBe(state);
    expect(resize(state, 2)).toBe(state);
  });
});

describe("a commit", () => {
  const stable = polledBy(2, "aba");
  const { generation } = stable;

  test.each([
    ["by the owner", "a", 0, generation, true],
    ["by the owner without a generation", "a", 0, undefined, true],
    ["by another member", "b", 0, generation, false],
    ["by one that is no member", "x", 0, undefined, false],
    ["in a partition that is none", "a", 2, generation, false],
    ["of a generation before the last answer's", "a", 0, generation - 1, false],
    ["of a generation that nobody was told", "a", 0, generation + 1, false],
  ])("%s: %s, partition %d, generation %s", (_what, id, partition, named, allowed) => {
    expect(commitFault(stable, id, partition, named) === undefined).toBe(allowed);
  });

  test("of an earlier generation is allowed while the partition stayed and the member was not told a later one", () => {
    const third = enter(stable, "c", 0);
    expect(commitFault(third, "a", 0, generation)).toBeUndefined();
    expect(commitFault(polled(third, "a"), "a", 0, generation)).toContain("void");
  });

  test("of what was handed out before a seek is refused, also by the generation of the seek", () => {
    const sought = restart(stable, [0], new Map([[0, 5]]));
    expect(commitFault(sought, "a", 0, generation)).toContain("void");
    expect(commitFault(sought, "a", 0, undefined)).toContain("void");
    // The member was not told it yet, though it may have heard of it.
    expect(commitFault(sought, "a", 0, sought.generation)).toContain("void");
    expect(commitFault(polled(sought, "a"), "a", 0, sought.generation)).toBeUndefined();
  });

  test("in a partition that was not sought stays allowed", () => {
    expect(commitFault(restart(stable, [1]), "a", 0, generation)).toBeUndefined();
  });

  test("by a member whose stream names an earlier generation is allowed while the partition stayed", () => {
    const opened = acknowledge(enter(noMembers(2), "a", 0, "g.1"), "a");
    const later = acknowledge(enter(opened, "b", 0), "a");
    expect(commitFault(later, "a", 0, opened.generation)).toBeUndefined();
    expect(commitFault(later, "a", 1, opened.generation)).toContain("not assigned");
  });
});

describe("a stream that replaces another of the same member", () => {
  test("begins a new epoch of its partitions", () => {
    const first = acknowledge(enter(noMembers(2), "a", 0, "g.1"), "a");
    const second = enter(first, "a", 0, "h.1");
    expect(second.partitions.map(({ since }) => since)).toEqual([second.generation, second.generation]);
    expect(second.generation).toBeGreaterThan(first.generation);
  });
});

describe("random histories", () => {
  const TIMEOUT_MS = 100;
  const NAMES = ["a", "b", "c", "d", "e"];

  test("of members that come, poll, stay away and leave keep every rule", () => {
    for (let seed = 1; seed <= 4000; seed++) history(seed);
  });

  function history(seed: number): void {
    const random = seededRandom(seed);
    const pick = (bound: number) => Math.floor(random() * bound);
    let nowMs = 1000;
    let state = noMembers(pick(7));
    /** By generation and partition: the member that was told it has it. */
    const told = new Map<string, string>();
    /** By epoch and partition: the same. */
    const epochs = new Map<string, string>();
    /** Last answer of each member. */
    const answers = new Map<string, { generation: number; partitions: number[] }>();
    const lastPoll = new Map<string, number>();
    const trail: string[] = [];
    const check = (rule: boolean, what: string) => {
      if (!rule) throw new Error(`seed ${seed}: ${what} after ${trail.join(" ")}: ${JSON.stringify(state)}`);
    };
    const step = (name: string, next: Membership) => {
      trail.push(name);
      const before = state;
      state = next;
      check(state.generation >= before.generation, "the generation went back");
      const ids = state.members.map(({ id }) => id);
      const counts = ids.map((id) => state.partitions.filter((each) => (each.next ?? each.owner) === id).length);
      check(counts.length === 0 || Math.max(...counts) - Math.min(...counts) <= 1, "shares differ by more than 1");
      for (const [partition, holding] of state.partitions.entries()) {
        const { owner, next: heir, since } = holding;
        check(owner === undefined || ids.includes(owner), `${partition} is with nobody who is there`);
        check(heir === undefined || ids.includes(heir), `${partition} is promised to nobody who is there`);
        check(heir === undefined || (owner !== undefined && heir !== owner), `${partition} waits for nothing`);
        check(ids.length === 0 || owner !== undefined, `${partition} has no owner`);
        check(since <= state.generation, `${partition} has an epoch that has not begun`);
        const was = before.partitions[partition];
        check(since >= (was?.since ?? 0), `the epoch of ${partition} went back`);
        // Whom a partition leaves has seen that, or is gone.
        if (was?.owner !== undefined && was.owner !== owner && ids.includes(was.owner))
          check(memberOf(state, was.owner)!.told === state.generation, `${partition} was taken from ${was.owner}`);
      }
    };
    const poll = (id: string) => {
      const gone = lapsed(state, nowMs, TIMEOUT_MS).map((member) => member.id);
      if (gone.length > 0) step(`lapse(${gone.join()})`, leave(state, gone));
      step(`poll(${id})`, polled(state, id, nowMs));
      const partitions = ownedBy(state, id);
      for (const partition of partitions) {
        const place = `${state.generation}/${partition}`;
        check((told.get(place) ?? id) === id, `${partition} was told to ${told.get(place)} and ${id}`);
        told.set(place, id);
        const epoch = `${state.partitions[partition]!.since}/${partition}`;
        check((epochs.get(epoch) ?? id) === id, `an epoch of ${partition} is ${epochs.get(epoch)}'s and ${id}'s`);
        epochs.set(epoch, id);
      }
      answers.set(id, { generation: state.generation, partitions });
      lastPoll.set(id, nowMs);
    };

    const steps = 5 + pick(40);
    for (let n = 0; n < steps; n++) {
      const id = NAMES[pick(NAMES.length)]!;
      const dice = random();
      if (dice < 0.5) poll(id);
      else if (dice < 0.6) step(`leave(${id})`, leave(state, [id]));
      else if (dice < 0.75) {
        nowMs += pick(TIMEOUT_MS);
        trail.push(`at ${nowMs}`);
      } else if (dice < 0.8) step("resize", resize(state, state.partitions.length + pick(3)));
      else if (dice < 0.85 && state.partitions.length > 0) {
        const partition = pick(state.partitions.length);
        const before = state.generation;
        step(`seek(${partition})`, restart(state, [partition], new Map([[partition, pick(9)]])));
        check(state.generation > before, "a seek began no generation");
      }

      // Whatever a member was last told, only the owner since then may commit.
      for (const [who, { generation, partitions }] of answers)
        for (const partition of partitions) {
          const allowed = commitFault(state, who, partition, generation) === undefined;
          const { owner, since } = state.partitions[partition]!;
          check(!allowed || (owner === who && since <= generation), `${who} may commit in ${partition}`);
          const later = [...told].some(([place, other]) => {
            const [toldIn, where] = place.split("/").map(Number);
            return where === partition && other !== who && toldIn! > generation;
          });
          check(!allowed || !later, `${who} may commit in ${partition}, which another was told later`);
        }
    }

    // At rest: once everyone there has seen how it is, each partition is with the one who shall have it.
    step(
      "lapse",
      leave(
        state,
        lapsed(state, nowMs, TIMEOUT_MS).map((member) => member.id),
      ),
    );
    const { generation } = state;
    for (const { id } of state.members) poll(id);
    check(state.generation === generation, "members that poll again change who has what");
    check(owners(state) === targets(state), "something is still on its way");
    for (const { id } of state.members) poll(id);
    const shared = state.members.flatMap(({ id }) => answers.get(id)!.partitions);
    check(
      state.members.length === 0 ||
        (shared.length === state.partitions.length && new Set(shared).size === shared.length),
      "the answers do not name each partition once",
    );
  }
});
