import { Buffer } from "node:buffer";
import { describe, expect, test } from "vitest";
import { MAX_BATCH_EVENTS, MAX_HEADERS, MAX_JSON_DEPTH } from "../../src/domain/limits.ts";
import {
  BodyError,
  type EventError,
  type EventInput,
  isEventError,
  MAX_VIOLATIONS,
  parseBatchBody,
  parsePublishBody,
} from "../../src/transport/publish-body.ts";

const SEED = 7_000_001;

const single = (text: string) => parsePublishBody(Buffer.from(text));
const batch = (text: string) => parseBatchBody(Buffer.from(text));
const text = (bytes: Uint8Array | undefined) => (bytes === undefined ? undefined : Buffer.from(bytes).toString());

/** The fields that are there, bytes as text. */
function shown(event: EventInput): Record<string, unknown> {
  const fields = { ...event, value: text(event.value), data: text(event.data) };
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined));
}

function bodyError(action: () => unknown): BodyError {
  try {
    action();
  } catch (error) {
    if (error instanceof BodyError) return error;
    throw error;
  }
  throw new Error("did not fail");
}

function onlyError(events: readonly (EventInput | EventError)[]): EventError {
  const [event] = events;
  if (events.length !== 1 || event === undefined || !isEventError(event)) throw new Error("not one event error");
  return event;
}

describe("parsePublishBody", () => {
  test("reads every field", () => {
    const body = `{"key":"k","value":{"a":1},"headers":{"h":"v","__proto__":"p","constructor":""},"partitionKey":"pk",
      "partition":3,"eventId":"e-1","contentType":"text/plain","expectedOffset":12}`;
    expect(shown(single(body))).toEqual({
      key: "k",
      value: '{"a":1}',
      headers: [
        ["h", "v"],
        ["__proto__", "p"],
        ["constructor", ""],
      ],
      partitionKey: "pk",
      partition: 3,
      eventId: "e-1",
      contentType: "text/plain",
      expectedOffset: 12n,
    });
  });

  test.each([
    ["{}", {}],
    [" \n{ }\t", {}],
    ['{"partition_key":"p"}', { partitionKey: "p" }],
    ['{"event_id":"e"}', { eventId: "e" }],
    ['{"content_type":"c"}', { contentType: "c" }],
    ['{"expected_offset":1}', { expectedOffset: 1n }],
    ['{"\\u006bey":"k"}', { key: "k" }],
    ['{"partition\\u004bey":"k"}', { partitionKey: "k" }],
    ['{"key":""}', { key: "" }],
    ['{"key":"\\u0000\\n\\"é"}', { key: '\u0000\n"é' }],
    ['{"key":"日本 😀"}', { key: "日本 😀" }],
    ['{"key":"a\\ud800"}', { key: "a\ud800" }],
    ['{"headers":{}}', { headers: [] }],
    ['{"headers":{"é":"\\u00e9"}}', { headers: [["é", "é"]] }],
    ['{"key":null,"headers":null,"partitionKey":null,"partition":null,"eventId":null}', {}],
    ['{"data":null,"contentType":null,"expectedOffset":null}', {}],
    ['{"data":null,"value":1}', { value: "1" }],
  ])("reads %s", (body, fields) => {
    expect(shown(single(body))).toEqual(fields);
  });

  test.each([
    ["null", "null"],
    ["true", "true"],
    ['""', '""'],
    ["-0", "-0"],
    ["1.0", "1.0"],
    ["1E+2", "1E+2"],
    ["123456789012345678901234567890", "123456789012345678901234567890"],
    ['"\\u0041\\ud800\\/"', '"\\u0041\\ud800\\/"'],
    ['{"a":1,"a":2}', '{"a":1,"a":2}'],
    ['{"__proto__":{"x":1},"constructor":null}', '{"__proto__":{"x":1},"constructor":null}'],
    [' { "a b" : [ 1, " " ] } ', '{"a b":[1," "]}'],
  ])("keeps the value %s as sent, but for white space", (value, stored) => {
    expect(text(single(`{"key":"k","value":${value},"eventId":"e"}`).value)).toBe(stored);
  });

  test("gives a compact value as a view of the body", () => {
    const body = Buffer.from('{ "value" : {"a":[1,2]} }');
    const { value } = parsePublishBody(body);
    expect(value?.buffer).toBe(body.buffer);
    expect(value?.byteOffset).toBe(body.byteOffset + body.indexOf('{"a"'));
  });

  test.each([
    ["0", 0],
    ["-0", 0],
    ["1.0", 1],
    ["1e0", 1],
    ["10e-1", 1],
    ["1.5e1", 15],
    ["12.50E1", 125],
    ['"7"', 7],
    ['"1e1"', 10],
    ['"\\u0037"', 7],
    ["2147483647", 2_147_483_647],
    ["-2147483648", -2_147_483_648],
    ["0e999999999999", 0],
  ])("reads partition %s as %d", (number, partition) => {
    expect(single(`{"partition":${number}}`).partition).toBe(partition);
  });

  test.each([
    "1.5",
    "2147483648",
    "-2147483649",
    "1e10",
    "1e999999999",
    '""',
    '" 1"',
    '"1 "',
    '"NaN"',
    '"0x1"',
    '"01"',
    "true",
  ])("refuses partition %s", (number) => {
    const error = bodyError(() => single(`{"partition":${number}}`));
    expect(error.kind).toBe("field");
    expect(error.violations).toEqual([
      { field: "partition", description: "must be a whole number from -2147483648 to 2147483647" },
    ]);
  });

  test.each([
    ["0", 0n],
    ["9007199254740993", 9_007_199_254_740_993n],
    ['"9007199254740993"', 9_007_199_254_740_993n],
    ["9223372036854775807", 9_223_372_036_854_775_807n],
    ['"9223372036854775807"', 9_223_372_036_854_775_807n],
    ["9.007199254740993e15", 9_007_199_254_740_993n],
    ["1e18", 1_000_000_000_000_000_000n],
  ])("reads expectedOffset %s exactly", (number, offset) => {
    expect(single(`{"expectedOffset":${number}}`).expectedOffset).toBe(offset);
  });

  test.each([
    "-1",
    '"-1"',
    "1.5",
    '"NaN"',
    "9223372036854775808",
    "1e19",
    "1e-1",
    "[]",
    "{}",
    "false",
    `${"1".repeat(1e6)}`,
  ])("refuses expectedOffset %.40s", (number) => {
    const error = bodyError(() => single(`{"expectedOffset":${number}}`));
    expect(error.violations).toEqual([
      { field: "expectedOffset", description: "must be a whole number ≥ 0 and at most 9223372036854775807" },
    ]);
  });

  test.each([
    ["", ""],
    ["YQ==", "a"],
    ["YQ", "a"],
    ["YWI=", "ab"],
    ["YWI", "ab"],
    ["YWJj", "abc"],
    ["77+/", "\uffff"],
    ["77-_", "\uffff"],
    ["77\\u002b\\/", "\uffff"],
  ])("decodes data %j", (data, decoded) => {
    expect(text(single(`{"data":"${data}"}`).data)).toBe(decoded);
  });

  test("decodes every length of data, in both alphabets, with and without padding", () => {
    for (let length = 0; length < 70; length++) {
      const bytes = Buffer.from(Array.from({ length }, (_, i) => (i * 251 + 255 - length) & 0xff));
      for (const alphabet of ["base64", "base64url"] as const) {
        const encoded = bytes.toString(alphabet).replace(/=+$/, "");
        const padded = encoded.padEnd(Math.ceil(encoded.length / 4) * 4, "=");
        for (const data of [encoded, padded]) expect(Buffer.from(single(`{"data":"${data}"}`).data!)).toEqual(bytes);
      }
    }
  });

  test.each([
    "Y",
    "YWJjZ",
    "YQ=",
    "Y===",
    "=",
    "====",
    "YWJj=",
    "YQ==YQ==",
    "YQ= =",
    "Y Q==",
    "YQ\\n",
    "YW*j",
    "YWJ.",
    "ŁŁŁŁ",
    "é",
  ])("refuses data %j", (data) => {
    const error = bodyError(() => single(`{"data":"${data}"}`));
    expect(error.kind).toBe("encoding");
    expect(error.violations).toEqual([{ field: "data", description: "must be base64" }]);
  });

  test.each([
    ["[]", "", "must be an object"],
    ["null", "", "must be an object"],
    ['"a"', "", "must be an object"],
    ['{"key":1}', "key", "must be a string"],
    ['{"key":["a"]}', "key", "must be a string"],
    ['{"eventId":{}}', "eventId", "must be a string"],
    ['{"data":1}', "data", "must be a string"],
    ['{"headers":[]}', "headers", "must be an object"],
    ['{"headers":{"a":1}}', "headers.a", "must be a string"],
    ['{"headers":{"a":null}}', "headers.a", "must be a string"],
    ['{"headers":{"a":"1","b":"2","\\u0061":"3"}}', "headers.a", "is given twice"],
    ['{"headers":{"__proto__":1}}', "headers.__proto__", "must be a string"],
    ['{"key":"a","key":"a"}', "key", "is given twice"],
    ['{"value":null,"value":1}', "value", "is given twice"],
    ['{"partitionKey":"a","partition_key":"b"}', "partitionKey", "is given twice"],
    ['{"key":null,"k\\u0065y":"b"}', "key", "is given twice"],
    ['{"value":1,"data":"YQ"}', "data", "must not be given together with value"],
    ['{"data":"YQ","value":null}', "data", "must not be given together with value"],
    ['{"colour":1}', "colour", "is not a known field"],
    ['{"Key":1}', "Key", "is not a known field"],
    ['{"":1}', "", "is not a known field"],
    ['{"__proto__":{"a":1}}', "__proto__", "is not a known field"],
    ['{"constructor":1}', "constructor", "is not a known field"],
    ['{"toString":1}', "toString", "is not a known field"],
    ['{"event_Id":"e"}', "event_Id", "is not a known field"],
    ['{"events":[]}', "events", "is not a known field"],
  ])("refuses %s", (body, field, description) => {
    const error = bodyError(() => single(body));
    expect(error.kind).toBe("field");
    expect(error.violations).toEqual([{ field, description }]);
    expect(error.message).toBe(`${field || "body"} ${description}`);
  });

  test("names what is wrong in the order it stands, up to a bound", () => {
    const members = Array.from({ length: 100 }, (_, i) => `"x${i}":${i}`).join(",");
    const { violations } = bodyError(() => single(`{"key":1,${members}}`));
    expect(violations.map(({ field }) => field)).toEqual(["key", "x0", "x1", "x2", "x3", "x4", "x5", "x6"]);
    expect(violations).toHaveLength(MAX_VIOLATIONS);
  });

  test("repeats only the start of a long name", () => {
    const { message } = bodyError(() => single(`{"${"n".repeat(100_000)}":1}`));
    expect(message).toBe(`${"n".repeat(64)}… is not a known field`);
  });

  test("bounds the number of headers", () => {
    const headers = (count: number) =>
      `{"headers":{${Array.from({ length: count }, (_, i) => `"h${i}":"v"`).join(",")}}}`;
    expect(single(headers(MAX_HEADERS)).headers).toHaveLength(MAX_HEADERS);
    const error = bodyError(() => single(headers(MAX_HEADERS + 1)));
    expect(error.violations).toEqual([{ field: "headers", description: `must be at most ${MAX_HEADERS}` }]);
    expect(bodyError(() => single(headers(100_000))).violations).toEqual(error.violations);
  });

  test.each([
    "",
    " ",
    "{",
    '{"key":"a"',
    '{"key":"a",}',
    '{"key" "a"}',
    '{"key":"a"}}',
    '{"key":"a"} x',
    '{"key":nul}',
    '{"value":}',
    '{"value":01}',
    '{"value":[1,]}',
    '{"value":"\u0000"}',
    '{"colour":[1,}',
    '{"headers":{"a":"b",}}',
    '{"headers":{"a"}}',
    '{"headers":{a:"b"}}',
    '{"expectedOffset":1.}',
    "\ufeff{}",
    "{}\u0000",
    "{'key':1}",
    "[1,2",
    "nul",
  ])("refuses %j as no JSON, whatever else is wrong", (body) => {
    const error = bodyError(() => single(body));
    expect(error).toMatchObject({ kind: "syntax", violations: [] });
    expect(error.message).toMatch(/^body is not valid JSON: unexpected .* at byte \d+$/);
  });

  test("refuses a body that is not UTF-8", () => {
    const body = Buffer.concat([Buffer.from('{"key":"'), Buffer.from([0xff]), Buffer.from('"}')]);
    expect(bodyError(() => parsePublishBody(body))).toMatchObject({ kind: "syntax", message: "body is not UTF-8" });
  });

  test("bounds the depth of the value", () => {
    const body = (depth: number) => `{"value":${"[".repeat(depth)}${"]".repeat(depth)},"eventId":"e"}`;
    expect(single(body(MAX_JSON_DEPTH)).value).toHaveLength(2 * MAX_JSON_DEPTH);
    expect(bodyError(() => single(body(MAX_JSON_DEPTH + 1)))).toMatchObject({
      kind: "encoding",
      violations: [{ field: "value", description: `must not be nested deeper than ${MAX_JSON_DEPTH} levels` }],
    });
    expect(bodyError(() => single(body(100_000)))).toMatchObject({ kind: "syntax" });
  });

  test("refuses every prefix of a body as no JSON", () => {
    const body = Buffer.from(
      '{"key":"é\\n","value":{"a":[1.5,"\\u00e9"]},"headers":{"h":"v"},"expectedOffset":"12","x":0}',
    );
    for (let length = 0; length < body.length; length++) {
      expect(bodyError(() => parsePublishBody(body.subarray(0, length))).kind, `${length} bytes`).toBe("syntax");
    }
  });
});

describe("parseBatchBody", () => {
  test("reads events in order, and the options", () => {
    const { events, options } = batch(
      '{"options":{"compression":"gzip","timeout":500,"atomic":true},"events":[{"key":"a","value":1},{ "value": [ ] },{}]}',
    );
    expect(events.map((event) => shown(event as EventInput))).toEqual([{ key: "a", value: "1" }, { value: "[]" }, {}]);
    expect(options).toEqual({ compression: "gzip", timeout: 500, atomic: true });
  });

  test.each([
    ['{"events":[]}', undefined],
    ['{"events":[],"options":null}', undefined],
    ['{"events":[],"options":{}}', {}],
    ['{"events":[],"options":{"timeout":"500","atomic":false}}', { timeout: 500, atomic: false }],
    ['{"events":[],"options":{"timeout":5e2,"compression":"brotli"}}', { timeout: 500, compression: "brotli" }],
    ['{"events":[],"options":{"timeout":null,"atomic":null,"compression":null}}', {}],
  ])("reads %s", (body, options) => {
    expect(batch(body)).toEqual({ events: [], options });
  });

  test.each([
    ["[]", "", "must be an object"],
    ["{}", "events", "is required"],
    ['{"options":{}}', "events", "is required"],
    ['{"events":null}', "events", "must be an array"],
    ['{"events":{}}', "events", "must be an array"],
    ['{"events":"a"}', "events", "must be an array"],
    ['{"events":[],"events":[]}', "events", "is given twice"],
    ['{"events":[],"extra":[1]}', "extra", "is not a known field"],
    ['{"events":[],"options":[]}', "options", "must be an object"],
    ['{"events":[],"options":{"compression":1}}', "options.compression", "must be a string"],
    [
      '{"events":[],"options":{"timeout":1.5}}',
      "options.timeout",
      "must be a whole number ≥ 0 and at most 9007199254740991",
    ],
    [
      '{"events":[],"options":{"timeout":-1}}',
      "options.timeout",
      "must be a whole number ≥ 0 and at most 9007199254740991",
    ],
    ['{"events":[],"options":{"atomic":"true"}}', "options.atomic", "must be true or false"],
    ['{"events":[],"options":{"atomic":1}}', "options.atomic", "must be true or false"],
    ['{"events":[],"options":{"retries":1}}', "options.retries", "is not a known field"],
    ['{"events":[],"options":{"timeout":1,"timeout":1}}', "options.timeout", "is given twice"],
  ])("refuses %s", (body, field, description) => {
    expect(bodyError(() => batch(body))).toMatchObject({ kind: "field", violations: [{ field, description }] });
  });

  test("does not name what is wrong in events when the body around them is wrong", () => {
    const error = bodyError(() => batch('{"events":[{"key":1}],"extra":1,"options":{"atomic":2}}'));
    expect(error.violations.map(({ field }) => field)).toEqual(["extra", "options.atomic"]);
  });

  test("keeps one event's errors apart from the others", () => {
    const { events } = batch(`{"events":[
      {"eventId":"e0","value":0},
      {"key":1,"headers":{"a":"b","x":2},"eventId":"e1","value":{"a":[{}]}},
      {"value":2},
      {"data":"*","event_id":"e3"},
      7,
      null,
      {"eventId":4,"value":6},
      {"eventId":"e7","value":${"[".repeat(5000)}${"]".repeat(5000)},"key":"k"},
      {"colour":[{"a":1}],"eventId":"e8"},
      {"key":"last","value":9}
    ]}`);
    expect(events.map((event) => (isEventError(event) ? event : shown(event)))).toEqual([
      { eventId: "e0", value: "0" },
      {
        eventId: "e1",
        kind: "field",
        violations: [
          { field: "events[1].key", description: "must be a string" },
          { field: "events[1].headers.x", description: "must be a string" },
        ],
      },
      { value: "2" },
      { eventId: "e3", kind: "encoding", violations: [{ field: "events[3].data", description: "must be base64" }] },
      { kind: "field", violations: [{ field: "events[4]", description: "must be an object" }] },
      { kind: "field", violations: [{ field: "events[5]", description: "must be an object" }] },
      { kind: "field", violations: [{ field: "events[6].eventId", description: "must be a string" }] },
      {
        eventId: "e7",
        kind: "encoding",
        violations: [{ field: "events[7].value", description: "must not be nested deeper than 64 levels" }],
      },
      {
        eventId: "e8",
        kind: "field",
        violations: [{ field: "events[8].colour", description: "is not a known field" }],
      },
      { key: "last", value: "9" },
    ]);
  });

  test("takes the kind of the first thing wrong", () => {
    expect(onlyError(batch('{"events":[{"data":"*","x":1}]}').events).kind).toBe("encoding");
    expect(onlyError(batch('{"events":[{"x":1,"data":"*"}]}').events).kind).toBe("field");
  });

  test.each([
    '{"events":[{"key":1},{"value":01}]}',
    '{"events":[{"colour":1},]}',
    '{"events":[,{}]}',
    '{"events":[{}{}]}',
    '{"events":[{"key":1}',
    '{"events":[7,x]}',
    '{"events":[]]}',
    '{"events":[],}',
    '{"extra":1,"events":[}',
    '{"events":[]} {}',
    `{"events":[{"value":${"[".repeat(100_000)}${"]".repeat(100_000)}}]}`,
  ])("refuses %.60s as no JSON", (body) => {
    expect(bodyError(() => batch(body))).toMatchObject({ kind: "syntax", violations: [] });
  });

  test("bounds the number of events, without reading on", () => {
    const body = (count: number, end: string) =>
      `{"events":[${Array.from({ length: count }, () => "{}").join(",")}${end}`;
    expect(batch(body(MAX_BATCH_EVENTS, "]}")).events).toHaveLength(MAX_BATCH_EVENTS);
    expect(bodyError(() => batch(body(MAX_BATCH_EVENTS + 1, "not JSON")))).toMatchObject({
      kind: "field",
      violations: [{ field: "events", description: `must be at most ${MAX_BATCH_EVENTS}` }],
    });
  });

  test("refuses every prefix of a body as no JSON", () => {
    const body = Buffer.from(
      '{"events":[{"key":1},{"value":{"a":"é"}},3],"options":{"atomic":true,"timeout":"5"},"x":[]}',
    );
    for (let length = 0; length < body.length; length++) {
      expect(bodyError(() => parseBatchBody(body.subarray(0, length))).kind, `${length} bytes`).toBe("syntax");
    }
  });

  test("gives back what was generated", () => {
    for (let seed = SEED; seed < SEED + 300; seed++) {
      const random = generator(seed);
      const sent = Array.from({ length: random(6) }, () => generatedEvent(random));
      const indent = random(2) === 0 ? undefined : 2;
      const { events } = parseBatchBody(Buffer.from(JSON.stringify({ events: sent }, null, indent)));
      const expected = sent.map(({ headers, value, expectedOffset, ...rest }) => ({
        ...rest,
        headers: Object.entries(headers),
        value: JSON.stringify(value),
        expectedOffset: BigInt(expectedOffset),
      }));
      expect(
        events.map((event) => shown(event as EventInput)),
        `seed ${seed}`,
      ).toEqual(expected);
    }
  });
});

/** Mulberry32: the same numbers on every run, so that a failure can be looked at again by its seed. */
function generator(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) % below;
  };
}

function generatedEvent(random: (below: number) => number) {
  const characters = [
    "a",
    "Z",
    "0",
    " ",
    '"',
    "\\",
    "/",
    "\n",
    "\u0000",
    "\u001f",
    "\u007f",
    "é",
    "日",
    "😀",
    "\ud800",
    "{",
    "]",
  ];
  const word = () => Array.from({ length: random(12) }, () => characters[random(characters.length)]).join("");
  const value = (depth: number): unknown => {
    const kind = random(depth > 3 ? 4 : 6);
    if (kind === 0) return word();
    if (kind === 1) return random(2 ** 31) / 1000 - 1000;
    if (kind === 2) return random(2) === 0;
    if (kind === 3) return null;
    if (kind === 4) return Array.from({ length: random(4) }, () => value(depth + 1));
    return Object.fromEntries(Array.from({ length: random(4) }, () => [word(), value(depth + 1)]));
  };
  return {
    key: word(),
    value: value(0),
    headers: Object.fromEntries(Array.from({ length: random(4) }, () => [word(), word()])),
    partition: random(1000),
    eventId: word(),
    expectedOffset: random(2 ** 31),
  };
}
