import { DiscardPolicy, RetentionPolicy, StorageType, type StreamConfig, type StreamInfo } from "@nats-io/jetstream";
import type { Deadline } from "../domain/deadline.ts";
import { MESSAGE_OVERHEAD_BYTES } from "../domain/limits.ts";
import { mapLimit } from "../domain/map-limit.ts";
import type { JetStream } from "./connection.ts";
import { JsError, jsErrorCode, toServiceError } from "./errors.ts";
import { partitionStream, partitionSubject, partitionSubjects } from "./names.ts";

/** What of a stream its partitions' JetStream streams depend on. */
export interface PartitionSettings {
  readonly name: string;
  readonly partitions: number;
  readonly replicationFactor: number;
  readonly retentionMs: number | undefined;
  readonly maxMessageBytes: number;
  readonly maxBytes: number | undefined;
  readonly duplicateWindowMs: number;
}

/** What one partition holds and where. */
export interface PartitionState {
  readonly partition: number;
  readonly startOffset: number;
  readonly endOffset: number;
  readonly messages: number;
  readonly bytes: number;
  /** Messages missing between the first and the last: the storage has lost them, for none is ever deleted there. */
  readonly lost: number;
  readonly leader: string | undefined;
  /** The leader among them. */
  readonly replicas: readonly string[];
}

/** Requests on their way at once; JetStream works through them one by one. */
const PARALLEL = 64;
/** Up to so many partitions are asked one by one; a listing of all costs less above. */
const ASK_EACH = 32;

/** Creates the JetStream streams of all partitions; those that exist stay. @throws JetStreamApiError. */
export async function createPartitions(js: JetStream, settings: PartitionSettings, deadline: Deadline): Promise<void> {
  // One alone first: what the cluster refuses it refuses here, with nothing else to undo.
  await addPartition(js, settings, 0, deadline);
  await mapLimit(range(1, settings.partitions), PARALLEL, (partition) =>
    addPartition(js, settings, partition, deadline),
  );
}

/** Brings the JetStream streams from `present` to `next`, which may have more partitions. @throws JetStreamApiError. */
export async function updatePartitions(
  js: JetStream,
  present: PartitionSettings,
  next: PartitionSettings,
  deadline: Deadline,
): Promise<void> {
  await mapLimit(range(0, present.partitions), PARALLEL, (partition) =>
    js.call(deadline, () => js.jsm.streams.update(partitionStream(next.name, partition), configOf(next, partition))),
  );
  await mapLimit(range(present.partitions, next.partitions), PARALLEL, (partition) =>
    addPartition(js, next, partition, deadline),
  );
}

/** Deletes the JetStream streams of a stream, also those of an unfinished change. */
export async function deletePartitions(js: JetStream, settings: PartitionSettings, deadline: Deadline): Promise<void> {
  const names = await js.call(deadline, async () => {
    const found: string[] = [];
    for await (const name of js.jsm.streams.names(partitionSubjects(settings.name))) found.push(name);
    return found;
  });
  await mapLimit(names, PARALLEL, async (name) => {
    try {
      await js.call(deadline, () => js.jsm.streams.delete(name));
    } catch (error) {
      if (jsErrorCode(error) !== JsError.STREAM_NOT_FOUND) throw error;
    }
  });
}

/** The state of every partition, in order. @throws ServiceError UNAVAILABLE, also when one is missing. */
export async function partitionStates(
  js: JetStream,
  settings: PartitionSettings,
  deadline: Deadline,
): Promise<PartitionState[]> {
  if (settings.partitions <= ASK_EACH)
    return mapLimit(range(0, settings.partitions), PARALLEL, (partition) =>
      partitionState(js, settings.name, partition, deadline),
    );
  const byName = new Map<string, StreamInfo>();
  try {
    await js.call(deadline, async () => {
      for await (const info of js.jsm.streams.list(partitionSubjects(settings.name)))
        byName.set(info.config.name, info);
    });
  } catch (error) {
    throw toServiceError(error);
  }
  return mapLimit(range(0, settings.partitions), PARALLEL, async (partition) => {
    const info = byName.get(partitionStream(settings.name, partition));
    return info ? stateOf(js, partition, info) : partitionState(js, settings.name, partition, deadline);
  });
}

/** The state of one partition. @throws ServiceError UNAVAILABLE, also when it is missing. */
export async function partitionState(
  js: JetStream,
  stream: string,
  partition: number,
  deadline: Deadline,
): Promise<PartitionState> {
  try {
    return stateOf(
      js,
      partition,
      await js.call(deadline, () => js.jsm.streams.info(partitionStream(stream, partition))),
    );
  } catch (error) {
    throw toServiceError(error);
  }
}

function stateOf(js: JetStream, partition: number, info: StreamInfo): PartitionState {
  const { first_seq: first, last_seq: last, messages, bytes, num_deleted: lost = 0 } = info.state;
  const leader = info.cluster ? info.cluster.leader : js.serverName;
  const replicas = [...(leader ? [leader] : []), ...(info.cluster?.replicas ?? []).map((peer) => peer.name)];
  // An empty JetStream stream that never held anything begins at 0, one that was emptied at last + 1.
  const startOffset = messages === 0 ? last : first - 1;
  return { partition, startOffset, endOffset: last, messages, bytes, lost, leader: leader || undefined, replicas };
}

async function addPartition(
  js: JetStream,
  settings: PartitionSettings,
  partition: number,
  deadline: Deadline,
): Promise<void> {
  try {
    await js.call(deadline, () => js.jsm.streams.add(configOf(settings, partition)));
  } catch (error) {
    // Left by a change that did not finish, with the settings of then.
    if (jsErrorCode(error) !== JsError.STREAM_NAME_IN_USE) throw error;
    await js.call(deadline, () =>
      js.jsm.streams.update(partitionStream(settings.name, partition), configOf(settings, partition)),
    );
  }
}

function configOf(settings: PartitionSettings, partition: number): StreamConfig & { name: string } {
  return {
    name: partitionStream(settings.name, partition),
    subjects: [partitionSubject(settings.name, partition)],
    retention: RetentionPolicy.Limits,
    storage: StorageType.File,
    discard: DiscardPolicy.Old,
    num_replicas: settings.replicationFactor,
    max_age: (settings.retentionMs ?? 0) * 1_000_000,
    max_bytes: settings.maxBytes ?? -1,
    max_msgs: -1,
    max_msgs_per_subject: -1,
    max_consumers: -1,
    max_msg_size: settings.maxMessageBytes + MESSAGE_OVERHEAD_BYTES,
    duplicate_window: settings.duplicateWindowMs * 1_000_000,
    allow_direct: true,
    allow_atomic: true,
    // Offsets have no gaps: nothing is ever deleted in the middle.
    deny_delete: true,
  } as StreamConfig & { name: string };
}

const range = (from: number, to: number): number[] =>
  Array.from({ length: Math.max(0, to - from) }, (_, i) => from + i);
