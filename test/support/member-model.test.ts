import { describe, expect, test } from "vitest";
import { type CommitSeen, type LeaveSeen, type Observation, type PollSeen, violations } from "./member-model.ts";

let tick = 0;
const times = () => ({ from: tick++, to: tick++ });
const poll = (member: string, generation: number, assignment: number[], ...offsets: number[]): PollSeen => {
  const events = offsets.map((offset) => ({ partition: 0, offset }));
  return { kind: "poll", member, generation, assignment, events, ...times() };
};
const commit = (
  member: string,
  generation: number,
  offset: number,
  outcome: CommitSeen["outcome"] = "accepted",
): CommitSeen => ({ kind: "commit", member, generation, partition: 0, offset, outcome, ...times() });
const leave = (member: string): LeaveSeen => ({ kind: "leave", member, outcome: "accepted", ...times() });
const check = (count: number, history: readonly Observation[], lag = 0) =>
  violations(history, { counts: [count], lag });

describe("the model of members accepts", () => {
  test("a hand-over from one to the next", () => {
    const history = [
      poll("a", 1, [0], 0, 1, 2),
      commit("a", 1, 1),
      leave("a"),
      poll("b", 3, [0], 2, 3),
      commit("b", 3, 3),
    ];
    expect(check(4, history)).toEqual([]);
  });
  test("a stale commit that is refused", () => {
    const history = [poll("a", 1, [0], 0, 1), poll("b", 3, [0], 0, 1), commit("a", 1, 1, "refused"), commit("b", 3, 1)];
    expect(check(2, history)).toEqual([]);
  });
  test("a commit of unknown outcome that was stored, and one that was not", () => {
    const stored = [poll("a", 1, [0], 0, 1), commit("a", 1, 1, "unknown"), poll("b", 3, [0], 2), commit("b", 3, 2)];
    expect(check(3, stored)).toEqual([]);
    const void_ = [
      poll("a", 1, [0], 0, 1),
      commit("a", 1, 1, "unknown"),
      poll("b", 3, [0], 0, 1, 2),
      commit("b", 3, 2),
    ];
    expect(check(3, void_)).toEqual([]);
  });
  test("a commit at the same time as the hand-over", () => {
    const first = poll("a", 1, [0], 0);
    const from = tick++;
    const second = poll("b", 3, [0], 0);
    expect(check(1, [first, second, { ...commit("a", 1, 0), from }, commit("b", 3, 0)])).toEqual([]);
  });
});

describe("the model of members refuses", () => {
  const refused = (name: string, count: number, text: string, history: () => readonly Observation[], lag = 0) =>
    test(name, () => expect(check(count, history(), lag).join("\n")).toContain(text));

  refused("two owners of a partition in one generation", 1, "belongs to a and to b", () => [
    poll("a", 2, [0], 0),
    poll("b", 2, [0]),
  ]);
  refused("an event of another's partition", 1, "not assigned to it", () => [poll("a", 2, [], 0)]);
  refused("a stale commit that is accepted", 2, "after b had the partition", () => [
    poll("a", 1, [0], 0, 1),
    poll("b", 3, [0], 0, 1),
    commit("a", 1, 1),
  ]);
  refused("a commit of one that left", 1, "after it had left", () => [
    poll("a", 1, [0], 0),
    leave("a"),
    commit("a", 1, 0),
  ]);
  refused("a broken order in one answer", 3, "in one answer", () => [poll("a", 1, [0], 0, 2, 1)]);
  refused("a broken order over two answers", 3, "0/1 is next", () => [poll("a", 1, [0], 0), poll("a", 1, [0], 2)]);
  refused("a hand-over that leaves out what was not committed", 3, "0/1 is next", () => [
    poll("a", 1, [0], 0, 1),
    commit("a", 1, 0),
    poll("b", 3, [0], 2),
  ]);
  refused("an event skipped behind a commit", 3, "0/1 was committed and never handed out", () => [
    poll("a", 1, [0], 0, 2),
    commit("a", 1, 2),
  ]);
  refused("what was committed coming again", 1, "although it was committed", () => [
    poll("a", 1, [0], 0),
    commit("a", 1, 0),
    poll("b", 3, [0], 0),
  ]);
  refused("an event that nobody got", 2, "0/1 was never handed out", () => [poll("a", 1, [0], 0), commit("a", 1, 0)]);
  refused("a lag at the end", 1, "the lag is 1", () => [poll("a", 1, [0], 0)], 1);
});
