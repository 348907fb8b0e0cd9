import { pino } from "pino";
import { expect, test } from "vitest";
import { deadlineIn } from "../../src/domain/deadline.ts";
import { connectJetStream } from "../../src/jetstream/connection.ts";
import { Journal } from "../../src/jetstream/journal.ts";
import { JournalNames } from "../../src/processing/checkpoint.ts";
import { Fence } from "../../src/processing/fence.ts";
import { Fenced, type LaneSpec } from "../../src/processing/lane-spec.ts";
import { startNats } from "../support/nats.ts";

test("an owner stores beside its checkpoint until another one takes the lane over", async () => {
  await using nats = await startNats();
  await using js = await connectJetStream({ url: nats.url, log: pino({ level: "silent" }) });
  const names = new JournalNames("p");
  const journal = new Journal(js, names.stream);
  const deadline = deadlineIn(20_000);
  await journal.create(names.subjects, 1, deadline);
  const signal = new AbortController().signal;
  const takeOver = (owner: string) => {
    const spec = { record: { incarnation: 1, generation: 1, start: "begin" }, lane: 0, owner } as unknown as LaneSpec;
    return Fence.takeOver(journal, names, spec, signal);
  };
  const status = (text: string) => ({ subject: names.status(0), payload: Buffer.from(text) });
  const found = async () => Buffer.from((await journal.last(names.status(0), deadline))!.data).toString();

  const first = await takeOver("a");
  await first.storeBeside(status("a"));
  const second = await takeOver("b");
  await second.storeBeside(status("b"));
  await expect(first.storeBeside(status("late"))).rejects.toThrow(Fenced);
  expect(await found()).toBe("b");

  // The revision that it knows is not the last one while a commit of its own is on its way.
  const { checkpoint } = second;
  const committing = second.commit({ ...checkpoint, commit: checkpoint.commit + 1 }, []);
  await second.storeBeside(status("b again"));
  await committing;
  expect(await found()).toBe("b again");
  await expect(first.commit({ ...first.checkpoint, commit: 1 }, [])).rejects.toThrow(Fenced);
});
