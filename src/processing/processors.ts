import { createHash, randomBytes } from "node:crypto";
import { isDeepStrictEqual } from "node:util";
import { type Deadline, msLeft, pause } from "../domain/deadline.ts";
import { ErrorCode, invalidArgument, invalidArguments, ServiceError, streamNotFound } from "../domain/errors.ts";
import { type Owner, Places } from "../domain/quota.ts";
import { checkOperations, type OperationFields, type Topology } from "../domain/topology.ts";
import type { JetStream } from "../jetstream/connection.ts";
import { toServiceError } from "../jetstream/errors.ts";
import { Journal } from "../jetstream/journal.ts";
import type { Catalog, StreamRecord } from "../log/catalog.ts";
import type { Presence } from "../log/presence.ts";
import { JournalNames } from "./checkpoint.ts";
import { finishDeletion } from "./deletions.ts";
import type { FunctionRegistry } from "./function-registry.ts";
import type { FunctionRecord } from "./functions.ts";
import { type MetricsView, metricsOf, readLanes, type StatusWord, statusOf } from "./inspect.ts";
import type { ProcessorRecord, ProcessorSettings } from "./record.ts";
import type { SavepointRecord } from "./savepoint-store.ts";
import { checkFits, type Savepoints, shapeOf } from "./savepoints.ts";
import type { ProcessorStore } from "./store.ts";

/** Settings as they are asked for; what is left out has its default, or stays. */
export type SettingsFields = { readonly [Field in keyof ProcessorSettings]?: ProcessorSettings[Field] | undefined };

/** A processor to create. */
export interface NewProcessor {
  readonly name: string;
  readonly source: string;
  readonly operations: readonly OperationFields[];
  readonly sink: string;
  readonly settings: SettingsFields;
  /** Name of the savepoint to begin with. */
  readonly savepoint: string | undefined;
  /** A repeat with the same key gives the processor of the first call. */
  readonly idempotencyKey: string | undefined;
  /** Whose it is, and its sink if that has to be made. */
  readonly owner: Owner;
}

export interface ProcessorChange {
  readonly operations: readonly OperationFields[] | undefined;
  readonly sink: string | undefined;
  readonly settings: SettingsFields;
  readonly start: "earliest" | "latest" | "checkpoint" | undefined;
  /** Whose the sink will be if it has to be made. */
  readonly owner: Owner;
}

/** A processor with all there is to say of it. */
export interface ProcessorView {
  readonly record: ProcessorRecord;
  readonly status: StatusWord;
  readonly reason: string | undefined;
  readonly metrics: MetricsView;
}

/** What a processor makes its sinks remember ids for, so that a longer outage repeats nothing. */
const SINK_DUPLICATE_WINDOW_MS = 15 * 60 * 1000;
const DEFAULT_IDLE_MS = 30_000;
const DEFAULT_CHECKPOINT_MS = 10_000;
const DEFAULT_MAX_PARALLELISM = 4;
/** A call waits this long for what it asked for to have happened. */
const SETTLE_MS = 6000;
/** A lane that is to be deleted has this long to end. */
const DELETE_MS = 3000;
const LOOK_MS = 25;

export interface ProcessorsOptions {
  readonly js: JetStream;
  readonly store: ProcessorStore;
  readonly catalog: Catalog;
  readonly functions: FunctionRegistry;
  readonly presence: Presence;
  readonly savepoints: Savepoints;
}

/** Creates, describes and changes processors; which process runs them is another matter. */
export class Processors {
  readonly #o: ProcessorsOptions;
  readonly #places = new Places();

  constructor(options: ProcessorsOptions) {
    this.#o = options;
  }

  /**
   * @throws ServiceError INVALID_ARGUMENT that names operations at fault, STREAM_NOT_FOUND for the source, QUOTA_EXCEEDED
   * when the owner may have no more.
   */
  async create(asked: NewProcessor, deadline: Deadline): Promise<ProcessorView & { created: boolean }> {
    const functions = await this.#o.functions.all(deadline);
    const topology = checkOperations(asked.operations, new Set(functions.keys()));
    if (asked.sink === asked.source) throw invalidArgument("sink", "must be another stream than the source");
    const source = await this.#o.catalog.find(asked.source, deadline);
    const savepoint = asked.savepoint === undefined ? undefined : await this.#savepoint(asked.savepoint, deadline);
    const settings = withDefaults(asked.settings, savepoint?.lanes.length ?? defaultParallelism(source));
    if (savepoint) checkFits(savepoint, { sourceId: source.id, topology, lanes: settings.parallelism });
    const id = newId(asked.idempotencyKey);
    using _place = this.#places.hold(asked.owner, "processors", id, 1, () => this.#owned(asked.owner.id));
    await this.#sinkFor(asked.sink, source, asked.owner, deadline);
    const createdAtMs = Date.now();
    const draft: ProcessorRecord = {
      id,
      name: asked.name,
      source: source.name,
      sourceId: source.id,
      sink: asked.sink,
      operations: asked.operations,
      topology,
      functions: functionsOf(topology, functions),
      settings,
      lanes: settings.parallelism,
      desired: "running",
      generation: 1,
      incarnation: createdAtMs,
      start: settings.startFrom,
      startPartitions: source.partitions,
      revision: 1,
      replicas: source.replicationFactor,
      owner: asked.owner.id,
      createdAtMs,
    };
    const names = new JournalNames(draft.id);
    // Before the record: whoever reads the record finds the journal.
    await translated(() => new Journal(this.#o.js, names.stream).create(names.subjects, draft.replicas, deadline));
    const record = savepoint ? { ...draft, ...(await this.#seeded(savepoint, draft.id, deadline)) } : draft;
    const { record: stored, created } = await this.#o.store.create(record, deadline);
    if (!created && !isSame(stored, record))
      throw new ServiceError(ErrorCode.ALREADY_EXISTS, "the Idempotency-Key was used for another processor");
    const view = await this.during(id, () => this.#settled(stored, deadline));
    return { ...view, created };
  }

  /** As {@link ProcessorStore.during}. */
  during<T>(id: string, call: () => Promise<T>): Promise<T> {
    return this.#o.store.during(id, call);
  }

  /** @throws ServiceError PROCESSOR_NOT_FOUND. */
  get(id: string, deadline: Deadline): Promise<ProcessorView> {
    return this.during(id, async () => this.#view(await this.#o.store.get(id, deadline), deadline));
  }

  list(after: string, limit: number, shown: (record: ProcessorRecord) => boolean): ProcessorRecord[] {
    return this.#o.store.list(after, limit, shown);
  }

  /** The stored record. @throws ServiceError PROCESSOR_NOT_FOUND. */
  record(id: string, deadline: Deadline): Promise<ProcessorRecord> {
    return this.#o.store.get(id, deadline);
  }

  /** @throws ServiceError PROCESSOR_NOT_FOUND. */
  view(record: ProcessorRecord, deadline: Deadline): Promise<ProcessorView> {
    return this.during(record.id, () => this.#view(record, deadline));
  }

  /** @throws ServiceError PROCESSOR_NOT_FOUND. */
  pause(id: string, deadline: Deadline): Promise<ProcessorView> {
    return this.during(id, async () => {
      const record = await this.#o.store.change(
        id,
        (present) => (present.desired === "paused" ? undefined : { ...present, desired: "paused" }),
        deadline,
      );
      return this.#settled(record, deadline);
    });
  }

  /** @throws ServiceError PROCESSOR_NOT_FOUND. */
  resume(id: string, deadline: Deadline): Promise<ProcessorView> {
    return this.during(id, () => this.#resume(id, deadline));
  }

  /** @throws ServiceError PROCESSOR_NOT_FOUND, STREAM_NOT_FOUND when the source is gone. */
  reset(id: string, start: "earliest" | "latest", deadline: Deadline): Promise<ProcessorView> {
    return this.during(id, () => this.#reset(id, start, deadline));
  }

  /**
   * Takes a processor back to a savepoint: a new incarnation that begins with its state.
   *
   * @throws ServiceError PROCESSOR_NOT_FOUND, RESOURCE_NOT_FOUND, INVALID_ARGUMENT when the savepoint does not fit.
   */
  restore(id: string, savepoint: string, deadline: Deadline): Promise<ProcessorView> {
    return this.during(id, () => this.#restore(id, savepoint, deadline));
  }

  /** @throws ServiceError PROCESSOR_NOT_FOUND, INVALID_ARGUMENT, also when windows change and no start is named. */
  update(id: string, change: ProcessorChange, deadline: Deadline): Promise<ProcessorView> {
    return this.during(id, () => this.#update(id, change, deadline));
  }

  async #view(record: ProcessorRecord, deadline: Deadline): Promise<ProcessorView> {
    const lanes = await readLanes(this.#o.js, record, deadline);
    const source = await this.#o.catalog.findIfThere(record.source, deadline);
    const sink = await this.#o.catalog.findIfThere(record.sink, deadline);
    const { status, reason } = statusOf(record, lanes, { source, sink }, this.#o.presence.live);
    try {
      const metrics = await metricsOf(this.#o.js, record, lanes, source, deadline);
      return { record, status, reason, metrics };
    } catch (error) {
      const failure = toServiceError(error);
      const isGone = source !== undefined && (await this.#o.catalog.explain(source, failure)) !== failure;
      if (!isGone) throw error;
      // It was deleted meanwhile: the next look sees that.
      return this.#view(record, deadline);
    }
  }

  async #resume(id: string, deadline: Deadline): Promise<ProcessorView> {
    const { status } = await this.#view(await this.#o.store.get(id, deadline), deadline);
    const record = await this.#o.store.change(
      id,
      (present) =>
        present.desired === "running" && status !== "failed"
          ? undefined
          : { ...present, desired: "running", fault: undefined },
      deadline,
    );
    return this.#settled(record, deadline);
  }

  async #reset(id: string, start: "earliest" | "latest", deadline: Deadline): Promise<ProcessorView> {
    const { source: name } = await this.#o.store.get(id, deadline);
    const source = await this.#o.catalog.find(name, deadline);
    const record = await this.#o.store.change(
      id,
      (present) => ({
        ...present,
        sourceId: source.id,
        incarnation: present.incarnation + 1,
        start,
        startPartitions: source.partitions,
        fault: undefined,
      }),
      deadline,
    );
    return this.#settled(record, deadline);
  }

  async #restore(id: string, name: string, deadline: Deadline): Promise<ProcessorView> {
    for (;;) {
      const before = await this.#o.store.get(id, deadline);
      const source = await this.#o.catalog.find(before.source, deadline);
      const savepoint = await this.#savepoint(name, deadline);
      checkFits(savepoint, { sourceId: source.id, topology: before.topology, lanes: before.lanes });
      const seeded = await this.#seeded(savepoint, id, deadline);
      let fits = false;
      const record = await this.#o.store.change(
        id,
        (present) => {
          // An update may have come meanwhile.
          fits = present.generation === before.generation;
          const incarnation = present.incarnation + 1;
          return fits ? { ...present, ...seeded, sourceId: source.id, incarnation, fault: undefined } : undefined;
        },
        deadline,
      );
      if (fits) return this.#settled(record, deadline);
    }
  }

  async #update(id: string, change: ProcessorChange, deadline: Deadline): Promise<ProcessorView> {
    const functions = await this.#o.functions.all(deadline);
    const present = await this.#o.store.get(id, deadline);
    const operations = change.operations ?? present.operations;
    const topology = checkOperations(operations, new Set(functions.keys()));
    const sink = change.sink ?? present.sink;
    if (sink === present.source) throw invalidArgument("sink", "must be another stream than the source");
    const source = await this.#o.catalog.find(present.source, deadline);
    await this.#sinkFor(sink, source, change.owner, deadline);
    const settings = { ...present.settings, ...named(change.settings) };
    const newWindows =
      !isDeepStrictEqual(shapeOf(topology.stage), shapeOf(present.topology.stage)) ||
      settings.parallelism !== present.lanes;
    if (newWindows && change.start === undefined)
      throw invalidArgument("start", "is needed: window, grouping or parallelism change, and windows begin anew");
    if (settings.parallelism !== present.lanes && change.start === "checkpoint")
      throw invalidArgument("start", "must be earliest or latest when parallelism changes");
    const record = await this.#o.store.change(
      id,
      (stored) => ({
        ...stored,
        operations,
        topology,
        sink,
        settings,
        lanes: settings.parallelism,
        mostLanes: Math.max(stored.mostLanes ?? 0, stored.lanes),
        functions: functionsOf(topology, functions),
        generation: stored.generation + 1,
        ...(change.start === undefined
          ? {}
          : { incarnation: stored.incarnation + 1, start: change.start, startPartitions: source.partitions }),
        fault: undefined,
      }),
      deadline,
    );
    return this.#settled(record, deadline);
  }

  /** Once it has answered nothing more is written to the sink, unless a lane does not come to its end in time. */
  async delete(id: string, deadline: Deadline): Promise<void> {
    const record = await this.#o.store.change(id, (present) => ({ ...present, desired: "deleting" }), deadline);
    const until = performance.now() + Math.min(DELETE_MS, msLeft(deadline) / 2);
    // What can't be looked at is not waited for: its journal may be gone already.
    const isAtRest = () => this.#isAtRest(record, deadline).catch(() => true);
    while (performance.now() < until && !(await isAtRest())) await pause(LOOK_MS);
    await translated(() => finishDeletion(this.#o.js, this.#o.store, id, deadline));
  }

  /** Waits a while until the processor is as it should be; it will be, so that it isn't yet is no failure. */
  async #settled(record: ProcessorRecord, deadline: Deadline): Promise<ProcessorView> {
    const until = performance.now() + Math.min(SETTLE_MS, msLeft(deadline) / 2);
    for (;;) {
      // A lane that can't even be opened says so in the record alone.
      const view = await this.#view(await this.#o.store.get(record.id, deadline), deadline);
      const isAtRest = record.desired === "paused" && (await this.#isAtRest(record, deadline));
      if (isAtRest || (record.desired === "running" && view.status !== "starting") || performance.now() > until)
        return view;
      await pause(LOOK_MS);
    }
  }

  /** Whether every lane has ended at a last commit, or its owner is gone. */
  async #isAtRest(record: ProcessorRecord, deadline: Deadline): Promise<boolean> {
    const lanes = await readLanes(this.#o.js, record, deadline);
    const { live } = this.#o.presence;
    return lanes.every(
      ({ checkpoint }) => checkpoint === undefined || checkpoint.clean || !live.includes(checkpoint.owner),
    );
  }

  #savepoint(name: string, deadline: Deadline): Promise<SavepointRecord> {
    return translated(() => this.#o.savepoints.store.get(name, deadline));
  }

  /** Puts a savepoint into a processor's journal. @returns what the record says of it. */
  async #seeded(savepoint: SavepointRecord, id: string, deadline: Deadline) {
    const seed = await translated(() => this.#o.savepoints.seed(savepoint, id, deadline));
    return { start: "savepoint", seed } as const;
  }

  /** The ids of a principal's processors. */
  #owned(owner: string): Map<string, number> {
    const own = this.#o.store.all().filter((record) => record.owner === owner && record.desired !== "deleting");
    return new Map(own.map(({ id }) => [id, 1]));
  }

  async #sinkFor(name: string, source: StreamRecord, owner: Owner, deadline: Deadline): Promise<void> {
    if (await this.#o.catalog.findIfThere(name, deadline)) return;
    const { partitions, replicationFactor, maxMessageBytes } = source;
    try {
      await this.#o.catalog.create(
        name,
        { partitions, replicationFactor, maxMessageBytes, duplicateWindowMs: SINK_DUPLICATE_WINDOW_MS },
        owner,
        deadline,
      );
    } catch (error) {
      // Another call made it with other settings meanwhile.
      if (!(error instanceof ServiceError) || error.code !== ErrorCode.ALREADY_EXISTS) throw error;
      if (!(await this.#o.catalog.findIfThere(name, deadline))) throw streamNotFound(name);
    }
  }
}

function newId(idempotencyKey: string | undefined): string {
  const hex =
    idempotencyKey === undefined
      ? randomBytes(8).toString("hex")
      : createHash("sha256").update(idempotencyKey).digest("hex").slice(0, 16);
  return `proc_${hex}`;
}

const defaultParallelism = ({ partitions }: StreamRecord): number => Math.min(DEFAULT_MAX_PARALLELISM, partitions);

function withDefaults(asked: SettingsFields, parallelism: number): ProcessorSettings {
  if (asked.parallelism !== undefined && (asked.parallelism < 1 || asked.parallelism > 64))
    throw invalidArguments([{ field: "config.parallelism", description: "must be from 1 to 64" }]);
  return {
    parallelism: asked.parallelism ?? parallelism,
    checkpointIntervalMs: asked.checkpointIntervalMs ?? DEFAULT_CHECKPOINT_MS,
    startFrom: asked.startFrom ?? "earliest",
    idleTimeoutMs: asked.idleTimeoutMs ?? DEFAULT_IDLE_MS,
    onTruncation: asked.onTruncation ?? "fail",
  };
}

const named = (settings: SettingsFields): Partial<ProcessorSettings> =>
  Object.fromEntries(Object.entries(settings).filter(([, value]) => value !== undefined));

/** As it comes back from storage. */
const plain = (value: unknown): unknown => (value === undefined ? undefined : JSON.parse(JSON.stringify(value)));

function isSame(a: ProcessorRecord, b: ProcessorRecord): boolean {
  const part = ({ name, source, sink, operations, settings }: ProcessorRecord) =>
    plain({ name, source, sink, operations, settings });
  return isDeepStrictEqual(part(a), part(b));
}

/** The functions that a topology's steps name. */
export function functionsOf(topology: Topology, all: ReadonlyMap<string, FunctionRecord>): FunctionRecord[] {
  const names = new Set<string>();
  for (const step of [...topology.before, ...topology.after]) if (step.kind === "function") names.add(step.name);
  return [...names].map((name) => {
    const { version, body } = all.get(name)!;
    return { name, version, body };
  });
}

async function translated<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    throw toServiceError(error);
  }
}
