import { describe, expect, test } from "vitest";
import {
  decodeToken,
  durableName,
  encodeToken,
  groupKey,
  groupUseKey,
  offsetKey,
  partitionStream,
  partitionSubject,
} from "../../src/jetstream/names.ts";
import { seededRandom } from "../support/random.ts";

/** What a subject, a durable's name, a KV key and a file name all take. */
const SAFE = /^[A-Za-z0-9_=-]+$/;

const HOSTILE = [
  ...[
    "",
    ".",
    "..",
    "*",
    ">",
    "a.b",
    "a b",
    "a*",
    ">a",
    "a/b",
    "..\\..",
    "$SYS",
    "$JS.API.>",
    "_INBOX.x",
    "=",
    "=2e",
    "%2e",
  ],
  ...[
    "\u0000",
    "\r\nNats-Rollup: all",
    "\t",
    "\u007f",
    "\u0085",
    "\u2028",
    "é",
    "日本",
    "😀",
    "\ufeff",
    "\uffff",
    "a\u0301",
  ],
  ...["constructor", "__proto__", "CON", "x".repeat(128), "€".repeat(42)],
];

/** Any well-formed text, hostile characters more often than others. */
function anyText(random: () => number): string {
  const pick = <T>(items: readonly T[]): T => items[Math.floor(random() * items.length)]!;
  let text = "";
  for (let length = Math.floor(random() * 24); length > 0; length--) {
    const kind = random();
    if (kind < 0.3) text += pick([..." .*>=%$/\\:\r\n\t\u0000\u007f"]);
    else if (kind < 0.7) text += pick([..."abcXYZ019_-"]);
    else if (kind < 0.9) text += String.fromCodePoint(Math.floor(random() * 0xd800));
    else text += String.fromCodePoint(0xe000 + Math.floor(random() * (0x110000 - 0xe000)));
  }
  return text;
}

describe("encodeToken", () => {
  test.each(HOSTILE)("gives %j a token that can be decoded", (text) => {
    const token = encodeToken(text);
    expect(token).toMatch(SAFE);
    expect(decodeToken(token)).toBe(text);
  });

  const seed = Date.now() % 1_000_000;
  test(`is reversible for any text (seed ${seed})`, () => {
    const random = seededRandom(seed);
    const texts = new Map<string, string>();
    for (let n = 0; n < 20_000; n++) {
      const text = anyText(random);
      const token = encodeToken(text);
      if (!SAFE.test(token)) throw new Error(`${JSON.stringify(text)} became ${JSON.stringify(token)}`);
      if (decodeToken(token) !== text) throw new Error(`${JSON.stringify(text)} did not come back from ${token}`);
      const other = texts.get(token);
      if (other !== undefined && other !== text) throw new Error(`${token} stands for two texts`);
      texts.set(token, text);
    }
  });

  test("leaves plain names as they are", () => {
    expect(encodeToken("Orders_2024-eu")).toBe("Orders_2024-eu");
  });

  test.each(["\ud800", "a\udc00b", "\ud83d"])("refuses half of a surrogate pair, %j", (text) => {
    expect(() => encodeToken(text)).toThrow(RangeError);
  });
});

describe("durableName", () => {
  test.each(HOSTILE)("of %j can be a file's name", (group) => {
    expect(durableName(group)).toMatch(/^[A-Za-z0-9_=-]{3,130}$/);
  });

  test("differs for groups whose names are long and alike", () => {
    const names = ["a", "b", "c"].map((last) => durableName("é".repeat(63) + last));
    expect(new Set(names).size).toBe(3);
  });

  test("differs for a long name and the text of its hash", () => {
    const long = durableName("é".repeat(64));
    expect(durableName(long)).not.toBe(long);
    expect(durableName(long.slice(2))).not.toBe(long);
  });
});

describe("keys and subjects", () => {
  test.each(HOSTILE)("of group %j hold no more tokens than they should", (group) => {
    expect(groupKey(group, "id").split(".")).toHaveLength(3);
    expect(groupUseKey(group, "id", "gw").split(".")).toHaveLength(4);
    expect(offsetKey(group, "id", 7).split(".")).toHaveLength(3);
    for (const key of [groupKey(group, "id"), groupUseKey(group, "id", "gw"), offsetKey(group, "id", 7)])
      expect(key).toMatch(/^[A-Za-z0-9_=.-]+$/);
  });

  test("of streams whose names end in numbers do not collide", () => {
    const places = [
      ["a", 11],
      ["a-1", 1],
      ["a-11", 1],
      ["a", 1],
    ] as const;
    expect(new Set(places.map(([stream, partition]) => partitionStream(stream, partition))).size).toBe(places.length);
    expect(new Set(places.map(([stream, partition]) => partitionSubject(stream, partition))).size).toBe(places.length);
  });
});
