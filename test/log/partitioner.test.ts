import { describe, expect, test } from "vitest";
import { murmur2, partitionOf } from "../../src/log/partitioner.ts";
import { seededRandom } from "../support/random.ts";

describe("murmur2", () => {
  /** From Kafka's own UtilsTest, except the last two. */
  test.each([
    ["21", -973932308],
    ["foobar", -790332482],
    ["a-little-bit-long-string", -985981536],
    ["a-little-bit-longer-string", -1486304829],
    ["lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971],
    ["abc", 479470107],
    ["user-123", -1468255980],
  ])("of %s is %d, as in Kafka's clients", (text, hash) => {
    expect(murmur2(Buffer.from(text))).toBe(hash);
  });

  test("is a signed 32-bit number at every length of the tail", () => {
    for (let length = 0; length <= 16; length++) {
      const hash = murmur2(new Uint8Array(length).fill(0xff));
      expect(hash).toBe(hash | 0);
    }
  });

  test("reads bytes as unsigned", () => {
    expect(murmur2(Uint8Array.of(0x80, 0xff, 0xfe))).toBe(murmur2(Buffer.from([128, 255, 254])));
    expect(murmur2(Uint8Array.of(0x80))).not.toBe(murmur2(Uint8Array.of(0)));
  });
});

describe("partitionOf", () => {
  test.each([
    ["user-123", 10, 8],
    // The mask, not a shift to unsigned: with `>>> 0` this one would land in 4.
    ["21", 10, (-973932308 & 0x7fffffff) % 10],
    ["foobar", 3, (-790332482 & 0x7fffffff) % 3],
    ["abc", 7, 479470107 % 7],
    ["anything", 1, 0],
  ])("puts %s of %d partitions into %d", (key, partitions, partition) => {
    expect(partitionOf(key, partitions)).toBe(partition);
  });

  test("hashes the key's UTF-8, so that Unicode keys land where Kafka puts them", () => {
    for (const key of ["Zürich", "日本", "😀", "", " ", "\u0000"])
      expect(partitionOf(key, 1000)).toBe((murmur2(Buffer.from(key, "utf8")) & 0x7fffffff) % 1000);
  });

  test("takes a key of 1 KiB of the widest characters whole", () => {
    const key = "€".repeat(341);
    expect(partitionOf(key, 997)).toBe((murmur2(Buffer.from(key)) & 0x7fffffff) % 997);
    expect(partitionOf(`${key}a`, 997)).toBe((murmur2(Buffer.from(`${key}a`)) & 0x7fffffff) % 997);
  });

  test("uses every partition, about evenly", () => {
    const random = seededRandom(7);
    const counts = new Array<number>(16).fill(0);
    for (let n = 0; n < 16_000; n++) counts[partitionOf(`k-${random()}`, 16)]!++;
    expect(Math.min(...counts)).toBeGreaterThan(800);
    expect(Math.max(...counts)).toBeLessThan(1200);
  });
});
