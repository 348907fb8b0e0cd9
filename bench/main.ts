import { writeFileSync } from "node:fs";
import { availableParallelism, cpus } from "node:os";
import { parseArgs } from "node:util";
import { pino } from "pino";
import { deadlineIn } from "../src/domain/deadline.ts";
import { connectJetStream, type JetStream } from "../src/jetstream/connection.ts";
import { openBucket } from "../src/jetstream/kv.ts";
import { durableName, partitionStream } from "../src/jetstream/names.ts";
import { partitionState } from "../src/jetstream/partitions.ts";
import { FLOOD_ENV, type FloodRun, floodText, runFlood } from "./flood.ts";
import { GrpcLoad } from "./grpc-load.ts";
import { type LiveRun, liveText, runLive } from "./live.ts";
import type { Load } from "./load.ts";
import { measure, type Sample } from "./measure.ts";
import { MAX_GROWTH, type MemoryRun, runMemory } from "./memory.ts";
import { Processes, type Started } from "./processes.ts";
import { type ProcessorRun, processorsText, runProcessors } from "./processors.ts";
import { RawLoad } from "./raw-load.ts";
import { fixed, percent, scenarioText, verdict, whole } from "./report.ts";
import { RestLoad } from "./rest-load.ts";
import { type Contender, contendersOf, PARTS, type Part, SCENARIOS, type Scenario } from "./scenarios.ts";
import { PARTITIONS } from "./workload.ts";

/** See README.md here. */
const USAGE = `usage: npm run bench -- [--only ${PARTS.join(",")}] [--rounds 5] [--seconds 2] [--events 1000000] [--json FILE]`;

const WARM_UP_SECONDS = 1.5;
/** After a round nats-server still deletes its files. */
const SETTLE_MS = 250;
/** Enough that a group reads on through a round; a faster one begins again as another group. */
const FILL_EVENTS_PER_SECOND = 100_000;
const SETUP_MS = 30_000;

interface Options {
  readonly parts: ReadonlySet<Part>;
  readonly rounds: number;
  readonly seconds: number;
  readonly memoryEvents: number;
  readonly jsonFile: string | undefined;
}

function readOptions(): Options {
  const { values } = parseArgs({
    options: {
      only: { type: "string", default: PARTS.join(",") },
      rounds: { type: "string", default: "5" },
      seconds: { type: "string", default: "2" },
      events: { type: "string", default: "1000000" },
      json: { type: "string" },
    },
  });
  const names = values.only.split(",");
  const unknown = names.find((name) => !(PARTS as readonly string[]).includes(name));
  if (unknown !== undefined) throw new Error(`--only names ${unknown}; there are ${PARTS.join(", ")}`);
  const number = (name: "rounds" | "seconds" | "events", min: number) => {
    const value = Number(values[name]);
    if (!(value >= min)) throw new Error(`--${name} must be a number from ${min}`);
    return value;
  };
  return {
    parts: new Set(names as Part[]),
    rounds: Math.floor(number("rounds", 1)),
    seconds: number("seconds", 0.1),
    memoryEvents: number("events", 100_000),
    jsonFile: values.json,
  };
}

class Bench {
  readonly #options: Options;
  readonly #js: JetStream;
  readonly #nats: Started;
  readonly #gateway: Started;
  readonly #pids: Readonly<Record<Contender, number>>;
  readonly #loads: Readonly<Record<Contender, Load>>;
  readonly #raw: RawLoad;
  #streams = 0;

  constructor(options: Options, js: JetStream, raw: RawLoad, nats: Started, gateway: Started, floor: Started) {
    this.#options = options;
    this.#js = js;
    this.#raw = raw;
    this.#nats = nats;
    this.#gateway = gateway;
    this.#pids = { REST: gateway.pid, gRPC: gateway.pid, "bare floor": floor.pid, "raw NATS": process.pid };
    this.#loads = {
      REST: new RestLoad(gateway.url),
      gRPC: new GrpcLoad(gateway.url),
      "bare floor": new RestLoad(floor.url),
      "raw NATS": raw,
    };
  }

  /** All rounds of one scenario; each round begins with another contender. */
  async run(scenario: Scenario): Promise<Map<Contender, Sample[]>> {
    const contenders = contendersOf(scenario, this.#options.parts);
    const samples = new Map<Contender, Sample[]>(contenders.map((name) => [name, []]));
    if (contenders.length === 0) return samples;
    const filled = scenario.reads ? await this.#filledStream() : undefined;
    for (const name of contenders) await this.#round(scenario, name, WARM_UP_SECONDS, filled);
    for (let round = 0; round < this.#options.rounds; round++)
      for (let i = 0; i < contenders.length; i++) {
        const name = contenders[(i + round) % contenders.length]!;
        const sample = await this.#round(scenario, name, this.#options.seconds, filled);
        samples.get(name)!.push(sample);
        progress(`${scenario.title}, round ${round + 1}, ${name}: ${whole(sample.eventsPerSecond)} events/s`);
      }
    if (filled !== undefined) await this.deleteStream(filled);
    return samples;
  }

  async createStream(): Promise<string> {
    const name = `bench-${this.#streams++}`;
    await this.#admin("POST", "/api/v1/streams", { name, partitions: PARTITIONS });
    return name;
  }

  deleteStream(name: string): Promise<void> {
    return this.#admin("DELETE", `/api/v1/streams/${name}`);
  }

  async #round(scenario: Scenario, name: Contender, seconds: number, filled: string | undefined): Promise<Sample> {
    const stream = filled ?? (await this.createStream());
    const groups = `g${this.#streams++}`;
    const workers = await scenario.open(this.#loads[name], stream, groups);
    try {
      // Opens what is opened by the first request: connections, groups, the stream's record.
      const first = await Promise.all(workers.map((worker) => worker.step()));
      const sample = await measure(workers, seconds, { server: this.#pids[name], nats: this.#nats.pid });
      const done = first.reduce((sum, events) => sum + events, sample.events);
      if (filled === undefined) await this.#checkStored(stream, done);
      return sample;
    } catch (error) {
      throw new Error(`${scenario.title}, ${name}: ${(error as Error).message}`, { cause: error });
    } finally {
      for (const worker of workers) worker.close();
      if (filled === undefined) await this.deleteStream(stream);
      else await this.#deleteGroups(stream, groups);
      await new Promise((resolve) => setTimeout(resolve, SETTLE_MS));
    }
  }

  async #filledStream(): Promise<string> {
    const stream = await this.createStream();
    await this.#raw.fill(stream, FILL_EVENTS_PER_SECOND * Math.max(this.#options.seconds, WARM_UP_SECONDS));
    return stream;
  }

  /** What was answered as stored is stored, and nothing twice. */
  async #checkStored(stream: string, events: number): Promise<void> {
    let stored = 0;
    for (let partition = 0; partition < PARTITIONS; partition++)
      stored += (await partitionState(this.#js, stream, partition, deadlineIn(SETUP_MS))).messages;
    if (stored !== events) throw new Error(`${events} events were confirmed, the stream has ${stored}`);
  }

  /** Consumers of earlier rounds would be a load of their own. */
  async #deleteGroups(stream: string, groups: string): Promise<void> {
    const prefix = durableName(`${groups}-`);
    for (let partition = 0; partition < PARTITIONS; partition++) {
      const jsStream = partitionStream(stream, partition);
      for await (const { name } of this.#js.jsm.consumers.list(jsStream))
        if (name.startsWith(prefix)) await this.#js.jsm.consumers.delete(jsStream, name);
    }
  }

  async #admin(method: string, path: string, body?: unknown): Promise<void> {
    const answer = await fetch(this.#gateway.url + path, {
      method,
      ...(body === undefined ? {} : { headers: { "content-type": "application/json" }, body: JSON.stringify(body) }),
    });
    if (!answer.ok) throw new Error(`${method} ${path}: ${answer.status} ${await answer.text()}`);
    await answer.arrayBuffer();
  }
}

function memoryText(run: MemoryRun, total: number): string {
  const every = total / 10;
  const shown = run.points.filter(({ events }) => events % every === 0);
  return [
    `memory over ${whole(total)} events, published in batches of 1000, polled and committed in ${fixed(run.seconds, 0)} s`,
    `  events  ${shown.map(({ events }) => `${events / 1000}k`.padStart(7)).join("")}`,
    `  RSS MiB ${shown.map((point) => whole(point.rssMiB).padStart(7)).join("")}`,
    `  target flat: last third ≤ ${percent(MAX_GROWTH)} of the middle one: ${percent(run.growth)} ${verdict(run.growth <= MAX_GROWTH)}`,
  ].join("\n");
}

const progress = (line: string): void => void process.stderr.write(`${line}\n`);

async function main(options: Options): Promise<void> {
  const processes = await Processes.open();
  try {
    const nats = await processes.startNats();
    const gateway = await processes.startNode("gateway", "src/main.ts", nats.url);
    const services = [gateway];
    const floor = await processes.startNode("floor", "bench/floor-server.ts", nats.url);
    await using js = await connectJetStream({ url: nats.url, log: pino({ level: "silent" }) });
    const raw = new RawLoad(js, await openBucket(js, "bench_raw_offsets", 1));
    const bench = new Bench(options, js, raw, nats, gateway, floor);
    const version = js.nc.info?.version ?? "?";
    const machine = `${availableParallelism()} × ${cpus()[0]?.model ?? "CPU"}, Node ${process.version}, nats-server ${version}`;
    console.log(`${machine}\nmedians of ${options.rounds} rounds of ${options.seconds} s; CPU per event\n`);

    const results: { title: string; samples: Record<string, Sample[]> }[] = [];
    for (const scenario of SCENARIOS) {
      const samples = await bench.run(scenario);
      if (samples.size === 0) continue;
      console.log(`${scenarioText(scenario, samples, options.parts)}\n`);
      results.push({ title: scenario.title, samples: Object.fromEntries(samples) });
    }
    let live: LiveRun | undefined;
    if (options.parts.has("live")) {
      const fresh = await processes.startNode("live gateway", "src/main.ts", nats.url);
      services.push(fresh);
      const context = {
        js,
        gateway: fresh,
        createStream: () => bench.createStream(),
        deleteStream: (name: string) => bench.deleteStream(name),
        fill: (stream: string, events: number) => raw.fill(stream, events),
      };
      live = await runLive(context, options);
      console.log(`${liveText(live)}\n`);
    }
    let memory: MemoryRun | undefined;
    if (options.parts.has("memory")) {
      const fresh = await processes.startNode("fresh gateway", "src/main.ts", nats.url);
      services.push(fresh);
      memory = await runMemory(fresh, await bench.createStream(), options.memoryEvents);
      console.log(memory ? memoryText(memory, options.memoryEvents) : "memory: this system does not tell");
    }
    let processors: ProcessorRun | undefined;
    if (options.parts.has("processors")) {
      // Every service would take a share of a processor's lanes.
      for (const service of services) await processes.stop(service);
      processors = await runProcessors(
        { processes, natsUrl: nats.url, js },
        { rounds: options.rounds, events: options.memoryEvents / 5, beforeCrashMs: options.seconds * 10_000 },
      );
      console.log(`${processorsText(processors)}\n`);
    }
    let flood: FloodRun | undefined;
    if (options.parts.has("flood")) {
      const guarded = await processes.startNode("guarded gateway", "src/main.ts", nats.url, FLOOD_ENV);
      flood = await runFlood(guarded, options);
      console.log(`${floodText(flood)}\n`);
    }
    if (options.jsonFile !== undefined)
      writeFileSync(
        options.jsonFile,
        JSON.stringify(
          { machine, options: { ...options, parts: [...options.parts] }, results, live, memory, processors, flood },
          null,
          2,
        ),
      );
  } catch (error) {
    progress(processes.logTail("gateway"));
    progress(processes.logTail("floor"));
    throw error;
  } finally {
    processes.end();
  }
}

let options: Options;
try {
  options = readOptions();
} catch (error) {
  console.error(`${(error as Error).message}\n${USAGE}`);
  process.exit(2);
}
try {
  await main(options);
  process.exit(0);
} catch (error) {
  console.error(error);
  process.exit(1);
}
