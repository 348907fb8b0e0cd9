import { readFileSync } from "node:fs";
import parsePrometheus from "parse-prometheus-text-format";
import { describe, expect, test } from "vitest";
import { failureOf, protocols, rawRequest } from "../support/clients.ts";
import { freshName, useService } from "../support/service.ts";
import { eventually } from "../support/wait.ts";

const service = useService();

interface Sample {
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}

/** The samples of one metric, read out of Prometheus' text format. */
async function samples(name: string): Promise<Sample[]> {
  const { text } = await rawRequest(service.url, "GET", "/metrics");
  const found: Sample[] = [];
  for (const line of text.split("\n")) {
    const [, metric, labels = "", value] = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$/.exec(line) ?? [];
    if (metric !== name) continue;
    const pairs = [...labels.matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)].map(([, key, text]) => [key!, text!]);
    found.push({ labels: Object.fromEntries(pairs), value: Number(value) });
  }
  return found;
}

/** The sum over the samples that have these labels. */
async function figure(name: string, labels: Readonly<Record<string, string>> = {}): Promise<number> {
  const wanted = Object.entries(labels);
  const all = await samples(name);
  return all
    .filter((sample) => wanted.every(([key, value]) => sample.labels[key] === value))
    .reduce((sum, { value }) => sum + value, 0);
}

const protocolLabel = (name: string): string =>
  name.startsWith("REST")
    ? "rest"
    : name.startsWith("gRPC-Web")
      ? "grpc-web"
      : name.startsWith("gRPC")
        ? "grpc"
        : "connect";

describe.each(protocols)("over $name", ({ name, connect }) => {
  test("calls, errors, times, events and bytes are counted", async () => {
    await using api = connect(service.url);
    const protocol = protocolLabel(name);
    const stream = freshName();
    const calls = (method: string, code: string) =>
      figure("millrace_calls_total", { protocol, method: `millrace.v1.${method}`, code });
    const published = await calls("EventService/Publish", "OK");
    const polled = await calls("EventService/Poll", "OK");
    const refused = await calls("EventService/Publish", "STREAM_NOT_FOUND");
    const invalid = await calls("StreamService/CreateStream", "INVALID_ARGUMENT");
    const timed = await figure("millrace_call_duration_seconds_count", {
      protocol,
      method: "millrace.v1.EventService/Publish",
    });

    await api.createStream({ name: stream });
    await failureOf(api.createStream({ name: "not a name" }));
    await failureOf(api.publish(freshName("absent"), { value: 1 }));
    await api.publish(stream, { value: "abc" });
    await api.publishBatch(stream, [{ value: 1 }, { value: 22 }]);
    await api.poll(stream, "g");

    await eventually("the calls are counted", async () => (await calls("EventService/Poll", "OK")) === polled + 1);
    expect(await calls("EventService/Publish", "OK")).toBe(published + 1);
    expect(await calls("EventService/Publish", "STREAM_NOT_FOUND")).toBe(refused + 1);
    expect(await calls("StreamService/CreateStream", "INVALID_ARGUMENT")).toBe(invalid + 1);
    expect(
      await figure("millrace_call_duration_seconds_count", { protocol, method: "millrace.v1.EventService/Publish" }),
    ).toBe(timed + 2);
    expect(await figure("millrace_events_published_total", { stream })).toBe(3);
    expect(await figure("millrace_published_bytes_total", { stream })).toBe('"abc"122'.length);
    expect(await figure("millrace_events_delivered_total", { stream })).toBe(3);
    expect(await figure("millrace_delivered_bytes_total", { stream })).toBe('"abc"122'.length);
  });
});

test("a group's lag is what it has not committed", async () => {
  const stream = freshName();
  await using api = protocols[0]!.connect(service.url);
  await api.createStream({ name: stream });
  await api.publishBatch(stream, [{ value: 1 }, { value: 2 }, { value: 3 }]);
  await api.poll(stream, "slow");
  await api.commit("slow", [{ stream, partition: 0, offset: 0 }]);
  await eventually(
    "the lag is 2",
    async () => (await figure("millrace_group_lag_events", { group: "slow", stream })) === 2,
    30_000,
  );
});

test("what became of a processor's events is told, and goes on over a reset", async () => {
  await using api = protocols[0]!.connect(service.url);
  const source = freshName();
  await api.createStream({ name: source });
  const operations = [{ type: "filter" as const, predicate: "value.n > 1" }];
  const { processorId: processor } = await api.processors.create({
    name: source,
    source,
    sink: `${source}-out`,
    operations,
  });
  await api.publishBatch(
    source,
    [{ n: 1 }, { n: 2 }, { n: 3 }, {}].map((value) => ({ value })),
  );
  const outcomes = async () => {
    const all = await samples("millrace_processor_events_total");
    const own = all.filter(({ labels }) => labels.processor === processor && labels.name === source);
    return Object.fromEntries(own.map(({ labels, value }) => [labels.outcome, value]));
  };
  await eventually("all are told", async () => (await outcomes()).processed === 4, 30_000);
  expect(await outcomes()).toEqual({ processed: 4, filtered: 1, errors: 1, dead_letters: 1, late: 0, emitted: 2 });
  expect(await figure("millrace_processor_lag_events", { processor })).toBe(0);
  expect(await figure("millrace_processor_latency_seconds", { processor })).toBeGreaterThanOrEqual(0);
  expect(await figure("millrace_processor_status", { processor, status: "running" })).toBe(1);
  await api.processors.reset(processor, "earliest");
  await api.publish(source, { value: { n: 4 } });
  // A counter of Prometheus never falls: what is processed again counts again.
  await eventually("what it processes again is counted", async () => (await outcomes()).processed === 9, 30_000);
  expect(await outcomes()).toEqual({ processed: 9, filtered: 2, errors: 2, dead_letters: 2, late: 0, emitted: 5 });
  await api.processors.delete(processor);
  const told = async () =>
    (await samples("millrace_processor_status")).some(({ labels }) => labels.processor === processor);
  await eventually("it is told no more", async () => !(await told()), 30_000);
});

test("open subscriptions are counted and no longer when they end", async () => {
  const stream = freshName();
  await rawRequest(service.url, "POST", "/api/v1/streams", { name: stream });
  const over = new AbortController();
  const path = `/api/v1/streams/${stream}/events/stream?heartbeat=100`;
  const answer = await fetch(service.url + path, { signal: over.signal });
  expect(answer.status).toBe(200);
  expect(await figure("millrace_subscriptions", { kind: "single" })).toBe(1);
  over.abort();
  await eventually("it has ended", async () => (await figure("millrace_subscriptions", { kind: "single" })) === 0);
});

test("what is no route counts as unknown, whatever its path", async () => {
  const before = await figure("millrace_calls_total", { method: "unknown", code: "NOT_FOUND" });
  for (const path of ["/a", "/b/c", "/api/v1/nothing"]) await rawRequest(service.url, "GET", path);
  await rawRequest(service.url, "POST", "/no.such.Service/Call", {});
  await eventually(
    "they are counted",
    async () => (await figure("millrace_calls_total", { method: "unknown", code: "NOT_FOUND" })) === before + 4,
  );
});

test("names with quotes and line ends can't break the text", async () => {
  const stream = freshName();
  await using api = protocols[0]!.connect(service.url);
  await api.createStream({ name: stream });
  await api.poll(stream, 'a"} 1 \\ü');
  await eventually(
    "the group is told",
    async () => (await samples("millrace_group_lag_events")).some(({ labels }) => labels.group === 'a\\"} 1 \\\\ü'),
    30_000,
  );
  const { text } = await rawRequest(service.url, "GET", "/metrics");
  const families = parsePrometheus(text);
  expect(families.length).toBeGreaterThan(20);
});

test("the text is valid, and each series is there once", async () => {
  const { text, headers, status } = await rawRequest(service.url, "GET", "/metrics");
  expect(status).toBe(200);
  expect(headers["content-type"]).toBe("text/plain; version=0.0.4; charset=utf-8");
  const series = text
    .split("\n")
    .filter((line) => line !== "" && !line.startsWith("#"))
    .map((line) => line.slice(0, line.lastIndexOf(" ")));
  expect(new Set(series).size).toBe(series.length);
  const families = parsePrometheus(text);
  for (const { name, help, type } of families) {
    expect(help, name).not.toBe("");
    expect(["COUNTER", "GAUGE", "HISTOGRAM", "SUMMARY"], name).toContain(type);
    if (type === "COUNTER") expect(name).toMatch(/_total$/);
  }
  expect(await figure("millrace_nats_connected")).toBe(1);
  expect(await figure("nodejs_eventloop_lag_p99_seconds")).toBeGreaterThanOrEqual(0);
});

test("docs/operations.md lists every metric of the service", async () => {
  const { text } = await rawRequest(service.url, "GET", "/metrics");
  const served = [...text.matchAll(/^# TYPE (millrace_\w+) /gm)].map(([, name]) => name);
  const page = readFileSync(new URL("../../docs/operations.md", import.meta.url), "utf8");
  const listed = [...page.matchAll(/^\| `(millrace_\w+)` \|/gm)].map(([, name]) => name);
  expect(listed.sort()).toEqual(served.sort());
});
