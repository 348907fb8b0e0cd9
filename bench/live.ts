import { connect, type Socket } from "node:net";
import { AckPolicy, DeliverPolicy } from "@nats-io/jetstream";
import { deadlineIn } from "../src/domain/deadline.ts";
import { JSON_TYPE } from "../src/domain/event.ts";
import type { JetStream } from "../src/jetstream/connection.ts";
import { encodeHeader } from "../src/jetstream/message.ts";
import { partitionStream, partitionSubject } from "../src/jetstream/names.ts";
import { newEventId } from "../src/log/event-ids.ts";
import { plainRequest } from "./http-client.ts";
import {
  eventCounter,
  type LiveReader,
  latencyTaker,
  MARKER,
  type OpenLive,
  openGrpc,
  openSse,
} from "./live-readers.ts";
import { median, quantile } from "./measure.ts";
import { cpuUs, rssMiB, type Started } from "./processes.ts";
import { fixed, percent, verdict, whole } from "./report.ts";
import { PARTITIONS, POLL_EVENTS, sampleEvent } from "./workload.ts";

/** Live reading: how fast, how late, and what waiting costs. */
export interface LiveOptions {
  readonly rounds: number;
  readonly seconds: number;
}

export interface LiveRun {
  /** Events a second that reached readers, by contender, one figure a round. */
  readonly one: Readonly<Record<string, readonly number[]>>;
  readonly hundred: Readonly<Record<string, readonly number[]>>;
  /** From publish to receipt in milliseconds. */
  readonly latency: Readonly<Record<string, { readonly p50Ms: number; readonly p99Ms: number }>>;
  readonly idle: { readonly cpuShare: number | undefined; readonly rssMiB: number | undefined };
}

/** What the runs need of the rest of the benchmark. */
export interface LiveContext {
  readonly js: JetStream;
  readonly gateway: Started;
  createStream(): Promise<string>;
  deleteStream(name: string): Promise<void>;
  /** Fills a stream with so many events. */
  fill(stream: string, events: number): Promise<void>;
}

const READERS = 100;
const FILL_PER_SECOND = 100_000;
/** Each of many readers reads so many events. */
const FILL_EACH = 3000;
const RATE = 1000;
const TICK_MS = 2;
const WARM_UP_MS = 1000;
const POLLS = 1000;
const GROUPS = 100;
const IDLE_MS = 10_000;
/** Longer than all of the idle run. */
const POLL_WAIT_MS = 30_000;
const HANG_MS = 60_000;
const LATENCY_TARGET = 3;
const RATE_TARGET = 0.5;
const IDLE_TARGET = 0.05;

const SERVICE: Readonly<Record<string, OpenLive>> = { gRPC: openGrpc, SSE: openSse };

export async function runLive(context: LiveContext, { rounds, seconds }: LiveOptions): Promise<LiveRun> {
  const many = await context.createStream();
  const few = await context.createStream();
  const events = Math.ceil(FILL_PER_SECOND * seconds);
  await context.fill(many, events);
  await context.fill(few, FILL_EACH);
  const one: Record<string, number[]> = { "raw NATS": [], gRPC: [], SSE: [] };
  const hundred: Record<string, number[]> = { gRPC: [], SSE: [] };
  for (let round = 0; round < rounds; round++) {
    one["raw NATS"]!.push(await rawRate(context.js, many, events));
    for (const [name, open] of Object.entries(SERVICE)) {
      one[name]!.push(await rate(context, open, many, events, 1));
      hundred[name]!.push(await rate(context, open, few, FILL_EACH, READERS));
    }
  }
  for (const stream of [many, few]) await context.deleteStream(stream);
  return { one, hundred, latency: await latency(context, Math.max(5, seconds) * 1000), idle: await idle(context) };
}

/** Events a second of so many readers together, each of which reads all of a stream. */
async function rate(
  { gateway }: LiveContext,
  open: OpenLive,
  stream: string,
  events: number,
  readers: number,
): Promise<number> {
  const opened: LiveReader[] = [];
  const start = performance.now();
  try {
    await inTime(
      Promise.all(
        Array.from({ length: readers }, () => {
          const { promise, resolve, reject } = Promise.withResolvers<void>();
          let left = events;
          const count = eventCounter((came) => {
            left -= came;
            if (left === 0) resolve();
            else if (left < 0) reject(new Error("more events came than were published"));
          });
          opened.push(open(gateway.url, stream, "earliest", count, reject));
          return promise;
        }),
      ),
    );
  } finally {
    for (const reader of opened) reader.close();
  }
  return (events * readers * 1000) / (performance.now() - start);
}

/** Events a second of pull consumers, one a partition, that nobody acknowledges. */
async function rawRate(js: JetStream, stream: string, events: number): Promise<number> {
  const start = performance.now();
  let read = 0;
  await inTime(
    Promise.all(
      Array.from({ length: PARTITIONS }, async (_, partition) => {
        const jsStream = partitionStream(stream, partition);
        const name = await rawConsumer(js, jsStream, DeliverPolicy.All);
        for (let end = "full"; end === "full"; ) {
          let came = 0;
          ({ end } = await js.fetcher.pull(jsStream, name, { batch: POLL_EVENTS, waitMs: 0, onMessage: () => came++ }));
          read += came;
        }
        await js.jsm.consumers.delete(jsStream, name);
      }),
    ),
  );
  if (read !== events) throw new Error(`raw NATS gave ${read} of ${events} events`);
  return (events * 1000) / (performance.now() - start);
}

async function rawConsumer(js: JetStream, jsStream: string, deliver_policy: DeliverPolicy): Promise<string> {
  const name = `raw-${newEventId()}`;
  await js.jsm.consumers.add(jsStream, {
    name,
    ack_policy: AckPolicy.None,
    deliver_policy,
    mem_storage: true,
    inactive_threshold: HANG_MS * 1_000_000,
  } as never);
  return name;
}

/** Publishes at a steady rate, straight to NATS; all contenders read the same events at the same time. */
async function latency(context: LiveContext, spanMs: number): Promise<LiveRun["latency"]> {
  const { js, gateway } = context;
  const stream = await context.createStream();
  const latencies: Record<string, number[]> = { "raw NATS": [], gRPC: [], SSE: [] };
  const over = new AbortController();
  const failed = Promise.withResolvers<never>();
  const readers = Object.entries(SERVICE).map(([name, open]) =>
    open(gateway.url, stream, "latest", latencyTaker(latencies[name]!), failed.reject),
  );
  const raw = Array.from({ length: PARTITIONS }, async (_, partition) => {
    const jsStream = partitionStream(stream, partition);
    const name = await rawConsumer(js, jsStream, DeliverPolicy.New);
    const take = latencyTaker(latencies["raw NATS"]!);
    while (!over.signal.aborted)
      await js.fetcher.pull(
        jsStream,
        name,
        { batch: POLL_EVENTS, waitMs: 1000, onMessage: ({ data }) => take(Buffer.from(data)) },
        over.signal,
      );
  });
  try {
    // Until every reader is there; what came by then does not count.
    await Promise.race([publishSteadily(js, stream, WARM_UP_MS), failed.promise]);
    for (const list of Object.values(latencies)) list.length = 0;
    const sent = await Promise.race([publishSteadily(js, stream, spanMs), failed.promise]);
    await new Promise((resolve) => setTimeout(resolve, WARM_UP_MS));
    for (const [name, list] of Object.entries(latencies))
      if (list.length < sent * 0.99) throw new Error(`${name} gave ${list.length} of ${sent} events`);
  } finally {
    over.abort(new Error("the run is over"));
    for (const reader of readers) reader.close();
    await Promise.allSettled(raw);
  }
  await context.deleteStream(stream);
  return Object.fromEntries(
    Object.entries(latencies).map(([name, list]) => {
      list.sort((a, b) => a - b);
      return [name, { p50Ms: quantile(list, 0.5), p99Ms: quantile(list, 0.99) }];
    }),
  );
}

/** @returns how many events were published. */
async function publishSteadily(js: JetStream, stream: string, spanMs: number): Promise<number> {
  const start = performance.now();
  let sent = 0;
  let failure: Error | undefined;
  const sink = {
    stored: () => {},
    failed: (_index: number, error: Error) => {
      failure = error;
    },
  };
  for (let now = start; now - start < spanMs; now = performance.now()) {
    for (; sent < ((now - start) * RATE) / 1000; sent++) {
      const { key, payload } = sampleEvent(sent);
      const header = encodeHeader({
        contentType: JSON_TYPE,
        eventId: newEventId(),
        key,
        partitionKey: undefined,
        headers: undefined,
      });
      const timed = Buffer.from(`{"sentAt":${performance.now().toFixed(3)},${payload.toString().slice(1)}`);
      const subject = partitionSubject(stream, sent % PARTITIONS);
      js.publisher.publish(subject, header, timed, deadlineIn(HANG_MS), sink as never, sent, true);
    }
    if (failure) throw failure;
    await new Promise((resolve) => setTimeout(resolve, TICK_MS));
  }
  return sent;
}

/** What polls cost that wait and get nothing. */
async function idle(context: LiveContext): Promise<LiveRun["idle"]> {
  const { gateway } = context;
  const stream = await context.createStream();
  const { hostname, port } = new URL(gateway.url);
  const sockets: Socket[] = [];
  let answers = 0;
  try {
    for (let i = 0; i < POLLS; i++) {
      const socket = connect(Number(port), hostname);
      socket.on("data", () => answers++);
      socket.on("error", () => answers++);
      const query = `consumerGroup=idle-${i % GROUPS}&timeout=${POLL_WAIT_MS}`;
      socket.write(plainRequest("GET", `/api/v1/streams/${stream}/events?${query}`));
      sockets.push(socket);
      if (i % GROUPS === GROUPS - 1) await new Promise((resolve) => setTimeout(resolve, 100));
    }
    await new Promise((resolve) => setTimeout(resolve, 2 * WARM_UP_MS));
    const before = cpuUs(gateway.pid);
    const start = performance.now();
    await new Promise((resolve) => setTimeout(resolve, IDLE_MS));
    const after = cpuUs(gateway.pid);
    const elapsedUs = (performance.now() - start) * 1000;
    if (answers > 0) throw new Error(`${answers} polls were answered that had nothing to wait for`);
    const cpuShare = before === undefined || after === undefined ? undefined : (after - before) / elapsedUs;
    return { cpuShare, rssMiB: rssMiB(gateway.pid) };
  } finally {
    for (const socket of sockets) socket.destroy();
    await context.deleteStream(stream);
  }
}

async function inTime(work: Promise<unknown>): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const hang = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(() => reject(new Error(`events with ${MARKER} did not come`)), HANG_MS);
  });
  try {
    await Promise.race([work, hang]);
  } finally {
    clearTimeout(timer);
  }
}

export function liveText({ one, hundred, latency, idle }: LiveRun): string {
  const share = (name: string) => median(one[name]!.map((figure, round) => figure / one["raw NATS"]![round]!))!;
  const late = (name: string) => latency[name]!.p99Ms / latency["raw NATS"]!.p99Ms;
  const row = (name: string) =>
    `  ${name.padEnd(12)}${[
      whole(median(one[name]!)),
      whole(median(hundred[name] ?? [])),
      fixed(latency[name]!.p50Ms, 2),
      fixed(latency[name]!.p99Ms, 2),
    ]
      .map((text) => text.padStart(14))
      .join("")}`;
  return [
    `live reading: events/s of one reader and of ${READERS} together; delivery at ${RATE} events/s`,
    `  ${"".padEnd(12)}${["1 reader", `${READERS} readers`, "p50 ms", "p99 ms"].map((head) => head.padStart(14)).join("")}`,
    ...Object.keys(one).map(row),
    `  target one gRPC reader ≥ ${percent(RATE_TARGET)} of raw NATS: ${percent(share("gRPC"))} ${verdict(share("gRPC") >= RATE_TARGET)}`,
    ...Object.keys(SERVICE).map(
      (name) =>
        `  target p99 of ${name} ≤ ${LATENCY_TARGET} × raw NATS: ${fixed(late(name), 2)} × ${verdict(late(name) <= LATENCY_TARGET)}`,
    ),
    `  ${POLLS} waiting polls: ${percent(idle.cpuShare, 1)} of a core, RSS ${whole(idle.rssMiB)} MiB`,
    `  target < ${percent(IDLE_TARGET)} of a core: ${idle.cpuShare === undefined ? "-" : verdict(idle.cpuShare < IDLE_TARGET)}`,
  ].join("\n");
}
