import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { pino } from "pino";
import { deadlineIn } from "../src/domain/deadline.ts";
import { JSON_TYPE } from "../src/domain/event.ts";
import { connectJetStream } from "../src/jetstream/connection.ts";
import { openBucket } from "../src/jetstream/kv.ts";
import { decodeHeader, encodeHeader } from "../src/jetstream/message.ts";
import { partitionSubject } from "../src/jetstream/names.ts";
import type { AckSink } from "../src/jetstream/publish.ts";
import { newEventId } from "../src/log/event-ids.ts";
import { partitionOf } from "../src/log/partitioner.ts";
import { BareGroup } from "./bare-group.ts";
import { PARTITIONS } from "./workload.ts";

/**
 * The bare floor: publish, batch, poll and commit on `node:http` alone, as short as they can be written while they
 * answer what the service answers and store what it stores. No framework, no checks, one stream layout.
 *
 *     NATS_URL=nats://127.0.0.1:4222 node bench/floor-server.ts
 */

interface InputEvent {
  readonly key: string;
  readonly value: unknown;
}

interface Stored {
  readonly eventId: string;
  readonly partition: number;
  offset: number;
}

const CALL_MS = 10_000;
const PUBLISH = /^\/api\/v1\/streams\/([\w-]+)\/events$/;
const BATCH = /^\/api\/v1\/streams\/([\w-]+)\/events\/batch$/;
const COMMIT = /^\/api\/v1\/consumers\/([\w-]+)\/commit$/;

const js = await connectJetStream({ url: process.env.NATS_URL!, log: pino({ level: "warn" }) });
const offsets = await openBucket(js, "bench_floor_offsets", 1);
const groups = new Map<string, BareGroup>();

class Batch implements AckSink {
  readonly results: Stored[] = [];
  readonly #done = Promise.withResolvers<void>();
  #open = 0;

  publish(stream: string, { key, value }: InputEvent): void {
    const eventId = newEventId();
    const partition = partitionOf(key, PARTITIONS);
    const header = encodeHeader({ contentType: JSON_TYPE, eventId, key, partitionKey: undefined, headers: undefined });
    const payload = Buffer.from(JSON.stringify(value));
    const index = this.results.push({ eventId, partition, offset: -1 }) - 1;
    this.#open++;
    js.publisher.publish(partitionSubject(stream, partition), header, payload, deadlineIn(CALL_MS), this, index, true);
  }

  settled(): Promise<void> {
    return this.#done.promise;
  }

  stored(index: number, seq: number): void {
    this.results[index]!.offset = seq - 1;
    if (--this.#open === 0) this.#done.resolve();
  }

  failed(_index: number, error: Error): void {
    this.#done.reject(error);
  }
}

async function publish(stream: string, body: string): Promise<unknown> {
  const batch = new Batch();
  batch.publish(stream, JSON.parse(body) as InputEvent);
  await batch.settled();
  return { ...batch.results[0], timestamp: new Date().toISOString(), status: "published" };
}

async function publishBatch(stream: string, body: string): Promise<unknown> {
  const batch = new Batch();
  for (const event of (JSON.parse(body) as { events: InputEvent[] }).events) batch.publish(stream, event);
  await batch.settled();
  const { results } = batch;
  return { totalEvents: results.length, successCount: results.length, failureCount: 0, results };
}

async function poll(stream: string, query: URLSearchParams): Promise<unknown> {
  const name = query.get("consumerGroup")!;
  let group = groups.get(name);
  if (!group) {
    group = await BareGroup.open(js, offsets, stream, name, PARTITIONS);
    groups.set(name, group);
  }
  const taken = await group.poll(Number(query.get("limit")));
  const events = taken.flatMap((messages, partition) =>
    messages.map((message) => {
      const { eventId, key } = decodeHeader(message.header);
      const value = JSON.parse(
        Buffer.from(message.data.buffer, message.data.byteOffset, message.data.length).toString(),
      );
      const timestamp = new Date(message.timestampMs).toISOString();
      return { eventId, partition, offset: message.seq - 1, timestamp, key, value };
    }),
  );
  const partitions = taken.flatMap((messages, partition) => {
    const last = messages.at(-1);
    return last ? [{ partition, nextOffset: last.seq, lag: last.pending }] : [];
  });
  return { events, metadata: { consumerGroup: name, partitions } };
}

async function commit(name: string, body: string): Promise<unknown> {
  const group = groups.get(name)!;
  const entries = (JSON.parse(body) as { offsets: { partition: number; offset: number }[] }).offsets;
  await Promise.all(entries.map(({ partition, offset }) => group.commit(partition, offset)));
  return { status: "committed", committedOffsets: entries };
}

function handle(path: string, query: string, body: string): Promise<unknown> {
  const stream = PUBLISH.exec(path)?.[1];
  if (stream !== undefined) return body ? publish(stream, body) : poll(stream, new URLSearchParams(query));
  const batchStream = BATCH.exec(path)?.[1];
  if (batchStream !== undefined) return publishBatch(batchStream, body);
  const group = COMMIT.exec(path)?.[1];
  if (group !== undefined) return commit(group, body);
  throw new Error(`no such path: ${path}`);
}

function serve(req: IncomingMessage, res: ServerResponse): void {
  const chunks: Buffer[] = [];
  req.on("data", (chunk: Buffer) => chunks.push(chunk));
  req.on("end", async () => {
    let status = 200;
    let text: string;
    try {
      const [path, query] = req.url!.split("?");
      const body = chunks.length === 1 ? chunks[0]! : Buffer.concat(chunks);
      text = JSON.stringify(await handle(path!, query ?? "", body.toString()));
    } catch (error) {
      status = 500;
      text = JSON.stringify({ error: (error as Error).message });
    }
    const bytes = Buffer.from(text);
    res.writeHead(status, { "content-type": "application/json", "content-length": bytes.length });
    res.end(bytes);
  });
}

const server = createServer(serve);
server.listen(Number(process.env.PORT ?? 0), "127.0.0.1", () => {
  console.log(`The floor listens on http://127.0.0.1:${(server.address() as AddressInfo).port}`);
});
