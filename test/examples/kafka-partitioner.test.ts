import { describe, expect, test } from "vitest";
import { kafkaPartition, murmur2 } from "../../examples/kafka-partitioner.ts";
import { partitionOf } from "../../src/log/partitioner.ts";

describe("kafka partitioner of the examples", () => {
  // From UtilsTest.testMurmur2 of Kafka's Java client.
  test.each([
    ["21", -973932308],
    ["foobar", -790332482],
    ["a-little-bit-long-string", -985981536],
    ["a-little-bit-longer-string", -1486304829],
    ["lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971],
    ["abc", 479470107],
  ])("hashes %s as Kafka does", (text, hash) => {
    expect(murmur2(new TextEncoder().encode(text))).toBe(hash);
  });

  test("agrees with the service for keys of every length and alphabet", () => {
    const keys = Array.from({ length: 300 }, (_, i) => "aé語😀".repeat(i).slice(0, i).toWellFormed());
    for (const key of keys) expect(kafkaPartition(key, 7)).toBe(partitionOf(key, 7));
  });
});
