import { deadlineIn } from "../src/domain/deadline.ts";
import { JSON_TYPE } from "../src/domain/event.ts";
import type { JetStream } from "../src/jetstream/connection.ts";
import { encodeHeader } from "../src/jetstream/message.ts";
import { partitionSubject } from "../src/jetstream/names.ts";
import type { AckSink } from "../src/jetstream/publish.ts";
import { newEventId } from "../src/log/event-ids.ts";
import { partitionOf } from "../src/log/partitioner.ts";
import { median, quantile } from "./measure.ts";
import { cpuUs, type Processes, type Started } from "./processes.ts";
import { fixed, percent, verdict, whole } from "./report.ts";
import { PARTITIONS } from "./workload.ts";

/** Processors: how fast, how soon, and how long until they go on after a crash. */
export interface ProcessorRun {
  readonly rates: Readonly<Record<string, readonly RateSample[]>>;
  readonly recoveryMs: number;
  readonly restoreMsPer100k: number;
  readonly latency: { readonly p50Ms: number; readonly p99Ms: number; readonly rows: number };
}

interface RateSample {
  readonly eventsPerSecond: number;
  /** CPU time an event, of the whole service. */
  readonly cpuUs: number | undefined;
  /** Of the lanes' time, how much a commit was on its way. */
  readonly commitShare: number;
}

export interface ProcessorContext {
  readonly processes: Processes;
  readonly natsUrl: string;
  readonly js: JetStream;
}

type Operation = Readonly<Record<string, unknown>>;

const WINDOW_MS = 300_000;
const COUNT_BY_USER: readonly Operation[] = [
  { type: "window", windowType: "tumbling", duration: WINDOW_MS },
  { type: "aggregate", aggregation: "count", groupBy: "userId" },
];
const AMOUNT: Operation = { type: "filter", predicate: "value.amount > 1000" };
const TOPOLOGIES: Readonly<Record<string, readonly Operation[]>> = {
  "read only": [{ type: "filter", predicate: "false" }],
  "count by key": [AMOUNT, ...COUNT_BY_USER],
  fraud: [AMOUNT, { type: "map", function: "enrichWithUserData" }, ...COUNT_BY_USER],
};
const USERS = 1000;
const WARM_UP_EVENTS = 20_000;
const RATE_PER_SECOND = 5000;
const TICK_MS = 20;
const RECOVERY_CHECKPOINT_MS = 60_000;
const GROUPS = 100_000;
const LATENCY_WINDOW_MS = 1000;
const LATENCY_WINDOWS = 15;
const CALL_MS = 30_000;
const HANG_MS = 180_000;
const RATE_TARGET = 50_000;
const RECOVERY_TARGET_MS = 10_000;
const LATENCY_TARGET_MS = 500;

/** @param events of each round. @param beforeCrashMs how long events come before the kill. */
export async function runProcessors(
  context: ProcessorContext,
  { rounds, events, beforeCrashMs }: { rounds: number; events: number; beforeCrashMs: number },
): Promise<ProcessorRun> {
  const rates: Record<string, RateSample[]> = {};
  for (const threads of [1, 2]) {
    const name = `processors ${threads}`;
    const bench = await ProcessorBench.start(context, name, { MILLRACE_PROCESSOR_THREADS: String(threads) });
    for (const topology of Object.values(TOPOLOGIES)) await bench.rate(topology, WARM_UP_EVENTS);
    for (let round = 0; round < rounds; round++)
      for (const [title, topology] of Object.entries(TOPOLOGIES)) {
        const of = `${title}, ${threads} thread${threads === 1 ? "" : "s"}`;
        rates[of] ??= [];
        rates[of].push(await bench.rate(topology, events));
      }
    await bench.stop();
  }
  const bench = await ProcessorBench.start(context, "processors late", {});
  const latency = await bench.latency();
  const restoreMsPer100k = await bench.restore();
  const recoveryMs = await bench.recovery(beforeCrashMs);
  await bench.stop();
  return { rates, recoveryMs, restoreMsPer100k, latency };
}

export function processorsText({ rates, recoveryMs, restoreMsPer100k, latency }: ProcessorRun): string {
  const lines = ["processors, 4 partitions", `  ${"".padEnd(26)}  events/s    CPU µs   commits`];
  const middle = (name: string, figure: keyof RateSample) => median(rates[name]!.map((sample) => sample[figure]));
  for (const name of Object.keys(rates))
    lines.push(
      `  ${name.padEnd(26)}${whole(middle(name, "eventsPerSecond")).padStart(10)}${fixed(middle(name, "cpuUs"), 1).padStart(10)}${percent(middle(name, "commitShare")).padStart(10)}`,
    );
  const fraud = middle("fraud, 1 thread", "eventsPerSecond")!;
  lines.push(
    `  target fraud on one thread ≥ ${whole(RATE_TARGET)} events/s: ${whole(fraud)} ${verdict(fraud >= RATE_TARGET)}`,
    `  going on after kill -9: ${fixed(recoveryMs / 1000, 1)} s, target < ${RECOVERY_TARGET_MS / 1000} s ${verdict(recoveryMs < RECOVERY_TARGET_MS)}`,
    `  restoring ${whole(GROUPS)} groups: ${whole(restoreMsPer100k)} ms`,
    `  window end to result, ${latency.rows} rows: p50 ${fixed(latency.p50Ms, 1)} ms, p99 ${fixed(latency.p99Ms, 1)} ms, target < ${LATENCY_TARGET_MS} ms ${verdict(latency.p99Ms < LATENCY_TARGET_MS)}`,
  );
  return lines.join("\n");
}

interface Metrics {
  readonly metrics: { readonly eventsProcessed: number };
  readonly counters: { readonly errors: number };
}

class ProcessorBench {
  readonly #context: ProcessorContext;
  readonly #env: Record<string, string>;
  readonly #names: string[];
  #service: Started;
  #count = 0;

  private constructor(context: ProcessorContext, name: string, env: Record<string, string>, service: Started) {
    this.#context = context;
    this.#names = [name];
    this.#env = env;
    this.#service = service;
  }

  static async start(context: ProcessorContext, name: string, env: Record<string, string>): Promise<ProcessorBench> {
    const settings = { ...env, MILLRACE_LOG_LEVEL: "debug" };
    const service = await context.processes.startNode(name, "src/main.ts", context.natsUrl, settings);
    const bench = new ProcessorBench(context, name, settings, service);
    const rows = Array.from({ length: USERS }, (_, i) => ({
      key: `user-${i}`,
      value: { name: `Ada ${i}`, country: "X" },
    }));
    await bench.#call("POST", "/tables/users/rows", { rows });
    return bench;
  }

  stop(): Promise<void> {
    return this.#context.processes.stop(this.#service);
  }

  /** Has a processor read a stream that is there from its start to its end. */
  async rate(operations: readonly Operation[], events: number): Promise<RateSample> {
    const stream = await this.#stream();
    await this.#publish(stream, events, (i) => transaction(i % USERS, i));
    const before = this.#laneEnds().length;
    const cpuBefore = cpuUs(this.#service.pid);
    const began = performance.now();
    const id = await this.#processor(stream, operations, { checkpointInterval: 60_000 });
    await this.#whenProcessed(id, events);
    const elapsedMs = performance.now() - began;
    const cpuAfter = cpuUs(this.#service.pid);
    await this.#call("POST", `/processors/${id}/pause`, {});
    const ends = await this.#until("the lanes are over", () => {
      const found = this.#laneEnds().slice(before);
      return found.length >= PARTITIONS ? found : undefined;
    });
    await this.#remove(id, stream);
    const commitMs = ends.reduce((sum, end) => sum + end.commitMs, 0);
    return {
      eventsPerSecond: (events * 1000) / elapsedMs,
      cpuUs: cpuBefore === undefined ? undefined : (cpuAfter! - cpuBefore) / events,
      commitShare: commitMs / (PARTITIONS * elapsedMs),
    };
  }

  /** From the end of a window to the receipt of its results, straight from NATS. No event is out of order. */
  async latency(): Promise<ProcessorRun["latency"]> {
    const stream = await this.#stream();
    const operations = [
      { type: "window", windowType: "tumbling", duration: LATENCY_WINDOW_MS, timestampField: "t", grace: 0 },
      { type: "aggregate", aggregation: "count", groupBy: "userId" },
    ];
    const id = await this.#processor(stream, operations, {});
    const latencies: number[] = [];
    const subjects = Array.from({ length: PARTITIONS }, (_, partition) => partitionSubject(`${stream}-out`, partition));
    const subscriptions = subjects.map((subject) =>
      this.#context.js.nc.subscribe(subject, {
        callback: (_error, message) => {
          const { windowEnd } = message.json<{ windowEnd: string }>();
          latencies.push(Date.now() - Date.parse(windowEnd));
        },
      }),
    );
    await this.#steadily(stream, LATENCY_WINDOWS * LATENCY_WINDOW_MS);
    for (const subscription of subscriptions) subscription.unsubscribe();
    await this.#remove(id, stream);
    // The first window holds the start.
    latencies.splice(0, USERS);
    latencies.sort((a, b) => a - b);
    return { p50Ms: quantile(latencies, 0.5), p99Ms: quantile(latencies, 0.99), rows: latencies.length };
  }

  /** How much longer a paused processor takes to go on when it has state than when it has none. */
  async restore(): Promise<number> {
    const took: number[] = [];
    for (const groups of [1, GROUPS]) {
      const stream = await this.#stream();
      const operations = [
        { type: "window", windowType: "tumbling", duration: 24 * 3600 * 1000 },
        { type: "aggregate", aggregation: "count", groupBy: "userId" },
      ];
      const id = await this.#processor(stream, operations, {});
      await this.#publish(stream, GROUPS, (i) => transaction(i % groups, i));
      await this.#whenProcessed(id, GROUPS);
      const before = this.#laneEnds().length;
      await this.#call("POST", `/processors/${id}/pause`, {});
      await this.#until("the lanes are over", () => this.#laneEnds().length - before >= PARTITIONS || undefined);
      await this.#publish(stream, PARTITIONS * 10, (i) => transaction(i, i));
      const began = performance.now();
      await this.#call("POST", `/processors/${id}/resume`, {});
      await this.#whenProcessed(id, GROUPS + PARTITIONS * 10);
      took.push(performance.now() - began);
      await this.#remove(id, stream);
    }
    return took[1]! - took[0]!;
  }

  /** From kill -9 until all is processed that was published before the service ran again; meanwhile more comes. */
  async recovery(beforeCrashMs: number): Promise<number> {
    const stream = await this.#stream();
    const id = await this.#processor(stream, TOPOLOGIES.fraud!, { checkpointInterval: RECOVERY_CHECKPOINT_MS });
    const over = new AbortController();
    let published = 0;
    const publishing = this.#steadily(stream, beforeCrashMs + HANG_MS, over.signal, (count) => {
      published = count;
    });
    try {
      await this.#until(
        "events before the crash",
        () => published >= (beforeCrashMs / 1000) * RATE_PER_SECOND || undefined,
      );
      const { processes, natsUrl } = this.#context;
      const began = performance.now();
      await processes.stop(this.#service, "SIGKILL");
      const name = `${this.#names[0]} again`;
      this.#names.push(name);
      this.#service = await processes.startNode(name, "src/main.ts", natsUrl, this.#env);
      await this.#whenProcessed(id, published);
      return performance.now() - began;
    } finally {
      over.abort();
      await publishing;
      await this.#remove(id, stream);
    }
  }

  /** Publishes {@link RATE_PER_SECOND} events a second to all partitions, with the time in them. */
  async #steadily(
    stream: string,
    forMs: number,
    signal: AbortSignal = new AbortController().signal,
    onCount: (count: number) => void = () => {},
  ): Promise<void> {
    const began = performance.now();
    let count = 0;
    for (let sinceMs = 0; sinceMs < forMs && !signal.aborted; sinceMs = performance.now() - began) {
      const due = Math.floor((sinceMs / 1000) * RATE_PER_SECOND) - count;
      const first = count;
      if (due > 0) await this.#publish(stream, due, (i) => transaction((first + i) % USERS, first + i, Date.now()));
      count += Math.max(0, due);
      onCount(count);
      await pause(TICK_MS);
    }
  }

  async #publish(stream: string, count: number, event: (i: number) => SampleTransaction): Promise<void> {
    const { js } = this.#context;
    for (let from = 0; from < count; from += 1000) {
      const size = Math.min(1000, count - from);
      const { promise, resolve, reject } = Promise.withResolvers<void>();
      let open = size;
      const sink: AckSink = {
        stored: () => void (--open === 0 && resolve()),
        failed: (_index, error) => reject(error),
      };
      for (let i = 0; i < size; i++) {
        const { key, payload } = event(from + i);
        const header = encodeHeader({ contentType: JSON_TYPE, eventId: newEventId(), key });
        const subject = partitionSubject(stream, partitionOf(key, PARTITIONS));
        js.publisher.publish(subject, header, payload, deadlineIn(CALL_MS), sink, i, true);
      }
      await promise;
    }
  }

  async #stream(): Promise<string> {
    const name = `${this.#names[0]!.replaceAll(" ", "-")}-${this.#count++}`;
    await this.#call("POST", "/streams", { name, partitions: PARTITIONS });
    return name;
  }

  async #processor(stream: string, operations: readonly Operation[], config: object): Promise<string> {
    const request = { name: stream, source: stream, sink: `${stream}-out`, operations };
    const answer = await this.#call<{ processorId: string }>("POST", "/processors", {
      ...request,
      config: { parallelism: PARTITIONS, ...config },
    });
    return answer.processorId;
  }

  async #remove(id: string, stream: string): Promise<void> {
    await this.#call("DELETE", `/processors/${id}`);
    for (const name of [stream, `${stream}-out`]) await this.#call("DELETE", `/streams/${name}`);
  }

  async #whenProcessed(id: string, events: number): Promise<void> {
    const { counters } = await this.#until(`${events} events processed`, async () => {
      const found = await this.#metrics(id);
      return found.metrics.eventsProcessed >= events ? found : undefined;
    });
    if (counters.errors > 0) throw new Error(`${counters.errors} events failed`);
  }

  #metrics(id: string): Promise<Metrics> {
    return this.#call("GET", `/processors/${id}/metrics`);
  }

  /** What lanes have logged at their end. */
  #laneEnds(): { commitMs: number }[] {
    const lines = this.#context.processes.log(this.#names.at(-1)!).split("\n");
    return lines.filter((line) => line.includes('"lane over"')).map((line) => JSON.parse(line) as { commitMs: number });
  }

  async #until<T>(what: string, condition: () => T | undefined | Promise<T | undefined>): Promise<T> {
    const end = performance.now() + HANG_MS;
    for (;;) {
      const found = await condition();
      if (found !== undefined) return found;
      if (performance.now() > end) throw new Error(`not in time: ${what}`);
      await pause(TICK_MS);
    }
  }

  async #call<Answer>(method: string, path: string, body?: object): Promise<Answer> {
    const answer = await fetch(`${this.#service.url}/api/v1${path}`, {
      method,
      signal: AbortSignal.timeout(CALL_MS),
      ...(body ? { headers: { "content-type": "application/json" }, body: JSON.stringify(body) } : {}),
    });
    const text = await answer.text();
    if (!answer.ok) throw new Error(`${method} ${path}: ${answer.status} ${text}`);
    return JSON.parse(text) as Answer;
  }
}

interface SampleTransaction {
  readonly key: string;
  readonly payload: Buffer;
}

/** A card payment; four of five are above the threshold. */
function transaction(user: number, i: number, t = 0): SampleTransaction {
  const value = {
    transactionId: `tx-${100_000 + i}`,
    userId: `user-${user}`,
    amount: (i % 10) * 550 + 0.5,
    currency: "EUR",
    merchant: { id: i % 500, name: "Corner Shop", category: "groceries" },
    t,
  };
  return { key: value.userId, payload: Buffer.from(JSON.stringify(value)) };
}

const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));
