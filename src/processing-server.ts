import type { Logger } from "pino";
import { FunctionService } from "../gen/millrace/v1/functions_pb.js";
import { ProcessorService } from "../gen/millrace/v1/processors_pb.js";
import { TableService } from "../gen/millrace/v1/tables_pb.js";
import type { Config } from "./config.ts";
import type { JetStream } from "./jetstream/connection.ts";
import { openBucket } from "./jetstream/kv.ts";
import { NODES_BUCKET } from "./jetstream/names.ts";
import type { Catalog } from "./log/catalog.ts";
import { Presence } from "./log/presence.ts";
import { Deletions } from "./processing/deletions.ts";
import { DryRuns } from "./processing/dry-runs.ts";
import { FunctionRegistry } from "./processing/function-registry.ts";
import { Processors } from "./processing/processors.ts";
import { SavepointStore } from "./processing/savepoint-store.ts";
import { Savepoints } from "./processing/savepoints.ts";
import { ProcessorStore } from "./processing/store.ts";
import { Supervisor } from "./processing/supervisor.ts";
import { TABLES_BUCKET } from "./processing/tables.ts";
import { dryRunCalls } from "./services/dry-run.ts";
import { functionService } from "./services/functions.ts";
import { processorService } from "./services/processors.ts";
import type { OwnerOf } from "./services/quotas.ts";
import { savepointCalls } from "./services/savepoints.ts";
import { sideEventCalls } from "./services/side-events.ts";
import { type TableRow, tableService } from "./services/tables.ts";
import { type Mounted, mount } from "./transport/in-process.ts";

/** What {@link openProcessing} needs; what it opens is closed with `owned`. */
export interface ProcessingOptions {
  readonly js: JetStream;
  readonly catalog: Catalog;
  readonly natsUrl: string;
  readonly config: Config;
  readonly logger: Logger;
  readonly owned: AsyncDisposableStack;
  /** Is aborted when calls are to end. */
  readonly draining: AbortSignal;
  readonly ownerOf: OwnerOf;
}

/** Opens all that has to do with processors, their services among it, and starts to run them unless this process is a mere gateway. */
export async function openProcessing(
  options: ProcessingOptions,
): Promise<{ mounted: Mounted[]; processors: Processors }> {
  const { js, catalog, config, logger, owned, natsUrl, draining, ownerOf } = options;
  const replicas = config.catalogReplicas;
  const runs = config.role !== "gateway";
  const tables = await openBucket<TableRow>(js, TABLES_BUCKET, replicas);
  const store = owned.use(await ProcessorStore.open(js, replicas));
  const functions = await FunctionRegistry.open(js, replicas, config.functionsDir);
  const presence = owned.use(await Presence.open(js, NODES_BUCKET, replicas, runs, logger));
  owned.use(new Deletions(js, store, logger));
  const savepoints = new Savepoints(js, store, catalog, presence, await SavepointStore.open(js, replicas));
  const processors = new Processors({ js, store, catalog, functions, presence, savepoints });
  const dryRuns = new DryRuns({ js, catalog, functions, processors, natsUrl, functionsDir: config.functionsDir });
  if (runs)
    owned.use(
      new Supervisor({
        store,
        catalog,
        presence,
        natsUrl,
        threads: config.processorThreads,
        functionsDir: config.functionsDir,
        tracing: config.tracing,
        log: logger,
      }),
    );
  const calls = {
    ...processorService(js, processors, savepoints.store, ownerOf, draining),
    ...savepointCalls(savepoints, processors),
    ...sideEventCalls(js, processors, draining),
    ...dryRunCalls(dryRuns, processors),
  };
  const mounted = [
    mount(ProcessorService, calls),
    mount(FunctionService, functionService(functions)),
    mount(TableService, tableService(tables)),
  ];
  return { mounted, processors };
}
