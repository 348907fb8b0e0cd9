import { describe, expect, onTestFinished, test } from "vitest";
import { failureOf, protocols, rawRequest } from "../support/clients.ts";
import { freshName, useService } from "../support/service.ts";

const ADMIN = "an-admin-key-of-more-than-32-characters";
const service = useService({ MILLRACE_ADMIN_KEY: ADMIN });
const bearer = (key: string) => ({ headers: { authorization: `Bearer ${key}` } });

async function newKey(...rights: string[]): Promise<{ id: string; secret: string }> {
  const answer = await rawRequest(service.url, "POST", "/api/v1/keys", { name: "test", rights }, bearer(ADMIN).headers);
  expect(answer.status).toBe(201);
  const { key, secret } = answer.json<{ key: { keyId: string }; secret: string }>();
  return { id: key.keyId, secret };
}

describe.each(protocols)("identity over $name", ({ connect, isRest }) => {
  const open = () => {
    const api = connect(service.url);
    onTestFinished(() => api[Symbol.asyncDispose]());
    return api;
  };

  test("a call without good credentials is UNAUTHENTICATED", async () => {
    const api = open();
    for (const options of [{}, bearer("wrong"), bearer(`mrk_${"0".repeat(16)}_${"A".repeat(43)}`)])
      for (const call of [
        () => api.getStream("x", options),
        () => api.publish("x", { value: 1 }, options),
        () => api.poll("x", "g", {}, options),
      ])
        expect(await failureOf(call())).toMatchObject({ code: 1105, httpOrGrpcStatus: isRest ? 401 : 16 });
  });

  test("a key may do what its rights say, and no more", async () => {
    const api = open();
    const [own, other] = [freshName("own"), freshName("other")];
    const { secret } = await newKey("manage:own-*", "publish:own-*", "consume:own-*", "group:mine-*");
    const as = bearer(secret);
    await api.createStream({ name: other }, bearer(ADMIN));
    await api.createStream({ name: own }, as);
    await api.publish(own, { value: 1 }, as);
    await api.publishBatch(own, [{ value: 2 }], {}, as);
    expect((await api.poll(own, "mine-1", { limit: 2 }, as)).events.length).toBeGreaterThan(0);
    for (const name of [other, freshName("missing")])
      for (const call of [
        () => api.getStream(name, as),
        () => api.createStream({ name }, as),
        () => api.publish(name, { value: 1 }, as),
        () => api.publishBatch(name, [{ value: 1 }], {}, as),
        () => api.poll(name, "mine-1", {}, as),
        () => api.poll(own, "theirs", {}, as),
      ])
        expect(await failureOf(call())).toMatchObject({ code: 1106, httpOrGrpcStatus: isRest ? 403 : 7 });
  });

  test.runIf(isRest)("401 says how to come with credentials", async () => {
    const { status, headers } = await rawRequest(service.url, "GET", "/api/v1/streams");
    expect([status, headers["www-authenticate"]]).toEqual([401, "Bearer"]);
    expect((await rawRequest(service.url, "GET", "/healthz")).headers["www-authenticate"]).toBeUndefined();
  });

  test("the service's figures need a right", async () => {
    const get = (key?: string) =>
      rawRequest(service.url, "GET", "/metrics", undefined, key === undefined ? {} : bearer(key).headers);
    expect((await get()).status).toBe(401);
    expect((await get((await newKey("consume:*")).secret)).status).toBe(403);
    expect((await get((await newKey("metrics")).secret)).status).toBe(200);
  });

  test("a refusal comes before validation", async () => {
    const { secret } = await newKey("consume:own-*");
    expect(await failureOf(open().publish("?", {}, bearer(secret)))).toMatchObject({ code: 1106 });
  });

  test("a revoked key is refused at once", async () => {
    const api = open();
    const { id, secret } = await newKey("consume:*");
    expect(await failureOf(api.getStream("nowhere", bearer(secret)))).toMatchObject({ code: 1001 });
    const revoked = await rawRequest(service.url, "DELETE", `/api/v1/keys/${id}`, undefined, bearer(ADMIN).headers);
    expect(revoked.json()).toEqual({ status: "revoked", keyId: id });
    expect(await failureOf(api.getStream("nowhere", bearer(secret)))).toMatchObject({ code: 1105 });
  });
});

test("lists show what the caller may see", async () => {
  const name = freshName("seen");
  const hidden = freshName("hidden");
  for (const each of [name, hidden]) {
    await rawRequest(service.url, "POST", "/api/v1/streams", { name: each }, bearer(ADMIN).headers);
    const group = { consumerGroup: each, stream: each };
    await rawRequest(service.url, "POST", "/api/v1/consumers", group, bearer(ADMIN).headers);
  }
  const { headers } = bearer((await newKey("consume:seen-*")).secret);
  const streams = await rawRequest(service.url, "GET", "/api/v1/streams", undefined, headers);
  expect(streams.json<{ streams: { name: string }[] }>().streams.map((each) => each.name)).toEqual([name]);
  const groups = await rawRequest(service.url, "GET", "/api/v1/consumers", undefined, headers);
  expect(
    groups.json<{ consumerGroups: { consumerGroup: string }[] }>().consumerGroups.map((each) => each.consumerGroup),
  ).toEqual([name]);
  expect(
    (await rawRequest(service.url, "GET", `/api/v1/consumers/${hidden}`, undefined, headers)).json(),
  ).toMatchObject({
    error: { code: 1003 },
  });
  for (const path of ["/api/v1/processors", "/api/v1/keys"])
    expect((await rawRequest(service.url, "GET", path, undefined, headers)).status).toBe(403);
});

test("a stream ends when its key is revoked", async () => {
  const name = freshName("s");
  await rawRequest(service.url, "POST", "/api/v1/streams", { name }, bearer(ADMIN).headers);
  const { id, secret } = await newKey("consume:*");
  const url = `${service.url}/api/v1/streams/${name}/events:subscribe`;
  const paths = await rawRequest(service.url, "GET", "/openapi.json");
  const path = Object.keys(paths.json<{ paths: object }>().paths).find((each) => /subscribe|\/stream$/.test(each));
  expect(path, url).toBeDefined();
  const answer = await fetch(service.url + path!.replace(/\{\w+\}/, name), {
    headers: { ...bearer(secret).headers, accept: "text/event-stream" },
    signal: AbortSignal.timeout(20_000),
  });
  expect(answer.status).toBe(200);
  await rawRequest(service.url, "DELETE", `/api/v1/keys/${id}`, undefined, bearer(ADMIN).headers);
  expect(await answer.text()).toContain("UNAUTHENTICATED");
});

test("health and description stay open", async () => {
  for (const path of ["/healthz", "/readyz", "/openapi.json", "/docs"])
    expect((await rawRequest(service.url, "GET", path)).status).toBe(200);
});
