import { randomBytes } from "node:crypto";
import { isDeepStrictEqual } from "node:util";
import { type Deadline, deadlineIn, msLeft, pause } from "../domain/deadline.ts";
import { ErrorCode, invalidArgument, ServiceError, unavailable } from "../domain/errors.ts";
import type { Topology } from "../domain/topology.ts";
import type { JetStream } from "../jetstream/connection.ts";
import { Journal } from "../jetstream/journal.ts";
import type { Catalog } from "../log/catalog.ts";
import type { Presence } from "../log/presence.ts";
import { type BlobRef, JournalNames, type LaneSeed } from "./checkpoint.ts";
import { missingStream } from "./inspect.ts";
import { type PlacedCheckpoint, placedCheckpoints, windowsAtRest } from "./lane-state.ts";
import type { ProcessorRecord } from "./record.ts";
import type { SavepointRecord, SavepointStore } from "./savepoint-store.ts";
import type { ProcessorStore } from "./store.ts";

/** A processor is held no longer than this, also when who holds it dies. */
const HOLD_MS = 45_000;
const LOOK_MS = 50;
const NOTHING = { marks: [], heard: [], blobs: [] } as const;

/** A processor of which no lane runs, or is about to. */
interface AtRest {
  readonly record: ProcessorRecord;
  readonly lanes: readonly PlacedCheckpoint[];
}

/** Makes savepoints of processors, and seeds processors with them. */
export class Savepoints {
  readonly #js: JetStream;
  readonly #processors: ProcessorStore;
  readonly #catalog: Catalog;
  readonly #presence: Presence;
  readonly store: SavepointStore;

  constructor(js: JetStream, processors: ProcessorStore, catalog: Catalog, presence: Presence, store: SavepointStore) {
    this.#js = js;
    this.#processors = processors;
    this.#catalog = catalog;
    this.#presence = presence;
    this.store = store;
  }

  /**
   * Copies the state of a processor while none of its lanes runs. It is one state of all lanes: no lane has committed between
   * the first look and the last, or the copy is made anew.
   *
   * @throws ServiceError PROCESSOR_NOT_FOUND, ALREADY_EXISTS for the name, PRECONDITION_FAILED when it lacks a stream or was
   * paused before it began, UNAVAILABLE when it does not come to rest.
   */
  async create(id: string, name: string, deadline: Deadline): Promise<SavepointRecord> {
    await this.#processors.get(id, deadline);
    await this.store.checkFree(name, deadline);
    await this.store.tidy(deadline);
    const dataId = this.store.newDataId(randomBytes(8).toString("hex"));
    try {
      const record = await this.#copy(id, name, dataId, deadline);
      await this.store.put(record, deadline);
      return record;
    } catch (error) {
      await this.store.dropTexts(dataId, deadlineIn(5000)).catch(() => {});
      throw error;
    } finally {
      // If this fails the hold ends by itself.
      await this.#hold(id, undefined, deadlineIn(5000)).catch(() => {});
    }
  }

  /**
   * Copies a savepoint into a processor's journal, where nothing refers to it until a record names it.
   *
   * @returns the `seed` for the record.
   */
  async seed(savepoint: SavepointRecord, processorId: string, deadline: Deadline): Promise<string> {
    const names = new JournalNames(processorId);
    const journal = new Journal(this.#js, names.stream);
    const id = `s${randomBytes(8).toString("hex")}`;
    for (const [lane, state] of savepoint.lanes.entries()) {
      const blobs: BlobRef[] = [];
      for (const [at, blob] of state.snapshot.blobs.entries()) {
        const key = names.seedBlob(id, lane, at);
        const payload = await this.store.text(savepoint.dataId, lane, at, deadline);
        await journal.store([{ subject: key, payload }], deadline);
        blobs.push({ ...blob, key });
      }
      const seed: LaneSeed = { ...state, snapshot: { ...state.snapshot, blobs } };
      await journal.store([{ subject: names.seed(id, lane), payload: Buffer.from(JSON.stringify(seed)) }], deadline);
    }
    return id;
  }

  async #copy(id: string, name: string, dataId: string, deadline: Deadline): Promise<SavepointRecord> {
    for (;;) {
      const found = await this.#whenAtRest(id, deadline);
      try {
        const copy = await this.#copyOnce(found, name, dataId, deadline);
        if (copy) return copy;
      } catch (error) {
        // A deletion, a reset or a restore takes away what is being read.
        const { incarnation } = await this.#processors.get(id, deadline);
        if (incarnation === found.record.incarnation) throw error;
      }
    }
  }

  /** @returns undefined when a lane has committed meanwhile. */
  async #copyOnce(
    { record, lanes: before }: AtRest,
    name: string,
    dataId: string,
    deadline: Deadline,
  ): Promise<SavepointRecord | undefined> {
    const { id: processorId, source, sink, sourceId, generation, topology } = record;
    const { stage } = topology;
    const lanes: LaneSeed[] = [];
    let bytes = 0;
    for (const [lane, { checkpoint }] of before.entries()) {
      const { partitions, keys } = checkpoint;
      if (!stage || !keys) {
        lanes.push({ partitions, snapshot: NOTHING });
        continue;
      }
      const { snapshot, texts } = await windowsAtRest(this.#js, record, lane, keys, deadline);
      await this.store.putTexts(dataId, lane, texts, deadline);
      bytes += texts.reduce((sum, text) => sum + Buffer.byteLength(text), 0);
      lanes.push({ partitions, snapshot });
    }
    const after = await placedCheckpoints(this.#js, record, deadline);
    if (after.some((each, lane) => each?.seq !== before[lane]!.seq)) return undefined;
    const createdAtMs = Date.now();
    return { name, processorId, generation, source, sink, sourceId, stage, createdAtMs, dataId, bytes, lanes };
  }

  /**
   * Waits until every lane has ended at a last commit, or its owner is gone. One that runs is held for that, but not before all
   * of it has begun; and held again when somebody else's savepoint is done with it.
   */
  async #whenAtRest(id: string, deadline: Deadline): Promise<AtRest> {
    for (;;) {
      const record = await this.#processors.get(id, deadline);
      const lanes = await placedCheckpoints(this.#js, record, deadline);
      const { live } = this.#presence;
      const hasBegun = lanes.every((each) => each !== undefined);
      const hasEnded = lanes.every((each) => each && (each.checkpoint.clean || !live.includes(each.checkpoint.owner)));
      const runs = record.desired === "running" && record.fault === undefined;
      const isHeld = (record.heldUntilMs ?? 0) > Date.now();
      if (hasEnded && (isHeld || !runs)) return { record, lanes: lanes as PlacedCheckpoint[] };
      const obstacle = await this.#obstacle(record, hasBegun || runs, deadline);
      if (obstacle !== undefined) throw new ServiceError(ErrorCode.PRECONDITION_FAILED, obstacle);
      if (msLeft(deadline) < 10 * LOOK_MS) throw unavailable(`processor "${id}" did not come to rest in time`);
      if (runs && isHeld !== hasBegun) await this.#hold(id, hasBegun ? Date.now() + HOLD_MS : undefined, deadline);
      await pause(LOOK_MS);
    }
  }

  /** What keeps a processor from coming to rest, or to a beginning before it. */
  async #obstacle(record: ProcessorRecord, canBegin: boolean, deadline: Deadline): Promise<string | undefined> {
    const source = await this.#catalog.findIfThere(record.source, deadline);
    const sink = await this.#catalog.findIfThere(record.sink, deadline);
    return missingStream(record, { source, sink }) ?? (canBegin ? undefined : "the processor has not begun yet");
  }

  /** @param heldUntilMs undefined lets it go on. */
  async #hold(id: string, heldUntilMs: number | undefined, deadline: Deadline): Promise<void> {
    const change = (present: ProcessorRecord) =>
      present.heldUntilMs === heldUntilMs ? undefined : { ...present, heldUntilMs };
    await this.#processors.change(id, change, deadline);
  }
}

/** Whether a savepoint fits what is to begin with it. @throws ServiceError INVALID_ARGUMENT that says what differs. */
export function checkFits(
  savepoint: SavepointRecord,
  wanted: { sourceId: string; topology: Topology; lanes: number },
): void {
  const fault = (what: string) => invalidArgument("savepoint", `"${savepoint.name}" is of ${what}`);
  if (savepoint.sourceId !== wanted.sourceId) throw fault(`another stream, "${savepoint.source}" as it was then`);
  if (!isDeepStrictEqual(shapeOf(savepoint.stage), shapeOf(wanted.topology.stage)))
    throw fault("a processor with another window or other aggregates");
  if (savepoint.lanes.length !== wanted.lanes) throw fault(`a processor with parallelism ${savepoint.lanes.length}`);
}

/** What a stage's state depends on; where its operations stand and what becomes of failed events changes nothing. */
export function shapeOf(stage: Topology["stage"]): unknown {
  if (!stage) return undefined;
  const { index: _index, onError: _onError, aggregates, ...rest } = stage;
  const shape = { ...rest, aggregates: aggregates.map(({ index: _at, onError: _policy, ...each }) => each) };
  return JSON.parse(JSON.stringify(shape));
}
