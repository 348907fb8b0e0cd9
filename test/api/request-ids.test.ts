import * as http2 from "node:http2";
import { Writable } from "node:stream";
import { pino } from "pino";
import { describe, expect, onTestFinished, test } from "vitest";
import { loadConfig } from "../../src/config.ts";
import { startServer } from "../../src/server.ts";
import { failureOf, protocols, rawRequest } from "../support/clients.ts";
import { startNats } from "../support/nats.ts";
import { freshName, useService } from "../support/service.ts";

const service = useService();
const RPC = "/millrace.v1.StreamService/GetStream";

const KINDS: readonly (readonly [string, string, string, unknown, Record<string, string>])[] = [
  ["REST", "GET", "/api/v1/streams", undefined, {}],
  ["a hot path of REST", "POST", "/api/v1/streams/absent/events", { value: 1 }, {}],
  ["no path", "GET", "/nothing/here", undefined, {}],
  ["a path that can't be decoded", "GET", "/api/v1/streams/%zz", undefined, {}],
  ["a method not allowed", "DELETE", "/healthz", undefined, {}],
  ["the operator's paths", "GET", "/healthz", undefined, {}],
  ["Connect", "POST", RPC, { streamName: "absent" }, {}],
  ["gRPC-Web", "POST", RPC, new Uint8Array(5), { "content-type": "application/grpc-web" }],
  ["no RPC", "POST", "/millrace.v1.None/Call", {}, {}],
];

describe.each(KINDS)("%s", (_name, method, path, body, headers) => {
  test("answers with a request id: the caller's, or one of its own", async () => {
    const given = await rawRequest(service.url, method, path, body, { ...headers, "x-request-id": "a.B:3_-" });
    expect(given.headers["x-request-id"]).toBe("a.B:3_-");
    expect(given.headers["x-content-type-options"]).toBe("nosniff");
    const ids = new Set<string>();
    for (const id of [undefined, "", "a b", 'x"y', "{}", "x".repeat(129), "a,b"]) {
      const more: Record<string, string> = id === undefined ? {} : { "x-request-id": id };
      const made = (await rawRequest(service.url, method, path, body, { ...headers, ...more })).headers["x-request-id"];
      expect(made).toMatch(/^[0-9a-f]{8}-[0-9a-z]+$/);
      ids.add(made!);
    }
    expect(ids.size).toBe(7);
  });
});

test.each(["Publish", "GetStream"])("gRPC answers with it too: %s", async (rpc) => {
  const session = http2.connect(service.url);
  onTestFinished(() => session.close());
  const name = rpc === "Publish" ? "EventService/Publish" : "StreamService/GetStream";
  const request = session.request({
    ":method": "POST",
    ":path": `/millrace.v1.${name}`,
    "content-type": "application/grpc",
    te: "trailers",
    "x-request-id": "mine-1",
  });
  request.end(Buffer.alloc(5));
  const headers = await new Promise<http2.IncomingHttpHeaders>((resolve) => {
    request.on("response", resolve);
  });
  request.resume();
  expect(headers["x-request-id"]).toBe("mine-1");
});

test("no line of the log holds values, keys, headers or credentials; failures have their request id", async () => {
  const lines: string[] = [];
  const sink = new Writable({
    write(line: Buffer, _encoding, done) {
      lines.push(line.toString());
      done();
    },
  });
  await using nats = await startNats();
  await using own = await startServer(
    loadConfig({ PORT: "0", NATS_URL: nats.url, MILLRACE_DRAIN_MS: "500" }),
    pino({ level: "trace" }, sink),
  );
  const secrets: string[] = [];
  const secret = (what: string) => {
    const text = `s3cret-${what}-${freshName()}`;
    secrets.push(text);
    return text;
  };
  for (const { connect, isRest } of protocols) {
    await using api = connect(own.url);
    const stream = freshName();
    await api.createStream({ name: stream });
    const headers = { authorization: `Bearer ${secret("token")}`, "x-request-id": "seen-in-the-log" };
    const event = { key: secret("key"), value: secret("value"), headers: { h: secret("header") } };
    await api.publish(stream, event, { headers });
    await failureOf(api.publish("absent", event, { headers }));
    await failureOf(api.publish(stream, { ...event, key: secret("key").padEnd(2000, "x") }, { headers }));
    await api.poll(stream, "g", {}, { headers });
    if (isRest)
      for (const body of [`{"value": ${secret("broken")}`, `{"value": 1, "headers": {"a": ["${secret("list")}"]}}`])
        await rawRequest(own.url, "POST", `/api/v1/streams/${stream}/events`, body, headers);
  }
  await nats.kill("SIGKILL");
  const gone = await rawRequest(
    own.url,
    "POST",
    "/api/v1/streams/absent/events",
    { value: secret("late") },
    { "x-request-id": "without-storage" },
  );
  expect(gone.status).toBeGreaterThanOrEqual(400);
  await nats.restart();
  const log = lines.join("");
  for (const text of secrets) expect(log).not.toContain(text);
  const failed = lines.map((line) => JSON.parse(line) as { requestId?: string; code?: string });
  expect(failed).toContainEqual(expect.objectContaining({ requestId: "seen-in-the-log", code: "STREAM_NOT_FOUND" }));
});
