import { jetstream, jetstreamManager } from "@nats-io/jetstream";
import { connect, type NatsConnection } from "@nats-io/transport-node";
import { expect, onTestFinished, test } from "vitest";
import { startNats, startNatsCluster, type TestNats } from "../support/nats.ts";

async function client(servers: readonly TestNats[]): Promise<NatsConnection> {
  const { user, pass } = servers[0]!;
  const nc = await connect({
    servers: servers.map(({ port }) => `127.0.0.1:${port}`),
    user,
    pass,
    maxReconnectAttempts: -1,
    reconnectTimeWait: 50,
  });
  onTestFinished(() => nc.close());
  return nc;
}

test("a killed and restarted server has the port and the data of before", async () => {
  await using nats = await startNats();
  const { port, pid } = nats;
  const nc = await client([nats]);
  await (await jetstreamManager(nc)).streams.add({ name: "kept", subjects: ["kept"] });
  await jetstream(nc).publish("kept", "first");
  await nats.kill();
  expect(nats.pid).toBeUndefined();
  await nats.restart();
  expect(nats.port).toBe(port);
  expect(nats.pid).not.toBe(pid);
  const jsm = await jetstreamManager(await client([nats]));
  expect((await jsm.streams.info("kept")).state.messages).toBe(1);
});

test("a cluster of three takes replicated writes with one server killed", async () => {
  await using cluster = await startNatsCluster(3);
  const nc = await client(cluster.servers);
  const jsm = await jetstreamManager(nc);
  await jsm.streams.add({ name: "kept", subjects: ["kept"], num_replicas: 3 });
  await jetstream(nc).publish("kept", "first", { retries: 10 });
  const [victim] = cluster.servers;
  await victim!.kill("SIGKILL");
  const left = await client(cluster.servers.slice(1));
  await expect
    .poll(() => jetstream(left).publish("kept", "second", { msgID: "second", timeout: 1000 }), { timeout: 20_000 })
    .toMatchObject({ stream: "kept" });
  await victim!.restart();
  await cluster.whenReady();
  const state = (await (await jetstreamManager(left)).streams.info("kept")).state;
  expect(state.messages).toBe(2);
});
