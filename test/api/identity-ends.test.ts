/** How streams and keys end: by revocation, by expiry, here and on other gateways. */
import { ConnectError, createClient, type Transport } from "@connectrpc/connect";
import { createConnectTransport, createGrpcTransport, Http2SessionManager } from "@connectrpc/connect-node";
import { createGrpcWebTransport } from "@connectrpc/connect-web";
import { beforeAll, describe, expect, onTestFinished, test } from "vitest";
import { ErrorInfoSchema } from "../../gen/google/rpc/error_details_pb.js";
import { EventService } from "../../gen/millrace/v1/events_pb.js";
import { ProcessorService } from "../../gen/millrace/v1/processors_pb.js";
import { bidiProtocols, failureOf, protocols, rawRequest } from "../support/clients.ts";
import { freshName, startService, useService } from "../support/service.ts";
import { eventually } from "../support/wait.ts";

const env = { MILLRACE_ADMIN_KEY: "an-admin-key-of-more-than-32-characters" };
const ADMIN = { authorization: `Bearer ${env.MILLRACE_ADMIN_KEY}` };
const service = useService(env);
const UNAUTHENTICATED = 1105;

async function newKey(rights: readonly string[], expiresIn?: number, url = service.url) {
  const fields = { name: "test", rights, ...(expiresIn === undefined ? {} : { expiresIn }) };
  const answer = await rawRequest(url, "POST", "/api/v1/keys", fields, ADMIN);
  const { key, secret } = answer.json<{ key: { keyId: string }; secret: string }>();
  const revoke = (at = service.url) => rawRequest(at, "DELETE", `/api/v1/keys/${key.keyId}`, undefined, ADMIN);
  return { headers: { authorization: `Bearer ${secret}` }, revoke };
}

async function newStream(): Promise<string> {
  const name = freshName();
  await rawRequest(service.url, "POST", "/api/v1/streams", { name }, ADMIN);
  return name;
}

let processorId: string;
beforeAll(async () => {
  const source = await newStream();
  const processor = { name: "p", source, sink: `${source}-out`, operations: [{ type: "filter", predicate: "true" }] };
  const answer = await rawRequest(service.url, "POST", "/api/v1/processors", processor, ADMIN);
  ({ processorId } = answer.json<{ processorId: string }>());
});

const overHttp2 = (url: string, connect: (sessionManager: Http2SessionManager) => Transport): Transport => {
  const sessionManager = new Http2SessionManager(url);
  onTestFinished(() => sessionManager.abort());
  return connect(sessionManager);
};

describe.each<[string, (url: string) => Transport]>([
  ["Connect over HTTP/1.1", (baseUrl) => createConnectTransport({ baseUrl, httpVersion: "1.1" })],
  [
    "Connect over h2c",
    (baseUrl) =>
      overHttp2(baseUrl, (sessionManager) => createConnectTransport({ baseUrl, httpVersion: "2", sessionManager })),
  ],
  ["gRPC", (baseUrl) => overHttp2(baseUrl, (sessionManager) => createGrpcTransport({ baseUrl, sessionManager }))],
  ["gRPC-Web", (baseUrl) => createGrpcWebTransport({ baseUrl })],
])("streams over %s", (_name, connect) => {
  /** Reads to the end. @param begun is called with each message. @returns number of the error that ended it. */
  async function endOf(messages: AsyncIterable<unknown>, begun: () => void): Promise<number> {
    try {
      for await (const _message of messages) begun();
      return 0;
    } catch (error) {
      const [info] = ConnectError.from(error).findDetails(ErrorInfoSchema);
      return Number(info?.metadata.code);
    }
  }

  const subscribe = async (url: string, headers: Record<string, string>, group: boolean) =>
    createClient(EventService, connect(url)).subscribe(
      { streamName: await newStream(), heartbeat: 100, ...(group ? { consumerGroup: "g" } : {}) },
      { headers, timeoutMs: 20_000 },
    );

  test.each([true, false])("Subscribe ends when the key is revoked, with a group: %s", async (group) => {
    const { headers, revoke } = await newKey(["consume:*"]);
    const begun = Promise.withResolvers<void>();
    const end = endOf(await subscribe(service.url, headers, group), begun.resolve);
    await begun.promise;
    await revoke();
    expect(await end).toBe(UNAUTHENTICATED);
  });

  test("Subscribe ends when the key expires", async () => {
    const { headers } = await newKey(["consume:*"], 1500);
    let messages = 0;
    const end = endOf(await subscribe(service.url, headers, false), () => messages++);
    expect(await end).toBe(UNAUTHENTICATED);
    expect(messages).toBeGreaterThan(0);
  });

  test("WatchMetrics ends when the key is revoked", async () => {
    const { headers, revoke } = await newKey(["processors", "consume:*", "publish:*"]);
    const begun = Promise.withResolvers<void>();
    const request = { processorId, interval: 100 };
    const watch = createClient(ProcessorService, connect(service.url)).watchMetrics(request, {
      headers,
      timeoutMs: 20_000,
    });
    const end = endOf(watch, begun.resolve);
    await begun.promise;
    await revoke();
    expect(await end).toBe(UNAUTHENTICATED);
  });

  test("a revocation on another gateway ends streams here", async () => {
    await using other = await startService(service.nats.url, { ...env, MILLRACE_ROLE: "gateway" });
    const { headers, revoke } = await newKey(["consume:*"]);
    const begun = Promise.withResolvers<void>();
    const end = endOf(await subscribe(service.url, headers, false), begun.resolve);
    await begun.promise;
    await revoke(other.url);
    expect(await end).toBe(UNAUTHENTICATED);
  });
});

test.each(bidiProtocols)("PublishStream ends when the key is revoked, over $name", async ({ connect }) => {
  const streamName = await newStream();
  const { headers, revoke } = await newKey(["publish:*"]);
  await using api = connect(service.url, headers);
  const over = Promise.withResolvers<void>();
  onTestFinished(() => over.resolve());
  async function* requests() {
    yield { streamName, event: { value: 1 } };
    await over.promise;
  }
  const outcomes: unknown[] = [];
  const end = failureOf(
    (async () => {
      for await (const outcome of api.publishStream!(requests())) {
        outcomes.push(outcome);
        await revoke();
      }
    })(),
  );
  expect(await end).toMatchObject({ code: UNAUTHENTICATED });
  expect(outcomes).toHaveLength(1);
  over.resolve();
});

test.each(protocols)("a key is good until it expires, over $name", async ({ connect }) => {
  const { headers } = await newKey(["consume:*"], 1000);
  await using api = connect(service.url, headers);
  expect(await failureOf(api.getStream("absent"))).toMatchObject({ code: 1001 });
  await eventually("it has expired", async () => (await failureOf(api.getStream("absent"))).code === UNAUTHENTICATED);
});

test("keys made and revoked at one gateway are known at the other", async () => {
  await using other = await startService(service.nats.url, { ...env, MILLRACE_ROLE: "gateway" });
  const { headers, revoke } = await newKey(["consume:*"], undefined, other.url);
  const status = async (url: string) => (await rawRequest(url, "GET", "/api/v1/streams", undefined, headers)).status;
  expect(await status(other.url)).toBe(200);
  await eventually("it is known here", async () => (await status(service.url)) === 200);
  await revoke();
  expect(await status(service.url)).toBe(401);
  await eventually("it is revoked there", async () => (await status(other.url)) === 401);
});
