import { jetstreamManager } from "@nats-io/jetstream";
import { connect } from "@nats-io/transport-node";
import { expect, onTestFinished, test } from "vitest";
import { JournalNames, SIDE_HEADER } from "../../src/processing/checkpoint.ts";
import { freshName, useService } from "../support/service.ts";
import { eventually } from "../support/wait.ts";
import { Calls } from "./calls.ts";

const service = useService();

test("late and failed events lie in the journal, as they were and with their origin", async () => {
  const calls = new Calls(service.url);
  const source = freshName("in");
  await calls.ok("POST", "/streams", { name: source });
  const { processorId } = await calls.ok<{ processorId: string }>("POST", "/processors", {
    name: "p",
    source,
    sink: `${source}-out`,
    operations: [
      { type: "window", windowType: "tumbling", duration: 1000, timestampField: "t", grace: 0 },
      { type: "aggregate", aggregation: "count" },
    ],
  });
  const times = [10_000, "never", 20_000, 1];
  await calls.publish(
    source,
    times.map((t, n) => ({ key: `k${n}`, value: { t }, headers: { n: String(n) } })),
  );
  await eventually("both counted", async () => {
    const { counters } = await calls.metrics(processorId);
    return counters.late === 1 && counters.deadLetters === 1;
  });
  const { user, pass, port } = service.nats;
  const nats = await connect({ servers: `127.0.0.1:${port}`, user, pass });
  onTestFinished(() => nats.close());
  const manager = await jetstreamManager(nats);
  const names = new JournalNames(processorId);
  const last = async (kind: "dlq" | "late") => {
    const message = await manager.streams.getMessage(names.stream, { last_by_subj: names.sides(kind) });
    const meta = JSON.parse(Buffer.from(message!.header.get(SIDE_HEADER), "base64").toString("utf8")) as object;
    return { value: message!.json<object>(), meta };
  };
  const origin = { source, partition: 0, generation: 1, contentType: "application/json" };
  expect(await last("dlq")).toEqual({
    value: { t: "never" },
    meta: expect.objectContaining({
      ...origin,
      kind: "dlq",
      offset: 1,
      key: "k1",
      operation: 0,
      headers: [["n", "1"]],
    }),
  });
  expect(await last("late")).toEqual({
    value: { t: 1 },
    meta: expect.objectContaining({ ...origin, kind: "late", offset: 3, key: "k3", operation: 0 }),
  });
});
