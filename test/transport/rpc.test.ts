import { once } from "node:events";
import * as http2 from "node:http2";
import { type AddressInfo, connect as dial } from "node:net";
import { text } from "node:stream/consumers";
import { promisify } from "node:util";
import * as zlib from "node:zlib";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import {
  type Client,
  Code,
  ConnectError,
  type ConnectRouter,
  createClient,
  type HandlerContext,
  type Transport,
} from "@connectrpc/connect";
import * as node from "@connectrpc/connect-node";
import {
  compressionBrotli,
  compressionGzip,
  createConnectTransport,
  createGrpcTransport,
} from "@connectrpc/connect-node";
import * as web from "@connectrpc/connect-web";
import * as grpc from "@grpc/grpc-js";
import fastify, { type FastifyInstance } from "fastify";
import { afterEach, describe, expect, test } from "vitest";
import { createListener, type ListenerOptions, type OnePortServer } from "../../src/transport/listener.ts";
import { type RpcPluginOptions, rpcPlugin } from "../../src/transport/rpc.ts";
import {
  ClientStreamRequestSchema,
  ConformanceService,
  ServerStreamRequestSchema,
  UnaryRequestSchema,
  UnaryResponseSchema,
} from "../conformance/gen/connectrpc/conformance/v1/service_pb.js";

const SERVICE = "/connectrpc.conformance.v1.ConformanceService";
const LIMIT = 100_000;

const running: (() => Promise<void> | void)[] = [];
afterEach(async () => {
  for (const end of running.splice(0).reverse()) await end();
});

/** What the service saw, for the tests to look at. */
class Seen {
  messages = 0;
  sent = 0;
  ended: unknown[] = [];
  context: HandlerContext | undefined;
}

/** Says how many bytes it got; a server stream goes on until its caller leaves. */
const routes = (seen: Seen) => (router: ConnectRouter) => {
  const reply = (bytes: number) => ({ payload: { data: new TextEncoder().encode(String(bytes)) } });
  router.service(ConformanceService, {
    unary: (request) => reply(request.requestData.length),
    idempotentUnary: (request) => reply(request.requestData.length),
    async clientStream(requests) {
      let bytes = 0;
      try {
        for await (const request of requests) {
          seen.messages++;
          bytes += request.requestData.length;
        }
        seen.ended.push("end");
      } catch (error) {
        seen.ended.push(error);
        throw error;
      }
      return reply(bytes);
    },
    async *serverStream(request, context) {
      seen.context = context;
      const payload = { data: request.requestData };
      try {
        while (!context.signal.aborted) {
          yield { payload };
          seen.sent++;
          await new Promise((resolve) => setImmediate(resolve));
        }
      } finally {
        seen.ended.push(context.signal.reason);
      }
    },
    async *bidiStream(requests) {
      for await (const request of requests) yield reply(request.requestData.length);
    },
  });
};

async function start(
  options: Partial<RpcPluginOptions> = {},
  prepare: (app: FastifyInstance) => void = () => {},
  listener: ListenerOptions = {},
) {
  const seen = new Seen();
  const app = fastify({
    serverFactory: (handler) => createListener(handler as never, listener),
    routerOptions: { maxParamLength: 1024 },
  });
  prepare(app);
  await app.register(rpcPlugin, { routes: routes(seen), readMaxBytes: LIMIT, ...options });
  await app.listen({ host: "127.0.0.1", port: 0 });
  running.push(() => (app.server as OnePortServer).drain(0));
  const { port } = app.server.address() as AddressInfo;
  return { app, seen, port, baseUrl: `http://127.0.0.1:${port}` };
}

/** Waits for a condition, at most ten seconds. */
async function until(condition: () => boolean): Promise<void> {
  const end = Date.now() + 10_000;
  while (!condition()) {
    if (Date.now() > end) throw new Error(`never became true: ${condition}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

type MakeTransport = (baseUrl: string, more?: object) => Transport;
const transports: { name: string; isHttp1: boolean; make: MakeTransport }[] = [
  {
    name: "Connect h1",
    isHttp1: true,
    make: (baseUrl, o) => createConnectTransport({ baseUrl, httpVersion: "1.1", ...o }),
  },
  {
    name: "Connect h2",
    isHttp1: false,
    make: (baseUrl, o) => createConnectTransport({ baseUrl, httpVersion: "2", ...o }),
  },
  { name: "gRPC h2", isHttp1: false, make: (baseUrl, o) => createGrpcTransport({ baseUrl, ...o }) },
  {
    name: "gRPC-Web h1",
    isHttp1: true,
    make: (baseUrl, o) => node.createGrpcWebTransport({ baseUrl, httpVersion: "1.1", ...o }),
  },
  {
    name: "gRPC-Web h2",
    isHttp1: false,
    make: (baseUrl, o) => node.createGrpcWebTransport({ baseUrl, httpVersion: "2", ...o }),
  },
];

const bytes = (length: number) => ({ requestData: new Uint8Array(length) });

function envelope(message: Uint8Array): Buffer {
  const head = Buffer.alloc(5);
  head.writeUInt32BE(message.length, 1);
  return Buffer.concat([head, message]);
}

/** One frame of HTTP/2. */
function frame(type: number, flags: number, stream: number, ...payload: Buffer[]): Buffer {
  const body = Buffer.concat(payload);
  const head = Buffer.from([0, 0, 0, type, flags, 0, 0, 0, stream]);
  head.writeUIntBE(body.length, 0, 3);
  return Buffer.concat([head, body]);
}

describe.each(transports)("messages above the limit over $name", ({ isHttp1, make }) => {
  // The largest is above every window and buffer on the way: the caller cannot even send it all unless someone reads.
  const cases = [
    { what: "barely", size: LIMIT, options: {} },
    { what: "far", size: 6_000_000, options: {} },
    { what: "gzip", size: 6_000_000, options: { sendCompression: compressionGzip, compressMinBytes: 1 } },
    { what: "br", size: 6_000_000, options: { sendCompression: compressionBrotli, compressMinBytes: 1 } },
  ];
  test.each(cases)("are answered with RESOURCE_EXHAUSTED: $what", async ({ size, options }) => {
    const { baseUrl } = await start();
    async function* messages() {
      yield bytes(10);
      yield bytes(size);
      for (let i = 0; i < 50; i++) yield bytes(20_000);
    }
    const drainAll = async (answers: AsyncIterable<unknown>) => {
      for await (const _ of answers);
    };
    type Call = (client: Client<typeof ConformanceService>) => Promise<unknown>;
    const calls: Record<string, Call> = {
      unary: (client) => client.unary(bytes(size)),
      clientStream: (client) => client.clientStream(messages()),
      serverStream: (client) => drainAll(client.serverStream(bytes(size))),
      ...(isHttp1 ? {} : { bidiStream: (client) => drainAll(client.bidiStream(messages())) }),
    };
    for (const [name, call] of Object.entries(calls)) {
      // A connection for each: Node's HTTP/2 client gives up by itself when it holds 10 MB unsent.
      const client = createClient(ConformanceService, make(baseUrl, options));
      const error = await call(client).catch((reason) => ConnectError.from(reason));
      expect(error, `${name}: ${error}`).toMatchObject({ code: Code.ResourceExhausted });
      // Nor is the connection spoilt for the next call.
      const { payload } = await client.unary(bytes(10));
      expect(new TextDecoder().decode(payload?.data), name).toBe("10");
    }
  });
});

describe("other clients with messages above the limit", () => {
  test.each([
    ["Connect", web.createConnectTransport],
    ["gRPC-Web", web.createGrpcWebTransport],
  ])("fetch, %s", async (_name, make) => {
    const { baseUrl } = await start();
    const client = createClient(ConformanceService, make({ baseUrl }));
    for (const size of [LIMIT, 6_000_000]) {
      const error = await client.unary(bytes(size)).catch((reason) => ConnectError.from(reason));
      expect(error).toMatchObject({ code: Code.ResourceExhausted });
    }
  });

  test("grpc-js, unary and client stream", async () => {
    const { port } = await start();
    const client = new grpc.Client(`127.0.0.1:${port}`, grpc.credentials.createInsecure());
    running.push(() => client.close());
    const read = (data: Buffer) => fromBinary(UnaryResponseSchema, data);
    const unary = (size: number) =>
      new Promise<grpc.ServiceError | null>((resolve) => {
        const write = (message: { requestData: Uint8Array }) =>
          Buffer.from(toBinary(UnaryRequestSchema, create(UnaryRequestSchema, message)));
        client.makeUnaryRequest(`${SERVICE}/Unary`, write, read, bytes(size), (error) => resolve(error));
      });
    expect(await unary(6_000_000)).toMatchObject({ code: grpc.status.RESOURCE_EXHAUSTED });
    const streamed = await new Promise<grpc.ServiceError | null>((resolve) => {
      const write = (message: { requestData: Uint8Array }) =>
        Buffer.from(toBinary(ClientStreamRequestSchema, create(ClientStreamRequestSchema, message)));
      const stream = client.makeClientStreamRequest(`${SERVICE}/ClientStream`, write, read, (error) => resolve(error));
      stream.write(bytes(10));
      stream.write(bytes(6_000_000)); // and never ended
    });
    expect(streamed).toMatchObject({ code: grpc.status.RESOURCE_EXHAUSTED });
    expect(await unary(10)).toBeNull();
  });

  test("one that goes on sending after its answer is cut off", async () => {
    const { port } = await start({ afterAnswer: { bytes: 1_000_000, ms: 60_000 } });
    const socket = dial(port, "127.0.0.1");
    socket.on("error", () => {});
    socket.write(
      `POST ${SERVICE}/Unary HTTP/1.1\r\nhost: a\r\ncontent-type: application/proto\r\ncontent-length: 1000000000\r\n\r\n`,
    );
    let answer = "";
    socket.on("data", (data) => {
      answer += data;
    });
    const timer = setInterval(() => socket.write(Buffer.alloc(50_000)), 1);
    await new Promise((resolve) => socket.once("close", resolve));
    clearInterval(timer);
    expect(answer).toMatch(/^HTTP\/1.1 429 /);
    expect(answer).toContain('"code":"resource_exhausted"');
  });

  test("one that stops sending after its answer is cut off over HTTP/2 too", async () => {
    const { baseUrl } = await start({ afterAnswer: { bytes: 1_000_000, ms: 100 } });
    const session = http2.connect(baseUrl);
    running.push(() => session.destroy());
    const headers = { ":method": "POST", ":path": `${SERVICE}/Unary`, "content-type": "application/proto" };
    const stream = session.request(headers, { endStream: false });
    stream.write(Buffer.alloc(LIMIT + 1));
    expect(await text(stream)).toContain("resource_exhausted");
    if (!stream.closed) await once(stream, "close");
    expect(stream.rstCode).toBe(http2.constants.NGHTTP2_NO_ERROR);
  });
});

describe("compression", () => {
  test("takes requests in deflate and answers in what is accepted", async () => {
    const { baseUrl } = await start();
    const body = await promisify(zlib.deflate)(toBinary(UnaryRequestSchema, create(UnaryRequestSchema, bytes(1000))));
    const answer = await fetch(`${baseUrl}${SERVICE}/Unary`, {
      method: "POST",
      body: body as Uint8Array<ArrayBuffer>,
      headers: { "content-type": "application/proto", "content-encoding": "deflate" },
    });
    const { payload } = fromBinary(UnaryResponseSchema, new Uint8Array(await answer.arrayBuffer()));
    expect(new TextDecoder().decode(payload?.data)).toBe("1000");
  });

  test.each(["gzip", "br", "deflate"])("calls broken %s the caller's fault", async (encoding) => {
    const { baseUrl } = await start();
    const answer = await fetch(`${baseUrl}${SERVICE}/Unary`, {
      method: "POST",
      body: "not compressed",
      headers: { "content-type": "application/proto", "content-encoding": encoding },
    });
    expect([answer.status, await answer.json()]).toMatchObject([400, { code: "invalid_argument" }]);
  });
});

describe("a caller that goes away", () => {
  test.each(transports)("aborts its call over $name", async ({ make }) => {
    const { baseUrl, seen } = await start();
    const client = createClient(ConformanceService, make(baseUrl));
    const caller = new AbortController();
    const answers = client.serverStream(bytes(100), { signal: caller.signal });
    await expect(
      (async () => {
        for await (const _ of answers) caller.abort();
      })(),
    ).rejects.toThrow();
    await until(() => seen.ended.length === 1);
    expect(seen.ended[0]).toBeInstanceOf(ConnectError);
    expect(seen.ended[0]).toMatchObject({ code: Code.Canceled });
  });

  test.each([
    ["HTTP/2, by a reset", "2"],
    ["HTTP/2, by closing", "2 closing"],
    ["HTTP/1.1, by closing", "1.1"],
  ])("is not taken for one that has sent all: %s", async (_name, version) => {
    const { baseUrl, port, seen } = await start();
    const message = toBinary(ClientStreamRequestSchema, create(ClientStreamRequestSchema, bytes(10)));
    const sent = envelope(message);
    if (version === "2") {
      // Frame by frame: Node's own client resets a stream only after a proper end.
      const socket = dial(port, "127.0.0.1");
      running.push(() => void socket.destroy());
      const fields = { ":method": "POST", ":scheme": "http", ":authority": "a", ":path": `${SERVICE}/ClientStream` };
      const headers = Object.entries({ ...fields, "content-type": "application/grpc+proto" }).map(([name, value]) =>
        Buffer.from(
          `\0${String.fromCharCode(name.length)}${name}${String.fromCharCode(value.length)}${value}`,
          "latin1",
        ),
      );
      socket.write("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
      socket.write(Buffer.concat([frame(4, 0, 0), frame(1, 4, 1, ...headers), frame(0, 0, 1, sent)]));
      await until(() => seen.messages === 1);
      socket.write(frame(3, 0, 1, Buffer.from([0, 0, 0, http2.constants.NGHTTP2_CANCEL])));
    } else if (version === "2 closing") {
      const session = http2.connect(baseUrl);
      const stream = session.request(
        { ":method": "POST", ":path": `${SERVICE}/ClientStream`, "content-type": "application/grpc+proto" },
        { endStream: false },
      );
      stream.on("error", () => {});
      stream.write(sent);
      await until(() => seen.messages === 1);
      session.destroy();
    } else {
      const socket = dial(port, "127.0.0.1");
      socket.write(`POST ${SERVICE}/ClientStream HTTP/1.1\r\nhost: a\r\ncontent-type: application/connect+proto\r\n`);
      socket.write(`transfer-encoding: chunked\r\n\r\n${sent.length.toString(16)}\r\n`);
      socket.write(sent);
      socket.write("\r\n");
      await until(() => seen.messages === 1);
      socket.destroy();
    }
    await until(() => seen.ended.length === 1);
    expect(seen.ended[0]).toMatchObject({ code: Code.Canceled });
  });
});

test.each([
  ["HTTP/1.1", "application/connect+proto"],
  ["HTTP/1.1", "application/grpc-web+proto"],
  ["HTTP/2", "application/grpc+proto"],
  ["HTTP/2", "application/connect+proto"],
])("a caller that does not read is not written to without end: %s, %s", async (version, type) => {
  const { baseUrl, port, seen } = await start();
  const call = envelope(toBinary(ServerStreamRequestSchema, create(ServerStreamRequestSchema, bytes(90_000))));
  if (version === "HTTP/2") {
    const session = http2.connect(baseUrl);
    running.push(() => session.destroy());
    const headers = { ":method": "POST", ":path": `${SERVICE}/ServerStream`, "content-type": type };
    session.request(headers).end(call);
  } else {
    const socket = dial(port, "127.0.0.1");
    running.push(() => void socket.destroy());
    socket.pause();
    socket.write(`POST ${SERVICE}/ServerStream HTTP/1.1\r\nhost: a\r\ncontent-type: ${type}\r\n`);
    socket.write(`content-length: ${call.length}\r\n\r\n`);
    socket.write(call);
  }
  await until(() => seen.context !== undefined);
  // It stops by itself: the count stays the same over many turns of the event loop.
  let last = -1;
  let same = 0;
  await until(() => {
    same = seen.sent === last ? same + 1 : 0;
    last = seen.sent;
    return same > 50;
  });
  expect(seen.context?.signal.aborted).toBe(false);
});

test.each([
  ["HTTP/1.1", "application/proto"],
  ["HTTP/1.1", "application/grpc-web+proto"],
  ["HTTP/2", "application/proto"],
  ["HTTP/2", "application/grpc-web+proto"],
  ["HTTP/2", "application/grpc+proto"],
])("a whole answer that its caller takes nothing of is let go of: %s, %s", async (version, type) => {
  let isOver = false;
  const { baseUrl, port } = await start(
    {
      routes: (router) =>
        router.service(ConformanceService, { unary: () => ({ payload: { data: new Uint8Array(32 * 1024 * 1024) } }) }),
    },
    (app) => app.addHook("onRequest", async (_req, reply) => void reply.raw.once("close", () => (isOver = true))),
    { headersTimeoutMs: 150, requestTimeoutMs: 300 },
  );
  const message = toBinary(UnaryRequestSchema, create(UnaryRequestSchema, {}));
  const call = type === "application/proto" ? Buffer.from(message) : envelope(message);
  if (version === "HTTP/2") {
    const session = http2.connect(baseUrl);
    running.push(() => session.destroy());
    const stream = session.request({ ":method": "POST", ":path": `${SERVICE}/Unary`, "content-type": type });
    stream.on("error", () => {});
    stream.end(call);
  } else {
    const socket = dial(port, "127.0.0.1");
    running.push(() => void socket.destroy());
    socket.pause();
    socket.write(`POST ${SERVICE}/Unary HTTP/1.1\r\nhost: a\r\ncontent-type: ${type}\r\n`);
    socket.write(`content-length: ${call.length}\r\n\r\n`);
    socket.write(call);
  }
  await until(() => isOver);
});

test("half a request of a single message is answered with DEADLINE_EXCEEDED", async () => {
  const { baseUrl } = await start({ requestTimeoutMs: 100 });
  const session = http2.connect(baseUrl);
  running.push(() => session.destroy());
  for (const [method, type] of [
    ["Unary", "application/grpc+proto"],
    ["ServerStream", "application/grpc"],
  ]) {
    const stream = session.request(
      { ":method": "POST", ":path": `${SERVICE}/${method}`, "content-type": type },
      { endStream: false },
    );
    stream.on("error", () => {});
    stream.write(Buffer.from([0, 0, 0, 0, 100, 1, 2]));
    stream.resume();
    const [trailers] = (await once(stream, "trailers")) as [http2.IncomingHttpHeaders];
    expect(trailers["grpc-status"]).toBe(String(Code.DeadlineExceeded));
    stream.close();
  }
});

test("methods without side effects can be asked by GET", async () => {
  const { baseUrl } = await start();
  const transport = createConnectTransport({ baseUrl, httpVersion: "1.1", useHttpGet: true });
  const client = createClient(ConformanceService, transport);
  expect(new TextDecoder().decode((await client.idempotentUnary(bytes(7))).payload?.data)).toBe("7");
});

describe("refusals are in the caller's protocol", () => {
  const ask = async (baseUrl: string, path: string, type: string | undefined, method = "POST") => {
    const answer = await fetch(baseUrl + path, {
      method,
      ...(method === "POST" ? { body: "{}" } : {}),
      ...(type === undefined ? {} : { headers: { "content-type": type } }),
    });
    const header = (name: string) => answer.headers.get(name);
    return {
      status: answer.status,
      type: header("content-type"),
      grpc: header("grpc-status"),
      text: await answer.text(),
      header,
    };
  };

  test.each([
    ["/some.v1.Service/Method", "application/json"],
    ["/some.v1.Service/Method", "application/proto"],
    [`${SERVICE}/Nothing`, "application/json"],
    [`${SERVICE}/`, "application/json"],
    [`${SERVICE}/Unary/more`, "text/plain"],
  ])("unknown method %s, %s", async (path, type) => {
    const { baseUrl } = await start();
    const answer = await ask(baseUrl, path, type);
    expect(answer).toMatchObject({ status: 404, type: "application/json" });
    expect(JSON.parse(answer.text)).toMatchObject({ code: "unimplemented" });
  });

  test.each(["application/grpc", "application/grpc+proto", "application/grpc-web+proto", "application/grpc-web-text"])(
    "unknown method, %s",
    async (type) => {
      const { baseUrl } = await start();
      const answer = await ask(baseUrl, "/some.v1.Service/Method", type);
      expect(answer).toMatchObject({ status: 200, grpc: "12", text: "" });
      expect(answer.type).toMatch(/^application\/grpc/);
    },
  );

  test("unknown method, Connect stream", async () => {
    const { baseUrl } = await start();
    const answer = await ask(baseUrl, "/some.v1.Service/Method", "application/connect+json");
    expect(answer).toMatchObject({ status: 200, type: "application/connect+json" });
    expect(JSON.parse(answer.text.slice(5))).toMatchObject({ error: { code: "unimplemented" } });
  });

  test("wrong HTTP method, content type and version", async () => {
    const { baseUrl } = await start();
    const get = await ask(baseUrl, `${SERVICE}/Unary`, undefined, "GET");
    expect([get.status, get.header("allow"), JSON.parse(get.text).code]).toEqual([405, "POST", "unknown"]);
    const type = await ask(baseUrl, `${SERVICE}/Unary`, "application/xml");
    expect([type.status, JSON.parse(type.text).code]).toEqual([415, "unknown"]);
    const malformed = await ask(baseUrl, `${SERVICE}/Unary`, "nonsense");
    expect([malformed.status, JSON.parse(malformed.text).code]).toEqual([415, "unknown"]);
    expect(await ask(baseUrl, `${SERVICE}/Unary`, "application/grpc+xml")).toMatchObject({ status: 200, grpc: "12" });
    const bidi = await ask(baseUrl, `${SERVICE}/BidiStream`, "application/connect+json");
    expect(JSON.parse(bidi.text.slice(5))).toMatchObject({ error: { message: "bidirectional streams need HTTP/2" } });
  });

  test.each(transports)("what a hook throws, over $name", async ({ isHttp1, make }) => {
    const { baseUrl } = await start({}, (app) => {
      app.addHook("onRequest", async (_req, reply) => {
        reply.header("retry-after", "3");
        throw Object.assign(new Error("slow down"), { statusCode: 429 });
      });
    });
    const client = createClient(ConformanceService, make(baseUrl));
    const error = await client.unary(bytes(6_000_000)).catch((reason) => ConnectError.from(reason));
    expect(error).toMatchObject({ code: Code.ResourceExhausted, rawMessage: "slow down" });
    expect((error as ConnectError).metadata.get("retry-after")).toBe("3");
    if (isHttp1) return;
    const stream = client.bidiStream((async function* () {})())[Symbol.asyncIterator]();
    expect(await stream.next().catch((reason) => ConnectError.from(reason))).toMatchObject({
      code: Code.ResourceExhausted,
    });
  });

  test("other paths stay with other routes", async () => {
    const { baseUrl } = await start({}, (app) => void app.get("/api/v1/streams", () => ({ a: 1 })));
    expect(await (await fetch(`${baseUrl}/api/v1/streams`)).json()).toEqual({ a: 1 });
    expect(await (await fetch(`${baseUrl}/api/v1/none`)).json()).toMatchObject({ statusCode: 404 });
  });
});

test("aborting the shutdown signal ends streams with its reason, and Fastify closes", async () => {
  const shutdown = new AbortController();
  const { app, baseUrl, seen } = await start({ shutdownSignal: shutdown.signal });
  const client = createClient(ConformanceService, createGrpcTransport({ baseUrl }));
  const answers = client.serverStream(bytes(10))[Symbol.asyncIterator]();
  await answers.next();
  const closed = app.close();
  shutdown.abort(new ConnectError("shutting down", Code.Unavailable));
  await until(() => seen.ended.length === 1);
  expect(seen.ended[0]).toMatchObject({ code: Code.Unavailable });
  for (let next = await answers.next(); !next.done; next = await answers.next());
  await closed;
});
