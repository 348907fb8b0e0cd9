import { Buffer, isUtf8 } from "node:buffer";
import { describe, expect, test } from "vitest";
import {
  compactJson,
  JsonError,
  JsonScanner,
  MAX_SCAN_DEPTH,
  toCompactJson,
  validateJson,
} from "../../src/domain/json.ts";
import { MAX_JSON_DEPTH } from "../../src/domain/limits.ts";

const SEED = 20_260_101;

const bytesOf = (text: string) => Buffer.from(text);
const compactText = (text: string) => Buffer.from(toCompactJson(bytesOf(text))).toString();

function failure(action: () => unknown): unknown {
  try {
    action();
  } catch (error) {
    return error;
  }
  throw new Error("did not fail");
}

/** Whether it is accepted; anything thrown but a JsonError fails the test. */
function accepts(bytes: Uint8Array): boolean {
  try {
    validateJson(bytes);
    return true;
  } catch (error) {
    if (!(error instanceof JsonError)) throw error;
    return false;
  }
}

function parses(text: string): boolean {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}

const numbers = [
  ...["0", "-0", "1", "-1", "10", "1234567890", "0.5", "-0.5", "1.0", "1e1", "1E+2", "1e-2", "0e0", "0E-0", "1.25e+10"],
  ...["9007199254740993", "123456789012345678901234567890", "0.1000000000000000055511151231257827", "1e400", "-1e-400"],
];
const strings = [
  ...['""', '"a"', '"é"', '"日本"', '"😀"', '"\u2028"', '"\u007f"', '"\ufeff"', '"\uffff"', '"/"'],
  ...[
    '"\\""',
    '"\\\\"',
    '"\\/"',
    '"\\b\\f\\n\\r\\t"',
    '"\\u0000"',
    '"\\u00e9"',
    '"\\uABcd"',
    '"\\ud83d\\ude00"',
    '"\\\\u12"',
  ],
  ...['"\\ud800"', '"\\udc00"', '"\\udc00\\ud800"', '"a\\ud800b"'],
];
const containers = [
  ...[
    "[]",
    "{}",
    "[[]]",
    "[{}]",
    '{"a":[]}',
    '{"":0}',
    '{"a":1,"a":2}',
    '{"__proto__":1,"constructor":2}',
    "[1,[2,[3]],4]",
  ],
  ...['{"a":{"b":{"c":[true,false,null]}}}', '{"\\u0061":"\\n"}', '[{"a":[]},{"b":{}}]', '["]","}","[","{"]'],
];
const literals = ["true", "false", "null"];

const refused = [
  ...[
    "",
    " ",
    "\n",
    "01",
    "-01",
    "00",
    "1.",
    ".5",
    "-.5",
    "-",
    "+1",
    "1e",
    "1e+",
    "1E-",
    "1.e1",
    "1.5.5",
    "1e1.5",
    "0x10",
  ],
  ...["1a", "1 2", "--1", "- 1", "1_000", "NaN", "-NaN", "Infinity", "-Infinity", "１", "1e٣", "0e", "1,", ",1"],
  ...["tru", "trux", "truee", "True", "nul", "nulL", "fals", "undefined", "true false", "nullnull"],
  ...[
    '"',
    '"a',
    'a"',
    "'a'",
    '"\\"',
    '"\\x41"',
    '"\\a"',
    '"\\0"',
    '"\\u"',
    '"\\u1"',
    '"\\u12"',
    '"\\u123"',
    '"\\u123g"',
  ],
  ...['"\\U0041"', '"\\u 041"', '"\\u-041"', '"\\\n"', '"\\é"', '"a" "b"', '"a"b', "`a`", '"\\ud800\\"', '"\\u00"00"'],
  ...["[", "]", "[1", "[1,", "[1,]", "[,]", "[,1]", "[1,,2]", "[1 2]", "[1]]", "[[1]", "[1}", "[1:2]", "[1;2]", "(1)"],
  ...["{", "}", "{]", '{"a"', '{"a":', '{"a":1', '{"a":1,', '{"a":1,}', '{,"a":1}', '{"a":1,,"b":2}', '{"a":1 "b":2}'],
  ...[
    '{"a":1}}',
    '{"a"}',
    '{"a",1}',
    '{"a"::1}',
    "{a:1}",
    "{'a':1}",
    "{1:1}",
    '{"a":1]',
    "{null:1}",
    "{[]:1}",
    '{"a" 1}',
  ],
  ...[
    "\ufeff1",
    "\ufeff[]",
    "[1]\ufeff",
    "/**/1",
    "1//",
    "[1]#",
    "\u00a01",
    "1\u00a0",
    "\u20281",
    "1\u2029",
    "\f1",
    "\v1",
  ],
  ...[
    "\u0000",
    "1\u0000",
    "\u00001",
    "[1\u0000]",
    "[\u0000]",
    '{"a":\u00001}',
    '{"a"\u0000:1}',
    '"a\u0000"',
    "[]\u0000",
    "\u007f",
  ],
];

describe("validateJson", () => {
  test.each([...numbers, ...strings, ...containers, ...literals])("accepts %j", (text) => {
    expect(parses(text)).toBe(true);
    expect(validateJson(bytesOf(text))).toEqual({ compact: true });
  });

  test.each(refused)("refuses %j", (text) => {
    expect(parses(text)).toBe(false);
    expect(failure(() => validateJson(bytesOf(text)))).toBeInstanceOf(JsonError);
  });

  test("refuses every control character in a string, and admits them escaped", () => {
    for (let code = 0; code < 0x20; code++) {
      expect(accepts(bytesOf(`"a${String.fromCharCode(code)}"`)), `code ${code}`).toBe(false);
      expect(accepts(bytesOf(`"\\u${code.toString(16).padStart(4, "0")}"`)), `code ${code}`).toBe(true);
    }
  });

  test("admits exactly JSON's escapes", () => {
    for (let code = 0; code < 0x80; code++) {
      const text = `"\\${String.fromCharCode(code)}"`;
      expect(accepts(bytesOf(text)), text).toBe(parses(text));
    }
  });

  test("takes exactly JSON's white space, anywhere between tokens", () => {
    for (let code = 0; code < 0x100; code++) {
      const space = String.fromCharCode(code);
      for (const text of [
        `${space}1`,
        `1${space}`,
        `[${space}]`,
        `{"a"${space}:1}`,
        `{"a":${space}1}`,
        `[1,${space}2]`,
      ]) {
        expect(accepts(bytesOf(text)), JSON.stringify(text)).toBe(parses(text));
      }
    }
  });

  test.each([
    " 1",
    "1 ",
    "[ ]",
    "{ }",
    "[1, 2]",
    "[1 ,2]",
    '{"a": 1}',
    '{"a" :1}',
    '{ "a":1}',
    '{"a":1 }',
    "[[]\n]",
    "\t[]",
  ])("sees the white space in %j", (text) => {
    expect(validateJson(bytesOf(text))).toEqual({ compact: false });
  });

  test("does not take white space inside strings for white space between tokens", () => {
    expect(validateJson(bytesOf('{"a b":" \\t ","c":" "}'))).toEqual({ compact: true });
  });

  test.each([
    ["a lone continuation byte", [0x22, 0x80, 0x22]],
    ["an overlong form", [0x22, 0xc0, 0xaf, 0x22]],
    ["a surrogate's bytes", [0x22, 0xed, 0xa0, 0x80, 0x22]],
    ["a cut sequence", [0x22, 0xe6, 0x97, 0x22]],
    ["a code point above U+10FFFF", [0x22, 0xf4, 0x90, 0x80, 0x80, 0x22]],
    ["UTF-16", [0x22, 0x00, 0x61, 0x00, 0x22, 0x00]],
    ["0xff", [0xff]],
  ])("refuses %s", (_, bytes) => {
    expect(accepts(Uint8Array.from(bytes))).toBe(false);
  });

  test.each([
    ["", "unexpected end of JSON at byte 0"],
    ["  ", "unexpected end of JSON at byte 2"],
    ['{"a":1,"b":x}', "unexpected character 'x' at byte 11"],
    ["[1,\u0001]", "unexpected byte 0x01 at byte 3"],
    ['"é', "unexpected end of JSON at byte 3"],
    ["é", "unexpected byte 0xc3 at byte 0"],
    ["tru}", "unexpected character '}' at byte 3"],
    ['["\\u12G4"]', "unexpected character 'G' at byte 6"],
    ["01", "unexpected character '1' at byte 1"],
    ["[1]]", "unexpected character ']' at byte 3"],
    ["1.", "unexpected end of JSON at byte 2"],
  ])("tells where %j goes wrong", (text, message) => {
    const error = failure(() => validateJson(bytesOf(text)));
    expect(error).toMatchObject({ message, offset: Number(/\d+$/.exec(message)?.[0]) });
  });

  test("refuses every prefix of a document", () => {
    const document = bytesOf('{"a é":[1.5e-3,-0,"\\u00e9\\n😀",true,false,null,{"b":{}}],"c":[[]] }');
    expect(accepts(document)).toBe(true);
    for (let length = 0; length < document.length; length++) {
      expect(accepts(document.subarray(0, length)), `${length} bytes`).toBe(false);
    }
  });

  test.each([
    ["[", "]"],
    ['{"a":', "}"],
    ['[{"a":', "}]"],
  ])("bounds the depth of %s", (open, close) => {
    const nested = (depth: number) => {
      const times = depth / (open.length === 6 ? 2 : 1);
      return bytesOf(`${open.repeat(times)}${close === "]" ? "" : "0"}${close.repeat(times)}`);
    };
    expect(accepts(nested(MAX_JSON_DEPTH))).toBe(true);
    expect(failure(() => validateJson(nested(MAX_JSON_DEPTH + 2)))).toMatchObject({
      message: expect.stringContaining(`deeper than ${MAX_JSON_DEPTH} levels`),
    });
    expect(failure(() => validateJson(nested(100_000)))).toMatchObject({
      message: expect.stringContaining(`deeper than ${MAX_SCAN_DEPTH} levels`),
    });
    expect(failure(() => validateJson(bytesOf(open.repeat(100_000))))).toBeInstanceOf(JsonError);
  });

  test("counts depth, not containers", () => {
    expect(accepts(bytesOf(`[${"[],".repeat(1000)}{}]`))).toBe(true);
  });
});

describe("toCompactJson", () => {
  test.each([
    [' {"a" : [ 1 , 2 ] }\r\n', '{"a":[1,2]}'],
    ['{ "a b" : " c \\" d \\\\" }', '{"a b":" c \\" d \\\\"}'],
    ['[ "\\\\\\" ", " é 😀 " ]', '["\\\\\\" "," é 😀 "]'],
    ["[ 1.0, 1E+2, 123456789012345678901234567890, -0 ]", "[1.0,1E+2,123456789012345678901234567890,-0]"],
    ['[ "\\ud800", "\\u0041" ]', '["\\ud800","\\u0041"]'],
    ['{"a": 1, "a": 2}', '{"a":1,"a":2}'],
    ["\t\n\r null \t", "null"],
  ])("makes %j into %j", (text, compact) => {
    expect(compactText(text)).toBe(compact);
  });

  test.each(['{"a":[1,2]}', '  {"a":[1,2]}\n', '"a b"'])("gives a view of the same memory for %j", (text) => {
    const bytes = bytesOf(text);
    const compact = toCompactJson(bytes);
    expect(compact.buffer).toBe(bytes.buffer);
    expect(Buffer.from(compact).toString()).toBe(text.trim());
  });

  test("leaves its input as it was", () => {
    const bytes = bytesOf('[ 1, "a b" ]');
    toCompactJson(bytes);
    expect(bytes.toString()).toBe('[ 1, "a b" ]');
  });

  test("takes a plain Uint8Array that starts inside its buffer", () => {
    const bytes = Uint8Array.from(bytesOf("xx[ 1 ]yy")).subarray(2, 7);
    expect(Buffer.from(toCompactJson(bytes)).toString()).toBe("[1]");
  });
});

describe("compactJson", () => {
  test("copies only the part asked for", () => {
    expect(Buffer.from(compactJson(bytesOf('x [ 1, " " ] y'), 2, 12)).toString()).toBe('[1," "]');
  });
});

describe("JsonScanner", () => {
  test("walks objects and arrays, with white space anywhere", () => {
    const scanner = new JsonScanner(bytesOf(' { "a" : [ 1 , [2, 3] ] , "b" : "x" , "c" : { } , "d" : [ ] } '));
    const seen: string[] = [];
    for (let more = scanner.enterObject(); more; more = scanner.nextMember()) {
      const name = scanner.tokenText();
      if (name !== "a") {
        scanner.skipValue();
        seen.push(`${name}=${scanner.rawText()}`);
        continue;
      }
      for (let element = scanner.enterArray(); element; element = scanner.nextElement()) {
        scanner.skipValue();
        seen.push(`${scanner.rawText()} depth ${scanner.depth} spaced ${scanner.spaced}`);
      }
    }
    scanner.finish();
    expect(seen).toEqual(["1 depth 0 spaced false", "[2, 3] depth 1 spaced true", 'b="x"', "c={ }", "d=[ ]"]);
  });

  test.each([...strings, '"é\\n"', '"\\u0041é"', '"日\\\\本"'])("reads the string %j as JSON.parse does", (text) => {
    const scanner = new JsonScanner(bytesOf(text));
    scanner.scanString();
    expect(scanner.tokenText()).toBe(JSON.parse(text));
  });

  test("keeps a lone surrogate in a string's text", () => {
    const scanner = new JsonScanner(bytesOf('"a\\ud800"'));
    scanner.scanString();
    expect(scanner.tokenText()).toBe("a\ud800");
  });

  test("skips a value that is too deep to be stored, up to its bound", () => {
    const text = `${"[".repeat(MAX_SCAN_DEPTH)}${"]".repeat(MAX_SCAN_DEPTH)}`;
    const scanner = new JsonScanner(bytesOf(text));
    scanner.skipValue();
    scanner.finish();
    expect(scanner.depth).toBe(MAX_SCAN_DEPTH);
    expect(failure(() => new JsonScanner(bytesOf(`[${text}]`)).skipValue())).toBeInstanceOf(JsonError);
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

function pick<T>(random: (below: number) => number, choices: readonly T[]): T {
  return choices[random(choices.length)]!;
}

/** A JSON text, with white space between its tokens now and then. */
function document(random: (below: number) => number, depth: number): string {
  const space = () => (random(6) === 0 ? pick(random, [" ", "\n", "\t", "\r", "  "]) : "");
  const kind = random(depth > 5 ? 3 : 5);
  if (kind === 0) return space() + pick(random, numbers) + space();
  if (kind === 1) return space() + pick(random, strings) + space();
  if (kind === 2) return space() + pick(random, literals) + space();
  const items = Array.from({ length: random(4) }, () => document(random, depth + 1));
  if (kind === 3) return `${space()}[${items.join(",") || space()}]${space()}`;
  const members = items.map((item) => `${space()}${pick(random, strings)}${space()}:${item}`);
  return `${space()}{${members.join(",") || space()}}${space()}`;
}

/** The text with one byte put in, taken out, or changed. */
function damaged(random: (below: number) => number, text: string): Buffer {
  const bytes = bytesOf(text);
  const at = random(bytes.length);
  const byte = random(4) === 0 ? random(256) : pick(random, [...bytesOf('{}[]",:\\ueE+-.019tfn \n\u0000')]);
  const rest = [bytes.subarray(at), bytes.subarray(at + 1)];
  const edit = random(3);
  return Buffer.concat([bytes.subarray(0, at), Buffer.from(edit === 1 ? [] : [byte]), rest[edit === 0 ? 0 : 1]!]);
}

describe("agreement with JSON.parse", () => {
  test("accepts generated documents, and compacting changes no token", () => {
    for (let seed = SEED; seed < SEED + 2000; seed++) {
      const text = document(generator(seed), 0);
      const compact = compactText(text);
      expect(JSON.parse(compact), `seed ${seed}`).toEqual(JSON.parse(text));
      expect(compact, `seed ${seed}`).toBe(withoutSpace(text));
      expect(validateJson(bytesOf(text)).compact, `seed ${seed}`).toBe(compact === text);
      expect(validateJson(bytesOf(compact)).compact, `seed ${seed}`).toBe(true);
    }
  });

  test("accepts damaged documents exactly where JSON.parse does", () => {
    let acceptedCount = 0;
    for (let seed = SEED; seed < SEED + 10_000; seed++) {
      const random = generator(seed);
      const bytes = damaged(random, document(random, 0));
      const accepted = isUtf8(bytes) && parses(bytes.toString());
      acceptedCount += accepted ? 1 : 0;
      expect(accepts(bytes), `seed ${seed}: ${JSON.stringify(bytes.toString())}`).toBe(accepted);
    }
    expect(acceptedCount).toBeGreaterThan(500);
    expect(acceptedCount).toBeLessThan(9500);
  });
});

/** An independent way to compact: every string is taken as it is, of all else the white space goes. */
function withoutSpace(text: string): string {
  return text.replace(/"(?:[^"\\]|\\.)*"|[ \t\r\n]+/g, (token) => (token.startsWith('"') ? token : ""));
}
