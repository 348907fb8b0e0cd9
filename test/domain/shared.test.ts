import { expect, test } from "vitest";
import { SharedResources } from "../../src/domain/shared.ts";

function counted() {
  const counts = { opened: 0, closed: 0 };
  const open = async () => {
    counts.opened++;
    return {
      [Symbol.asyncDispose]: async () => {
        counts.closed++;
      },
    };
  };
  return { counts, open };
}

test("is opened once for all who use it together, and closed by the last", async () => {
  const shared = new SharedResources<string>();
  const { counts, open } = counted();
  const users = await Promise.all([shared.acquire("a", open), shared.acquire("a", open), shared.acquire("a", open)]);
  expect(counts).toEqual({ opened: 1, closed: 0 });
  await users[0]![Symbol.asyncDispose]();
  await users[1]![Symbol.asyncDispose]();
  expect(counts).toEqual({ opened: 1, closed: 0 });
  await users[2]![Symbol.asyncDispose]();
  expect(counts).toEqual({ opened: 1, closed: 1 });
});

test("is opened anew after its last user, and for another key", async () => {
  const shared = new SharedResources<string>();
  const { counts, open } = counted();
  await (await shared.acquire("a", open))[Symbol.asyncDispose]();
  await shared.acquire("a", open);
  await shared.acquire("b", open);
  expect(counts).toEqual({ opened: 3, closed: 1 });
});

test("a failure reaches all who wait, and the next user tries again", async () => {
  const shared = new SharedResources<string>();
  const fails = () => Promise.reject(new Error("out of reach"));
  const both = await Promise.allSettled([shared.acquire("a", fails), shared.acquire("a", fails)]);
  expect(both.map(({ status }) => status)).toEqual(["rejected", "rejected"]);
  const { counts, open } = counted();
  await shared.acquire("a", open);
  expect(counts.opened).toBe(1);
});
