import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type Api, protocols } from "../support/clients.ts";
import { freshName, useService } from "../support/service.ts";

const service = useService();

describe.each(protocols)("nats-server falls silent, ends and comes back, over $name", ({ connect }) => {
  let api: Api;
  beforeAll(() => {
    api = connect(service.url);
  });
  afterAll(() => api[Symbol.asyncDispose]());

  test("what was asked meanwhile is answered by the one that comes back", async () => {
    const stream = freshName();
    await api.createStream({ name: stream });
    await api.publish(stream, { value: 1 });
    await api.poll(stream, "g");
    await service.nats.kill("SIGSTOP");
    const asked = Promise.all([
      api.getStream(stream),
      api.getConsumerGroup("g", stream),
      api.readPartition(stream, 0),
      api.publish(stream, { value: 2 }),
      api.commit("g", [{ stream, partition: 0, offset: 0 }]),
    ]);
    asked.catch(() => {});
    // The requests are on their way when it ends.
    await api.listStreams({ prefix: "no-such" });
    await service.nats.kill();
    await service.nats.restart();
    const [{ totalMessages }, group] = await asked;
    expect(totalMessages).toBeOneOf([1, 2]);
    expect(group.streams[0]!.stream).toBe(stream);
    expect((await api.getStream(stream)).totalMessages).toBe(2);
  });
});
