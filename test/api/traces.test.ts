import { randomBytes } from "node:crypto";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { failureOf, protocols } from "../support/clients.ts";
import { Collector } from "../support/collector.ts";
import { startNats, type TestNats } from "../support/nats.ts";
import { type ServiceProcess, startServiceProcess } from "../support/process.ts";
import { freshName } from "../support/service.ts";
import { subscribers } from "../support/subscribers.ts";
import { Reading } from "../support/subscribing.ts";
import { eventually } from "../support/wait.ts";

let collector: Collector;
let nats: TestNats;
let service: ServiceProcess;

beforeAll(async () => {
  collector = await Collector.start();
  nats = await startNats();
  service = await startServiceProcess({ NATS_URL: nats.url, OTEL_SERVICE_NAME: "mill", ...collector.env });
});
afterAll(async () => {
  await service[Symbol.asyncDispose]();
  await nats[Symbol.asyncDispose]();
  await collector[Symbol.asyncDispose]();
});

/** A caller's place in a trace of its own, as W3C's Trace Context writes it. */
function newTrace() {
  const traceId = randomBytes(16).toString("hex");
  const spanId = randomBytes(8).toString("hex");
  return { traceId, spanId, headers: { traceparent: `00-${traceId}-${spanId}-01`, tracestate: "vendor=x" } };
}

const EVENTS = "millrace.v1.EventService";

describe.each(protocols)("traces over $name", ({ connect }) => {
  test("a call's span continues its caller's trace, and its events carry it to whoever reads them", async () => {
    await using api = connect(service.url);
    const stream = freshName();
    await api.createStream({ name: stream });
    const caller = newTrace();
    await api.publish(stream, { value: 1, headers: { own: "kept" } }, { headers: caller.headers });
    const publish = await collector.span(`${EVENTS}/Publish`, ({ traceId }) => traceId === caller.traceId);
    expect(publish).toMatchObject({
      parentSpanId: caller.spanId,
      attributes: { "messaging.destination.name": stream, "rpc.service": EVENTS, "rpc.method": "Publish" },
      resource: { "service.name": "mill", "service.version": expect.any(String) },
    });

    await api.publishBatch(stream, [{ value: 2 }, { value: 3 }], {}, { headers: caller.headers });
    const batch = await collector.span(`${EVENTS}/PublishBatch`, ({ traceId }) => traceId === caller.traceId);
    const reader = newTrace();
    const { events } = await api.poll(stream, "g", {}, { headers: reader.headers });
    const carried = (spanId: string) => ({ traceparent: `00-${caller.traceId}-${spanId}-01`, tracestate: "vendor=x" });
    expect(events.map(({ headers }) => headers)).toEqual([
      { own: "kept", ...carried(publish.spanId) },
      carried(batch.spanId),
      carried(batch.spanId),
    ]);
    const receive = await collector.span(`receive ${stream}`);
    expect(receive.traceId).toBe(reader.traceId);
    expect(receive.links!.map(({ traceId, spanId }) => [traceId, spanId])).toEqual([
      [caller.traceId, publish.spanId],
      [caller.traceId, batch.spanId],
    ]);
  });

  test("a publisher's own traceparent is kept as it is", async () => {
    await using api = connect(service.url);
    const stream = freshName();
    await api.createStream({ name: stream });
    const own = newTrace().headers.traceparent;
    await api.publish(stream, { value: 1, headers: { Traceparent: own } }, { headers: newTrace().headers });
    const { events } = await api.poll(stream, "g");
    expect(events[0]!.headers).toEqual({ Traceparent: own });
  });

  test("a refusal's span says which", async () => {
    await using api = connect(service.url);
    const caller = newTrace();
    await failureOf(api.publish("absent", { value: 1 }, { headers: caller.headers }));
    const span = await collector.span(`${EVENTS}/Publish`, ({ traceId }) => traceId === caller.traceId);
    expect(span.attributes["error.type"]).toBe("STREAM_NOT_FOUND");
    // It is the caller's fault.
    expect(span.status.code ?? 0).toBe(0);
  });
});

test.each(subscribers)("what is read live by $name is linked to the traces that it belongs to", async (by) => {
  await using api = protocols[0]!.connect(service.url);
  const stream = freshName();
  await api.createStream({ name: stream });
  const caller = newTrace();
  await api.publish(stream, { value: 1 }, { headers: caller.headers });
  await using reading = new Reading(by, service.url, stream, {});
  await reading.until("the event", ({ events }) => events.length === 1);
  const { links } = await collector.span(`receive ${stream}`);
  expect(links!.map(({ traceId }) => traceId)).toEqual([caller.traceId]);
});

test("a processor's work on an event is a part of its trace, which the result carries on", async () => {
  await using api = protocols[0]!.connect(service.url);
  const [source, sink] = [freshName(), freshName()];
  await api.createStream({ name: source });
  await api.processors.create({
    name: "doubling",
    source,
    sink,
    operations: [
      { type: "filter", predicate: "value > 0" },
      { type: "map", expression: "value * 2" },
    ],
  });
  const caller = newTrace();
  await api.publish(source, { value: 21, headers: { own: "kept" } }, { headers: caller.headers });
  await api.publish(source, { value: "no number" }, { headers: caller.headers });
  await api.publish(source, { value: 1, headers: { traceparent: "none" } });
  const published = await collector.span(`${EVENTS}/Publish`, ({ traceId }) => traceId === caller.traceId);
  const work = await collector.span("process doubling", ({ parentSpanId }) => parentSpanId === published.spanId);
  expect(work).toMatchObject({ traceId: caller.traceId, attributes: { "messaging.destination.name": source } });
  const failed = await collector.span("process doubling", ({ status }) => status.code === 2);
  expect(failed.traceId).toBe(caller.traceId);
  const { events } = await eventually("both results", async () => {
    const answer = await api.readPartition(sink, 0);
    return answer.events.length === 2 && answer;
  });
  expect(events.map(({ value, headers }) => [value, headers])).toEqual([
    [42, { own: "kept", traceparent: `00-${caller.traceId}-${work.spanId}-01`, tracestate: "vendor=x" }],
    [2, { traceparent: "none" }],
  ]);
  await collector.span(`receive ${sink}`);
});

test("spans that are not sent yet are when the service ends, and a collector that is gone does not hold it up", async () => {
  const caller = newTrace();
  {
    await using late = await startServiceProcess({
      NATS_URL: nats.url,
      ...collector.env,
      OTEL_BSP_SCHEDULE_DELAY: "600000",
    });
    await using api = protocols[0]!.connect(late.url);
    await failureOf(api.publish("absent", { value: 1 }, { headers: caller.headers }));
  }
  await collector.span(`${EVENTS}/Publish`, ({ traceId }) => traceId === caller.traceId);

  const nobody = await Collector.start();
  const { env } = nobody;
  await nobody[Symbol.asyncDispose]();
  const alone = await startServiceProcess({ NATS_URL: nats.url, ...env, MILLRACE_LOG_LEVEL: "silent" });
  await using api = protocols[0]!.connect(alone.url);
  await failureOf(api.publish("absent", { value: 1 }, { headers: caller.headers }));
  alone.kill("SIGTERM");
  expect(await alone.exited).toBe(0);
});
