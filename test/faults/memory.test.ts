/** What hostile callers make the service hold is bounded, and it goes on answering. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import * as http2 from "node:http2";
import * as net from "node:net";
import { gzipSync } from "node:zlib";
import { afterAll, beforeAll, expect, onTestFinished, test } from "vitest";
import { rawRequest } from "../support/clients.ts";
import { startNats, type TestNats } from "../support/nats.ts";
import { type ServiceProcess, startServiceProcess } from "../support/process.ts";
import { eventually } from "../support/wait.ts";

const MIB = 1024 * 1024;
let nats: TestNats;
let service: ServiceProcess;

beforeAll(async () => {
  nats = await startNats();
  service = await startServiceProcess({ NATS_URL: nats.url, MILLRACE_MAX_CONNECTIONS: "11000" });
  await rawRequest(service.url, "POST", "/api/v1/streams", { name: "target" });
});
afterAll(async () => {
  await service[Symbol.asyncDispose]();
  await nats[Symbol.asyncDispose]();
});

const events = "/api/v1/streams/target/events";
const port = () => Number(new URL(service.url).port);
const rss = (): number =>
  Number(/VmRSS:\s+(\d+) kB/.exec(readFileSync(`/proc/${service.pid}/status`, "utf8"))![1]) * 1024;

async function answers(): Promise<void> {
  const answer = await rawRequest(service.url, "POST", events, { value: "still here" });
  expect(answer.status).toBe(200);
}

/** Opens connections that send nothing, from a process of their own; says when they are open. */
const IDLE_CLIENT = `
const net = require("node:net");
const [port, count] = process.argv.slice(1).map(Number);
let open = 0, begun = 0;
const next = () => {
  if (begun >= count) return;
  begun++;
  const socket = net.connect(port, "127.0.0.1", () => {
    if (++open === count) console.log("open");
    next();
  });
  socket.on("error", (error) => { console.log(error.message); });
};
for (let i = 0; i < 200; i++) next();
`;

async function idleConnections(count: number): Promise<ChildProcess> {
  const child = spawn(process.execPath, ["-e", IDLE_CLIENT, String(port()), String(count)], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const [line] = (await once(child.stdout!, "data")) as [Buffer];
  expect(line.toString().trim()).toBe("open");
  return child;
}

test("ten thousand idle connections", { timeout: 120_000 }, async () => {
  await answers();
  const before = rss();
  const client = await idleConnections(10_000);
  onTestFinished(() => void client.kill());
  await answers();
  expect(rss() - before).toBeLessThan(300 * MIB);
  await eventually(
    "those that never say a word are closed",
    async () => /^millrace_connections ([0-9]|[1-9]\d)$/m.test((await rawRequest(service.url, "GET", "/metrics")).text),
    60_000,
  );
  await answers();
});

test("headers that drip, over both versions of HTTP, are cut off", { timeout: 60_000 }, async () => {
  const starts = ["G", "GET / HTTP/1.1\r\nhost: a\r\nx: ", "PRI", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"];
  const closed = starts.map((start) => {
    const socket = net.connect(port(), "127.0.0.1");
    socket.on("error", () => {});
    socket.resume();
    socket.write(start);
    const drip = start.endsWith(": ") ? setInterval(() => socket.write("a"), 500) : undefined;
    onTestFinished(() => {
      clearInterval(drip);
      socket.destroy();
    });
    return once(socket, "close").then(() => clearInterval(drip));
  });
  await answers();
  await Promise.all(closed);
});

test("bodies that inflate are refused at the bound", { timeout: 120_000 }, async () => {
  await answers();
  const before = rss();
  const bomb = gzipSync(Buffer.alloc(512 * MIB, " "), { level: 9 });
  expect(bomb.length).toBeLessThan(MIB);
  const statuses = await Promise.all(
    Array.from({ length: 50 }, async () => {
      const headers = { "content-type": "application/json", "content-encoding": "gzip" };
      return (await rawRequest(service.url, "POST", events, bomb, headers)).status;
    }),
  );
  for (const status of statuses) expect([413, 503]).toContain(status);
  const connect = await rawRequest(service.url, "POST", "/millrace.v1.StreamService/GetStream", bomb, {
    "content-type": "application/json",
    "content-encoding": "gzip",
  });
  expect(connect.status).toBe(429);
  await answers();
  expect(rss() - before).toBeLessThan(600 * MIB);
});

test("JSON that is nested deep is refused", async () => {
  const before = rss();
  for (const depth of [70, 10_000, 1_000_000]) {
    for (const body of [
      `{"value":${"[".repeat(depth)}${"]".repeat(depth)}}`,
      `${'{"value":'.repeat(depth)}1${"}".repeat(depth)}`,
    ]) {
      const answer = await rawRequest(service.url, "POST", events, body);
      expect(answer.status).toBe(400);
      const rpc = await rawRequest(
        service.url,
        "POST",
        "/millrace.v1.EventService/Publish",
        `{"streamName":"target","event":${body}}`,
      );
      expect(rpc.status).toBe(400);
    }
  }
  await answers();
  expect(rss() - before).toBeLessThan(400 * MIB);
});

test("streams that are opened and reset in haste cost their connection alone", async () => {
  const session = http2.connect(service.url);
  session.on("error", () => {});
  const over = new Promise((resolve) => session.once("close", resolve));
  for (let i = 0; i < 5000 && !session.destroyed; i++) {
    const stream = session.request({ ":path": "/healthz" });
    stream.on("error", () => {});
    stream.close(http2.constants.NGHTTP2_CANCEL);
    if (i % 100 === 0) await new Promise(setImmediate);
  }
  await over;
  await answers();
});
