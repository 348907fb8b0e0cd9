import type { Deadline } from "../domain/deadline.ts";
import { mapLimit } from "../domain/map-limit.ts";
import type { JetStream } from "../jetstream/connection.ts";
import { Journal } from "../jetstream/journal.ts";
import { OrderedReader } from "../jetstream/ordered-reader.ts";
import { type Checkpoint, JournalNames, type KeyCheckpoint, type KeySnapshot } from "./checkpoint.ts";
import type { ExchangeMessage } from "./exchange.ts";
import { KeyWindows } from "./key-windows.ts";
import type { ProcessorRecord } from "./record.ts";

/** A lane's checkpoint with its place in the journal, which changes with each commit. */
export interface PlacedCheckpoint {
  readonly seq: number;
  readonly checkpoint: Checkpoint;
}

/** Checkpoints of all lanes, from the leader; undefined where there is none of the present incarnation. */
export async function placedCheckpoints(
  js: JetStream,
  record: ProcessorRecord,
  deadline: Deadline,
): Promise<(PlacedCheckpoint | undefined)[]> {
  const names = new JournalNames(record.id);
  const journal = new Journal(js, names.stream);
  const lanes = Array.from({ length: record.lanes }, (_, lane) => lane);
  return mapLimit(lanes, 16, async (lane) => {
    const entry = await journal.last(names.checkpoint(lane), deadline);
    if (!entry) return undefined;
    const checkpoint = JSON.parse(Buffer.from(entry.data).toString("utf8")) as Checkpoint;
    return checkpoint.incarnation === record.incarnation ? { seq: entry.seq, checkpoint } : undefined;
  });
}

/** A lane's whole window state in texts. */
export interface LaneWindows {
  readonly snapshot: Omit<KeySnapshot, "seq">;
  /** Of the snapshot's parts, in their order. */
  readonly texts: readonly string[];
}

/**
 * The window state of a lane at rest, with everything that other lanes have sent it. What came after the lane's last
 * message is merged in without its marks: so nothing is closed here that was not written, and the first marks of the lanes
 * that begin with this state close it.
 */
export async function windowsAtRest(
  js: JetStream,
  record: ProcessorRecord,
  lane: number,
  keys: KeyCheckpoint,
  deadline: Deadline,
): Promise<LaneWindows> {
  const names = new JournalNames(record.id);
  const journal = new Journal(js, names.stream);
  const windows = new KeyWindows(record.topology.stage!, record.lanes);
  const stored = new Map<string, string>();
  await mapLimit(keys.snapshot.blobs, 16, async ({ key }) => {
    const entry = await journal.last(key, deadline);
    if (!entry) throw new Error(`STATE_CORRUPT: ${key} is missing`);
    stored.set(key, Buffer.from(entry.data).toString("utf8"));
  });
  windows.restore(
    keys.snapshot,
    keys.snapshot.blobs.map(({ key }) => stored.get(key)!),
  );
  await eachMessage(js, journal, names.exchanges(lane), keys.snapshot.seq + 1, deadline, (seq, message) => {
    if (message.i !== record.incarnation && seq > keys.oldUntilSeq) return;
    const { w: _marks, ...data } = message;
    windows.apply(seq <= keys.doneSeq ? message : data);
  });
  let count = 0;
  const { snapshot, texts } = windows.snapshot(0, () => `new.${count++}`);
  for (const [key, text] of texts) stored.set(key, text);
  const { seq: _seq, ...rest } = snapshot;
  return { snapshot: rest, texts: snapshot.blobs.map(({ key }) => stored.get(key)!) };
}

async function eachMessage(
  js: JetStream,
  journal: Journal,
  filter: string,
  from: number,
  deadline: Deadline,
  take: (seq: number, message: ExchangeMessage) => void,
): Promise<void> {
  const reader = new OrderedReader(js, { jsStream: journal.name, filter, from, dense: false, batch: 500 });
  const signal = AbortSignal.timeout(Math.ceil(Math.max(1, deadline - performance.now())));
  try {
    for (let atEnd = false; !atEnd; ) {
      signal.throwIfAborted();
      const batch = await reader.read(0, signal);
      for (const { seq, data } of batch.messages)
        take(seq, JSON.parse(Buffer.from(data).toString("utf8")) as ExchangeMessage);
      atEnd = batch.atEnd;
    }
  } finally {
    await reader.close();
  }
}
