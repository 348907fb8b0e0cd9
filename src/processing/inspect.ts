import type { Deadline } from "../domain/deadline.ts";
import type { GroupMath } from "../domain/group-state.ts";
import { mapLimit } from "../domain/map-limit.ts";
import type { JetStream } from "../jetstream/connection.ts";
import { Journal } from "../jetstream/journal.ts";
import { OrderedReader } from "../jetstream/ordered-reader.ts";
import { partitionStates } from "../jetstream/partitions.ts";
import type { StreamRecord } from "../log/catalog.ts";
import { carriedOver } from "./carry-over.ts";
import { type Checkpoint, JournalNames, type LaneCounts, type LaneSeed, type LaneStatus } from "./checkpoint.ts";
import type { ExchangeMessage } from "./exchange.ts";
import { loadSnapshot } from "./key-part.ts";
import { KeyWindows } from "./key-windows.ts";
import { beginsAtEnd, type ProcessorRecord } from "./record.ts";

/** What the journal says of a processor, by whichever process asks. */

/** One lane as it stands in the journal; `status` and `checkpoint` are undefined before its first. */
export interface LaneView {
  readonly lane: number;
  readonly checkpoint: Checkpoint | undefined;
  readonly status: LaneStatus | undefined;
  /** What it is at, or begins with when it has not run since the processor was made to begin anew. */
  readonly state: ReturnType<typeof carriedOver>;
}

/** Reads every lane, from the leader. */
export async function readLanes(js: JetStream, record: ProcessorRecord, deadline: Deadline): Promise<LaneView[]> {
  const names = new JournalNames(record.id);
  const journal = new Journal(js, names.stream);
  const read = async <T>(subject: string): Promise<T | undefined> => {
    const entry = await journal.last(subject, deadline);
    return entry && (JSON.parse(Buffer.from(entry.data).toString("utf8")) as T);
  };
  const lanes = Array.from({ length: record.lanes }, (_, lane) => lane);
  return mapLimit(lanes, 16, async (lane) => {
    const [checkpoint, status] = await Promise.all([
      read<Checkpoint>(names.checkpoint(lane)),
      read<LaneStatus>(names.status(lane)),
    ]);
    const isNew = checkpoint?.incarnation !== record.incarnation;
    const seed =
      isNew && record.start === "savepoint" ? await read<LaneSeed>(names.seed(record.seed ?? "", lane)) : undefined;
    return { lane, checkpoint, status, state: carriedOver(checkpoint, record, seed && { ...seed, seq: 0 }) };
  });
}

/** The checkpoints of lanes that the processor has no longer, since its parallelism is less than it was. */
async function formerLanes(js: JetStream, record: ProcessorRecord, deadline: Deadline): Promise<Checkpoint[]> {
  const names = new JournalNames(record.id);
  const journal = new Journal(js, names.stream);
  const former = Array.from(
    { length: Math.max(0, (record.mostLanes ?? 0) - record.lanes) },
    (_, i) => record.lanes + i,
  );
  const entries = await mapLimit(former, 16, (lane) => journal.last(names.checkpoint(lane), deadline));
  return entries.flatMap((entry) =>
    entry ? [JSON.parse(Buffer.from(entry.data).toString("utf8")) as Checkpoint] : [],
  );
}

export type StatusWord = "starting" | "running" | "paused" | "degraded" | "failed" | "stopped";

/** How a processor is. @param live ids of the processes that run processors. */
export function statusOf(
  record: ProcessorRecord,
  lanes: readonly LaneView[],
  streams: { source: StreamRecord | undefined; sink: StreamRecord | undefined },
  live: readonly string[],
): { status: StatusWord; reason?: string } {
  if (record.desired === "paused") return { status: "paused" };
  if (record.fault !== undefined) return { status: "failed", reason: record.fault };
  if (live.length === 0) return { status: "stopped", reason: "no process with the role processor runs" };
  const own = lanes.filter(({ status }) => status?.revision === record.revision);
  const failed = own.find(({ status }) => status?.state === "failed");
  if (failed) return { status: "failed", reason: `lane ${failed.lane}: ${failed.status!.reason}` };
  const missing = missingStream(record, streams);
  if (missing !== undefined) return { status: "degraded", reason: missing };
  const degraded = own.find(({ status }) => status?.state === "degraded");
  if (degraded) return { status: "degraded", reason: `lane ${degraded.lane}: ${degraded.status!.reason}` };
  const runs = own.length === record.lanes && own.every(({ status }) => live.includes(status!.owner));
  return { status: runs ? "running" : "starting" };
}

/** Which of its streams a processor has to do without; undefined when they are there. */
export function missingStream(
  record: ProcessorRecord,
  { source, sink }: { source: StreamRecord | undefined; sink: StreamRecord | undefined },
): string | undefined {
  if (!source) return `the source "${record.source}" does not exist`;
  if (source.id !== record.sourceId)
    return `the source "${record.source}" was deleted and created again; reset the processor`;
  return sink ? undefined : `the sink "${record.sink}" does not exist`;
}

/** One partition of the source, as a processor sees it. */
export interface PartitionView {
  readonly partition: number;
  readonly nextOffset: number;
  readonly lag: number;
  readonly watermark: number | null;
  readonly idle: boolean;
  readonly holds: boolean;
}

/** A processor's metrics over all lanes. */
export interface MetricsView {
  readonly counts: LaneCounts;
  readonly perSecond: number;
  readonly latencyMs: number;
  readonly lag: number;
  readonly windows: { start: number; end: number; count: number; closed: boolean }[];
  readonly partitions: PartitionView[];
}

/** A rate older than this says nothing of now. */
const RATE_MS = 15_000;
const MAX_WINDOWS = 100;

/** Adds the lanes up. @param source undefined when it is gone: then there is no lag. */
export async function metricsOf(
  js: JetStream,
  record: ProcessorRecord,
  lanes: readonly LaneView[],
  source: StreamRecord | undefined,
  deadline: Deadline,
): Promise<MetricsView> {
  const counts: LaneCounts = { processed: 0, filtered: 0, errors: 0, deadLetters: 0, late: 0, emitted: 0 };
  const windows = new Map<number, MetricsView["windows"][number]>();
  let perSecond = 0;
  let latencySum = 0;
  const former = await formerLanes(js, record, deadline);
  for (const each of [...former, ...lanes.map(({ state }) => state)])
    for (const name of Object.keys(counts) as (keyof LaneCounts)[]) counts[name] += each.counts[name];
  for (const { state } of lanes) {
    if (Date.now() - state.rate.atMs < RATE_MS) {
      perSecond += state.rate.perSecond;
      latencySum += state.rate.latencyMs * state.rate.perSecond;
    }
    for (const [start, end, count, closed] of state.keys?.windows ?? []) {
      const known = windows.get(start) ?? { start, end, count: 0, closed: true };
      windows.set(start, {
        start,
        end: Math.max(known.end, end),
        count: known.count + count,
        closed: known.closed && closed === 1,
      });
    }
  }
  const partitions: PartitionView[] = [];
  const states = source?.id === record.sourceId ? await partitionStates(js, source, deadline) : [];
  const holder = record.topology.stage === undefined ? undefined : holderOf(lanes, states.length);
  for (const { partition, startOffset, endOffset } of states) {
    const progress = lanes[partition % record.lanes]?.state.partitions[partition];
    const next = progress?.next ?? (beginsAtEnd(record, partition) ? endOffset : startOffset);
    partitions.push({
      partition,
      nextOffset: next,
      lag: Math.max(0, endOffset - Math.max(next, startOffset)),
      watermark: progress?.watermark ?? null,
      idle: progress?.idle ?? false,
      holds: partition === holder,
    });
  }
  return {
    counts,
    perSecond,
    latencyMs: perSecond === 0 ? 0 : latencySum / perSecond,
    lag: partitions.reduce((sum, each) => sum + each.lag, 0),
    windows: [...windows.values()].sort((a, b) => a.start - b.start).slice(-MAX_WINDOWS),
    partitions,
  };
}

/** The partition with the lowest watermark; one without events comes first. */
function holderOf(lanes: readonly LaneView[], partitions: number): number | undefined {
  let holder: number | undefined;
  let lowest = Number.POSITIVE_INFINITY;
  for (let partition = 0; partition < partitions; partition++) {
    const progress = lanes[partition % lanes.length]?.state.partitions[partition];
    const watermark = progress?.watermark ?? -1;
    if (watermark < lowest) {
      lowest = watermark;
      holder = partition;
    }
  }
  return holder;
}

/** A group of a window as a query finds it. */
export interface GroupView {
  readonly group: string;
  readonly end: number;
  readonly count: number;
  readonly results: readonly [name: string, json: string][];
}

/** The groups of the window, or sessions, that begin at `start`; undefined when there is none. */
export async function readWindow(
  js: JetStream,
  record: ProcessorRecord,
  start: number,
  deadline: Deadline,
): Promise<{ end: number; closed: boolean; groups: GroupView[] } | undefined> {
  if (!record.topology.stage) return undefined;
  const found = await mapLimit(
    Array.from({ length: record.lanes }, (_, lane) => lane),
    4,
    async (lane) => {
      const windows = await readKeyWindows(js, record, lane, deadline);
      const window = windows?.groupsAt(start);
      return window && { ...window, groups: window.groups.map((each) => viewOf(each, windows!.math)) };
    },
  );
  const present = found.filter((each) => each !== undefined);
  if (present.length === 0) return undefined;
  return {
    end: Math.max(...present.map(({ end }) => end)),
    closed: present.every(({ closed }) => closed),
    groups: present.flatMap(({ groups }) => groups).sort((a, b) => (a.group < b.group ? -1 : 1)),
  };
}

function viewOf([group, acc, end]: [string, Parameters<GroupMath["results"]>[0], number], math: GroupMath): GroupView {
  return { group, end, count: acc.count, results: math.results(acc) };
}

/** A lane's window state as of now: its snapshot, and the exchange since. Read again when a new snapshot came between. */
async function readKeyWindows(
  js: JetStream,
  record: ProcessorRecord,
  lane: number,
  deadline: Deadline,
): Promise<KeyWindows | undefined> {
  const names = new JournalNames(record.id);
  const journal = new Journal(js, names.stream);
  for (let attempt = 0; ; attempt++) {
    const entry = await journal.last(names.checkpoint(lane), deadline);
    const checkpoint = entry && (JSON.parse(Buffer.from(entry.data).toString("utf8")) as Checkpoint);
    if (!checkpoint?.keys || checkpoint.incarnation !== record.incarnation) return undefined;
    const { snapshot, oldUntilSeq } = checkpoint.keys;
    const windows = new KeyWindows(record.topology.stage!, record.lanes);
    try {
      await loadSnapshot(journal, snapshot, windows);
    } catch (error) {
      if (attempt >= 3) throw error;
      continue;
    }
    const until = await journal.lastSeq(deadline);
    const reader = new OrderedReader(js, {
      jsStream: journal.name,
      filter: names.exchanges(lane),
      from: snapshot.seq + 1,
      dense: false,
      batch: 500,
    });
    const signal = AbortSignal.timeout(Math.ceil(Math.max(1, deadline - performance.now())));
    try {
      for (let atEnd = false; !atEnd && !signal.aborted; ) {
        const batch = await reader.read(0, signal);
        for (const { seq, data } of batch.messages) {
          const message = JSON.parse(Buffer.from(data).toString("utf8")) as ExchangeMessage;
          if (message.i === record.incarnation || seq <= oldUntilSeq) windows.apply(message);
        }
        atEnd = batch.atEnd || (batch.messages.at(-1)?.seq ?? 0) >= until;
      }
    } finally {
      await reader.close();
    }
    const now = await journal.last(names.checkpoint(lane), deadline);
    const after = now && (JSON.parse(Buffer.from(now.data).toString("utf8")) as Checkpoint);
    if (after?.keys?.snapshot.seq === snapshot.seq || attempt >= 3) return windows;
  }
}
