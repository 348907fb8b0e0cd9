// The REST routes by curl, over HTTP/1.1 and over HTTP/2 without TLS.

import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as wait } from "node:timers/promises";
import { gzipSync } from "node:zlib";
import { findProgram, runOk } from "./command.mjs";
import { check, equal, fail } from "./report.mjs";

const VERSIONS = [
  { label: "HTTP/1.1", flags: ["--http1.1"], version: "1.1" },
  { label: "HTTP/2", flags: ["--http2-prior-knowledge"], version: "2" },
];
const MAX_REQUEST_BYTES = 32 * 1024 * 1024;
const MARK = "\n~~~ ";

export async function checkCurl({ root, temp, service }) {
  if (!findProgram("curl")) return fail("curl", "curl is not on PATH");
  if (!(await runOk("curl", ["--version"])).includes("HTTP2")) return fail("curl", "this curl has no HTTP/2");
  const routes = routesOf(root);
  for (const version of VERSIONS) await checkRoutes(version, service.url, routes, temp);
  await check("curl: an offer to upgrade to h2c is answered over HTTP/1.1", async () => {
    const answer = await curl(["--http2"], `${service.url}/api/v1/streams`);
    equal([answer.status, answer.version], [200, "1.1"], "status and version");
  });
}

async function checkRoutes({ label, flags, version }, url, routes, temp) {
  const name = `curl-${version === "2" ? "h2" : "h1"}`;
  const stream = `/api/v1/streams/${name}`;
  const called = new Set();

  /** One call that must have this status; its JSON body, with the headers as `headers`. */
  async function call(method, path, wanted, body, more = []) {
    const type = more.some((flag) => /^content-type:/.test(flag)) ? [] : ["-H", "content-type: application/json"];
    const sent = body === undefined ? [] : [...type, "--data-binary", "@-"];
    const input = typeof body === "object" ? JSON.stringify(body) : body;
    const answer = await curl([...flags, "-X", method, ...sent, ...more], url + path, input);
    equal(answer.status, wanted, `status of ${method} ${path} (${answer.body.slice(0, 200)})`);
    equal(answer.version, version, "HTTP version");
    if (!/^application\/json/.test(answer.headers["content-type"])) throw new Error(`not JSON: ${answer.body}`);
    if (answer.status < 300)
      called.add(routes.find((route) => route.pattern.test(`${method} ${path.split("?")[0]}`))?.route);
    return { ...JSON.parse(answer.body), headers: answer.headers };
  }
  const step = (what, run) => check(`curl ${label}: ${what}`, run);
  const refusal = (answer, code, message) => equal([answer.error.code, answer.error.message], [code, message], "error");

  await step("POST /streams is 201, then 200, then 409 with other settings", async () => {
    const settings = { name, partitions: 2, config: { compressionType: "gzip", maxMessageBytes: 8_000_000 } };
    const made = await call("POST", "/api/v1/streams", 201, settings);
    equal([made.name, made.partitions, made.config.compressionType], [name, 2, "gzip"], "the stream");
    await call("POST", "/api/v1/streams", 200, settings);
    refusal(await call("POST", "/api/v1/streams", 409, { ...settings, partitions: 3 }), 1101, "ALREADY_EXISTS");
  });
  await step("POST …/events stores an event", async () => {
    const event = { key: "user-123", value: { amount: 42 }, headers: { a: "b" }, partition: 0 };
    const ack = await call("POST", `${stream}/events`, 200, event);
    equal([ack.partition, ack.offset, ack.status], [0, 0, "published"], "the answer");
    if (!/^evt_/.test(ack.eventId)) throw new Error(`eventId is ${ack.eventId}`);
    if (!/^\d{4}-.*\.\d{3}Z$/.test(ack.timestamp)) throw new Error(`timestamp is ${ack.timestamp}`);
  });
  await step("POST …/events again under one Idempotency-Key is a duplicate", async () => {
    const again = () =>
      call("POST", `${stream}/events`, 200, { value: 1, partition: 1 }, ["-H", "idempotency-key: once"]);
    const [first, second] = [await again(), await again()];
    equal([first.offset, first.duplicate, second.offset, second.duplicate], [0, undefined, 0, true], "the answers");
  });
  await step("POST …/events/batch stores the good events beside a bad one", async () => {
    const events = [{ value: 1, partition: 0 }, { key: "no payload" }, { data: "AAEC", partition: 0 }];
    const answer = await call("POST", `${stream}/events/batch`, 200, { events, options: { compression: "gzip" } });
    equal([answer.totalEvents, answer.successCount, answer.failureCount], [3, 2, 1], "counts");
    equal([answer.results[0].offset, answer.results[1].error.code, answer.results[2].offset], [1, 1100, 2], "results");
  });
  await step("GET …/events hands a group its events", async () => {
    const query = "consumerGroup=g&limit=10&timeout=0";
    const answer = await call("GET", `${stream}/events?${query}&partition=0`, 200);
    equal(
      answer.events.map((event) => event.offset),
      [0, 1, 2],
      "offsets",
    );
    equal([answer.events[0].value, answer.events[0].key, answer.events[2].data], [{ amount: 42 }, "user-123", "AAEC"]);
    equal([answer.metadata.lag, answer.metadata.nextOffset], [0, 3], "metadata");
    equal((await call("GET", `${stream}/events?${query}&partition=0`, 200)).events, [], "events of a second poll");
  });
  await step("POST /consumers/…/commit stores the group's place", async () => {
    const commit = (offset) => ({ offsets: [{ stream: name, partition: 0, offset }] });
    const answer = await call("POST", "/api/v1/consumers/g/commit", 200, commit(1));
    equal([answer.status, answer.committedOffsets[0].offset], ["committed", 1], "the answer");
    const polled = await call("GET", `${stream}/events?consumerGroup=g&timeout=0&partition=0`, 200);
    equal(polled.metadata.partitions[0].committedOffset, 1, "committedOffset");
    refusal(await call("POST", "/api/v1/consumers/g/commit", 400, commit(99)), 1002, "INVALID_OFFSET");
    refusal(await call("POST", "/api/v1/consumers/nobody/commit", 404, commit(0)), 1003, "CONSUMER_GROUP_NOT_FOUND");
  });
  await step("GET …/partitions/…/events reads without a group", async () => {
    const answer = await call("GET", `${stream}/partitions/0/events?offset=1&limit=1`, 200);
    equal(
      answer.events.map((event) => event.value),
      [1],
      "values",
    );
    const { startOffset, endOffset, nextOffset } = answer.metadata;
    equal([startOffset, endOffset, nextOffset], [0, 3, 2], "metadata");
  });
  await step("GET …/events/stream sends Server-Sent Events, or JSON lines", async () => {
    // The stream does not end by itself: what reads it does.
    const begins = (accept, lines) =>
      runOk("sh", [
        "-c",
        `curl -sN --max-time 30 ${flags.join(" ")} -H 'accept: ${accept}' '${url}${stream}/events/stream' | head -n ${lines}`,
      ]);
    const [retry, , id, data] = (await begins("text/event-stream", 4)).split("\n");
    if (!/^retry: /.test(retry) || !/^id: \d:0,/.test(id)) throw new Error(`begins with ${retry}, ${id}`);
    equal(JSON.parse(data.slice("data: ".length)).offset, 0, "offset of the first event");
    equal(JSON.parse(await begins("application/x-ndjson", 1)).offset, 0, "offset on the first line");
    called.add("GET /api/v1/streams/{stream_name}/events/stream");
  });
  await step("/consumers creates, lists, describes, moves and deletes groups and their members", async () => {
    const group = `${name}-members`;
    const path = `/api/v1/consumers/${group}`;
    const made = await call("POST", "/api/v1/consumers", 201, { consumerGroup: group, stream: name, offset: 1 });
    equal([made.consumerGroup, made.state], [group, "empty"], "the group");
    const polled = await call("GET", `${stream}/events?consumerGroup=${group}&consumerId=a&timeout=0`, 200);
    equal([polled.metadata.generation, polled.metadata.assignment.partitions], [1, [0, 1]], "the assignment");
    const beat = await call("POST", `${path}/heartbeat`, 200, { stream: name, consumerId: "a" });
    equal(beat, { generation: 1, partitions: [0, 1], headers: beat.headers }, "what the member has");
    const moved = await call("POST", `${path}/seek`, 200, { stream: name, partition: 0, offset: 2 });
    equal(moved.partitions, [{ partition: 0, position: 2 }], "positions");
    const described = await call("GET", path, 200);
    equal([described.lag, described.streams[0].members.length], [1, 1], "lag and members");
    equal((await call("GET", `/api/v1/consumers?prefix=${group}`, 200)).consumerGroups.length, 1, "groups listed");
    const place = { stream: name, partition: 0, offset: 2 };
    const { events } = await call("POST", `${path}/nack`, 200, { events: [place], delay: 60_000, reason: "no" });
    equal(events, [{ ...place, outcome: "returned", deliveries: 1 }], "what becomes of it");
    equal((await call("POST", `${path}/leave`, 200, { consumerId: "a" })).streams, [name], "streams left");
    equal((await call("DELETE", path, 200)).status, "deleted", "status");
    refusal(await call("GET", path, 404), 1003, "CONSUMER_GROUP_NOT_FOUND");
  });
  await step("/tables puts, reads, lists and deletes rows", async () => {
    const rows = `/api/v1/tables/${name}/rows`;
    const put = await call("PUT", `${rows}/u1`, 200, { value: { name: "Ann" } });
    equal([put.key, put.value], ["u1", { name: "Ann" }], "the row");
    const many = [
      { key: "u2", value: 2 },
      { key: "a/b ü", value: [3] },
    ];
    equal((await call("POST", rows, 200, { rows: many })).rowCount, 2, "rowCount");
    equal((await call("GET", `${rows}/${encodeURIComponent("a/b ü")}`, 200)).value, [3], "value");
    equal((await call("GET", `${rows}?pageSize=2`, 200)).rows.length, 2, "rows on a page");
    await call("DELETE", `${rows}/u1`, 200);
    refusal(await call("GET", `${rows}/u1`, 404), 1110, "RESOURCE_NOT_FOUND");
    refusal(await call("PUT", `${rows}/u1`, 400, {}), 1100, "INVALID_ARGUMENT");
  });
  await step("/processors creates, describes, pauses, changes, resets and deletes one", async () => {
    const source = `tx-${name}`;
    await call("POST", "/api/v1/streams", 201, { name: source, partitions: 2 });
    const operations = [
      { type: "filter", predicate: "value.amount > 1000" },
      { type: "map", function: "enrichWithUserData" },
      { type: "window", windowType: "tumbling", duration: 300_000 },
      { type: "aggregate", aggregation: "count", groupBy: "userId" },
    ];
    const config = { parallelism: 2, checkpointInterval: 60_000 };
    const request = { name: "fraud", source, operations, sink: `${source}-alerts`, config };
    const made = await call("POST", "/api/v1/processors", 201, request);
    equal([made.status, made.operations, made.metrics.eventsProcessed], ["running", operations, 0], "the processor");
    const path = `/api/v1/processors/${made.processorId}`;
    const events = [2000, 3000, 500].map((amount) => ({ value: { amount, userId: "u2" } }));
    await call("POST", `/api/v1/streams/${source}/events/batch`, 200, { events });
    const metrics = await until("three events are counted", async () => {
      const found = await call("GET", `${path}/metrics`, 200);
      return found.windows.reduce((sum, { eventsCount }) => sum + eventsCount, 0) === 2 && found;
    });
    equal([metrics.metrics.eventsProcessed, metrics.counters.filtered], [3, 1], "counts");
    const window = await call("GET", `${path}/windows/${metrics.windows[0].windowStart}`, 200);
    equal(
      window.groups.map(({ group, values }) => [group, typeof values.count]),
      [["u2", "number"]],
      "groups",
    );
    refusal(await call("GET", `${path}/windows/0`, 404), 1110, "RESOURCE_NOT_FOUND");
    equal((await call("POST", `${path}/pause`, 200)).status, "paused", "status");
    equal((await call("POST", `${path}/resume`, 200)).status, "running", "status");
    const changed = await call("PATCH", path, 200, { operations: operations.slice(0, 2), start: "checkpoint" });
    equal([changed.generation, changed.operations.length], [2, 2], "generation and operations");
    equal((await call("POST", `${path}/reset`, 200, { start: "latest" })).status, "running", "status");
    equal((await call("GET", path, 200)).name, "fraud", "name");
    const tried = await call("POST", "/api/v1/processors:dryRun", 200, { operations, events: events.slice(0, 1) });
    equal(
      tried.events[0].steps.map(({ operation, outcome }) => [operation, outcome]),
      [
        [0, "passed"],
        [1, "passed"],
        [2, "windowed"],
      ],
      "steps of a dry run",
    );
    const side = await call("GET", `${path}/sideEvents?kind=dlq&timeout=0`, 200);
    equal([side.events, side.nextPageToken], [[], "0"], "side events");
    const savepoint = { name: `sp-${name}` };
    const saved = await call("POST", `${path}/savepoints`, 201, savepoint);
    equal([saved.name, saved.processorId, saved.parallelism], [savepoint.name, made.processorId, 2], "the savepoint");
    refusal(await call("POST", `${path}/savepoints`, 409, savepoint), 1101, "ALREADY_EXISTS");
    const at = `/api/v1/savepoints/${savepoint.name}`;
    equal((await call("GET", at, 200)).source, source, "source");
    const listed = await call("GET", `/api/v1/savepoints?processorId=${made.processorId}`, 200);
    equal(listed.savepoints.length, 1, "savepoints");
    equal((await call("POST", `${path}/restore`, 200, { savepoint: savepoint.name })).name, "fraud", "name");
    await call("DELETE", at, 200);
    refusal(await call("GET", at, 404), 1110, "RESOURCE_NOT_FOUND");
    const { processors } = await call("GET", "/api/v1/processors?pageSize=1000", 200);
    equal(processors.filter(({ processorId }) => processorId === made.processorId).length, 1, "times listed");
    const bad = await call("POST", "/api/v1/processors", 400, { ...request, operations: [{ type: "map" }] });
    refusal(bad, 1100, "INVALID_ARGUMENT");
    equal(bad.error.details[0].field, "operations[0].function", "field");
    refusal(await call("POST", "/api/v1/processors", 404, { ...request, source: "nowhere" }), 1001, "STREAM_NOT_FOUND");
    equal((await call("DELETE", path, 200)).status, "deleted", "status");
    refusal(await call("GET", path, 404), 1102, "PROCESSOR_NOT_FOUND");
  });
  await step("/functions puts, describes, lists and deletes one", async () => {
    const path = `/api/v1/functions/fn-${name}`;
    const put = await call("PUT", path, 200, { cel: { merge: { total: "value.a + value.b" } } });
    equal([put.origin, put.cel], ["installed", { merge: { total: "value.a + value.b" } }], "the function");
    equal((await call("GET", path, 200)).version, put.version, "version");
    const { functions } = await call("GET", "/api/v1/functions?pageSize=1000", 200);
    equal(functions.filter((each) => each.origin === "shipped").length, 1, "shipped functions");
    refusal(await call("PUT", path, 400, { cel: { expression: "1 +" } }), 1100, "INVALID_ARGUMENT");
    await call("DELETE", path, 200);
    refusal(await call("GET", path, 404), 1110, "RESOURCE_NOT_FOUND");
  });
  await step("PATCH /streams/… adds partitions", async () => {
    const answer = await call("PATCH", stream, 200, { partitions: 3, config: { retentionMs: 3_600_000 } });
    equal([answer.partitions, answer.config.retentionMs, answer.config.maxMessageBytes], [3, 3_600_000, 8_000_000]);
  });
  await step("GET /streams/… and GET /streams describe it", async () => {
    const one = await call("GET", stream, 200);
    equal([one.totalMessages, one.partitionDetails.map((detail) => detail.endOffset)], [4, [3, 1, 0]], "counts");
    const { streams } = await call("GET", `/api/v1/streams?prefix=${name}`, 200);
    equal(
      streams.map((summary) => [summary.name, summary.totalMessages]),
      [[name, 4]],
      "the list",
    );
  });
  await step("a body sent with gzip, an answer taken with gzip", async () => {
    const text = "compressible ".repeat(10_000);
    const file = join(temp, `${name}.gz`);
    writeFileSync(file, gzipSync(JSON.stringify({ value: text, partition: 2 })));
    const headers = [
      "-H",
      "content-type: application/json",
      "-H",
      "content-encoding: gzip",
      "--data-binary",
      `@${file}`,
    ];
    equal((await call("POST", `${stream}/events`, 200, undefined, headers)).offset, 0, "offset");
    const { events } = await call("GET", `${stream}/partitions/2/events`, 200, undefined, ["--compressed"]);
    equal(events[0].value === text, true, "the text is the same");
  });
  await step("a body of 5 MB is stored", async () => {
    const large = `{"partition":2,"value":"${"x".repeat(5_000_000)}"}`;
    equal((await call("POST", `${stream}/events`, 200, large)).offset, 1, "offset");
  });
  // Both are answered before the body has come in, which must not cost the caller the answer: three times, as it is a race.
  await step("a body over 32 MiB is 413", async () => {
    const body = "x".repeat(MAX_REQUEST_BYTES + 1);
    for (let n = 0; n < 3; n++) refusal(await call("POST", `${stream}/events`, 413, body), 1004, "SERIALIZATION_ERROR");
  });
  await step("a body of 20 MB in an unknown media type is 415", async () => {
    const body = "x".repeat(20_000_000);
    for (let n = 0; n < 3; n++) {
      const answer = await call("POST", `${stream}/events`, 415, body, ["-H", "content-type: image/png"]);
      refusal(answer, 1004, "SERIALIZATION_ERROR");
    }
  });
  await step("errors have their status and code", async () => {
    refusal(await call("POST", `${stream}/events`, 400, "{"), 1004, "SERIALIZATION_ERROR");
    const unknown = await call("POST", `${stream}/events`, 400, { value: 1, nothing: 2 });
    if (!/nothing/.test(JSON.stringify(unknown.error))) throw new Error("the unknown field is not named");
    refusal(await call("GET", `${stream}/events?timeout=0`, 400), 1100, "INVALID_ARGUMENT");
    const expected = await call("POST", `${stream}/events`, 412, { value: 1, partition: 0, expectedOffset: 0 });
    refusal(expected, 1104, "PRECONDITION_FAILED");
    refusal(await call("GET", "/api/v1/nowhere", 404), 1108, "NOT_FOUND");
    const method = await call("PUT", stream, 405, {});
    refusal(method, 1109, "METHOD_NOT_ALLOWED");
    equal(method.headers.allow.split(", ").sort(), ["DELETE", "GET", "PATCH"], "allow");
  });
  await step("Connect's JSON form, with its error", async () => {
    const request = { streamName: name, event: { value: { a: 1 }, partition: 1 } };
    const ack = await call("POST", "/millrace.v1.EventService/Publish", 200, request);
    equal([ack.partition, ack.offset, ack.status], [1, "1", "PUBLISH_STATUS_PUBLISHED"], "the answer");
    const error = await call("POST", "/millrace.v1.StreamService/GetStream", 404, { streamName: "nowhere" });
    const info = error.details.find((detail) => detail.type === "google.rpc.ErrorInfo");
    equal([error.code, Boolean(info)], ["not_found", true], "code and ErrorInfo");
  });
  await step("DELETE /streams/… removes it", async () => {
    const answer = await call("DELETE", stream, 200);
    equal([answer.status, answer.streamName], ["deleted", name], "the answer");
    refusal(await call("GET", stream, 404), 1001, "STREAM_NOT_FOUND");
    refusal(await call("DELETE", stream, 404), 1001, "STREAM_NOT_FOUND");
  });
  await step("/keys makes, shows and revokes an API key", async () => {
    const made = await call("POST", "/api/v1/keys", 201, { name: "curl", rights: ["consume:*"] });
    const path = `/api/v1/keys/${made.key.keyId}`;
    equal([made.secret.startsWith("mrk_"), (await call("GET", path, 200)).name], [true, "curl"], "the key");
    const { keys } = await call("GET", "/api/v1/keys?pageSize=1000", 200);
    equal(
      keys.some(({ keyId }) => keyId === made.key.keyId),
      true,
      "the list",
    );
    equal((await call("DELETE", path, 200)).status, "revoked", "the answer");
    refusal(await call("GET", path, 404), 1110, "RESOURCE_NOT_FOUND");
  });
  await step("every REST route of the schema was called", () => {
    const missing = routes.filter(({ route }) => !called.has(route)).map(({ route }) => route);
    equal(missing, [], "routes without an answer");
  });
}

/** Asks until there is an answer that is not false; at most 30 s. */
async function until(what, ask) {
  for (const end = Date.now() + 30_000; ; ) {
    const answer = await ask();
    if (answer) return answer;
    if (Date.now() > end) throw new Error(`not within 30 s: ${what}`);
    await wait(50);
  }
}

/** One call of curl. `input` is its standard input. */
async function curl(flags, url, input) {
  const written = `${MARK}%{http_code} %{http_version}`;
  const stdout = await runOk("curl", ["-sS", "-i", "--max-time", "30", "-w", written, ...flags, url], { input });
  const [answer, outcome] = [stdout.slice(0, stdout.lastIndexOf(MARK)), stdout.slice(stdout.lastIndexOf(MARK))];
  const [, status, version] = /(\d+) ([\d.]+)$/.exec(outcome) ?? [];
  // Before the answer there may be others, such as "100 Continue".
  let rest = answer;
  let head;
  do {
    const end = rest.indexOf("\r\n\r\n");
    head = rest.slice(0, end);
    rest = rest.slice(end + 4);
  } while (/^HTTP\/[\d.]+ 1\d\d/.test(head));
  const lines = head.split("\r\n").slice(1);
  const headers = Object.fromEntries(lines.map((line) => [line.split(":", 1)[0].toLowerCase(), textAfterColon(line)]));
  return { status: Number(status), version, headers, body: rest };
}

const textAfterColon = (line) => line.slice(line.indexOf(":") + 1).trim();

/** The `google.api.http` rules of the schema. */
function routesOf(root) {
  const folder = join(root, "proto", "millrace", "v1");
  return readdirSync(folder).flatMap((file) => {
    const text = readFileSync(join(folder, file), "utf8");
    return [...text.matchAll(/\b(get|put|post|patch|delete): "(\/[^"]+)"/g)].map(([, verb, path]) => {
      const route = `${verb.toUpperCase()} ${path}`;
      return { route, pattern: new RegExp(`^${route.replace(/\{\w+\}/g, "[^/]+")}$`) };
    });
  });
}
