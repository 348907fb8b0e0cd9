import { Kvm } from "@nats-io/kv";
import { connect } from "@nats-io/transport-node";
import { expect, onTestFinished, test } from "vitest";
import { seededRandom } from "../support/random.ts";
import { freshName, startService, useService } from "../support/service.ts";
import { eventually } from "../support/wait.ts";
import { Calls } from "./calls.ts";
import { expectedRows, type OracleEvent, type OracleWindow, rowText } from "./oracle.ts";

const service = useService();
const PARTITIONS = 3;
const CYCLES = 5;
const START_MS = Date.UTC(2026, 0, 1);

test.each<OracleWindow>([
  { windowType: "tumbling", duration: 500 },
  { windowType: "hopping", duration: 1000, advance: 250 },
  { windowType: "session", gap: 60 },
])(
  "state handed from processor to processor by savepoints under load counts each event once: $windowType",
  async (window) => {
    await using other = await startService(service.nats.url);
    const calls = new Calls(service.url);
    const source = freshName("in");
    const sink = `${source}-out`;
    await calls.ok("POST", "/streams", { name: source, partitions: PARTITIONS });
    const operations = [
      { type: "window", ...window, timestampField: "t", grace: 300 },
      { type: "aggregate", aggregation: "count", groupBy: "g" },
      { type: "aggregate", aggregation: "sum", field: "amount", as: "total" },
    ];
    const config = { parallelism: 2, checkpointInterval: 100, idleTimeout: 86_400_000 };
    const create = async (savepoint?: string): Promise<string> => {
      const request = {
        name: "p",
        source,
        sink,
        operations,
        config,
        ...(savepoint === undefined ? {} : { savepoint }),
      };
      return (await calls.ok<{ processorId: string }>("POST", "/processors", request)).processorId;
    };

    const chance = seededRandom(7);
    const published: OracleEvent[] = [];
    let stop = false;
    const publishing = (async () => {
      for (let tick = 0; !stop; tick++) {
        // Out of order within the grace.
        const events = Array.from({ length: 30 }, (_, i) => ({
          partition: i % PARTITIONS,
          timeMs: START_MS + tick * 40 + Math.floor(chance() * 200),
          amount: Math.floor(chance() * 50),
          group: `g${Math.floor(chance() * 7)}`,
        }));
        await calls.publish(
          source,
          events.map(({ partition, timeMs, amount, group }) => ({ partition, value: { t: timeMs, amount, g: group } })),
        );
        published.push(...events);
      }
    })();

    let id = await create();
    for (let cycle = 0; cycle < CYCLES; cycle++) {
      const before = (await calls.metrics(id)).counters.emitted;
      await eventually(
        "it has written some results",
        async () => (await calls.metrics(id)).counters.emitted > before + 10,
      );
      // Held while it runs, taken up again, and at last at rest: two savepoints of which the later counts.
      await new Calls(other.url).ok("POST", `/processors/${id}/savepoints`, { name: `${id}-a` });
      await calls.ok("POST", `/processors/${id}/pause`);
      await calls.ok("POST", `/processors/${id}/savepoints`, { name: `${id}-b` });
      await calls.ok("DELETE", `/processors/${id}`);
      id = await create(`${id}-b`);
    }
    stop = true;
    await publishing;
    // What closes every window but its own.
    const last = START_MS + 3_600_000;
    await calls.publish(
      source,
      Array.from({ length: PARTITIONS }, (_, partition) => ({ partition, value: { t: last, amount: 0, g: "end" } })),
    );
    const expected = expectedRows(published, window);
    const rows = await calls.whenHolds(sink, expected.length, 30_000);
    const found = rows.map(({ value }) => {
      const { windowStart, windowEnd, g, count, total } = value as Record<string, string>;
      const [start, end] = [Date.parse(windowStart!), Date.parse(windowEnd!)];
      return rowText(g!, { start, end, count: Number(count), sum: Number(total) });
    });
    expect(found.sort()).toEqual(expected);
  },
);

test("a hold ends by itself when whoever holds a processor is gone", async () => {
  const calls = new Calls(service.url);
  const source = freshName("in");
  await calls.ok("POST", "/streams", { name: source });
  const request = { name: "p", source, sink: `${source}-out`, operations: [{ predicate: "true" }] };
  const { processorId } = await calls.ok<{ processorId: string }>("POST", "/processors", request);
  const { user, pass, port } = service.nats;
  const nats = await connect({ servers: `127.0.0.1:${port}`, user, pass });
  onTestFinished(() => nats.close());
  // What a process leaves that is killed while it makes a savepoint.
  const bucket = await new Kvm(nats).open("mr_processors");
  const record = (await bucket.get(processorId))!.json<{ revision: number }>();
  const held = { ...record, revision: record.revision + 1, heldUntilMs: Date.now() + 2000 };
  await bucket.put(processorId, JSON.stringify(held));
  await eventually("it does not run", async () => (await calls.metrics(processorId)).status === "starting");
  await calls.publish(source, [{ value: 1 }]);
  await calls.whenHolds(`${source}-out`, 1);
  expect((await calls.metrics(processorId)).status).toBe("running");
});

test("a savepoint, resets, a restore and a deletion at once end each in an answer of the contract", async () => {
  const calls = new Calls(service.url);
  const source = freshName("in");
  await calls.ok("POST", "/streams", { name: source, partitions: 2 });
  const operations = [
    { type: "window", windowType: "tumbling", duration: 1000, timestampField: "t" },
    { type: "aggregate", aggregation: "count", groupBy: "g" },
  ];
  const request = { name: "p", source, sink: `${source}-out`, operations };
  const { processorId: id } = await calls.ok<{ processorId: string }>("POST", "/processors", request);
  await calls.publish(
    source,
    Array.from({ length: 100 }, (_, i) => ({ value: { t: START_MS + i, g: i } })),
  );
  await calls.ok("POST", `/processors/${id}/savepoints`, { name: `${id}-0` });
  const answers = await Promise.all([
    calls.any("POST", `/processors/${id}/savepoints`, { name: `${id}-1` }),
    calls.any("POST", `/processors/${id}/savepoints`, { name: `${id}-1` }),
    calls.any("POST", `/processors/${id}/reset`, {}),
    calls.any("POST", `/processors/${id}/restore`, { savepoint: `${id}-0` }),
    calls.any("GET", `/processors/${id}/sideEvents?timeout=500`),
  ]);
  expect(answers.filter(({ status }) => status >= 500 && status !== 503)).toEqual([]);
  const last = await Promise.all([
    calls.any("POST", `/processors/${id}/savepoints`, { name: `${id}-2` }),
    calls.any("GET", `/processors/${id}/sideEvents?timeout=500`),
    calls.any("DELETE", `/processors/${id}`),
  ]);
  expect(last.filter(({ status }) => status >= 500 && status !== 503)).toEqual([]);
  expect((await calls.any("GET", `/processors/${id}`)).status).toBe(404);
});
