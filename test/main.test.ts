import { spawnSync } from "node:child_process";
import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { expect, onTestFinished, test } from "vitest";
import { Health, HealthCheckResponse_ServingStatus as Status } from "../gen/grpc/health/v1/health_pb.js";
import { EventService } from "../gen/millrace/v1/events_pb.js";
import { ProcessorService } from "../gen/millrace/v1/processors_pb.js";
import { StreamService } from "../gen/millrace/v1/streams_pb.js";
import { startNats } from "./support/nats.ts";
import { type ServiceProcess, startServiceProcess } from "./support/process.ts";
import { eventually } from "./support/wait.ts";

/** A request whose body does not come to its end, which holds a drain up. */
async function halfRequest({ url }: ServiceProcess): Promise<Socket> {
  const { hostname, port } = new URL(url);
  const socket = connect(Number(port), hostname);
  await once(socket, "connect");
  socket.on("error", () => {});
  const lines = ["POST /api/v1/streams HTTP/1.1", "Host: x", "Content-Type: application/json", "Content-Length: 100"];
  socket.write(`${[...lines, "Expect: 100-continue"].join("\r\n")}\r\n\r\n`);
  // It has the headers: from here on the request runs.
  const [answer] = (await once(socket, "data")) as [Buffer];
  expect(answer.toString()).toContain("100 Continue");
  return socket;
}

/** Whether nothing listens any more. */
const isClosed = ({ url }: ServiceProcess): Promise<boolean> =>
  fetch(`${url}/healthz`).then(
    () => false,
    () => true,
  );

test("SIGTERM ends watches with a reason to come again, lets calls finish, and exits with 0 within the limit", async () => {
  await using nats = await startNats();
  await using service = await startServiceProcess({ NATS_URL: nats.url, MILLRACE_DRAIN_MS: "1500" });
  const client = createClient(Health, createGrpcTransport({ baseUrl: service.url }));
  const seen: unknown[] = [];
  const watching = (async () => {
    for await (const { status } of client.watch({})) seen.push(status);
  })().catch((error: Error) => seen.push(error.message));
  await eventually("the watch begins", () => seen.length > 0);
  await halfRequest(service);

  service.kill("SIGTERM");
  await watching;
  expect(seen).toEqual([Status.SERVING, Status.NOT_SERVING, expect.stringContaining("unavailable")]);
  expect(await service.exited).toBe(0);
});

test("SIGTERM ends a publish stream whose caller sends on, with all that it took answered", async () => {
  await using nats = await startNats();
  await using service = await startServiceProcess({ NATS_URL: nats.url, MILLRACE_DRAIN_MS: "600000" });
  const transport = createGrpcTransport({ baseUrl: service.url });
  await createClient(StreamService, transport).createStream({ name: "s", partitions: 1 });
  const client = createClient(EventService, transport);
  let isOver = false;
  async function* requests() {
    while (!isOver) {
      yield { streamName: "s", event: { payload: { case: "data" as const, value: Buffer.from("x") } } };
      await new Promise((resolve) => setImmediate(resolve));
    }
  }
  const offsets: number[] = [];
  const publishing = (async () => {
    for await (const { result } of client.publishStream(requests())) offsets.push(Number(result!.offset));
  })().finally(() => {
    isOver = true;
  });
  const ended = expect(publishing).rejects.toThrow("publish the rest again");
  await eventually("it publishes", () => offsets.length > 100);
  service.kill("SIGTERM");
  await ended;
  expect(await service.exited).toBe(0);

  await using next = await startServiceProcess({ NATS_URL: nats.url });
  const read = await fetch(`${next.url}/api/v1/streams/s/partitions/0/events?limit=1`);
  const { metadata } = (await read.json()) as { metadata: { endOffset: number } };
  expect(offsets).toEqual(Array.from({ length: metadata.endOffset }, (_, offset) => offset));
});

test("SIGTERM ends a watch of a processor's metrics with a reason to come again", async () => {
  await using nats = await startNats();
  await using service = await startServiceProcess({ NATS_URL: nats.url, MILLRACE_DRAIN_MS: "600000" });
  const transport = createGrpcTransport({ baseUrl: service.url });
  await createClient(StreamService, transport).createStream({ name: "s" });
  const processors = createClient(ProcessorService, transport);
  const created = await processors.createProcessor({
    name: "p",
    source: "s",
    sink: "t",
    operations: [{ predicate: "true" }],
  });
  let looks = 0;
  const watching = (async () => {
    const { processorId } = created.processor!;
    for await (const _ of processors.watchMetrics({ processorId, interval: 60_000 })) looks++;
  })();
  const ended = expect(watching).rejects.toThrow("watch again");
  await eventually("the watch begins", () => looks === 1);
  service.kill("SIGTERM");
  await ended;
  expect(await service.exited).toBe(0);
});

test("SIGTERM ends the process soon also while NATS is away", async () => {
  const nats = await startNats();
  onTestFinished(() => nats[Symbol.asyncDispose]());
  await using service = await startServiceProcess({ NATS_URL: nats.url, MILLRACE_DRAIN_MS: "1000" });
  const transport = createGrpcTransport({ baseUrl: service.url });
  await createClient(StreamService, transport).createStream({ name: "s" });
  await createClient(ProcessorService, transport).createProcessor({
    name: "p",
    source: "s",
    sink: "t",
    operations: [{ predicate: "true" }],
  });
  await nats.kill();
  let code: number | null | undefined;
  void service.exited.then((ended) => {
    code = ended;
  });
  service.kill("SIGTERM");
  await eventually("it has ended", () => code !== undefined, 25_000);
  expect(code).toBe(0);
});

test("a second signal ends at once", async () => {
  await using nats = await startNats();
  await using service = await startServiceProcess({ NATS_URL: nats.url, MILLRACE_DRAIN_MS: "600000" });
  await halfRequest(service);
  service.kill("SIGTERM");
  await eventually("it listens no more", () => isClosed(service));
  service.kill("SIGTERM");
  expect(await service.exited).toBe(1);
});

test("a failure that nothing waits for is logged, and the service goes on", async () => {
  await using nats = await startNats();
  const fault = `process.on("SIGUSR2", () => void Promise.reject(new Error("forgotten")))`;
  await using service = await startServiceProcess({
    NATS_URL: nats.url,
    NODE_OPTIONS: `--import=data:text/javascript,${encodeURIComponent(fault)}`,
  });
  service.kill("SIGUSR2");
  await eventually("it is logged", () => service.output().includes("a failure that nothing waited for"));
  expect(service.output()).toContain("forgotten");
  expect(await isClosed(service)).toBe(false);
});

test("a HOST that other machines reach ends the process with exit code 2 and says how to allow it", () => {
  const env = { PATH: process.env.PATH, HOST: "0.0.0.0", PORT: "0" };
  const { status, stdout, stderr } = spawnSync(process.execPath, ["src/main.ts"], {
    env,
    encoding: "utf8",
    timeout: 20_000,
  });
  expect({ status, stdout }).toEqual({ status: 2, stdout: "" });
  expect(stderr).toContain("MILLRACE_ALLOW_ANONYMOUS=true");
});

test("a HOST that other machines reach is listened on when told so", async () => {
  await using nats = await startNats();
  await using service = await startServiceProcess({
    NATS_URL: nats.url,
    HOST: "0.0.0.0",
    MILLRACE_ALLOW_ANONYMOUS: "true",
  });
  expect((await fetch(`http://127.0.0.1:${new URL(service.url).port}/readyz`)).status).toBe(200);
});
