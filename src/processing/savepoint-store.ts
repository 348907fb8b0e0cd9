import { type Deadline, deadlineIn } from "../domain/deadline.ts";
import { ErrorCode, resourceNotFound, ServiceError } from "../domain/errors.ts";
import { mapLimit } from "../domain/map-limit.ts";
import type { WindowStage } from "../domain/topology.ts";
import type { JetStream } from "../jetstream/connection.ts";
import { Journal } from "../jetstream/journal.ts";
import { encodeToken } from "../jetstream/names.ts";
import type { LaneSeed } from "./checkpoint.ts";

/** A savepoint; the texts of its windows lie beside it. */
export interface SavepointRecord {
  readonly name: string;
  readonly processorId: string;
  readonly generation: number;
  readonly source: string;
  /** Undefined for one of before sinks were noted: only those with the right admin see it. */
  readonly sink?: string;
  readonly sourceId: string;
  /** Undefined without windows. */
  readonly stage: WindowStage | undefined;
  readonly createdAtMs: number;
  /** Names its texts. */
  readonly dataId: string;
  readonly bytes: number;
  /** The state of each lane; the keys of its parts are their numbers among the lane's texts. */
  readonly lanes: readonly LaneSeed[];
}

const BUCKET = "mr_savepoints";
const RECORDS = `$KV.${BUCKET}.rec`;
const DATA = `$KV.${BUCKET}.data`;
const ID = /^[A-Za-z0-9_-]{1,128}$/;
/** Texts that no record names belong to a savepoint that is being made, or, when they are older, to none. */
const UNFINISHED_MS = 15 * 60 * 1000;

export const savepointNotFound = (name: string): ServiceError =>
  resourceNotFound(`there is no savepoint "${name.slice(0, 128)}"`);

/** Where savepoints are kept, apart from the processors that they were made of. */
export class SavepointStore {
  readonly #journal: Journal;

  private constructor(js: JetStream) {
    this.#journal = new Journal(js, `KV_${BUCKET}`);
  }

  static async open(js: JetStream, replicas: number): Promise<SavepointStore> {
    const store = new SavepointStore(js);
    await store.#journal.create([`$KV.${BUCKET}.>`], replicas, deadlineIn(30_000));
    return store;
  }

  /** A name for the texts of a savepoint to come. */
  newDataId(random: string): string {
    return `${Date.now().toString(36)}_${random}`;
  }

  async putTexts(dataId: string, lane: number, texts: readonly string[], deadline: Deadline): Promise<void> {
    const writes = texts.map((text, at) => ({
      subject: `${DATA}.${dataId}.${lane}.${at}`,
      payload: Buffer.from(text),
    }));
    await this.#journal.store(writes, deadline);
  }

  async text(dataId: string, lane: number, at: number, deadline: Deadline): Promise<Uint8Array> {
    const entry = await this.#journal.last(`${DATA}.${dataId}.${lane}.${at}`, deadline);
    if (!entry) throw new ServiceError(ErrorCode.RESOURCE_NOT_FOUND, "the savepoint was deleted meanwhile");
    return entry.data;
  }

  /** Stores the record: from here on the savepoint is there. @throws ServiceError ALREADY_EXISTS. */
  async put(record: SavepointRecord, deadline: Deadline): Promise<void> {
    const write = { subject: `${RECORDS}.${encodeToken(record.name)}`, payload: Buffer.from(JSON.stringify(record)) };
    if ((await this.#journal.commit([write], 0, deadline)) === undefined) throw alreadyThere(record.name);
  }

  /** @throws ServiceError RESOURCE_NOT_FOUND. */
  async get(name: string, deadline: Deadline): Promise<SavepointRecord> {
    const found = ID.test(name) ? await this.#find(`${RECORDS}.${encodeToken(name)}`, deadline) : undefined;
    if (!found) throw savepointNotFound(name);
    return found;
  }

  /** @throws ServiceError ALREADY_EXISTS. */
  async checkFree(name: string, deadline: Deadline): Promise<void> {
    if (await this.#find(`${RECORDS}.${encodeToken(name)}`, deadline)) throw alreadyThere(name);
  }

  /** All, by name. */
  async all(deadline: Deadline): Promise<SavepointRecord[]> {
    const subjects = await this.#journal.subjects(`${RECORDS}.*`, deadline);
    const found = await mapLimit(subjects, 16, (subject) => this.#find(subject, deadline));
    return found.filter((each) => each !== undefined).sort((a, b) => (a.name < b.name ? -1 : 1));
  }

  /** @throws ServiceError RESOURCE_NOT_FOUND. */
  async delete(name: string, deadline: Deadline): Promise<void> {
    const { dataId } = await this.get(name, deadline);
    // The record first: what remains when the process dies in between, the next tidying removes.
    await this.#journal.purge(`${RECORDS}.${encodeToken(name)}`, {}, deadline);
    await this.dropTexts(dataId, deadline);
  }

  async dropTexts(dataId: string, deadline: Deadline): Promise<void> {
    await this.#journal.purge(`${DATA}.${dataId}.>`, {}, deadline);
  }

  /** Removes the texts of savepoints that were never finished, or whose deletion was not. */
  async tidy(deadline: Deadline): Promise<void> {
    const subjects = await this.#journal.subjects(`${DATA}.>`, deadline);
    const ids = new Set(subjects.map((subject) => subject.slice(DATA.length + 1).split(".", 1)[0]!));
    const needed = new Set((await this.all(deadline)).map(({ dataId }) => dataId));
    for (const id of ids)
      if (!needed.has(id) && Date.now() - Number.parseInt(id, 36) > UNFINISHED_MS) await this.dropTexts(id, deadline);
  }

  async #find(subject: string, deadline: Deadline): Promise<SavepointRecord | undefined> {
    const entry = await this.#journal.last(subject, deadline);
    return entry && (JSON.parse(Buffer.from(entry.data).toString("utf8")) as SavepointRecord);
  }
}

const alreadyThere = (name: string): ServiceError =>
  new ServiceError(ErrorCode.ALREADY_EXISTS, `there is a savepoint "${name}" already`);
