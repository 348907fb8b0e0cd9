import { expect, test } from "vitest";
import type { StoredEvent } from "../../src/domain/event.ts";
import { checkOperations, type OperationFields, type WindowStage } from "../../src/domain/topology.ts";
import type { KeySnapshot } from "../../src/processing/checkpoint.ts";
import { Flight } from "../../src/processing/flight.ts";
import { type ClosedGroup, KeyWindows } from "../../src/processing/key-windows.ts";
import { LocalWindows } from "../../src/processing/local-windows.ts";

/** The most that a NATS server takes unless it is told otherwise. */
const MAX_PAYLOAD = 1024 * 1024;
const END = { i: 1, g: 0, w: [[0, Number.MAX_SAFE_INTEGER, 1, null]] } as const;

function stageOf(window: OperationFields): WindowStage {
  const last: OperationFields = { type: "aggregate", aggregation: "last", field: "x", groupBy: "k" };
  return checkOperations([{ type: "window", grace: 0, ...window }, last], new Set()).stage!;
}

const flight = (offset: number): Flight =>
  new Flight({ partition: 0, offset, timestampMs: 0, payload: new Uint8Array(), contentType: "" } as StoredEvent);

const fits = (text: string) => expect(Buffer.byteLength(text)).toBeLessThan(MAX_PAYLOAD);

/** What windows hold, by closing them. */
function contents(windows: KeyWindows): unknown[] {
  const view = ({ start, end, group, acc }: ClosedGroup) => [start, end, group, acc.count, acc.accs];
  return windows
    .apply(END)
    .map((each) => JSON.stringify(view(each)))
    .sort();
}

test.each<[string, OperationFields, (n: number) => { timeMs: number; group: string }]>([
  [
    "many groups of a window",
    { windowType: "tumbling", duration: 1000 },
    (n) => ({ timeMs: n % 2000, group: JSON.stringify(`group ${n}`) }),
  ],
  ["many sessions of a group", { windowType: "session", gap: 5 }, (n) => ({ timeMs: n * 10, group: '"one"' })],
])("%s with large values are exchanged and stored in parts that fit a message", (_what, window, place) => {
  const stage = stageOf(window);
  const local = new LocalWindows(stage);
  const count = 1000;
  for (let n = 0; n < count; n++)
    local.add(flight(n), { ...place(n), values: [`${n} ${"\u00fc".repeat(3000)}`] }, null);
  const messages = local.drain(1, 0, 1).get(0)!;
  const windows = new KeyWindows(stage, 1);
  for (const message of messages) {
    const text = JSON.stringify(message);
    fits(text);
    windows.apply(JSON.parse(text) as typeof message);
  }
  let keys = 0;
  const stored = new Map<string, string>();
  const store = (): KeySnapshot => {
    const { snapshot, texts, obsolete } = windows.snapshot(1, () => `key ${keys++}`);
    for (const key of obsolete) stored.delete(key);
    for (const [key, text] of texts) stored.set(key, text);
    expect([...stored.keys()].sort()).toEqual(snapshot.blobs.map(({ key }) => key).sort());
    return snapshot;
  };
  const restored = (snapshot: KeySnapshot): KeyWindows => {
    const again = new KeyWindows(stage, 1);
    again.restore(
      snapshot,
      snapshot.blobs.map(({ key }) => stored.get(key)!),
    );
    return again;
  };
  store();
  // Once more, with some groups changed: the parts that they were in are replaced, all of them.
  local.add(flight(count), { ...place(1), values: ["changed"] }, null);
  for (const message of local.drain(1, 0, 1).get(0)!) windows.apply(message);
  const snapshot = store();
  for (const text of stored.values()) fits(text);
  // And from what was restored, as another owner would go on.
  const again = restored(snapshot);
  expect(again.groupCount).toBe(windows.groupCount);
  const all = contents(windows);
  expect(all).toHaveLength(count);
  expect(contents(again)).toEqual(all);
});
