import { expect, test } from "vitest";
import { ConsumerGroupService } from "../../gen/millrace/v1/consumers_pb.js";
import { EventService } from "../../gen/millrace/v1/events_pb.js";
import { FunctionService } from "../../gen/millrace/v1/functions_pb.js";
import { KeyService } from "../../gen/millrace/v1/keys_pb.js";
import { ProcessorService } from "../../gen/millrace/v1/processors_pb.js";
import { StreamService } from "../../gen/millrace/v1/streams_pb.js";
import { TableService } from "../../gen/millrace/v1/tables_pb.js";
import { rightFault, rightsOf } from "../../src/domain/rights.ts";
import { hasRule } from "../../src/services/access.ts";

test("every RPC has a rule", () => {
  const services = [
    StreamService,
    EventService,
    ConsumerGroupService,
    ProcessorService,
    TableService,
    KeyService,
    FunctionService,
  ];
  const without = services.flatMap(({ methods }) => methods.filter((method) => !hasRule(method)).map(String));
  expect(without).toEqual([]);
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
