import { once } from "node:events";
import * as http from "node:http";
import * as http2 from "node:http2";
import { describe, expect, onTestFinished, test } from "vitest";
import { loadConfig } from "../../src/config.ts";
import { failureOf, protocols, rawRequest } from "../support/clients.ts";
import { freshName, startService, useService } from "../support/service.ts";
import { eventually } from "../support/wait.ts";

const BOUND = 32 * 1024 * 1024;
const ORIGIN = "https://app.example";
const service = useService({ MILLRACE_MAX_IN_FLIGHT_BYTES: String(BOUND), MILLRACE_CORS_ORIGINS: ORIGIN });
const RPC = "/millrace.v1.StreamService/GetStream";

const held = async () =>
  Number(/^millrace_request_in_flight_bytes (\d+)$/m.exec((await rawRequest(service.url, "GET", "/metrics")).text)![1]);

/** A request that has sent all but the end of its body. */
function halfSent(bytes: number): http.ClientRequest {
  const path = "/api/v1/streams/absent/events";
  const request = http.request(service.url + path, { method: "POST", headers: { "content-type": "application/json" } });
  request.on("error", () => {});
  request.write(Buffer.alloc(bytes, " "));
  return request;
}

describe.each(protocols)("over $name", ({ connect }) => {
  test("what would be held beyond the bound is refused as UNAVAILABLE, and taken again later", async () => {
    await using api = connect(service.url);
    const stream = freshName();
    await api.createStream({ name: stream });
    const holder = halfSent(BOUND - 1000);
    onTestFinished(() => void holder.destroy());
    await eventually("the bytes are held", async () => (await held()) > BOUND - 3000);
    const failure = await failureOf(api.publish(stream, { value: "x".repeat(5000) }));
    expect(failure).toMatchObject({ code: 1107, retryAfterMs: 1000 });
    holder.destroy();
    await eventually("they are no longer", async () => (await held()) === 0);
    expect(await api.publish(stream, { value: "x".repeat(5000) })).toMatchObject({ status: "published" });
  });
});

test.each<[string, http2.OutgoingHttpHeaders, string]>([
  ["REST", { ":path": "/healthz" }, "431"],
  ["gRPC", { ":method": "POST", ":path": RPC, "content-type": "application/grpc+proto", te: "trailers" }, "200 3"],
])("headers above their bound are refused over HTTP/2: %s", async (_name, fields, refused) => {
  const session = http2.connect(service.url);
  onTestFinished(() => session.destroy());
  const ask = async (fields: http2.OutgoingHttpHeaders) => {
    const stream = session.request(fields);
    stream.resume();
    const [headers] = (await once(stream, "response")) as [http2.IncomingHttpHeaders];
    return [headers[":status"], headers["grpc-status"]].filter(Boolean).join(" ");
  };
  // The first request comes before its sender has heard of the bound; later ones Node refuses by itself.
  expect(await ask({ ...fields, "x-large": "x".repeat(17_000) })).toBe(refused);
  await expect(ask({ ...fields, "x-large": "x".repeat(17_000) })).rejects.toThrow("ENHANCE_YOUR_CALM");
  expect(await ask({ ":path": "/healthz", "x-large": "x".repeat(15_000) })).toBe("200");
});

test.each([
  ["REST", "/api/v1/streams"],
  ["an RPC", RPC],
])("a page of a listed origin may call %s, and read what clients need", async (_name, path) => {
  const preflight = await rawRequest(service.url, "OPTIONS", path, undefined, {
    origin: ORIGIN,
    "access-control-request-method": "POST",
    "access-control-request-headers": "connect-protocol-version,x-grpc-web",
  });
  expect(preflight.status).toBe(204);
  expect(preflight.headers["access-control-allow-origin"]).toBe(ORIGIN);
  expect(preflight.headers["access-control-allow-methods"]).toContain("POST");
  for (const header of ["connect-protocol-version", "x-grpc-web", "grpc-timeout", "idempotency-key", "authorization"])
    expect(preflight.headers["access-control-allow-headers"]!.toLowerCase()).toContain(header);
  const answer = await rawRequest(service.url, "POST", path, { name: freshName() }, { origin: ORIGIN });
  expect(answer.headers["access-control-allow-origin"]).toBe(ORIGIN);
  for (const header of ["grpc-status", "grpc-status-details-bin", "x-request-id", "retry-after"])
    expect(answer.headers["access-control-expose-headers"]!.toLowerCase()).toContain(header);
  const other = await rawRequest(service.url, "POST", path, { name: freshName() }, { origin: "https://evil.example" });
  expect(other.headers["access-control-allow-origin"]).toBeUndefined();
});

describe("what a page of another origin makes a browser send", () => {
  const evil = { origin: "https://evil.example" };
  const hidden = { "sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors" };
  const created = async (headers: Record<string, string>) => {
    const name = freshName();
    const { status, json } = await rawRequest(service.url, "POST", "/api/v1/streams", { name }, headers);
    const { status: found } = await rawRequest(service.url, "GET", `/api/v1/streams/${name}`);
    expect(found).toBe(status === 201 ? 200 : 404);
    return status === 201 ? "created" : json().error.message;
  };

  test.each([
    ["by an Origin", evil],
    ["by an Origin that is nobody's", { origin: "null" }],
    ["by Sec-Fetch-Site", { ...evil, "sec-fetch-site": "cross-site" }],
    ["from another port of the host", { origin: "http://127.0.0.1:1", "sec-fetch-site": "same-site" }],
  ])("is refused, %s", async (_how, headers) => {
    expect(await created(headers)).toBe("PERMISSION_DENIED");
  });

  test("is refused for polls too, which need no Origin", async () => {
    const stream = freshName();
    await rawRequest(service.url, "POST", "/api/v1/streams", { name: stream });
    const path = `/api/v1/streams/${stream}/events?consumerGroup=victim&timeout=0`;
    expect((await rawRequest(service.url, "GET", path, undefined, hidden)).status).toBe(403);
    const group = await rawRequest(service.url, "GET", "/api/v1/consumers/victim");
    expect(group.status).toBe(404);
  });

  test.each([
    ["a listed page's", { origin: ORIGIN, "sec-fetch-site": "cross-site" }],
    ["the service's own page's", { origin: "http://evil.example", "sec-fetch-site": "same-origin" }],
    ["the user's own", { "sec-fetch-site": "none" }],
  ])("is %s: it is carried out", async (_whose, headers) => {
    expect(await created(headers)).toBe("created");
  });

  test("is an older browser's on the service's own page: it is carried out", async () => {
    expect(await created({ origin: service.url })).toBe("created");
  });
});

test("without the setting no origin is named", async () => {
  await using own = await startService(service.nats.url);
  for (const path of ["/api/v1/streams", RPC]) {
    const answer = await rawRequest(own.url, "POST", path, {}, { origin: ORIGIN });
    for (const name of Object.keys(answer.headers)) expect(name).not.toMatch(/^access-control-/);
  }
});

test("an OPTIONS that is no preflight is refused with the setting as without", async () => {
  await using own = await startService(service.nats.url);
  for (const path of ["/api/v1/streams", "/api/v1/absent", RPC]) {
    const here = await rawRequest(service.url, "OPTIONS", path);
    const there = await rawRequest(own.url, "OPTIONS", path);
    expect(here.status).toBe(path === "/api/v1/absent" ? 404 : 405);
    expect(here.json()).toEqual(there.json());
    expect(here.headers.allow).toBe(there.headers.allow);
  }
});

test("the documentation's page loads nothing", async () => {
  const { headers } = await rawRequest(service.url, "GET", "/docs");
  expect(headers["content-security-policy"]).toContain("default-src 'none'");
  expect(headers["x-content-type-options"]).toBe("nosniff");
});

test.each(["app.example", "https://app.example/", "https://app.example/a", "*,https://app.example", "null"])(
  "MILLRACE_CORS_ORIGINS=%s is refused",
  (origins) => {
    expect(() => loadConfig({ MILLRACE_CORS_ORIGINS: origins })).toThrow("MILLRACE_CORS_ORIGINS");
  },
);

test("no more connections than allowed", async () => {
  await using own = await startService(service.nats.url, { MILLRACE_MAX_CONNECTIONS: "2" });
  const agent = new http.Agent({ keepAlive: true });
  onTestFinished(() => agent.destroy());
  const get = () =>
    new Promise<string>((resolve) => {
      const request = http.get(`${own.url}/healthz`, { agent }, (answer) => {
        answer.resume();
        answer.once("end", () => resolve("answered"));
      });
      request.once("error", () => resolve("refused"));
    });
  const outcomes = await Promise.all([get(), get(), get(), get()]);
  expect(outcomes.sort()).toEqual(["answered", "answered", "refused", "refused"]);
});
