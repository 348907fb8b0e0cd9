import { expect, test } from "vitest";
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
