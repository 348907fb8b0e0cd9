import * as http from "node:http";
import { describe, expect, onTestFinished, test } from "vitest";
import { type ApiFailure, bidiProtocols, failureOf, protocols, rawRequest } from "../support/clients.ts";
import { freshName, startService, useService } from "../support/service.ts";
import { useTokens } from "../support/tokens.ts";
import { eventually } from "../support/wait.ts";

// Rates so low that nothing fills during a test: what counts is the burst.
const SLOW = 0.01;
const requests = (burst: number) => ({ requestsPerSecond: SLOW, burstSeconds: burst / SLOW });
const bytes = (burst: number) => ({ bytesPerSecond: 1, burstSeconds: burst });
const QUOTAS = {
  principals: {
    "jwt:requests-*": { in: requests(3) },
    "jwt:reads-*": { out: requests(2) },
    "jwt:bytes-*": { in: bytes(1000), out: bytes(1000) },
    "jwt:paced-*": { in: { bytesPerSecond: 50_000, burstSeconds: 0.02 } },
    "jwt:max-*": { max: { streams: 2, partitions: 5, groups: 2, processors: 1, subscriptions: 1 } },
    "jwt:none-*": { max: { streams: 0, subscriptions: 0 } },
  },
  streams: {
    "few-*": { in: requests(2), out: requests(2) },
    "little-*": { in: bytes(1000), out: bytes(1000) },
    "paced-*": { out: { bytesPerSecond: 50_000, burstSeconds: 0.02 } },
  },
};

const tokens = useTokens();
const env = { ...tokens.env, MILLRACE_QUOTAS: JSON.stringify(QUOTAS) };
const service = useService(env);
const big = { value: "x".repeat(5000) };

/** A caller that no other test has. */
const caller = (kind: string) => tokens.headers("millrace:admin", { subject: freshName(kind) });

const figure = async (line: string, url = service.url) => {
  const { text } = await rawRequest(url, "GET", "/metrics", undefined, await caller("operator"));
  return Number(
    text
      .split("\n")
      .find((each) => each.startsWith(line))
      ?.slice(line.length) ?? 0,
  );
};

describe.each(protocols)("quotas over $name", ({ connect, isRest }) => {
  const open = async (kind: string) => {
    const api = connect(service.url, await caller(kind));
    onTestFinished(() => api[Symbol.asyncDispose]());
    return api;
  };

  /** The refusal has everything that a caller needs to come back in time. */
  function expectRefusal(failure: ApiFailure, subject: RegExp): void {
    expect(failure).toMatchObject({ code: 1005, name: "QUOTA_EXCEEDED", httpOrGrpcStatus: isRest ? 429 : 8 });
    expect(Number(failure.retryAfter)).toBeGreaterThanOrEqual(1);
    expect(failure.retryAfterMs).toBeGreaterThan(0);
    expect(failure.retryAfterMs).toBeLessThanOrEqual(Number(failure.retryAfter) * 1000);
    if (!isRest) expect(failure.quotaSubjects).toEqual([expect.stringMatching(subject)]);
  }

  async function newStream(prefix: string, partitions = 1): Promise<string> {
    const name = freshName(prefix);
    await (await open("operator")).createStream({ name, partitions });
    return name;
  }

  test("a principal may make so many requests", async () => {
    const stream = await newStream("s");
    const api = await open("requests");
    for (let n = 0; n < 3; n++) await api.publish(stream, { value: n });
    for (const call of [
      () => api.publish(stream, { value: 4 }),
      () => api.publishBatch(stream, [{ value: 4 }]),
      () => api.getStream(stream),
      () => api.commit("g", [{ stream, partition: 0, offset: 0 }]),
    ])
      expectRefusal(await failureOf(call()), /^principal:jwt:requests-/);
    // Reading has quotas of its own, and so has everybody else.
    expect((await api.readPartition(stream, 0)).events).toHaveLength(3);
    await (await open("requests")).publish(stream, { value: 5 });
  });

  test("a principal may read so often", async () => {
    const stream = await newStream("s");
    const api = await open("reads");
    for (let n = 0; n < 2; n++) await api.readPartition(stream, 0);
    expectRefusal(await failureOf(api.readPartition(stream, 0)), /^principal:jwt:reads-/);
    expectRefusal(await failureOf(api.poll(stream, "g", { timeout: 0 })), /^principal:jwt:reads-/);
    await api.publish(stream, { value: 1 });
  });

  test("a principal may send so many bytes; a larger request passes while nothing is used", async () => {
    const stream = await newStream("s");
    const api = await open("bytes");
    await api.publish(stream, big);
    expectRefusal(await failureOf(api.publish(stream, { value: 1 })), /^principal:jwt:bytes-/);
    const [event] = (await api.readPartition(stream, 0)).events;
    expect(event?.value).toBe(big.value);
    expectRefusal(await failureOf(api.readPartition(stream, 0)), /^principal:jwt:bytes-/);
    expectRefusal(await failureOf(api.poll(stream, "g", { timeout: 0 })), /^principal:jwt:bytes-/);
  });

  test("a stream takes and gives so many requests, whoever makes them", async () => {
    const stream = await newStream("few");
    for (let n = 0; n < 2; n++) await (await open("a")).publish(stream, { value: n });
    const api = await open("b");
    expectRefusal(await failureOf(api.publish(stream, { value: 1 })), /^stream:few-/);
    expectRefusal(await failureOf(api.publishBatch(stream, [{ value: 1 }])), /^stream:few-/);
    expect((await api.poll(stream, "g")).events.length).toBeGreaterThan(0);
    await api.readPartition(stream, 0);
    expectRefusal(await failureOf(api.readPartition(stream, 0)), /^stream:few-/);
    expectRefusal(await failureOf(api.poll(stream, "g", { timeout: 0 })), /^stream:few-/);
  });

  test("a stream takes and gives so many bytes; a poll gives no more than the burst", async () => {
    const stream = await newStream("little");
    const api = await open("a");
    await api.publishBatch(
      stream,
      Array.from({ length: 4 }, () => ({ value: "x".repeat(400) })),
    );
    expectRefusal(await failureOf(api.publish(stream, { value: 1 })), /^stream:little-/);
    const counts: number[] = [];
    for (let n = 0; n < 2; n++) counts.push((await api.readPartition(stream, 0)).events.length);
    expect(counts.every((count) => count < 4)).toBe(true);
    for (let isRefused = false; !isRefused; )
      await api.readPartition(stream, 0).catch((failure: ApiFailure) => {
        isRefused = true;
        expectRefusal(failure, /^stream:little-/);
      });
  });

  test("a principal may have so many streams and partitions", async () => {
    const api = await open("max");
    const [first, second, third] = [freshName(), freshName(), freshName()];
    await api.createStream({ name: first, partitions: 3 });
    expectRefusal(await failureOf(api.createStream({ name: second, partitions: 3 })), /^principal:jwt:max-/);
    await api.createStream({ name: second, partitions: 2 });
    expectRefusal(await failureOf(api.createStream({ name: third })), /^principal:jwt:max-/);
    expectRefusal(await failureOf(api.updateStream(second, { partitions: 3 })), /^principal:jwt:max-/);
    // What is there may be created again, and another principal has its own.
    await api.createStream({ name: first, partitions: 3 });
    await (await open("max")).createStream({ name: third });
    await api.deleteStream(first);
    await api.createStream({ name: freshName(), partitions: 3 });
    expectRefusal(await failureOf((await open("none")).createStream({ name: freshName() })), /^principal:jwt:none-/);
  });

  test("streams made at the same time don't pass the maximum together", async () => {
    const api = await open("max");
    const outcomes = await Promise.allSettled(Array.from({ length: 6 }, () => api.createStream({ name: freshName() })));
    expect(outcomes.filter(({ status }) => status === "fulfilled")).toHaveLength(2);
  });

  test("a principal may have so many groups", async () => {
    const stream = await newStream("s");
    const other = await newStream("s");
    const api = await open("max");
    await api.createConsumerGroup("a", stream);
    await api.poll(other, "b", { timeout: 0 });
    expectRefusal(await failureOf(api.createConsumerGroup("c", stream)), /^principal:jwt:max-/);
    expectRefusal(await failureOf(api.poll(stream, "c", { timeout: 0 })), /^principal:jwt:max-/);
    await api.createConsumerGroup("a", stream);
    await api.deleteConsumerGroup("a");
    await eventually("its place is free", () =>
      api.createConsumerGroup("c", stream).then(
        () => true,
        () => false,
      ),
    );
    // Groups go with their stream.
    await (await open("operator")).deleteStream(other);
    await api.createConsumerGroup("d", stream);
  });

  test("a principal may have so many processors", async () => {
    const source = await newStream("s");
    const api = await open("max");
    const processor = {
      name: "p",
      source,
      sink: `${source}-out`,
      operations: [{ type: "filter" as const, predicate: "true" }],
    };
    const key = freshName();
    const { processorId } = await api.processors.create(processor, key);
    expectRefusal(await failureOf(api.processors.create(processor)), /^principal:jwt:max-/);
    expect(await api.processors.create(processor, key)).toMatchObject({ processorId });
    await api.processors.delete(processorId);
    const again = await api.processors.create(processor);
    await api.processors.delete(again.processorId);
  });
});

test("a principal may have so many subscriptions at once", async () => {
  const headers = await caller("max");
  const name = freshName();
  await rawRequest(service.url, "POST", "/api/v1/streams", { name }, headers);
  const over = new AbortController();
  onTestFinished(() => over.abort());
  const subscribe = (signal?: AbortSignal) =>
    fetch(`${service.url}/api/v1/streams/${name}/events/stream`, { headers, signal: signal ?? null });
  expect((await subscribe(over.signal)).status).toBe(200);
  const refused = await subscribe();
  expect([refused.status, Number(refused.headers.get("retry-after"))]).toEqual([429, 10]);
  expect(await refused.text()).toContain("at most 1 subscriptions");
  over.abort();
  const last = new AbortController();
  onTestFinished(() => last.abort());
  await eventually("its place is free", async () => (await subscribe(last.signal)).status === 200);
});

test("a stream that is read is slowed, not refused", async () => {
  const headers = await caller("reader");
  const name = freshName("paced");
  await rawRequest(service.url, "POST", "/api/v1/streams", { name }, headers);
  const events = Array.from({ length: 10 }, (_, n) => ({ value: `${n}`.repeat(1000) }));
  await rawRequest(service.url, "POST", `/api/v1/streams/${name}/events/batch`, { events }, headers);
  const before = await figure("millrace_quota_pauses_total ");
  const over = new AbortController();
  onTestFinished(() => over.abort());
  const answer = await fetch(`${service.url}/api/v1/streams/${name}/events/stream?offset=earliest`, {
    headers: { ...headers, accept: "application/x-ndjson" },
    signal: AbortSignal.any([over.signal, AbortSignal.timeout(20_000)]),
  });
  let text = "";
  for await (const chunk of answer.body!.pipeThrough(new TextDecoderStream())) {
    text += chunk;
    if (text.includes("9".repeat(1000))) break;
  }
  expect(text.match(/"offset":/g)).toHaveLength(10);
  expect(await figure("millrace_quota_pauses_total ")).toBeGreaterThan(before);
});

test("a stream that is held back still gives heartbeats", async () => {
  const headers = await caller("bytes");
  const name = freshName();
  await rawRequest(service.url, "POST", "/api/v1/streams", { name }, await caller("operator"));
  for (let n = 0; n < 2; n++)
    await rawRequest(service.url, "POST", `/api/v1/streams/${name}/events`, big, await caller("operator"));
  const over = new AbortController();
  onTestFinished(() => over.abort());
  const path = `/api/v1/streams/${name}/events/stream?offset=earliest&heartbeat=100&consumerGroup=g`;
  const answer = await fetch(service.url + path, {
    headers: { ...headers, accept: "application/x-ndjson" },
    signal: AbortSignal.any([over.signal, AbortSignal.timeout(20_000)]),
  });
  let text = "";
  // The second event would take hours.
  for await (const chunk of answer.body!.pipeThrough(new TextDecoderStream())) {
    text += chunk;
    if (text.split('{"heartbeat":true').length > 3) break;
  }
  expect(text.match(/"offset":/g)).toHaveLength(1);
});

test.each(bidiProtocols)("a stream that is sent is slowed, over $name", async ({ connect }) => {
  await using api = connect(service.url, await caller("paced"));
  const stream = freshName();
  await using operator = connect(service.url, await caller("operator"));
  await operator.createStream({ name: stream });
  const before = await figure("millrace_quota_pauses_total ");
  async function* requests() {
    for (let n = 0; n < 10; n++) yield { streamName: stream, event: { value: "x".repeat(1000) } };
  }
  const outcomes = await Array.fromAsync(api.publishStream!(requests()));
  expect(outcomes.map(({ offset }) => offset)).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
  expect(await figure("millrace_quota_pauses_total ")).toBeGreaterThan(before);
});

test("refusals are counted by reason", async () => {
  const headers = await caller("none");
  const line = 'millrace_quota_refusals_total{kind="principal",reason="streams"} ';
  const before = await figure(line);
  await rawRequest(service.url, "POST", "/api/v1/streams", { name: freshName() }, headers);
  expect(await figure(line)).toBe(before + 1);
});

test("what is refused is refused before its body is read", async () => {
  const headers = await caller("requests");
  const publish = (body: string) =>
    rawRequest(service.url, "POST", "/api/v1/streams/absent/events", body, { ...headers, "content-type": "image/png" });
  for (let n = 0; n < 3; n++) expect((await publish("not JSON")).status).toBe(415);
  expect((await publish("not JSON")).status).toBe(429);
});

test("health stays open", async () => {
  const headers = await caller("requests");
  for (let n = 0; n < 6; n++)
    for (const path of ["/healthz", "/readyz", "/openapi.json"])
      expect((await rawRequest(service.url, "GET", path, undefined, headers)).status).toBe(200);
});

test("a length that no body may have uses nothing up", async () => {
  const headers = await caller("bytes");
  const path = "/api/v1/streams/absent/events";
  const announced = await new Promise<number>((resolve, reject) => {
    const request = http.request(service.url + path, {
      method: "POST",
      headers: { ...headers, "content-type": "application/json", "content-length": String(2 ** 50) },
    });
    request.once("response", (answer) => resolve(answer.statusCode!));
    request.once("error", reject);
    request.flushHeaders();
    onTestFinished(() => void request.destroy());
  });
  expect(announced).toBe(413);
  expect((await rawRequest(service.url, "POST", path, { value: 1 }, headers)).status).toBe(404);
});

test("a body that does not say its length counts as it is read", async () => {
  const headers = { ...(await caller("bytes")), "content-type": "application/json" };
  const url = `${service.url}/api/v1/streams/absent/events`;
  const body = () => new Blob([JSON.stringify(big)]).stream();
  const publish = () => fetch(url, { method: "POST", headers, body: body(), duplex: "half" } as RequestInit);
  expect((await publish()).status).toBe(404);
  expect((await publish()).status).toBe(429);
});

test("what is made at one gateway counts at the other", async () => {
  await using own = await startService(service.nats.url, { ...env, MILLRACE_ROLE: "gateway" });
  const headers = await caller("max");
  const create = async (url: string) =>
    (await rawRequest(url, "POST", "/api/v1/streams", { name: freshName() }, headers)).status;
  for (let n = 0; n < 2; n++) expect(await create(own.url)).toBe(201);
  await eventually("it is known here", async () => (await create(service.url)) === 429);
});

test("gateways share a quota, as many as live", async () => {
  const own = await startService(service.nats.url, env);
  const passed = async (url: string) => {
    const headers = await caller("requests");
    for (let count = 0; ; count++)
      if ((await rawRequest(url, "GET", "/api/v1/streams/absent", undefined, headers)).status === 429) return count;
  };
  // Three requests by two gateways: one and a half each, and what is begun is finished.
  await eventually("both have noticed", async () => (await passed(own.url)) < 3 && (await passed(service.url)) < 3);
  await own[Symbol.asyncDispose]();
  await eventually("the one that is left has all", async () => (await passed(service.url)) === 3);
});
