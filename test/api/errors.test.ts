import { readdirSync, readFileSync } from "node:fs";
import * as http2 from "node:http2";
import { buffer } from "node:stream/consumers";
import { fromBinary } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import { errorFromJson, errorFromJsonBytes } from "@connectrpc/connect/protocol-connect";
import { findTrailerError } from "@connectrpc/connect/protocol-grpc";
import { describe, expect, test } from "vitest";
import { ErrorInfoSchema } from "../../gen/google/rpc/error_details_pb.js";
import { ErrorCode, errorRule } from "../../src/domain/errors.ts";
import { type Api, type ApiFailure, failureOf, protocols, rawRequest } from "../support/clients.ts";
import { startNats } from "../support/nats.ts";
import { freshName, startService, useService } from "../support/service.ts";
import { eventually } from "../support/wait.ts";

const service = useService();
const value = 1;

/** A call that fails with each code that can be had while all is well. */
const FAILING: readonly (readonly [ErrorCode, (api: Api) => Promise<unknown>])[] = [
  [ErrorCode.STREAM_NOT_FOUND, (api) => api.getStream(freshName())],
  [ErrorCode.INVALID_OFFSET, async (api) => api.readPartition(await newStream(api), 0, { offset: 1 })],
  [
    ErrorCode.CONSUMER_GROUP_NOT_FOUND,
    async (api) => api.commit(freshName(), [{ stream: await newStream(api), partition: 0, offset: 0 }]),
  ],
  [
    ErrorCode.SERIALIZATION_ERROR,
    async (api) => api.publish(await newStream(api), { data: Uint8Array.of(1), contentType: "application/json" }),
  ],
  [ErrorCode.INVALID_ARGUMENT, (api) => api.createStream({ name: freshName(), partitions: 0 })],
  [
    ErrorCode.ALREADY_EXISTS,
    async (api) => api.createStream({ name: await newStream(api), config: { compressionType: "s2" } }),
  ],
  [
    ErrorCode.NOT_PARTITION_OWNER,
    async (api) => {
      const stream = await newStream(api);
      await api.publish(stream, { value });
      await api.poll(stream, stream);
      return api.commit(stream, [{ stream, partition: 0, offset: 0 }], { consumerId: "member" });
    },
  ],
  [
    ErrorCode.PRECONDITION_FAILED,
    async (api) => api.publish(await newStream(api), { partition: 0, expectedOffset: 5, value }),
  ],
];

async function newStream(api: Api): Promise<string> {
  const name = freshName();
  await api.createStream({ name });
  return name;
}

/** What a failure with a code has to look like in a protocol. */
function failing(code: ErrorCode, isRest: boolean) {
  const { name, http, status } = errorRule(code);
  return { code, name, httpOrGrpcStatus: isRest ? http : status };
}

describe.each(protocols)("errors over $name", ({ connect, isRest }) => {
  test.each(FAILING)("code %d comes with the status of the table", async (code, call) => {
    await using api = connect(service.url);
    const failure = await failureOf(call(api));
    expect(failure).toMatchObject(failing(code, isRest));
    expect(failure.description).not.toMatch(/\bat .*:\d+:\d+|node_modules|\$JS|mr[-._]/);
  });

  test("a full storage is a quota, and says when to come again", async () => {
    await using nats = await startNats({ maxFileStoreBytes: 2 * 1024 * 1024 });
    await using small = await startService(nats.url);
    await using api = connect(small.url);
    const stream = await newStream(api);
    const data = new Uint8Array(200_000);
    const failure = await eventually("the storage is full", () =>
      api.publish(stream, { data }).then(
        () => undefined,
        (error: unknown) => error as ApiFailure,
      ),
    );
    expect(failure).toMatchObject(failing(ErrorCode.QUOTA_EXCEEDED, isRest));
    expect(failure.retryAfterMs).toBeGreaterThan(0);
    // Readers go on.
    expect((await api.readPartition(stream, 0)).events.length).toBeGreaterThan(0);
    expect(small.errors).toEqual([]);
  });
});

describe("a REST failure", () => {
  const request = (method: string, path: string, body?: unknown, headers?: Record<string, string>) =>
    rawRequest(service.url, method, path, body, headers);

  test("has a body of code, message, description and details", async () => {
    const answer = await request("POST", "/api/v1/streams", { name: "a.b", partitions: 0 });
    expect(answer.status).toBe(400);
    expect(answer.headers["content-type"]).toBe("application/json; charset=utf-8");
    expect(answer.json()).toEqual({
      error: {
        code: 1100,
        message: "INVALID_ARGUMENT",
        description: expect.any(String),
        details: expect.arrayContaining([
          { field: "name", description: expect.any(String) },
          { field: "partitions", description: expect.any(String) },
        ]),
      },
    });
  });

  test("leaves out details that it has not", async () => {
    const answer = await request("GET", `/api/v1/streams/${freshName()}`);
    expect(Object.keys(answer.json().error)).toEqual(["code", "message", "description"]);
  });

  test.each([
    ["POST", "/api/v1/streams", '{"name":"x","colour":1}', "colour"],
    ["POST", "/api/v1/streams", '{"name":"x","config":{"ttl":1}}', "config.ttl"],
    ["POST", "/api/v1/streams", '{"name":"x","__proto__":{"partitions":2}}', "__proto__"],
    ["POST", "/api/v1/streams", '{"name":"x","config":{"__proto__":{"maxBytes":5000}}}', "config.__proto__"],
    ["PATCH", "/api/v1/streams/x", '{"name":"x"}', "name"],
    ["POST", "/api/v1/streams/x/events", '{"value":1,"colour":1}', "colour"],
    ["POST", "/api/v1/streams/x/events/batch", '{"events":[{"value":1}],"colour":1}', "colour"],
    ["POST", "/api/v1/streams/x/events/batch", '{"events":[{"value":1}],"options":{"colour":1}}', "options.colour"],
    ["POST", "/api/v1/consumers/g/commit", '{"offsets":[{"stream":"x","place":1}]}', "offsets[0].place"],
    ["GET", "/api/v1/streams?colour=1", undefined, "colour"],
    ["GET", "/api/v1/streams/x/events?consumerGroup=g&colour=1", undefined, "colour"],
    ["POST", "/api/v1/streams/x/events?colour=1", '{"value":1}', "colour"],
    ["POST", "/api/v1/processors", '{"operations":[{"predicate":"true"},{"type":"filter","x":1}]}', "operations[1].x"],
    [
      "POST",
      "/api/v1/processors",
      '{"operations":[{"predicate":"true"},{"duration":1.5}],"name":5}',
      "operations[1].duration",
    ],
    ["POST", "/api/v1/processors", '{"operations":[{"predicate":"true"},{"predicate":1}]}', "operations[1].predicate"],
    ["POST", "/api/v1/processors", '{"operations":[{"predicate":"true"},null]}', "operations[1]"],
    ["POST", "/api/v1/processors", '{"operations":[{"type":"join"}]}', "operations[0].type"],
    ["POST", "/api/v1/processors", '{"config":{"parallelism":"many"}}', "config.parallelism"],
  ])("of %s %s with the unknown or wrong field of %s names it", async (method, path, body, field) => {
    const answer = await request(method, path, body);
    expect(answer.status).toBe(400);
    expect(answer.json().error).toMatchObject({ code: 1100, description: expect.stringContaining(field) });
    expect(answer.json().error.details).toContainEqual(expect.objectContaining({ field }));
  });

  test.each([
    ["text/plain", 415],
    ["application/xml", 415],
    ["application/x-www-form-urlencoded", 415],
    ["application/jsonp", 415],
    ["", 415],
    ["application/json", 200],
    ["application/json; charset=utf-8", 200],
    ["APPLICATION/JSON", 200],
    ["application/vnd.kafka.json.v2+json", 200],
  ])("of content type %j: %d", async (contentType, status) => {
    const stream = freshName();
    await request("POST", "/api/v1/streams", { name: stream });
    const headers = { "content-type": contentType };
    const answer = await request("POST", `/api/v1/streams/${stream}/events`, '{"value":1}', headers);
    expect(answer.status).toBe(contentType === "" ? answer.status : status);
    if (answer.status !== 200)
      expect(answer.json().error).toMatchObject({ code: 1004, message: "SERIALIZATION_ERROR" });
  });

  test.each([
    ["GET", "/"],
    ["GET", "/api/v1"],
    ["GET", "/api/v1/"],
    ["GET", "/api/v2/streams"],
    ["POST", "/api/v1/stream"],
    ["GET", "/api/v1/streams/a/b"],
    ["GET", "/api/v1/streams/a/events/batch/x"],
    ["PUT", "/api/v1/consumer"],
    ["DELETE", "/nothing?a=b"],
    ["GET", "/%F0%9F%98%80"],
  ])("of %s %s, which is no path: 1108", async (method, path) => {
    const answer = await request(method, path);
    expect(answer.status).toBe(404);
    expect(answer.json().error).toMatchObject({ code: 1108, message: "NOT_FOUND" });
  });

  test.each([
    ["PUT", "/api/v1/streams", ["GET", "POST"]],
    ["DELETE", "/api/v1/streams?x=1", ["GET", "POST"]],
    ["POST", "/api/v1/streams/x", ["DELETE", "GET", "PATCH"]],
    ["PATCH", "/api/v1/streams/x/events", ["GET", "POST"]],
    ["GET", "/api/v1/streams/x/events/batch", ["POST"]],
    ["POST", "/api/v1/streams/x/partitions/0/events", ["GET"]],
    ["GET", "/api/v1/consumers/g/commit", ["POST"]],
    ["OPTIONS", "/api/v1/streams", ["GET", "POST"]],
  ])("of %s %s, which has other methods: 1109 with Allow", async (method, path, allow) => {
    const answer = await request(method, path);
    expect(answer.status).toBe(405);
    expect(answer.headers.allow?.split(", ").toSorted()).toEqual(allow);
    expect(answer.json().error).toMatchObject({ code: 1109, message: "METHOD_NOT_ALLOWED" });
  });

  test("of HEAD has a status and no body", async () => {
    const answer = await request("HEAD", "/api/v1/streams");
    expect(answer.status).toBe(405);
    expect(answer.text).toBe("");
  });
});

describe("an RPC path", () => {
  const call = (path: string, headers: Record<string, string> = {}, body = "{}") =>
    rawRequest(service.url, "POST", path, body, headers);

  test.each([
    ["ProcessorService/CreateProcessor", { name: "p", source: "in", colour: 1 }, '"colour"'],
    [
      "ProcessorService/CreateProcessor",
      { operations: [{ predicate: "true", onError: "fail" }] },
      'ErrorPolicy from JSON: "fail"',
    ],
    ["StreamService/CreateStream", { name: "x", config: { ttl: 1 } }, '"ttl"'],
  ])("refuses what JSON names and the schema doesn't: %s %j", async (path, body, named) => {
    const answer = await call(`/millrace.v1.${path}`, {}, JSON.stringify(body));
    expect(answer.status).toBe(400);
    expect(answer.json()).toMatchObject({ code: "invalid_argument", message: expect.stringContaining(named) });
  });

  test("answers a failure with an ErrorInfo of name and number", async () => {
    const request = JSON.stringify({ streamName: "nothing" });
    const answer = await call("/millrace.v1.StreamService/GetStream", {}, request);
    expect(answer.status).toBe(404);
    const body = answer.json<{ code: string; message: string; details: { type: string; value: string }[] }>();
    expect(body).toMatchObject({ code: "not_found", message: expect.stringContaining("nothing") });
    const info = body.details.find(({ type }) => type === "google.rpc.ErrorInfo")!;
    expect(fromBinary(ErrorInfoSchema, Buffer.from(info.value, "base64"))).toMatchObject({
      domain: "millrace",
      reason: "STREAM_NOT_FOUND",
      metadata: { code: "1001" },
    });
  });

  /** The ErrorInfo of a refusal, whichever protocol it came in. */
  const infoOf = ({ headers, text }: Awaited<ReturnType<typeof call>>) => {
    const error =
      findTrailerError(new Headers({ ...headers } as Record<string, string>)) ??
      errorFromJsonBytes(Buffer.from(text), undefined, new ConnectError("is no error"));
    return error.findDetails(ErrorInfoSchema)[0];
  };

  test.each([
    "/millrace.v1.EventService/Nothing",
    "/millrace.v1.Nothing/Publish",
    "/millrace.v1.EventService/Publish/x",
  ])("%s, which is none, is unimplemented in the caller's form, 1108", async (path) => {
    const unknown = { reason: "NOT_FOUND", metadata: { code: "1108" } };
    const connect = await call(path, {});
    expect(connect.status).toBe(404);
    expect(connect.json<{ code: string }>().code).toBe("unimplemented");
    expect(infoOf(connect)).toMatchObject(unknown);
    for (const type of ["application/grpc-web+proto", "application/grpc"]) {
      const grpc = await call(path, { "content-type": type });
      expect(grpc.status).toBe(200);
      expect(grpc.headers["grpc-status"]).toBe("12");
      expect(infoOf(grpc)).toMatchObject(unknown);
    }
  });

  test("takes no GET where the call has effects: 1109", async () => {
    const answer = await rawRequest(service.url, "GET", "/millrace.v1.EventService/Publish");
    expect(answer.status).toBe(405);
    expect(answer.headers.allow).toBe("POST");
    expect(answer.json<{ code: string }>().code).toBe("unimplemented");
    expect(infoOf(answer)).toMatchObject({ reason: "METHOD_NOT_ALLOWED", metadata: { code: "1109" } });
  });

  test.each(["text/plain", "application/xml", "image/png"])("takes no %s: 1004", async (type) => {
    const answer = await call("/millrace.v1.EventService/Publish", { "content-type": type });
    expect(answer.status).toBe(415);
    expect(answer.headers["accept-post"]).toContain("application/json");
    expect(answer.json<{ code: string }>().code).toBe("invalid_argument");
    expect(infoOf(answer)).toMatchObject({ reason: "SERIALIZATION_ERROR", metadata: { code: "1004" } });
  });

  test("takes no compression that it does not know: 1004, under the status that Connect has for it", async () => {
    const headers = { "content-type": "application/json", "content-encoding": "zip" };
    const answer = await call("/millrace.v1.EventService/Publish", headers);
    expect(answer.json<{ code: string }>().code).toBe("unimplemented");
    expect(infoOf(answer)).toMatchObject({ reason: "SERIALIZATION_ERROR", metadata: { code: "1004" } });
  });

  test.each([
    ["no base64", "base64=1&message=!!!"],
    ["no JSON", "message=%7B"],
    ["not compressed as it says", "base64=1&compression=gzip&message=e30"],
    ["missing", ""],
  ])("of a GET whose message is %s answers 1004", async (_what, query) => {
    const path = `/millrace.v1.StreamService/GetStream?connect=v1&encoding=json&${query}`;
    const answer = await rawRequest(service.url, "GET", path);
    expect(answer.status).toBe(400);
    expect(answer.json<{ code: string }>().code).toBe("invalid_argument");
    expect(infoOf(answer)?.metadata.code).toBe("1004");
  });

  test.each([
    ["JSON that is none", "application/json", "{"],
    ["a message that is none", "application/proto", "\u00ff\u00ff\u00ff"],
    ["a text that is not UTF-8", "application/proto", Uint8Array.of(0x0a, 1, 0xff)],
  ])("with %s answers 1004 as the caller's fault", async (_what, contentType, body) => {
    const answer = await rawRequest(service.url, "POST", "/millrace.v1.StreamService/GetStream", body, {
      "content-type": contentType,
    });
    expect(answer.status).toBe(400);
    const { code, details } = answer.json<{ code: string; details?: { type: string; value: string }[] }>();
    expect(code).toBe("invalid_argument");
    const info = details?.find(({ type }) => type === "google.rpc.ErrorInfo");
    expect(info && fromBinary(ErrorInfoSchema, Buffer.from(info.value, "base64")).metadata.code).toBe("1004");
  });

  /** Status and code of the error that a call over HTTP/2 ends with. */
  async function endOf(rpc: string, type: string, body: Uint8Array) {
    const session = http2.connect(service.url);
    try {
      const path = `/millrace.v1.EventService/${rpc}`;
      const call = session.request({ ":method": "POST", ":path": path, "content-type": type, te: "trailers" });
      let ends: http2.IncomingHttpHeaders = {};
      for (const event of ["response", "trailers"])
        call.on(event, (headers: http2.IncomingHttpHeaders) => {
          ends = { ...ends, ...headers };
        });
      call.end(body);
      const text = (await buffer(call)).subarray(5).toString();
      if (type.startsWith("application/connect+")) {
        const error = errorFromJson(JSON.parse(text).error, undefined, new ConnectError("is no error"));
        return [error.code, error.findDetails(ErrorInfoSchema)[0]?.metadata.code];
      }
      const lines = text.split("\r\n").flatMap((line) => (line ? [line.split(": ", 2) as [string, string]] : []));
      const trailer = { ...ends, ...Object.fromEntries(lines) };
      const named = Object.entries(trailer).filter(([name]) => name.startsWith("grpc-")) as [string, string][];
      const error = findTrailerError(new Headers(named));
      return [error?.code, error?.findDetails(ErrorInfoSchema)[0]?.metadata.code];
    } finally {
      session.close();
    }
  }

  describe.each(["Publish", "Poll", "Subscribe", "PublishStream"])("%s", (rpc) => {
    test.each([
      ["can't be decoded", Uint8Array.of(0, 0, 0, 0, 3, 0xff, 0xff, 0xff)],
      ["is marked as compressed, with no encoding named", Uint8Array.of(1, 0, 0, 0, 0)],
    ])("with a message that %s answers 1004 as the caller's fault", async (_what, body) => {
      const isStream = rpc === "Subscribe" || rpc === "PublishStream";
      for (const type of ["grpc", "grpc-web+proto", ...(isStream ? ["connect+proto"] : [])])
        expect([type, ...(await endOf(rpc, `application/${type}`, body))]).toEqual([
          type,
          Code.InvalidArgument,
          "1004",
        ]);
    });
  });
});

describe.concurrent("without NATS", () => {
  const CALLER_MS = 2000;

  /** Every kind of call over every protocol, at once, with a caller's deadline where the protocol has one. */
  const callAll = async (apis: readonly Api[], stream: string, eventId: string) => {
    const failures = await Promise.all(
      apis.flatMap((api, n) => {
        const options = { timeoutMs: protocols[n]!.isRest ? 30_000 : CALLER_MS };
        return [
          api.publish(stream, { eventId: `${eventId}-${n}`, value }, options),
          api.getStream(stream, options),
          api.poll(stream, "g", { timeout: 100 }, options),
        ].map(async (call) => {
          const failure = await failureOf(call);
          return { protocol: protocols[n]!, failure };
        });
      }),
    );
    return failures;
  };

  /** Stops a process; its threads stop one by one, a moment after the signal. */
  const silence = async (pid: number) => {
    process.kill(pid, "SIGSTOP");
    const threads = `/proc/${pid}/task`;
    await eventually("all its threads are stopped", () =>
      readdirSync(threads).every((thread) => /\) T /.test(readFileSync(`${threads}/${thread}/stat`, "utf8"))),
    );
  };

  test("that is gone, calls end with 1107 and nothing is stored; with it back they succeed", async ({ expect }) => {
    await using nats = await startNats();
    await using away = await startService(nats.url);
    await using owned = new AsyncDisposableStack();
    const apis = protocols.map(({ connect }) => owned.use(connect(away.url)));
    const stream = await newStream(apis[0]!);
    await apis[0]!.publish(stream, { value });
    await apis[0]!.poll(stream, "g", { autoCommit: true });
    await nats.kill();
    // What was sent before the service noticed is rightly 1006.
    await eventually("the service notices", async () => {
      const failure = await failureOf(apis[3]!.getStream(stream, { timeoutMs: 500 }));
      return failure.code === ErrorCode.UNAVAILABLE;
    });
    const begunAt = performance.now();
    const inTime = await failureOf(apis[3]!.publish(stream, { value }, { timeoutMs: 500 }));
    expect(inTime).toMatchObject({ code: ErrorCode.UNAVAILABLE });
    expect(performance.now() - begunAt).toBeLessThan(1000);
    // One that may take a minute does not wait as long for a connection.
    const creating = failureOf(apis[0]!.createStream({ name: freshName() }, { timeoutMs: 20_000 }));
    for (const { protocol, failure } of await callAll(apis, stream, "gone")) {
      // A caller's own clock may be ahead by a moment: then it tells itself.
      if (failure.code === 0 && failure.httpOrGrpcStatus === 4) continue;
      expect(failure, protocol.name).toMatchObject(failing(ErrorCode.UNAVAILABLE, protocol.isRest));
      expect(failure.retryAfterMs).toBeGreaterThan(0);
    }
    expect(await creating).toMatchObject({ code: ErrorCode.UNAVAILABLE });
    await nats.restart();
    await eventually("the service is back", () =>
      apis[0]!.publish(stream, { value }).then(
        () => true,
        () => false,
      ),
    );
    expect((await apis[0]!.getStream(stream)).totalMessages).toBe(2);
    for (const api of apis) await api.publish(stream, { value });
    expect((await apis[0]!.poll(stream, "g", { limit: 100 })).events).toHaveLength(1 + apis.length);
    expect(away.errors).toEqual([]);
  });

  test("that is silent, calls end with 1006 or 1107; an event repeated later is stored once", async ({ expect }) => {
    await using nats = await startNats();
    await using away = await startService(nats.url);
    await using owned = new AsyncDisposableStack();
    const apis = protocols.map(({ connect }) => owned.use(connect(away.url)));
    const stream = await newStream(apis[0]!);
    await apis[0]!.poll(stream, "g", { timeout: 0 });
    await silence(nats.pid!);
    try {
      for (const { protocol, failure } of await callAll(apis, stream, "silent")) {
        if (failure.code === 0 && failure.httpOrGrpcStatus === 4) continue;
        const code = failure.code === ErrorCode.UNAVAILABLE ? ErrorCode.UNAVAILABLE : ErrorCode.TIMEOUT;
        expect(failure, protocol.name).toMatchObject(failing(code, protocol.isRest));
      }
    } finally {
      process.kill(nats.pid!, "SIGCONT");
    }
    await eventually("the service is back", () =>
      apis[0]!.getStream(stream).then(
        () => true,
        () => false,
      ),
    );
    for (const [n, api] of apis.entries()) await api.publish(stream, { eventId: `silent-${n}`, value });
    expect((await apis[0]!.getStream(stream)).totalMessages).toBe(apis.length);
    expect((await apis[0]!.poll(stream, "g", { limit: 100 })).events).toHaveLength(apis.length);
    expect(away.errors).toEqual([]);
  });

  test("that is silent, a batch's own timeout ends it with an error for each event", async ({ expect }) => {
    await using nats = await startNats();
    await using away = await startService(nats.url);
    await using api = protocols[0]!.connect(away.url);
    const stream = await newStream(api);
    await silence(nats.pid!);
    try {
      const answer = await api.publishBatch(
        stream,
        [
          { eventId: "a", value },
          { eventId: "b", value },
        ],
        { timeout: 300 },
      );
      expect(answer).toMatchObject({ totalEvents: 2, successCount: 0, failureCount: 2 });
      expect(answer.results.map(({ eventId, error }) => [eventId, error?.code])).toEqual([
        ["a", 1006],
        ["b", 1006],
      ]);
    } finally {
      process.kill(nats.pid!, "SIGCONT");
    }
  });
});
