import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { describe, expect, test } from "vitest";
import { PublishEventSchema } from "../../gen/millrace/v1/events_pb.js";
import { ServiceError } from "../../src/domain/errors.ts";
import { newEvent } from "../../src/domain/event.ts";
import { fieldsOf } from "../../src/services/events.ts";
import { validate } from "../../src/transport/validation.ts";

type Init = MessageInitShape<typeof PublishEventSchema>;

const data = { case: "data", value: Buffer.from("x") } as const;
const headers = (count: number) => Object.fromEntries(Array.from({ length: count }, (_, i) => [`h${i}`, "v"]));

/** The bounds of an event, at their edges and one past them; the field at fault, or undefined. */
const CASES: [title: string, event: Init, fault: string | undefined][] = [
  ["a payload alone", { payload: data }, undefined],
  ["no payload", {}, "value"],
  ["the longest key", { payload: data, key: "k".repeat(1024) }, undefined],
  ["a longer key", { payload: data, key: "k".repeat(1025) }, "key"],
  ["a key that is too long in UTF-8 only", { payload: data, key: "ü".repeat(513) }, "key"],
  ["an empty key", { payload: data, key: "" }, undefined],
  ["the longest partition key", { payload: data, partitionKey: "k".repeat(1024) }, undefined],
  ["a longer partition key", { payload: data, partitionKey: "k".repeat(1025) }, "partitionKey"],
  ["an empty id", { payload: data, eventId: "" }, "eventId"],
  ["the longest id", { payload: data, eventId: "i".repeat(128) }, undefined],
  ["a longer id", { payload: data, eventId: "i".repeat(129) }, "eventId"],
  ["the last partition", { payload: data, partition: 999 }, undefined],
  ["a partition past the last", { payload: data, partition: 1000 }, "partition"],
  ["a negative partition", { payload: data, partition: -1 }, "partition"],
  ["the first expected offset", { payload: data, expectedOffset: 0n }, undefined],
  ["a negative expected offset", { payload: data, expectedOffset: -1n }, "expectedOffset"],
  ["the longest content type", { payload: data, contentType: "t".repeat(128) }, undefined],
  ["a longer content type", { payload: data, contentType: "t".repeat(129) }, "contentType"],
  ["a content type with a line end", { payload: data, contentType: "a\r\nb" }, "contentType"],
  ["as many headers as there may be", { payload: data, headers: headers(64) }, undefined],
  ["one header more", { payload: data, headers: headers(65) }, "headers"],
  ["a header without a name", { payload: data, headers: { "": "v" } }, "headers"],
];

function faultOf(check: () => unknown): string | undefined {
  try {
    check();
    return undefined;
  } catch (error) {
    if (!(error instanceof ServiceError)) throw error;
    return error.details[0]!.field!.split(".")[0];
  }
}

describe("an event's bounds in the schema and in the code are the same", () => {
  test.each(CASES)("%s", (_title, init, fault) => {
    const message = create(PublishEventSchema, init);
    expect(faultOf(() => newEvent(fieldsOf(message)))).toBe(fault);
    // The schema calls a missing payload by its oneof.
    expect(faultOf(() => validate(PublishEventSchema, message))).toBe(fault === "value" ? "payload" : fault);
  });
});

describe("newEvent", () => {
  test("names every field at fault, with its prefix", () => {
    const check = () => newEvent({ key: "k".repeat(2000), eventId: "" }, "events[3].");
    expect(check).toThrow(/events\[3\]\.key.*events\[3\]\.eventId.*events\[3\]\.value/);
  });

  test.each(["application/json", "Application/JSON; charset=utf-8", " application/json ;x=y"])(
    "takes data of type %j as a JSON value",
    (contentType) => {
      const event = newEvent({ data: Buffer.from(' {"a": [1, 2]} '), contentType });
      expect(event.contentType).toBe("application/json");
      expect(Buffer.from(event.payload).toString()).toBe('{"a":[1,2]}');
    },
  );

  test.each(["{", "", "nope", "\ud800"])("refuses data %j that is said to be JSON and is not", (text) => {
    expect(() => newEvent({ data: Buffer.from(text), contentType: "application/json" })).toThrow("not JSON");
  });

  test("refuses more than 16 KiB of headers together", () => {
    const at = (bytes: number) => () => newEvent({ data: Buffer.from("x"), headers: [["n", "v".repeat(bytes - 1)]] });
    expect(at(16 * 1024)).not.toThrow();
    expect(at(16 * 1024 + 1)).toThrow("headers");
  });

  test.each([
    ["key", { key: "\ud800" }],
    ["eventId", { eventId: "\udc00x" }],
    ["headers", { headers: [["n", "\ud800"]] as const }],
  ])("refuses half a surrogate pair in %s", (field, fields) => {
    expect(faultOf(() => newEvent({ data: Buffer.from("x"), ...fields }))).toBe(field);
  });
});
