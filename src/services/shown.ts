import type { HandlerContext } from "@connectrpc/connect";
import type { Deadline } from "../domain/deadline.ts";
import type { Processors } from "../processing/processors.ts";
import { type SavepointRecord, type SavepointStore, savepointNotFound } from "../processing/savepoint-store.ts";
import { processorNotFound } from "../processing/store.ts";
import { mayUseProcessor, principalKey } from "./access.ts";
import { deadlineOf } from "./deadline.ts";

/** @throws ServiceError PROCESSOR_NOT_FOUND, also for a processor that the caller may not see. */
export async function checkShown(processors: Processors, id: string, context: HandlerContext): Promise<void> {
  const { rights } = context.values.get(principalKey);
  if (rights.isAdmin) return;
  if (!mayUseProcessor(rights, await processors.record(id, deadlineOf(context)))) throw processorNotFound(id);
}

/** Whether the caller may see a savepoint: whoever may use a processor like the one that it is of. */
export function maySeeSavepoint({ source, sink }: SavepointRecord, context: HandlerContext): boolean {
  const { rights } = context.values.get(principalKey);
  return rights.isAdmin || (sink !== undefined && mayUseProcessor(rights, { source, sink }));
}

/** @throws ServiceError RESOURCE_NOT_FOUND, also for a savepoint that the caller may not see. */
export async function shownSavepoint(
  store: SavepointStore,
  name: string,
  context: HandlerContext,
  deadline: Deadline,
): Promise<SavepointRecord> {
  const record = await store.get(name, deadline);
  if (!maySeeSavepoint(record, context)) throw savepointNotFound(name);
  return record;
}
