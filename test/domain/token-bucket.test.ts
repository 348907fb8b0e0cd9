import { describe, expect, test } from "vitest";
import { TokenBucket } from "../../src/domain/token-bucket.ts";

describe("a bucket of 10 a second and at most 20", () => {
  const bucket = () => new TokenBucket(10, 20, 1000);

  test.each([
    ["is full at first", 0, 20, 0],
    ["gives what is there", 15, 5, 0],
    ["tells when there is enough", 15, 10, 500],
    ["tells when one is there", 20, 1, 100],
    ["is not in debt when it is empty", 20, 0, 0],
    ["pays a debt off first", 50, 0, 3000],
    ["waits for a debt and the cost", 50, 5, 3500],
    ["lets more than its bound pass when it is full", 0, 1000, 0],
    ["waits until it is full for more than its bound", 5, 1000, 500],
  ])("%s", (_what, taken, cost, waitMs) => {
    const it = bucket();
    it.take(taken, 1000);
    expect(it.waitMs(cost, 1000)).toBeCloseTo(waitMs, 6);
    if (waitMs > 1) expect(it.waitMs(cost, 1000 + waitMs - 1)).toBeGreaterThan(0);
    expect(it.waitMs(cost, 1000 + waitMs)).toBe(0);
  });

  test("fills no further than its bound", () => {
    const it = bucket();
    it.take(20, 1000);
    expect(it.isFull(2999)).toBe(false);
    expect(it.isFull(3000)).toBe(true);
    it.take(20, 1_000_000);
    expect(it.waitMs(1, 1_000_000)).toBeCloseTo(100, 6);
  });

  test("gives a share of its rate and bound, also when the share changes", () => {
    const it = bucket();
    expect(it.waitMs(5, 1000, 0.25)).toBe(0);
    it.take(5, 1000, 0.25);
    expect(it.waitMs(1, 1000, 0.25)).toBeCloseTo(400, 6);
    expect(it.waitMs(1, 1000, 1)).toBeCloseTo(100, 6);
    expect(it.isFull(3000, 1)).toBe(true);
    it.take(5, 3000, 0.25);
    expect(it.waitMs(5, 3000, 0.25)).toBeCloseTo(2000, 6);
  });

  test("is not disturbed by a clock that stands", () => {
    const it = bucket();
    it.take(20, 1000);
    it.take(0, 900);
    expect(it.waitMs(1, 1000)).toBeCloseTo(100, 6);
  });

  test("keeps its rate over many takes", () => {
    const it = bucket();
    let taken = 0;
    for (let nowMs = 1000; nowMs < 101_000; nowMs += 7)
      if (it.waitMs(3, nowMs) === 0) {
        it.take(3, nowMs);
        taken += 3;
      }
    expect(taken).toBeGreaterThanOrEqual(1000);
    expect(taken).toBeLessThanOrEqual(1020);
  });
});
