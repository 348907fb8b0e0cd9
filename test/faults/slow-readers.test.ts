import { once } from "node:events";
import { readFileSync } from "node:fs";
import { type ClientHttp2Stream, connect as connectHttp2 } from "node:http2";
import { connect } from "node:net";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { expect, onTestFinished, test } from "vitest";
import { PayloadFormat, SubscribeRequestSchema, SubscribeResponseSchema } from "../../gen/millrace/v1/events_pb.js";
import { protocols } from "../support/clients.ts";
import { startNats } from "../support/nats.ts";
import { startServiceProcess } from "../support/process.ts";
import { freshName } from "../support/service.ts";
import { subscribers } from "../support/subscribers.ts";
import { eventually } from "../support/wait.ts";

const READERS = 100;
const PARTITIONS = 2;
const BATCH = 1000;
const EVENT_BYTES = 1000;
/** Until every buffer that has a bound is full, and then as much again twice. */
const WARM_UP_EVENTS = 40_000;
const EVENTS = 3 * WARM_UP_EVENTS;
/** Memory counts as flat up to here: what is published meanwhile is 40 MB for each reader. */
const MAX_GROWTH = 1.25;
const LIMIT_MS = 180_000;

/** A stream that nobody reads until `goOn` is called. */
interface SlowReader {
  readonly isOpen: () => boolean;
  /** Reads on, up to so many offsets of a partition. */
  goOn(partition: number, count: number): Promise<number[]>;
  close(): void;
}

test.skipIf(process.platform !== "linux")(
  `the memory of a gateway stays flat while ${READERS} slow readers hold their streams open`,
  { timeout: LIMIT_MS },
  async () => {
    const nats = await startNats();
    onTestFinished(() => nats[Symbol.asyncDispose]());
    const service = await startServiceProcess({ NATS_URL: nats.url });
    onTestFinished(() => service[Symbol.asyncDispose]());
    const api = protocols[0]!.connect(service.url);
    onTestFinished(() => api[Symbol.asyncDispose]());
    const stream = freshName();
    await api.createStream({ name: stream, partitions: PARTITIONS });

    const readers: SlowReader[] = [];
    onTestFinished(() => {
      for (const reader of readers) reader.close();
    });
    for (let i = 0; i < READERS; i++)
      readers.push(await (i % 2 ? openGrpc(service.url, stream) : openSse(service.url, stream)));

    const over = new AbortController();
    onTestFinished(() => over.abort());
    let read = 0;
    const fast = (async () => {
      const told = subscribers.at(-1)!.subscribe(service.url, stream, {}, over.signal);
      for await (const { events } of told) read += events.length;
    })();

    const filler = "x".repeat(EVENT_BYTES);
    let published = 0;
    /** @returns the most memory that was in use meanwhile, in MiB. */
    const publishUpTo = async (events: number): Promise<number> => {
      let most = 0;
      while (published < events) {
        const batch = Array.from({ length: BATCH }, (_, i) => ({ partition: i % PARTITIONS, value: filler }));
        expect((await api.publishBatch(stream, batch)).failureCount).toBe(0);
        published += BATCH;
        most = Math.max(most, rssMiB(service.pid));
      }
      return most;
    };
    await publishUpTo(WARM_UP_EVENTS);
    const before = await publishUpTo(2 * WARM_UP_EVENTS);
    const after = await publishUpTo(EVENTS);
    console.log(`RSS at most ${before.toFixed(0)} MiB, and ${after.toFixed(0)} MiB after as many events more`);
    expect(after / before).toBeLessThan(MAX_GROWTH);

    await eventually("the reader that reads has everything", () => read >= EVENTS, 30_000);
    expect(readers.every(({ isOpen }) => isOpen())).toBe(true);
    const wanted = Array.from({ length: 3000 }, (_, i) => i);
    for (const reader of readers.slice(0, 2)) expect(await reader.goOn(1, wanted.length)).toEqual(wanted);
    over.abort();
    await fast;
  },
);

function rssMiB(pid: number): number {
  const [, kib] = /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))!;
  return Number(kib) / 1024;
}

/** Asks for Server-Sent Events and waits for the head of the answer. */
async function openSse(url: string, stream: string): Promise<SlowReader> {
  const socket = connect(Number(new URL(url).port), new URL(url).hostname);
  await once(socket, "connect");
  socket.write(
    `GET /api/v1/streams/${stream}/events/stream HTTP/1.1\r\nhost: slow\r\naccept: text/event-stream\r\n\r\n`,
  );
  await once(socket, "readable");
  return {
    isOpen: () => !socket.destroyed && !socket.readableEnded,
    async goOn(partition, count) {
      const offsets: number[] = [];
      let text = "";
      for await (const chunk of socket.setEncoding("latin1")) {
        text += chunk;
        const lines = text.split("\n");
        text = lines.pop()!;
        for (const line of lines) {
          const [, at, offset] = /"partition":(\d+),"offset":(\d+)/.exec(line) ?? [];
          if (Number(at) === partition) offsets.push(Number(offset));
        }
        if (offsets.length >= count) break;
      }
      return offsets.slice(0, count);
    },
    close: () => socket.destroy(),
  };
}

/** Calls Subscribe over gRPC on a connection of its own and waits for the headers of the answer. */
async function openGrpc(url: string, streamName: string): Promise<SlowReader> {
  const session = connectHttp2(url);
  session.on("error", () => {});
  const call: ClientHttp2Stream = session.request({
    ":method": "POST",
    ":path": "/millrace.v1.EventService/Subscribe",
    "content-type": "application/grpc",
    te: "trailers",
  });
  call.on("error", () => {});
  const request = create(SubscribeRequestSchema, { streamName, payload: PayloadFormat.DATA });
  const message = toBinary(SubscribeRequestSchema, request);
  const prefix = Buffer.alloc(5);
  prefix.writeUInt32BE(message.length, 1);
  call.end(Buffer.concat([prefix, message]));
  await once(call, "response");
  return {
    isOpen: () => !call.destroyed && !session.destroyed,
    async goOn(partition, count) {
      const offsets: number[] = [];
      let bytes = Buffer.alloc(0);
      for await (const chunk of call) {
        bytes = Buffer.concat([bytes, chunk as Buffer]);
        while (bytes.length >= 5 && bytes.length >= 5 + bytes.readUInt32BE(1)) {
          const end = 5 + bytes.readUInt32BE(1);
          for (const event of fromBinary(SubscribeResponseSchema, bytes.subarray(5, end)).events)
            if (event.partition === partition) offsets.push(Number(event.offset));
          bytes = bytes.subarray(end);
        }
        if (offsets.length >= count) break;
      }
      return offsets.slice(0, count);
    },
    close: () => session.destroy(),
  };
}
