import { expect, test } from "vitest";
import { mostSpecific } from "../../src/domain/pattern.ts";
import { type Owner, Places } from "../../src/domain/quota.ts";

test.each([
  ["jwt:alice", "own"],
  ["jwt:alan", "a"],
  ["jwt:bob", "tokens"],
  ["key:1", "all"],
])("the most specific entry for %s is %s", (name, expected) => {
  const entries = new Map([
    ["*", "all"],
    ["jwt:a*", "a"],
    ["jwt:*", "tokens"],
    ["jwt:alice", "own"],
  ]);
  expect(mostSpecific(entries, name)).toBe(expected);
});

test("nothing fits where no pattern does", () => {
  expect(mostSpecific(new Map([["key:*", 1]]), "jwt:a")).toBeUndefined();
});

test("places that are held count until they are given back, each name once", () => {
  const refused: string[] = [];
  const owner: Owner = { id: "a", max: { streams: 2, partitions: 0 }, refused: (what) => refused.push(what) };
  const places = new Places();
  const present = new Map([["s1", 1]]);
  const hold = (name: string, by = owner) => places.hold(by, "streams", name, 1, () => present);
  {
    using _two = hold("s2");
    present.set("s2", 1);
    expect(() => hold("s3")).toThrow("at most 2 streams");
    // What is there, or is being made, is not made once more.
    hold("s1")[Symbol.dispose]();
    hold("s3", { id: "b", max: { streams: 3 } })[Symbol.dispose]();
    hold("s3", { id: "c" })[Symbol.dispose]();
  }
  present.delete("s2");
  hold("s3")[Symbol.dispose]();
  expect(() => places.hold(owner, "partitions", "s", 1, () => new Map())).toThrow("at most 0 partitions");
  expect(refused).toEqual(["streams", "partitions"]);
});
