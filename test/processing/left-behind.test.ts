import { pino } from "pino";
import { expect, test } from "vitest";
import { deadlineIn } from "../../src/domain/deadline.ts";
import { connectJetStream } from "../../src/jetstream/connection.ts";
import { Journal } from "../../src/jetstream/journal.ts";
import { JournalNames } from "../../src/processing/checkpoint.ts";
import { startNats } from "../support/nats.ts";
import { freshName, startService } from "../support/service.ts";
import { eventually } from "../support/wait.ts";
import { Calls } from "./calls.ts";

const LIMIT_MS = 30_000;

test("what an owner stored and did not live to refer to is removed by the next one, and nothing else", async () => {
  await using nats = await startNats();
  await using js = await connectJetStream({ url: nats.url, log: pino({ level: "silent" }) });
  const source = freshName("in");
  const sink = `${source}-out`;
  const groups = Array.from({ length: 20 }, (_, i) => ({ value: { k: `k${i}`, t: 1000 + i } }));
  let processorId: string;
  {
    await using service = await startService(nats.url);
    const calls = new Calls(service.url);
    await calls.ok("POST", "/streams", { name: source });
    ({ processorId } = await calls.ok<{ processorId: string }>("POST", "/processors", {
      name: "counts",
      source,
      sink,
      operations: [
        { type: "window", windowType: "tumbling", duration: 10_000, timestampField: "t" },
        { type: "aggregate", aggregation: "count", as: "n", groupBy: "k" },
      ],
      config: { idleTimeout: 86_400_000 },
    }));
    await calls.publish(source, groups);
    const isDone = async () => (await calls.metrics(processorId)).metrics.eventsProcessed === groups.length;
    await eventually("they are processed", isDone, LIMIT_MS);
  }

  const names = new JournalNames(processorId);
  const journal = new Journal(js, names.stream);
  const parts = () => journal.subjects(names.blobs(0), deadlineIn(LIMIT_MS));
  const [needed] = await parts();
  expect(needed).toBeDefined();
  const left = names.blob(0, 1, 4711);
  const ofRestore = names.seedBlob("s12", 0, 0);
  await journal.store(
    [left, ofRestore].map((subject) => ({ subject, payload: Buffer.from("[]") })),
    deadlineIn(LIMIT_MS),
  );

  await using service = await startService(nats.url);
  const calls = new Calls(service.url);
  await eventually("it is gone", async () => !(await parts()).includes(left), LIMIT_MS);
  expect((await parts()).sort()).toEqual([needed, ofRestore].sort());
  await calls.publish(source, [{ value: { k: "end", t: 60_000 } }]);
  const rows = await calls.whenHolds(sink, groups.length, LIMIT_MS);
  expect(rows.map(({ value }) => value.n)).toEqual(groups.map(() => 1));
});
