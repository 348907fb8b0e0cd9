import { describe, expect, test } from "vitest";
import { assign } from "../../src/domain/assignment.ts";
import { seededRandom } from "../support/random.ts";

/** `"ab-"`: partition 0 with `a`, 1 with `b`, 2 with nobody. */
const read = (text: string) => [...text].map((member) => (member === "-" ? undefined : member));
const write = (assignment: readonly (string | undefined)[]) => assignment.map((member) => member ?? "-").join("");

describe("assign", () => {
  test.each([
    ["nobody to nobody", "--", "", "--"],
    ["no partition", "", "ab", ""],
    ["everything to one", "---", "a", "aaa"],
    ["neighbours to different members", "----", "ab", "abab"],
    ["what does not come out even to the first", "---", "ab", "aba"],
    ["one each to more members than partitions", "--", "abcd", "ab"],
    ["half of it to a second member", "aaaa", "ab", "aabb"],
    ["nothing of one partition to a second member", "a", "ab", "a"],
    ["one to a third member", "aabb", "abc", "aabc"],
    ["what a member leaves behind to the others in turn", "abcabc", "ab", "abaabb"],
    ["all that the last member leaves behind to nobody", "aaa", "", "---"],
    ["what unknown members have to those there are", "xyxy", "ab", "abab"],
    ["as it is when it is even", "bbaa", "ab", "bbaa"],
    ["as it is when it differs by one", "bab", "ab", "bab"],
    ["the larger share to whoever has more", "bbb--", "ab", "bbbaa"],
    ["of three at most the share", "aaaaaa", "abc", "aabcbc"],
  ])("gives %s: %j among %j", (_what, current, members, expected) => {
    expect(write(assign(read(current), [...members]))).toBe(expected);
  });

  test("does not depend on the order of the members", () => {
    expect(assign(read("------"), ["c", "a", "b"])).toEqual(assign(read("------"), ["a", "b", "c"]));
  });

  test("shares a thousand partitions among seven members", () => {
    const members = ["a", "b", "c", "d", "e", "f", "g"];
    const shared = assign(Array.from({ length: 1000 }), members);
    const counts = members.map((member) => shared.filter((owner) => owner === member).length);
    expect(counts.toSorted()).toEqual([142, 143, 143, 143, 143, 143, 143]);
  });

  test("moves no more partitions than any even assignment has to", () => {
    const random = seededRandom(1);
    const pick = (bound: number) => Math.floor(random() * bound);
    for (let run = 0; run < 400; run++) {
      const members = ["a", "b", "c"].slice(0, 1 + pick(3));
      const current = Array.from({ length: pick(7) }, () => [undefined, "a", "b", "c"][pick(4)]);
      const found = assign(current, members);
      const kept = (assignment: readonly (string | undefined)[]) =>
        assignment.filter((member, partition) => member === current[partition]).length;
      const even = everyAssignment(current.length, members).filter((each) => isEven(each, members));
      expect(isEven(found, members)).toBe(true);
      expect(kept(found), `${write(current)} among ${members.join("")}`).toBe(Math.max(...even.map(kept)));
    }
  });
});

function isEven(assignment: readonly (string | undefined)[], members: readonly string[]): boolean {
  const counts = members.map((member) => assignment.filter((each) => each === member).length);
  return Math.max(...counts) - Math.min(...counts) <= 1 && !assignment.includes(undefined);
}

function everyAssignment(partitions: number, members: readonly string[]): string[][] {
  if (partitions === 0) return [[]];
  return everyAssignment(partitions - 1, members).flatMap((rest) => members.map((member) => [...rest, member]));
}
