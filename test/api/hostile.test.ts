import * as http from "node:http";
import * as http2 from "node:http2";
import { connect as dial } from "node:net";
import { brotliCompressSync, deflateSync, gzipSync, zstdCompressSync } from "node:zlib";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { ERROR_RULES } from "../../src/domain/errors.ts";
import { MAX_REQUEST_BYTES } from "../../src/domain/limits.ts";
import { type Api, type HttpAnswer, protocols } from "../support/clients.ts";
import { seededRandom } from "../support/random.ts";
import { freshName, useService } from "../support/service.ts";

/** Only to find a request that hangs. */
const HANG_MS = 10_000;
const SEEDS = [1, 2, 3, 4, 5];

interface HostileRequest {
  readonly method: string;
  readonly path: string;
  readonly headers?: Readonly<Record<string, string>>;
  /** Sent with its length, unless it comes in chunks. */
  readonly body?: string | Uint8Array;
  /** Sent again and again, without a length, until the answer comes or this many bytes are sent. */
  readonly endlessBytes?: number;
}

type Pick = <T>(items: readonly T[]) => T;

const service = useService();
const stream = freshName("hostile");
const EVENTS = `/api/v1/streams/${stream}/events`;
const BATCH = `${EVENTS}/batch`;
const STREAMS = "/api/v1/streams";
const COMMIT = "/api/v1/consumers/hostile/commit";
const POLL = `${EVENTS}?consumerGroup=hostile&timeout=0`;

const json = (path: string, body: string | Uint8Array, method = "POST"): HostileRequest => ({
  method,
  path,
  headers: { "content-type": "application/json" },
  body,
});
const get = (path: string): HostileRequest => ({ method: "GET", path });

const NOT_TEXT = ["1", "true", "{}", "[]", "1e400", '["a"]', '{"a":"b"}'];
const NOT_INTEGER = [
  '"x"',
  "1.5",
  "true",
  "{}",
  "[]",
  "1e400",
  "-1e400",
  '""',
  '" "',
  '"1e999"',
  "[1]",
  "99999999999999999999",
];
const NOT_OBJECT = ["1", '"x"', "true", "[]", "[1]", '""'];
const NOT_ARRAY = ["1", '"x"', "true", "{}", '{"0":1}'];
const NOT_JSON = [
  ...[
    "",
    " ",
    "{",
    "}",
    "[",
    '{"value":}',
    '{"value":1',
    '{"value":1,}',
    "{'value':1}",
    "{value:1}",
    '{"value":1}}',
    "undefined",
  ],
  ...[
    '{"value":NaN}',
    '{"value":Infinity}',
    '{"value":-Infinity}',
    '{"value":01}',
    '{"value":+1}',
    '{"value":.5}',
    '{"value":1.}',
  ],
  ...[
    '{"value":0x10}',
    '{"value":"\n"}',
    '{"value":"\\x41"}',
    '{"value":"\\u12"}',
    '{"value":tru}',
    '{"value":1}//',
    "/**/{}",
  ],
  ...[
    '\ufeff{"value":1}',
    '{"value":1}\u0000',
    '{"value"\u00a0:1}',
    '{"value":1 2}',
    '"\\',
    `{"value":${"[".repeat(100_000)}`,
  ],
];
const NOT_UTF8 = [
  Uint8Array.of(0xff),
  Uint8Array.of(0xc0, 0x80),
  Buffer.from('{"value":"\xe9"}', "latin1"),
  Buffer.from('{"key":"\xed\xa0\x80","value":1}', "latin1"),
  Buffer.from('{"value":1}', "utf16le"),
];

/** One way to be hostile: `make` gives another request for every seed. */
const TABLE: readonly (readonly [what: string, make: (pick: Pick, seed: number) => HostileRequest])[] = [
  ["an event that is no JSON", (pick) => json(EVENTS, pick(NOT_JSON))],
  ["a batch that is no JSON", (pick) => json(BATCH, pick(NOT_JSON))],
  ["a stream that is no JSON", (pick) => json(STREAMS, pick(NOT_JSON))],
  ["a commit that is no JSON", (pick) => json(COMMIT, pick(NOT_JSON))],
  ["a body that is not UTF-8", (pick) => json(pick([EVENTS, BATCH, STREAMS, COMMIT]), pick(NOT_UTF8))],
  [
    "an event with texts of another type",
    (pick) =>
      json(EVENTS, `{"value":1,"${pick(["key", "partitionKey", "eventId", "contentType"])}":${pick(NOT_TEXT)}}`),
  ],
  [
    "an event with numbers of another type",
    (pick) => json(EVENTS, `{"value":1,"${pick(["partition", "expectedOffset"])}":${pick(NOT_INTEGER)}}`),
  ],
  [
    "an event with headers of another type",
    (pick) => json(EVENTS, `{"value":1,"headers":${pick([...NOT_OBJECT, '{"a":1}', '{"a":null}', '{"a":["b"]}'])}}`),
  ],
  ["an event that is no object", (pick) => json(EVENTS, pick([...NOT_OBJECT, "null", "[{}]"]))],
  ["data that is no base64", (pick) => json(EVENTS, `{"data":${pick(['"*"', '"A"', '"A==="', '"=="', "1", "[1]"])}}`)],
  [
    "an event with an unknown field",
    (pick) => json(EVENTS, `{"value":1,"${pick(["__proto__", "constructor", "Value", "value ", "", "\u0000"])}":1}`),
  ],
  [
    "a field that is given twice",
    (pick) =>
      json(EVENTS, pick(['{"value":1,"value":2}', '{"value":1,"key":"a","key":"a"}', '{"value":1,"data":"AA=="}'])),
  ],
  [
    "a value that is nested too deeply",
    (pick) => {
      const depth = pick([65, 1000, 100_000, 1_000_000]);
      const [open, close] = pick([
        ["[", "]"],
        ['{"a":', "}"],
      ] as const);
      return json(EVENTS, `{"value":${open.repeat(depth)}1${close.repeat(depth)}}`);
    },
  ],
  [
    "too many headers",
    () => json(EVENTS, `{"value":1,"headers":{${Array.from({ length: 10_000 }, (_, i) => `"h${i}":"x"`)}}}`),
  ],
  ["a huge key", (pick) => json(EVENTS, `{"value":1,"key":"${"k".repeat(pick([1025, 100_000, 3_000_000]))}"}`)],
  ["a huge value", () => json(EVENTS, `{"value":"${"v".repeat(2_000_000)}"}`)],
  [
    "a huge number where a small one belongs",
    (pick) => json(EVENTS, `{"value":1,"partition":${pick(["9".repeat(100_000), "1e99999999999", "-1", "1000"])}}`),
  ],
  ["a batch that is no object", (pick) => json(BATCH, pick([...NOT_OBJECT, "null"]))],
  ["a batch whose events are no array", (pick) => json(BATCH, `{"events":${pick([...NOT_ARRAY, "null"])}}`)],
  [
    "a batch of too many events",
    () => json(BATCH, `{"events":[${Array.from({ length: 10_001 }, () => '{"value":1}')}]}`),
  ],
  [
    "a batch with bad options",
    (pick) =>
      json(
        BATCH,
        `{"events":[{"value":1}],"options":${pick(['{"timeout":0}', '{"timeout":"x"}', '{"timeout":1e400}', '{"atomic":1}', '{"compression":"GZIP"}', '{"compression":1}', '{"__proto__":{}}', "1", "[]"])}}`,
      ),
  ],
  ["a stream with settings of another type", (pick) => json(STREAMS, `{"name":"x","partitions":${pick(NOT_INTEGER)}}`)],
  ["a stream with a name of another type", (pick) => json(STREAMS, `{"name":${pick([...NOT_TEXT, "null"])}}`)],
  [
    "a stream with a hostile name",
    (pick) =>
      json(
        STREAMS,
        JSON.stringify({
          name: pick(["", ".", "..", "a.b", "*", ">", "$SYS", "\ud800", "\u0000", "é", "x".repeat(129)]),
        }),
      ),
  ],
  [
    "a stream with hostile settings",
    (pick) =>
      json(
        STREAMS,
        `{"name":"x","config":${pick(['{"retentionMs":1e400}', '{"retentionMs":-1}', '{"retentionMs":1.5}', '{"compressionType":"zip"}', '{"compressionType":1}', '{"maxMessageBytes":1e10}', '{"maxBytes":9007199254740993}', '{"__proto__":1}', "[]", "1"])}}`,
      ),
  ],
  [
    "a change of another type",
    (pick) =>
      json(
        `${STREAMS}/${stream}`,
        pick([
          '{"partitions":"x"}',
          '{"partitions":0}',
          '{"partitions":-1e400}',
          "[]",
          '{"streamName":"y"}',
          '{"stream_name":"y"}',
          '{"config":[]}',
        ]),
        "PATCH",
      ),
  ],
  [
    "a commit of another shape",
    (pick) =>
      json(
        COMMIT,
        pick([
          ...[
            '{"offsets":{}}',
            '{"offsets":[1]}',
            '{"offsets":[[]]}',
            '{"offsets":[{}]}',
            '{"offsets":null}',
            "[]",
            "{}",
            '"x"',
          ],
          ...[
            `{"offsets":[{"stream":"${stream}","partition":0,"offset":1e400}]}`,
            `{"offsets":[{"stream":"${stream}","partition":0,"offset":-1}]}`,
          ],
          ...[
            `{"offsets":[{"stream":"${stream}","partition":0,"offset":1.5}]}`,
            `{"offsets":[{"stream":"${stream}","partition":0,"offset":9007199254740993}]}`,
          ],
          ...[
            `{"offsets":[{"stream":"${stream}","partition":0,"offset":"NaN"}]}`,
            '{"offsets":[{"stream":["x"],"partition":0,"offset":0}]}',
          ],
        ]),
      ),
  ],
  [
    "a commit of too many entries",
    () =>
      json(
        COMMIT,
        JSON.stringify({ offsets: Array.from({ length: 10_001 }, () => ({ stream, partition: 0, offset: 0 })) }),
      ),
  ],
  [
    "a poll with numbers that are none",
    (pick) =>
      get(
        `${POLL.replace("&timeout=0", "")}&${pick(["limit", "timeout", "maxBytes", "partition"])}=${pick(["x", "", "1.5", "1e2", "NaN", "Infinity", "-1", "0x10", "%20", "9".repeat(400), "true", "[1]", "١"])}`,
      ),
  ],
  [
    "a poll with a hostile offset",
    (pick) =>
      get(
        `${POLL}&offset=${pick(["x", "-1", "1.5", "1e400", "NaN", "9".repeat(32), "9".repeat(33), "%00", "latest%20", "Earliest", "null"])}`,
      ),
  ],
  ["a poll with a flag that is none", (pick) => get(`${POLL}&autoCommit=${pick(["1", "yes", "", "TRUE", "null"])}`)],
  [
    "a parameter that is repeated",
    (pick) =>
      get(
        `${POLL}&${pick(["limit=1&limit=2", "timeout=0", "consumerGroup=b", "offset=1&offset=1", "autoCommit=true&autoCommit=false", "filter=true&filter=true"])}`,
      ),
  ],
  [
    "an unknown parameter",
    (pick) =>
      get(
        `${pick([POLL, `${STREAMS}?pageSize=1`])}&${pick(["x=1", "__proto__=1", "constructor=1", "limit[]=1", "partition[0]=0", "consumerGroup.x=1", "%E2%82%AC=1"])}`,
      ),
  ],
  [
    "a poll without a group",
    (pick) => get(`${EVENTS}${pick(["", "?", "?consumerGroup=", "?consumerGroup", "?&&&", "?limit=1"])}`),
  ],
  [
    "a poll with a hostile filter",
    (pick) =>
      get(
        `${POLL}&filter=${encodeURIComponent(pick(["(".repeat(4000), "1 +", "a".repeat(4097), "value == ".repeat(300), "[1,2].all(x, x)))", "\u0000", '"', "!".repeat(4000), "exec('x')"]))}`,
      ),
  ],
  [
    "a path that is badly encoded",
    (pick) => get(`${STREAMS}/${pick(["%", "%zz", "%c0%80", "%ff", "%E0%A4%A", "a%00b", "%2e%2e%2fx", "%25"])}`),
  ],
  [
    "a parameter that is badly encoded",
    (pick) =>
      get(
        pick([
          `${EVENTS}?timeout=0&consumerGroup=${pick(["%", "%zz", "%c0%80", "%ff", "%ed%a0%80"])}`,
          `${POLL}&filter=%ff`,
          `${STREAMS}?prefix=%`,
          `${STREAMS}?%ff=1`,
        ]),
      ),
  ],
  [
    "a hostile path",
    (pick) =>
      get(
        pick([
          "//",
          "/api//v1/streams",
          "/api/v1/streams/..%2f..%2fetc",
          `/${"a".repeat(8000)}`,
          "/api/v1/streams/a%0d%0aX-Injected:%201",
          `${STREAMS}/${"n".repeat(1025)}`,
          "/*",
          "/api/v1/streams/x/partitions/-1/events",
          "/api/v1/streams/x/partitions/1e1/events",
          "/api/v1/streams/x/partitions/99999999999999999999/events",
        ]),
      ),
  ],
  [
    "a method that the path has not",
    (pick) => ({
      method: pick(["PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "LOCK"]),
      path: pick([BATCH, COMMIT]),
    }),
  ],
  [
    "an unknown content type",
    (pick) => ({
      ...json(pick([EVENTS, BATCH, STREAMS, COMMIT]), '{"value":1}'),
      headers: {
        "content-type": pick([
          "text/plain",
          "application/xml",
          "multipart/form-data; boundary=x",
          "application/x-www-form-urlencoded",
          "application/octet-stream",
          "json",
          ";",
          "application/json, text/plain",
          "a".repeat(4000),
        ]),
      },
    }),
  ],
  [
    "an unknown content encoding",
    (pick) => ({
      ...json(EVENTS, '{"value":1}'),
      headers: {
        "content-type": "application/json",
        "content-encoding": pick([
          "lzma",
          "gzip, gzip",
          "compress",
          "x",
          "GZIPP",
          "identity, gzip",
          "__proto__",
          "constructor",
        ]),
      },
    }),
  ],
  [
    "a body that is not compressed as it says",
    (pick) => ({
      ...json(EVENTS, pick(['{"value":1}', "", "\u001f\u008b", "x".repeat(1000)])),
      headers: { "content-type": "application/json", "content-encoding": pick(["gzip", "deflate", "br", "zstd"]) },
    }),
  ],
  [
    "half a compressed body",
    (pick) => ({
      ...json(EVENTS, gzipSync(JSON.stringify({ value: "x".repeat(pick([10, 1000, 100_000])) })).subarray(0, -9)),
      headers: { "content-type": "application/json", "content-encoding": "gzip" },
    }),
  ],
  [
    "a compressed body that goes on behind its end",
    (pick) => {
      const compress = pick([gzipSync, deflateSync, brotliCompressSync, zstdCompressSync]);
      const encoding = { [gzipSync.name]: "gzip", [deflateSync.name]: "deflate", [brotliCompressSync.name]: "br" };
      return {
        ...json(
          EVENTS,
          Buffer.concat([compress('{"value":1}'), Buffer.from(pick(["x", "garbage", "\u0001".repeat(70_000)]))]),
        ),
        headers: { "content-type": "application/json", "content-encoding": encoding[compress.name] ?? "zstd" },
      };
    },
  ],
  ["a compression bomb", (pick) => ({ ...json(pick([EVENTS, BATCH, STREAMS]), new Uint8Array(0)), ...pick(BOMBS) })],
  [
    "a length above the limit",
    (pick) => ({
      method: "POST",
      path: pick([EVENTS, BATCH, STREAMS, COMMIT]),
      headers: {
        "content-type": "application/json",
        "content-length": String(pick([MAX_REQUEST_BYTES + 1, 2 ** 40, Number.MAX_SAFE_INTEGER])),
      },
      body: "{",
    }),
  ],
  [
    "a body without length above the limit",
    (pick) => ({
      method: "POST",
      path: pick([EVENTS, STREAMS]),
      headers: { "content-type": "application/json" },
      endlessBytes: MAX_REQUEST_BYTES + 1024 * 1024,
    }),
  ],
  [
    "an idempotency key that is none",
    (pick) => ({
      ...json(EVENTS, '{"value":1}'),
      headers: {
        "content-type": "application/json",
        "idempotency-key": pick(['""', "x".repeat(129), '" "x"'.repeat(40)]),
      },
    }),
  ],
  [
    "an RPC that is none",
    (pick) =>
      json(
        `/millrace.v1.${pick(["EventService/Nope", "Nope/Publish", "EventService/", "EventService/publish", "EventService/Publish/"])}`,
        "{}",
      ),
  ],
];

const bomb = (encoding: string, compress: (bytes: Buffer) => Buffer) => ({
  body: compress(Buffer.concat([Buffer.from('{"value":"'), Buffer.alloc(MAX_REQUEST_BYTES + 1024, 0x61)])),
  headers: { "content-type": "application/json", "content-encoding": encoding },
});
const BOMBS = [
  bomb("gzip", (bytes) => gzipSync(bytes)),
  bomb("deflate", (bytes) => deflateSync(bytes)),
  bomb("zstd", (bytes) => zstdCompressSync(bytes)),
  bomb("br", (bytes) => brotliCompressSync(bytes, { params: { 0: 0, 1: 1 } })),
];

let api: Api;
beforeAll(async () => {
  api = protocols[0]!.connect(service.url);
  await api.createStream({ name: stream });
  await api.createStream({ name: serving });
});
afterAll(() => api[Symbol.asyncDispose]());

/** Every request with its seed; each row of the table takes its seeds' picks in another order. */
const cases = TABLE.flatMap(([what, make], row) =>
  SEEDS.map((seed) => {
    const random = seededRandom(seed * 1000 + row);
    const start = Math.floor(random() * 64);
    // Another item for every seed where there are enough of them.
    const pick: Pick = (items) => items[(start + seed + Math.floor(random() * 1e6)) % items.length]!;
    return { what, seed, request: make(pick, seed) };
  }),
);

function sendOverHttp1({ method, path, headers = {}, body, endlessBytes }: HostileRequest): Promise<HttpAnswer> {
  const lengthened =
    endlessBytes === undefined && headers["content-length"] === undefined
      ? { "content-length": String(body === undefined ? 0 : Buffer.byteLength(body as string)) }
      : {};
  return new Promise((resolve, reject) => {
    const request = http.request({
      host: "127.0.0.1",
      port: service.port,
      method,
      path,
      headers: { ...headers, ...lengthened },
      agent: false,
      signal: AbortSignal.timeout(HANG_MS),
    });
    let answered = false;
    request.on("response", (response) => {
      answered = true;
      const chunks: Buffer[] = [];
      response.on("data", (chunk: Buffer) => chunks.push(chunk));
      response.on("error", reject);
      response.on("end", () => {
        const text = Buffer.concat(chunks).toString("utf8");
        resolve({ status: response.statusCode ?? 0, headers: response.headers as Record<string, string>, text });
        request.destroy();
      });
    });
    request.on("error", (error) => {
      if (!answered) reject(error);
    });
    if (body !== undefined) request.write(body);
    if (endlessBytes !== undefined) void flood(request, endlessBytes, () => answered);
    else if (headers["content-length"] === undefined) request.end();
    else request.flushHeaders();
  });
}

/** Writes until it has written all, or was answered. */
async function flood(target: NodeJS.WritableStream, bytes: number, answered: () => boolean): Promise<void> {
  const chunk = Buffer.alloc(64 * 1024, 0x20);
  for (let sent = 0; sent < bytes && !answered(); sent += chunk.length) {
    const { destroyed } = target as unknown as { destroyed: boolean };
    if (destroyed) return;
    if (!target.write(chunk)) await new Promise((resolve) => setImmediate(resolve));
  }
  if (!answered()) target.end();
}

function sendOverHttp2({ method, path, headers = {}, body, endlessBytes }: HostileRequest): Promise<HttpAnswer> {
  const session = http2.connect(service.url);
  return new Promise<HttpAnswer>((resolve, reject) => {
    session.on("error", reject);
    const request = session.request(
      { ":method": method, ":path": path, ...headers },
      { signal: AbortSignal.timeout(HANG_MS), endStream: body === undefined && endlessBytes === undefined },
    );
    let status = 0;
    let answered = false;
    let answer: Record<string, string> = {};
    const chunks: Buffer[] = [];
    request.on("response", ({ ":status": code, ...rest }) => {
      status = Number(code);
      answer = rest as Record<string, string>;
      answered = true;
    });
    request.on("data", (chunk: Buffer) => chunks.push(chunk));
    request.on("end", () => resolve({ status, headers: answer, text: Buffer.concat(chunks).toString("utf8") }));
    request.on("error", reject);
    if (body !== undefined) request.write(body);
    if (endlessBytes !== undefined) void flood(request, endlessBytes, () => answered);
    else if (body !== undefined && headers["content-length"] === undefined) request.end();
  }).finally(() => session.destroy());
}

const CODES = new Map<unknown, { name: string }>(ERROR_RULES.map((rule) => [rule.code, rule]));

function expectRefusal({ status, text, headers }: HttpAnswer, path: string): void {
  expect(status, text.slice(0, 300)).toBeGreaterThanOrEqual(400);
  expect(status, text.slice(0, 300)).toBeLessThan(500);
  if (path.startsWith("/millrace.")) return;
  expect(headers["content-type"]).toBe("application/json; charset=utf-8");
  const { error } = JSON.parse(text) as { error: { code: number; message: string; description: string } };
  expect(error.message).toBe(CODES.get(error.code)?.name);
  expect(error.description).not.toMatch(/\n\s+at |node_modules/);
  expect(headers).not.toHaveProperty("x-injected");
  // A hostile request buys no answer of its own size.
  expect(text.length).toBeLessThan(20_000);
}

const serving = freshName("serving");
let served = 0;

/** A good publish arrives at a good poll. */
async function expectServing(): Promise<void> {
  const value = served++;
  const { eventId } = await api.publish(serving, { key: "k", value });
  const { events } = await api.poll(serving, "g", { autoCommit: true });
  expect(events).toMatchObject([{ eventId, key: "k", value }]);
}

describe.each([
  ["HTTP/1.1", sendOverHttp1],
  ["h2c", sendOverHttp2],
] as const)("hostile requests over %s", (version, send) => {
  // HTTP/2 holds a request to its own word before the service sees it, and has no such methods and lengths.
  const sendable = version === "HTTP/1.1" ? cases : cases.filter(({ what }) => what !== "a length above the limit");

  test.each(sendable)("$what (seed $seed) is refused, and the next call is served", async ({ request }) => {
    expectRefusal(await send(request), request.path);
    await expectServing();
  });

  test(`${sendable.length} at once are refused, and good calls between them served`, async () => {
    const light = sendable.filter(({ request }) => request.endlessBytes === undefined);
    for (let at = 0; at < light.length; at += 32) {
      const [answers] = await Promise.all([
        Promise.all(light.slice(at, at + 32).map(async ({ request }) => [await send(request), request.path] as const)),
        expectServing(),
      ]);
      for (const [answer, path] of answers) expectRefusal(answer, path);
    }
  });

  test("nothing of them was stored", async () => {
    expect((await api.getStream(stream)).totalMessages).toBe(0);
    expect((await api.listStreams({ prefix: "x" })).streams).toEqual([]);
  });
});

describe("bytes that are no request", () => {
  /** What is answered to raw bytes until the service closes the connection; the caller closes its side first. */
  function exchange(bytes: string | Uint8Array, halfClose = true): Promise<string> {
    return new Promise((resolve, reject) => {
      const socket = dial({ port: service.port, host: "127.0.0.1", allowHalfOpen: true });
      const hang = setTimeout(() => {
        socket.destroy();
        reject(new Error("neither answered nor closed"));
      }, HANG_MS);
      let text = "";
      socket.setEncoding("latin1");
      socket.on("data", (chunk: string) => {
        text += chunk;
      });
      socket.on("error", () => {}); // "close" follows
      socket.on("end", () => socket.destroy());
      socket.on("close", () => {
        clearTimeout(hang);
        resolve(text);
      });
      socket.write(bytes);
      if (halfClose) socket.end();
    });
  }

  const host = "Host: x\r\n";
  const post = `POST ${EVENTS} HTTP/1.1\r\n${host}Content-Type: application/json\r\n`;

  test.each([
    ["no HTTP at all", "hello\r\n\r\n"],
    ["bytes", Uint8Array.from({ length: 500 }, (_, i) => (i * 37) & 0xff)],
    ["a TLS hello", Uint8Array.of(0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3)],
    ["a header without name", `GET / HTTP/1.1\r\n${host}: x\r\n\r\n`],
    ["a blank before the colon", `GET / HTTP/1.1\r\n${host}a : x\r\n\r\n`],
    ["a bare line feed in a header", `GET / HTTP/1.1\r\n${host}a: x\nX-Injected: 1\r\rb: c\r\n\r\n`],
    ["a zero byte in a header", `GET / HTTP/1.1\r\n${host}a: \u0000\r\n\r\n`],
    ["an unknown version", `GET / HTTP/9.9\r\n${host}\r\n`],
    ["two lengths", `${post}Content-Length: 5\r\nContent-Length: 6\r\n\r\n{"a":1`],
    ["length and chunks", `${post}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n`],
    ["a negative length", `${post}Content-Length: -1\r\n\r\n`],
    ["a length that is no number", `${post}Content-Length: x\r\n\r\n`],
    ["a chunk size that is no number", `${post}Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n`],
    ["an unknown transfer encoding", `${post}Transfer-Encoding: gzip\r\n\r\n{}`],
    ["headers above the limit", `GET / HTTP/1.1\r\n${host}a: ${"x".repeat(40_000)}\r\n\r\n`],
    ["too many headers", `GET / HTTP/1.1\r\n${host}${"a: b\r\n".repeat(10_000)}\r\n`],
    ["no host", "GET /api/v1/streams HTTP/1.1\r\n\r\n"],
    ["a blank in the path", `GET /a b HTTP/1.1\r\n${host}\r\n`],
  ])("%s are refused or cut off, and the next call is served", async (_what, bytes) => {
    const text = await exchange(bytes);
    if (text !== "") expect(text).toMatch(/^HTTP\/1\.1 4\d\d /);
    expect(text).not.toMatch(/^x-injected/im);
    await expectServing();
  });

  test.each([
    ["no host", "GET /api/v1/streams HTTP/1.1\r\n\r\n", 400, 1004],
    ["no host for an RPC", "GET /millrace.v1.StreamService/ListStreams HTTP/1.1\r\n\r\n", 400, undefined],
    ["a method for proxies", `CONNECT x:80 HTTP/1.1\r\n${host}\r\n`, 405, 1109],
    ["an unknown expectation", `GET /nothing HTTP/1.1\r\n${host}Expect: x\r\n\r\n`, 404, 1108],
  ])("%s: the answer is an error of the table", async (_what, bytes, status, code) => {
    const text = await exchange(bytes);
    expect(text).toMatch(new RegExp(`^HTTP/1\\.1 ${status} `));
    if (status === 405) expect(text).toMatch(/^Allow: /im);
    const body = JSON.parse(text.slice(text.indexOf("\r\n\r\n"))) as { error?: { code: number }; code?: string };
    expect(body.error?.code).toBe(code);
    if (code === undefined) expect(body.code).toBe("invalid_argument");
    await expectServing();
  });

  test.each([
    ["half a request line", "GET /api/v1/str"],
    ["half the headers", `GET /api/v1/streams HTTP/1.1\r\n${host}a: `],
    ["half a body", `${post}Content-Length: 100\r\n\r\n{"value":`],
    ["half a chunk", `${post}Transfer-Encoding: chunked\r\n\r\n10\r\n{"value":`],
    ["half the HTTP/2 preface", "PRI * HTTP/2.0\r\n"],
    ["an HTTP/2 preface and then nothing", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"],
    ["an HTTP/2 preface and then no frame", `PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n${"x".repeat(100)}`],
    ["nothing", ""],
  ])("%s by a caller that hangs up, and the next call is served", async (_what, bytes) => {
    const text = await exchange(bytes);
    expect(text).not.toMatch(/^HTTP\/1\.1 [235]/);
    await expectServing();
  });

  test("two requests in one connection are not mixed up by a refused body", async () => {
    const smuggled = `GET /api/v1/streams HTTP/1.1\r\n${host}Connection: close\r\n\r\n`;
    const text = await exchange(
      `POST ${EVENTS} HTTP/1.1\r\n${host}Content-Type: text/plain\r\nContent-Length: ${smuggled.length}\r\n\r\n${smuggled}`,
    );
    expect(text.match(/^HTTP\/1\.1 /gm)).toHaveLength(1);
    expect(text).toMatch(/^HTTP\/1\.1 415 /);
  });
});
