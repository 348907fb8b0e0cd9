import { expect, test } from "vitest";
import { rightFault, rightsOf } from "../../src/domain/rights.ts";
import { hasRule } from "../../src/services/access.ts";
import { allServices } from "../support/services.ts";

test("every RPC has a rule", async () => {
  const methods = (await allServices()).flatMap((service) => service.methods);
  expect(methods.length).toBeGreaterThan(40);
  expect(methods.filter((method) => !hasRule(method)).map(String)).toEqual([]);
});

test.each([
  ["orders", "orders", true],
  ["orders", "orders2", false],
  ["*", "", true],
  ["a*", "abc", true],
  ["*c", "abc", true],
  ["a*a", "a", false],
  ["a*b*c", "a-b-c", true],
  ["a*bc*bc", "abc", false],
  ["a.c", "abc", false],
])("the pattern %s on %s: %s", (pattern, name, expected) => {
  expect(rightsOf([`publish:${pattern}`]).publish(name)).toBe(expected);
  expect(rightsOf([`publish:${pattern}`]).consume(name)).toBe(false);
});

test.each(["", "publish", "publish:", "read:x", "admin:x", " admin", "group:\u0000"])("%j is no right", (text) => {
  expect(rightFault(text)).toBeDefined();
  expect(rightsOf([text]).isAdmin).toBe(false);
});
