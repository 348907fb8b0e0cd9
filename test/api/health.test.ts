import { Code, ConnectError, createClient, type Transport } from "@connectrpc/connect";
import { createConnectTransport, createGrpcTransport } from "@connectrpc/connect-node";
import { createGrpcWebTransport } from "@connectrpc/connect-web";
import { jetstreamManager } from "@nats-io/jetstream";
import { connect } from "@nats-io/transport-node";
import { describe, expect, test } from "vitest";
import { Health, HealthCheckResponse_ServingStatus as Status } from "../../gen/grpc/health/v1/health_pb.js";
import { partitionStream } from "../../src/jetstream/names.ts";
import type { Readiness } from "../../src/services/readiness.ts";
import { rawRequest } from "../support/clients.ts";
import { startNats, startNatsCluster } from "../support/nats.ts";
import { freshName, startService, useService } from "../support/service.ts";
import { eventually } from "../support/wait.ts";

const service = useService();

const TRANSPORTS: readonly (readonly [string, (baseUrl: string) => Transport])[] = [
  ["gRPC", (baseUrl) => createGrpcTransport({ baseUrl })],
  ["gRPC-Web", (baseUrl) => createGrpcWebTransport({ baseUrl })],
  ["Connect", (baseUrl) => createConnectTransport({ baseUrl, httpVersion: "1.1" })],
];

async function readyz(url: string): Promise<{ status: number; report: Readiness }> {
  const answer = await rawRequest(url, "GET", "/readyz");
  return { status: answer.status, report: answer.json<Readiness>() };
}

const publish = (url: string, stream: string, value: unknown) =>
  rawRequest(url, "POST", `/api/v1/streams/${stream}/events`, { value });

describe.each(TRANSPORTS)("grpc.health.v1 over %s", (_name, transport) => {
  const client = () => createClient(Health, transport(service.url));

  test("serves as a whole and each service", async () => {
    expect(await client().check({})).toMatchObject({ status: Status.SERVING });
    expect(await client().check({ service: "millrace.v1.EventService" })).toMatchObject({ status: Status.SERVING });
    const { statuses } = await client().list({});
    expect(statuses["millrace.v1.StreamService"]).toMatchObject({ status: Status.SERVING });
  });

  test("does not find a service that is not there", async () => {
    const failure = await client()
      .check({ service: "nothing" })
      .catch((error: unknown) => error);
    expect((failure as ConnectError).code).toBe(Code.NotFound);
  });

  test("watches", async () => {
    const over = new AbortController();
    const watch = client().watch({ service: "nothing" }, { signal: over.signal })[Symbol.asyncIterator]();
    expect((await watch.next()).value).toMatchObject({ status: Status.SERVICE_UNKNOWN });
    over.abort();
    await expect(watch.next()).rejects.toThrow(ConnectError);
  });
});

test("/healthz and /readyz say that all is well", async () => {
  expect((await rawRequest(service.url, "GET", "/healthz")).json()).toEqual({ status: "ok" });
  expect(await readyz(service.url)).toEqual({ status: 200, report: { status: "ready", reasons: [], partitions: [] } });
});

test("without NATS nothing is ready, at once, and it heals", async () => {
  await using nats = await startNats();
  await using own = await startService(nats.url);
  const client = createClient(Health, createGrpcTransport({ baseUrl: own.url }));
  const over = new AbortController();
  const seen: Status[] = [];
  const watching = (async () => {
    for await (const { status } of client.watch({}, { signal: over.signal })) seen.push(status);
  })().catch(() => {});
  await eventually("the watch begins", () => seen.length > 0);

  await nats.kill("SIGKILL");
  await eventually("not ready", async () => (await readyz(own.url)).status === 503);
  expect((await readyz(own.url)).report).toMatchObject({ status: "unavailable", reasons: [expect.any(String)] });
  expect((await rawRequest(own.url, "GET", "/healthz")).status).toBe(200);
  expect(await client.check({})).toMatchObject({ status: Status.NOT_SERVING });
  await eventually("the watch tells", () => seen.at(-1) === Status.NOT_SERVING);

  await nats.restart();
  await eventually("ready again", async () => (await readyz(own.url)).status === 200);
  await eventually("the watch tells", () => seen.at(-1) === Status.SERVING);
  over.abort();
  await watching;
});

test("a NATS that hangs is found out within the probe's time", async () => {
  await using nats = await startNats();
  await using own = await startService(nats.url);
  await nats.kill("SIGSTOP");
  const answer = await readyz(own.url);
  expect(answer.status).toBe(503);
  await nats.kill("SIGCONT");
  await eventually("ready again", async () => (await readyz(own.url)).status === 200);
});

test("a full store is not ready, and the partition that it refused is named", async () => {
  await using nats = await startNats({ maxFileStoreBytes: 2 * 1024 * 1024 });
  await using own = await startService(nats.url);
  const stream = freshName();
  await rawRequest(own.url, "POST", "/api/v1/streams", { name: stream });
  await eventually(
    "the store is full",
    async () => (await publish(own.url, stream, "x".repeat(200_000))).status === 429,
  );
  const { status, report } = await eventually("it is told", async () => {
    const answer = await readyz(own.url);
    return answer.report.partitions.length > 0 && answer;
  });
  expect(report.partitions).toEqual([{ stream, partition: 0, problem: "full_store", description: expect.any(String) }]);
  expect(status).toBe(report.reasons.length > 0 ? 503 : 200);
});

test("a partition without a leader is named, the gateway stays in service", { timeout: 120_000 }, async () => {
  await using cluster = await startNatsCluster(3);
  await using own = await startService(cluster.url, { MILLRACE_CATALOG_REPLICAS: "3" });
  const stream = freshName();
  const made = await rawRequest(own.url, "POST", "/api/v1/streams", { name: stream, partitions: 3 });
  const { partitionDetails } = made.json<{ partitionDetails: { partition: number; leader: string }[] }>();
  const { partition, leader } = partitionDetails[0]!;
  await cluster.servers.find(({ serverName }) => serverName === leader)!.kill("SIGKILL");
  const { report } = await eventually(
    "it is named",
    async () => {
      const answer = await readyz(own.url);
      return answer.status === 200 && answer.report.partitions.length > 0 && answer;
    },
    60_000,
  );
  expect(report.status).toBe("degraded");
  expect(report.partitions).toContainEqual({
    stream,
    partition,
    problem: "no_leader",
    description: expect.stringContaining("no server leads it"),
  });
});

test("a partition whose JetStream stream was deleted underneath is named as such, the gateway stays in service", async () => {
  await using nats = await startNats();
  await using own = await startService(nats.url);
  const stream = freshName();
  await rawRequest(own.url, "POST", "/api/v1/streams", { name: stream, partitions: 2 });
  const nc = await connect({ servers: `127.0.0.1:${nats.port}`, user: nats.user, pass: nats.pass });
  await (await jetstreamManager(nc)).streams.delete(partitionStream(stream, 1));
  await nc.close();
  const { status, report } = await eventually("it is named", async () => {
    const answer = await readyz(own.url);
    return answer.report.partitions.length > 0 && answer;
  });
  expect(status).toBe(200);
  expect(report.partitions).toEqual([
    { stream, partition: 1, problem: "no_leader", description: expect.stringContaining("was deleted") },
  ]);
});
