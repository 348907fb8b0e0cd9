import { expect, onTestFinished, test, vi } from "vitest";
import { Gate } from "../../src/domain/gate.ts";

test("lets as many tasks run at a time as it may, in order, also when some fail", async () => {
  const gate = new Gate(2);
  const began: number[] = [];
  const ends: PromiseWithResolvers<void>[] = [];
  const task = (n: number) => () => {
    began.push(n);
    ends[n] = Promise.withResolvers<void>();
    return ends[n].promise;
  };
  const runs = [0, 1, 2, 3].map((n) => gate.run(task(n)));
  expect(began).toEqual([0, 1]);
  ends[1]!.reject(new Error("1"));
  await expect(runs[1]).rejects.toThrow("1");
  expect(began).toEqual([0, 1, 2]);
  ends[0]!.resolve();
  await runs[0];
  expect(began).toEqual([0, 1, 2, 3]);
  for (const end of ends) end.resolve();
  await Promise.allSettled(runs);
  const last = gate.run(task(4));
  expect(began.at(-1)).toBe(4);
  ends[4]!.resolve();
  await last;
});

test("a task that takes too long gives up its place, once", async () => {
  vi.useFakeTimers();
  onTestFinished(() => void vi.useRealTimers());
  const gate = new Gate(1, 100);
  const slow = Promise.withResolvers<void>();
  const began: string[] = [];
  const task = (name: string, end: Promise<void>) => () => {
    began.push(name);
    return end;
  };
  const runs = [gate.run(task("slow", slow.promise)), gate.run(task("second", slow.promise))];
  vi.advanceTimersByTime(99);
  await Promise.resolve();
  expect(began).toEqual(["slow"]);
  await vi.advanceTimersByTimeAsync(1);
  expect(began).toEqual(["slow", "second"]);
  runs.push(gate.run(task("third", slow.promise)));
  expect(began).toEqual(["slow", "second"]);
  slow.resolve();
  await Promise.all(runs);
  expect(began).toEqual(["slow", "second", "third"]);
  // Nobody left its place twice: it is one at a time still.
  const last = Promise.withResolvers<void>();
  const more = [gate.run(task("fourth", last.promise)), gate.run(task("fifth", last.promise))];
  expect(began).toEqual(["slow", "second", "third", "fourth"]);
  last.resolve();
  await Promise.all(more);
});
