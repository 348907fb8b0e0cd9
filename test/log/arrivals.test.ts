import { describe, expect, test } from "vitest";
import type { Delivered } from "../../src/jetstream/fetch.ts";
import { Arrivals } from "../../src/log/arrivals.ts";

const message = (seq: number, deliveries = 1) => ({ seq, deliveries }) as Delivered;
const messages = (...seqs: number[]) => seqs.map((seq) => message(seq));

function arrived(isShared: boolean, ...seqs: number[]): Arrivals {
  const arrivals = new Arrivals(() => isShared);
  for (const each of messages(...seqs)) arrivals.note(each);
  return arrivals;
}

describe("a gateway that has the durable to itself", () => {
  test("awaits what did not come, and hands nothing out before it", () => {
    const arrivals = arrived(false, 1, 2, 5);
    expect(arrivals.firstAwaited(messages(5))).toBe(3);
    expect(arrivals.isOvertaking(message(5))).toBe(true);
    arrivals.note(message(3, 2));
    expect(arrivals.isReturning(message(3))).toBe(true);
    expect(arrivals.firstAwaited(messages(3, 5))).toBe(4);
    arrivals.note(message(4, 2));
    expect(arrivals.firstAwaited(messages(3, 4, 5))).toBeUndefined();
  });

  test("does not await what lies behind all that came, nor what the storage has lost", () => {
    const arrivals = arrived(false, 1, 4);
    expect(arrivals.firstAwaited(messages(1))).toBeUndefined();
    expect(arrivals.firstAwaited([])).toBe(2);
    arrivals.forgetUpTo(2);
    expect(arrivals.firstAwaited([])).toBe(3);
    expect(arrivals.forgetMissing()).toBe(true);
    expect(arrivals.firstAwaited([])).toBeUndefined();
    expect(arrivals.forgetMissing()).toBe(false);
  });

  test("counts what it gave back as not handed out, until it was", () => {
    const arrivals = arrived(false, 1, 2, 3);
    arrivals.noteGivenBack(message(2));
    arrivals.noteGivenBack(message(3));
    expect([arrivals.returning, arrivals.before(3)]).toEqual([2, 1]);
    expect(arrivals.firstAwaited(messages(3))).toBe(2);
    arrivals.noteHandedOut(messages(2, 3));
    expect([arrivals.returning, arrivals.before(3)]).toEqual([0, 3]);
  });

  test("begins anew where the durable is moved to", () => {
    const arrivals = arrived(false, 1, 9);
    arrivals.noteGivenBack(message(9));
    arrivals.restartAt(4);
    arrivals.note(message(5));
    arrivals.forget();
    expect([arrivals.received, arrivals.returning, arrivals.firstAwaited([])]).toEqual([5, 0, undefined]);
    expect(arrivals.toCome(7)).toBe(2);
  });
});

test("where others take messages too, gaps are theirs, but those of a wait that was given up", () => {
  const arrivals = arrived(true, 1, 4);
  expect([arrivals.firstAwaited(messages(4)), arrivals.toCome(9)]).toEqual([undefined, 0]);
  arrivals.noteGaveUp();
  arrivals.note(message(6));
  expect(arrivals.firstAwaited(messages(6))).toBe(5);
  arrivals.notePulled();
  arrivals.note(message(8));
  arrivals.note(message(5, 2));
  expect(arrivals.firstAwaited(messages(5, 6, 8))).toBeUndefined();
});
