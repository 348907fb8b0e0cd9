import type { MessageInitShape } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import type { ServiceImpl } from "@connectrpc/connect";
import type { ProcessorService, SavepointSchema } from "../../gen/millrace/v1/processors_pb.js";
import { toServiceError } from "../jetstream/errors.ts";
import type { Processors } from "../processing/processors.ts";
import type { SavepointRecord } from "../processing/savepoint-store.ts";
import type { Savepoints } from "../processing/savepoints.ts";
import { deadlineOf } from "./deadline.ts";
import { LIFE_CYCLE_MS, processorMessage } from "./processors.ts";
import { checkShown, maySeeSavepoint, shownSavepoint } from "./shown.ts";
import { createdKey } from "./streams.ts";

const DEFAULT_PAGE = 100;

type Calls = "createSavepoint" | "getSavepoint" | "listSavepoints" | "deleteSavepoint" | "restoreProcessor";

/** The part of the ProcessorService that makes savepoints and goes back to them. */
export function savepointCalls(
  savepoints: Savepoints,
  processors: Processors,
): Pick<ServiceImpl<typeof ProcessorService>, Calls> {
  const { store } = savepoints;
  return {
    async createSavepoint({ processorId, name }, context) {
      const deadline = deadlineOf(context, LIFE_CYCLE_MS);
      await checkShown(processors, processorId, context);
      const record = await translated(savepoints.create(processorId, name, deadline));
      context.values.set(createdKey, true);
      return { savepoint: savepointMessage(record) };
    },
    async getSavepoint({ name }, context) {
      const found = await translated(shownSavepoint(store, name, context, deadlineOf(context)));
      return { savepoint: savepointMessage(found) };
    },
    async listSavepoints({ processorId, pageSize = DEFAULT_PAGE, pageToken = "" }, context) {
      const all = await translated(store.all(deadlineOf(context)));
      const rest = all
        .filter((each) => maySeeSavepoint(each, context))
        .filter((each) => processorId === undefined || each.processorId === processorId)
        .filter(({ name }) => name > pageToken);
      const page = rest.slice(0, pageSize);
      return {
        savepoints: page.map(savepointMessage),
        ...(rest.length > pageSize ? { nextPageToken: page.at(-1)!.name } : {}),
      };
    },
    async deleteSavepoint({ name }, context) {
      const deadline = deadlineOf(context, LIFE_CYCLE_MS);
      await translated(shownSavepoint(store, name, context, deadline));
      await translated(store.delete(name, deadline));
      return {};
    },
    async restoreProcessor({ processorId, savepoint }, context) {
      const deadline = deadlineOf(context, LIFE_CYCLE_MS);
      await checkShown(processors, processorId, context);
      await translated(shownSavepoint(store, savepoint, context, deadline));
      const view = await processors.restore(processorId, savepoint, deadline);
      return { processor: processorMessage(view) };
    },
  };
}

function savepointMessage(record: SavepointRecord): MessageInitShape<typeof SavepointSchema> {
  const partitions = record.lanes.flatMap((lane) => Object.entries(lane.partitions));
  return {
    name: record.name,
    processorId: record.processorId,
    generation: record.generation,
    source: record.source,
    parallelism: record.lanes.length,
    createdAt: timestampFromMs(record.createdAtMs),
    partitions: partitions
      .map(([partition, { next }]) => ({ partition: Number(partition), nextOffset: BigInt(next) }))
      .sort((a, b) => a.partition - b.partition),
    size: BigInt(record.bytes),
  };
}

async function translated<T>(work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (error) {
    throw toServiceError(error);
  }
}
