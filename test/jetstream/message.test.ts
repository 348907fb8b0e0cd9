import { describe, expect, test } from "vitest";
import { DEFAULT_DATA_TYPE, JSON_TYPE } from "../../src/domain/event.ts";
import { decodeHeader, encodeHeader, type StoredFields } from "../../src/jetstream/message.ts";
import { seededRandom } from "../support/random.ts";

const TEXTS = [
  ...[
    "plain",
    " ",
    " both ends ",
    "a:b",
    ":",
    "%",
    "%41",
    "%zz",
    "100 %",
    "a\r\nNats-Rollup: all",
    "\n",
    "\t",
    "\u0000",
    "\u007f",
  ],
  ...[
    "é",
    "日本",
    "😀",
    "\ufeff",
    "\u0085",
    "\u2028",
    "gzip;5",
    "json",
    "constructor",
    "__proto__",
    '"',
    "\\",
    "=",
    "x".repeat(1000),
  ],
];

function roundTrip(fields: StoredFields) {
  const block = encodeHeader(fields);
  const text = block.toString("latin1");
  expect(text.startsWith("NATS/1.0\r\n")).toBe(true);
  expect(text.endsWith("\r\n\r\n")).toBe(true);
  // Each line is a name, a colon and a value of printable ASCII: nothing that was given can end a line or a block.
  for (const line of text.slice(10, -4).split("\r\n")) expect(line).toMatch(/^[\x21-\x39\x3b-\x7e]+: [\x20-\x7e]*$/);
  return decodeHeader(block);
}

describe("an event's header", () => {
  test.each(TEXTS)("carries %j as id, key, header name and value", (text) => {
    const headers = [
      [text, text],
      ["x", text],
      [text, ""],
    ] as const;
    const decoded = roundTrip({ eventId: text, key: text, partitionKey: text, headers, contentType: JSON_TYPE });
    expect(decoded).toEqual({ contentType: JSON_TYPE, eventId: text, key: text, headers, codec: undefined });
  });

  test("carries empty texts", () => {
    const decoded = roundTrip({ eventId: "e", key: "", headers: [["empty", ""]], contentType: JSON_TYPE });
    expect(decoded).toMatchObject({ key: "", headers: [["empty", ""]] });
  });

  test("tells an event without key and headers from one with empty ones", () => {
    const decoded = roundTrip({ eventId: "e", contentType: JSON_TYPE });
    expect(decoded.key).toBeUndefined();
    expect(decoded.headers).toBeUndefined();
  });

  test.each([
    "Nats-Rollup",
    "Nats-Msg-Id",
    "Nats-TTL",
    "Mr-Type",
    "Mr-Encoding",
    "Mr-Key",
    "Nats-Expected-Last-Sequence",
  ])("gives a publisher's header named %s no meaning of its own", (name) => {
    const fields = { eventId: "e", key: "k", headers: [[name, "all"]] as const, contentType: "text/plain" };
    expect(encodeHeader(fields).toString("latin1")).not.toContain(`\r\n${name}: all`);
    expect(roundTrip(fields)).toEqual({
      contentType: "text/plain",
      eventId: "e",
      key: "k",
      headers: [[name, "all"]],
      codec: undefined,
    });
  });

  test.each([
    [JSON_TYPE, JSON_TYPE],
    ["text/plain; charset=utf-8", "text/plain; charset=utf-8"],
    ["text/plain; a=100%", "text/plain; a=100%"],
    ["json", "json"],
    ["", DEFAULT_DATA_TYPE],
  ])("carries the content type %j", (contentType, decoded) => {
    expect(roundTrip({ eventId: "e", contentType }).contentType).toBe(decoded);
  });

  test("carries how the payload is compressed, expectations and further lines", () => {
    const fields = { eventId: "e", contentType: JSON_TYPE, codec: "snappy" as const, expectedOffset: 12 };
    const text = encodeHeader({ ...fields, extra: "Nats-Batch-Id: b\r\n" }).toString("latin1");
    expect(text).toContain("\r\nNats-Expected-Last-Sequence: 12\r\n");
    expect(text).toContain("\r\nNats-Batch-Id: b\r\n");
    expect(roundTrip(fields).codec).toBe("snappy");
  });

  const seed = Date.now() % 1_000_000;
  test(`carries any text (seed ${seed})`, () => {
    const random = seededRandom(seed);
    const anyText = () => {
      let text = "";
      for (let length = Math.floor(random() * 12); length > 0; length--) {
        const point = Math.floor(random() * (random() < 0.7 ? 0x100 : 0x10000));
        text += String.fromCodePoint(point >= 0xd800 && point < 0xe000 ? 0x1f600 : point);
      }
      return text;
    };
    for (let n = 0; n < 5000; n++) {
      const [eventId, key] = [`e${anyText()}`, anyText()];
      const headers = Array.from({ length: 3 }, (_, i) => [`${i}${anyText()}`, anyText()] as const);
      const decoded = decodeHeader(encodeHeader({ eventId, key, headers, contentType: JSON_TYPE }));
      expect(decoded).toEqual({ contentType: JSON_TYPE, eventId, key, headers, codec: undefined });
    }
  });
});

describe("decodeHeader", () => {
  const nothing = { contentType: undefined, eventId: undefined, key: undefined, headers: undefined, codec: undefined };

  test.each([
    "",
    "NATS/1.0\r\n\r\n",
    "NATS/1.0",
    "NATS/1.0\r\n",
    "NATS/1.0 503\r\n\r\n",
    "NATS/1.0\r\nfoo\r\n\r\n",
    "NATS/1.0\r\n: x\r\n\r\n",
  ])("finds nothing in %j", (text) => {
    expect(decodeHeader(Buffer.from(text))).toEqual(nothing);
  });

  test("finds nothing in a message without header", () => {
    expect(decodeHeader(undefined)).toEqual(nothing);
  });

  test("passes over what other publishers wrote", () => {
    const block = Buffer.from("NATS/1.0\r\nNats-Msg-Id:7\r\nTraceparent: 00-a-b-01\r\n\r\n");
    expect(decodeHeader(block)).toEqual({ ...nothing, eventId: "7" });
  });
});
