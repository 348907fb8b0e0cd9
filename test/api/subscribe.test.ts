import { createClient } from "@connectrpc/connect";
import { createConnectTransport, createGrpcTransport } from "@connectrpc/connect-node";
import { createGrpcWebTransport } from "@connectrpc/connect-web";
import { afterAll, beforeAll, expect, test } from "vitest";
import { EventService } from "../../gen/millrace/v1/events_pb.js";
import { failureOf, protocols } from "../support/clients.ts";
import { freshName, startService, type TestService, useService } from "../support/service.ts";
import { subscribers } from "../support/subscribers.ts";
import { describeSubscribing, newStream, Reading, SUBSCRIBING_ENV } from "../support/subscribing.ts";
import { failedWith, type SubscriptionFailure } from "../support/told.ts";
import { eventually } from "../support/wait.ts";

const service = useService(SUBSCRIBING_ENV);
const rest = protocols[0]!;
let other: TestService;
beforeAll(async () => {
  other = await startService(service.nats.url, SUBSCRIBING_ENV);
});
afterAll(async () => {
  await other[Symbol.asyncDispose]();
  expect(other.errors).toEqual([]);
});

describeSubscribing(subscribers, service);

test("a second stream of one name ends the first", async () => {
  await using api = rest.connect(service.url);
  const stream = await newStream(api, 2, 4);
  const consumerGroup = freshName();
  const request = { consumerGroup, consumerId: "same" };
  await using first = new Reading(subscribers[2]!, service.url, stream, request);
  await first.until("all", ({ values }) => values.length === 4);
  await using second = new Reading(subscribers[4]!, service.url, stream, request);
  await eventually("the end of the first", () => first.failure !== undefined);
  expect((first.failure as SubscriptionFailure).code).toBe(1103);
  await second.until("what was not committed", ({ values }) => values.length === 4);
});

test.each(protocols)("a stream ends the poll of its name that waits over $name", async ({ connect, isRest }) => {
  await using api = connect(service.url);
  const stream = await newStream(api, 2, 0);
  const consumerGroup = freshName();
  const waiting = failureOf(api.poll(stream, consumerGroup, { consumerId: "same", timeout: 20_000 }));
  await eventually("it waits", async () => {
    const group = await api.getConsumerGroup(consumerGroup).catch(() => undefined);
    return group?.state === "stable";
  });
  await using reading = new Reading(subscribers[4]!, service.url, stream, { consumerGroup, consumerId: "same" });
  expect(await waiting).toMatchObject({ code: 1103, httpOrGrpcStatus: isRest ? 409 : 10 });
  await reading.until("both", ({ assigned }) => assigned?.length === 2);
  await api.publish(stream, { value: 1 });
  await reading.until("an event", ({ values }) => values.length === 1);
});

test.each(protocols)("any gateway tells how far a stream has been sent over $name", async ({ connect }) => {
  await using api = connect(service.url);
  await using here = connect(other.url);
  const stream = await newStream(api, 2, 6);
  const consumerGroup = freshName();
  await api.createConsumerGroup(consumerGroup, stream, { config: { ackWait: 30_000 } });
  await using reading = new Reading(subscribers[2]!, service.url, stream, { consumerGroup, consumerId: "a" });
  await reading.until("all", ({ values }) => values.length >= 6);
  for (const by of [api, here])
    expect((await by.getConsumerGroup(consumerGroup)).streams[0]!.partitions).toMatchObject([
      { consumerId: "a", position: 3, lag: 3 },
      { consumerId: "a", position: 3, lag: 3 },
    ]);
});

test("a member that takes nothing for longer than the session timeout loses its partitions, and is told when it reads on", async () => {
  await using api = rest.connect(service.url);
  const stream = await newStream(api, 1, 0);
  const consumerGroup = freshName();
  await api.createConsumerGroup(consumerGroup, stream, { config: { sessionTimeout: 500, ackWait: 60_000 } });
  const query = new URLSearchParams({ consumerGroup, consumerId: "slow", maxUncommitted: "1000000" });
  const response = await fetch(`${service.url}/api/v1/streams/${stream}/events/stream?${query}`);
  const filler = "x".repeat(100_000);
  for (let n = 0; n < 300; n += 50)
    await api.publishBatch(
      stream,
      Array.from({ length: 50 }, (_, i) => ({ key: String(n + i), value: filler })),
    );
  const [group] = await eventually("it is a member no more", async () => {
    const { streams } = await api.getConsumerGroup(consumerGroup);
    return streams[0]!.members.length === 0 && streams;
  });
  expect(group).toMatchObject({ state: "empty", lag: 300 });
  // It has read some before it is told, and all of it comes again.
  const assigned: number[] = [];
  const keys: string[] = [];
  for await (const text of response.body!.pipeThrough(new TextDecoderStream()).pipeThrough(lines())) {
    if (text.startsWith('data: {"consumerId"')) assigned.push(keys.length);
    else if (text.startsWith("data: {")) keys.push(/"key":"(\d+)"/.exec(text)?.[1] ?? "");
    if (assigned.length === 2 && keys.length === assigned[1]! + 300) break;
  }
  expect(keys.slice(assigned[1])).toEqual(Array.from({ length: 300 }, (_, n) => String(n)));
});

test("a gateway that is killed or drained frees its streams' partitions for those of another", async () => {
  await using api = rest.connect(service.url);
  const stream = await newStream(api, 2, 0);
  const consumerGroup = freshName();
  const second = await startService(service.nats.url);
  await using here = new Reading(subscribers[2]!, service.url, stream, { consumerGroup });
  await here.until("both", ({ assigned }) => assigned?.length === 2);
  await using there = new Reading(subscribers[2]!, second.url, stream, { consumerGroup });
  await there.until("one", ({ assigned }) => assigned?.length === 1);
  await second[Symbol.asyncDispose]();
  expect((there.failure as SubscriptionFailure).code).toBe(1107);
  await here.until("both again", ({ assigned }) => assigned?.length === 2);
});

test.each([
  ["Connect", (baseUrl: string) => createConnectTransport({ baseUrl, httpVersion: "2" }), "connect-timeout-ms", "300"],
  ["gRPC", (baseUrl: string) => createGrpcTransport({ baseUrl }), "grpc-timeout", "300m"],
  ["gRPC-Web", (baseUrl: string) => createGrpcWebTransport({ baseUrl }), "grpc-timeout", "300m"],
] as const)(
  "a subscription over %s ends as TIMEOUT at the caller's deadline",
  async (_name, connect, header, value) => {
    await using api = rest.connect(service.url);
    const streamName = await newStream(api, 1, 1);
    const consumerGroup = freshName();
    // Not by the client's own deadline, which would come first.
    const answers = createClient(EventService, connect(service.url)).subscribe(
      { streamName, consumerGroup },
      { headers: { [header]: value } },
    );
    const read = async () => {
      for await (const _ of answers);
    };
    expect(await read().then(() => "ended well", failedWith)).toBe(1006);
    await eventually("its member has left", async () => (await api.getConsumerGroup(consumerGroup)).state === "empty");
  },
);

/** Text as its lines. */
function lines(): TransformStream<string, string> {
  let rest = "";
  return new TransformStream({
    transform(chunk, controller) {
      const parts = (rest + chunk).split("\n");
      rest = parts.pop()!;
      for (const part of parts) controller.enqueue(part);
    },
  });
}
