import { once } from "node:events";
import * as http from "node:http";
import { createInterface } from "node:readline";
import { describe, expect, onTestFinished, test } from "vitest";
import { type Api, failureOf, protocols, rawRequest } from "../support/clients.ts";
import { startNats } from "../support/nats.ts";
import { freshName, startService, useService } from "../support/service.ts";
import { eventually } from "../support/wait.ts";

const BOUND = 32 * 1024 * 1024;
const VALUE = "x".repeat(900_000);
const EVENTS = 24;
const ALL = { maxBytes: BOUND, limit: 1000 };

const service = useService({ MILLRACE_MAX_IN_FLIGHT_BYTES: String(BOUND) });

async function metric(name: string): Promise<number> {
  const { text } = await rawRequest(service.url, "GET", "/metrics");
  return Number(new RegExp(`^${name} (\\d+)$`, "m").exec(text)![1]);
}
const held = () => metric("millrace_answer_in_flight_bytes");

/** A stream of one partition with so much that two whole answers are beyond the bound. */
async function largeStream(api: Api): Promise<string> {
  const name = freshName();
  await api.createStream({ name, partitions: 1 });
  for (let n = 0; n < EVENTS; n++) await api.publish(name, { value: VALUE });
  return name;
}

/** Reads everything, and takes nothing of the answer. */
async function takeNothing(stream: string): Promise<http.ClientRequest> {
  const path = `/api/v1/streams/${stream}/partitions/0/events?limit=${ALL.limit}&maxBytes=${ALL.maxBytes}`;
  const request = http.get(service.url + path, { agent: false });
  onTestFinished(() => void request.destroy());
  request.on("error", () => {});
  const [answer] = (await once(request, "response")) as [http.IncomingMessage];
  expect(answer.statusCode).toBe(200);
  return request;
}

describe.each(protocols)("over $name", ({ connect }) => {
  test("beside answers that nobody takes there is less, then nothing, and later all again", async () => {
    await using api = connect(service.url);
    const stream = await largeStream(api);
    const group = freshName();
    const unread = [await takeNothing(stream)];

    const read = await api.readPartition(stream, 0, ALL);
    expect(read.events.length).toBeGreaterThan(0);
    expect(read.events.length).toBeLessThan(EVENTS);
    expect(read.metadata.nextOffset).toBe(read.events.length);
    const polled = await api.poll(stream, group, ALL);
    expect(polled.events.length).toBeGreaterThan(0);
    expect(polled.events.length).toBeLessThan(EVENTS);

    while ((await held()) < BOUND) unread.push(await takeNothing(stream));
    const refusals = [api.readPartition(stream, 0, ALL), api.poll(stream, group, ALL)].map(failureOf);
    for (const refusal of await Promise.all(refusals))
      expect(refusal).toMatchObject({ code: 1107, retryAfterMs: 1000 });
    expect(await api.publish(stream, { value: "small" })).toMatchObject({ status: "published" });

    for (const request of unread) request.destroy();
    await eventually("nothing is held", async () => (await held()) === 0);
    expect((await api.readPartition(stream, 0, ALL)).events).toHaveLength(EVENTS + 1);
    const rest = await api.poll(stream, group, ALL);
    expect(rest.events.map(({ offset }) => offset)).toEqual(
      Array.from({ length: EVENTS + 1 - polled.events.length }, (_, n) => polled.events.length + n),
    );
  });
});

test("many large polls and reads at once all get their events, over one connection to NATS", async () => {
  await using nats = await startNats({ moreConfig: "max_pending: 56MB" });
  await using own = await startService(nats.url, { MILLRACE_MAX_IN_FLIGHT_BYTES: String(2 ** 40) });
  await using api = protocols[0]!.connect(own.url);
  const stream = await largeStream(api);
  const reads = Array.from({ length: 24 }, async (_, n) => {
    const answer =
      n % 2 === 0 ? await api.readPartition(stream, 0, ALL) : await api.poll(stream, `${stream}-${n}`, ALL);
    return answer.events.length;
  });
  for (const events of await Promise.all(reads)) expect(events).toBe(EVENTS);
  const { text } = await rawRequest(own.url, "GET", "/metrics");
  expect(text).toMatch(/^millrace_nats_connections_total 1$/m);
  expect(text).toMatch(/^millrace_answer_in_flight_bytes 0$/m);
});

test("a slow subscription to many partitions holds little of them, and gets everything in the end", async () => {
  const partitions = 160;
  const each = 12;
  const stream = freshName();
  await using api = protocols[0]!.connect(service.url);
  await api.createStream({ name: stream, partitions });
  const value = "x".repeat(60_000);
  for (let partition = 0; partition < partitions; partition++)
    await api.publishBatch(
      stream,
      Array.from({ length: each }, () => ({ partition, value })),
    );
  const ahead = () => metric("millrace_read_ahead_bytes");

  const path = `/api/v1/streams/${stream}/events/stream?offset=earliest`;
  const request = http.get(service.url + path, { agent: false, headers: { accept: "application/x-ndjson" } });
  onTestFinished(() => void request.destroy());
  const [answer] = (await once(request, "response")) as [http.IncomingMessage];
  // 512 KiB of each partition would be 80 MiB.
  let most = 0;
  await eventually("it has read all that it reads ahead", async () => {
    const before = most;
    most = await ahead();
    return most === before && most >= 64 * 1024 * 1024;
  });
  expect(most).toBeLessThan(76 * 1024 * 1024);

  const lines = createInterface(answer); // reads from now on
  for (const end of [request, answer, lines]) end.on("error", () => {});
  const got = new Map<number, number[]>();
  let events = 0;
  for await (const line of lines) {
    const event = JSON.parse(line) as { partition?: number; offset: number };
    if (event.partition === undefined) continue;
    const offsets = got.get(event.partition) ?? [];
    got.set(event.partition, [...offsets, event.offset]);
    if (++events === partitions * each) break;
  }
  expect(got.size).toBe(partitions);
  for (const offsets of got.values()) expect(offsets).toEqual(Array.from({ length: each }, (_, n) => n));
  await eventually("nothing is held", async () => (await ahead()) === 0);
});
