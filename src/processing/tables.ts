import { deadlineIn, pause } from "../domain/deadline.ts";
import { toMaps } from "../domain/expression.ts";
import type { JetStream } from "../jetstream/connection.ts";
import { Journal } from "../jetstream/journal.ts";
import { decodeToken, encodeToken } from "../jetstream/names.ts";
import { OrderedReader, StreamGone } from "../jetstream/ordered-reader.ts";
import type { TableView } from "./functions.ts";

/** The bucket of all tables; a row's key is the table's name, a dot, and the row's key encoded. */
export const TABLES_BUCKET = "mr_tables";

export const rowKey = (table: string, key: string): string => `${table}.${encodeToken(key)}`;

/** The row's own key. */
export const keyOfRow = (bucketKey: string): string => decodeToken(bucketKey.slice(bucketKey.indexOf(".") + 1));

const PREFIX = `$KV.${TABLES_BUCKET}.`;
const STREAM = `KV_${TABLES_BUCKET}`;
const READ_WAIT_MS = 1000;
const CALL_MS = 5000;
const RETRY_MS = 500;

/** A table kept in memory and current. */
export class TableMirror implements TableView {
  readonly #js: JetStream;
  readonly #table: string;
  readonly #rows = new Map<string, unknown>();
  readonly #over = new AbortController();
  readonly #reading: Promise<void>;
  #seq = 0;
  #waiters: { seq: number; resolve: () => void }[] = [];

  constructor(js: JetStream, table: string) {
    this.#js = js;
    this.#table = table;
    this.#reading = this.#read();
  }

  get(key: string): unknown {
    return this.#rows.get(key);
  }

  /** Resolves when every row written before the call is here. @throws ServiceError when the storage is out of reach. */
  async whenCurrent(): Promise<void> {
    const journal = new Journal(this.#js, STREAM);
    const last = await journal.last(`${PREFIX}${this.#table}.>`, deadlineIn(CALL_MS));
    if (!last || last.seq <= this.#seq) return;
    await new Promise<void>((resolve) => this.#waiters.push({ seq: last.seq, resolve }));
  }

  async close(): Promise<void> {
    this.#over.abort(new Error("closed"));
    await this.#reading;
    for (const { resolve } of this.#waiters.splice(0)) resolve();
  }

  async #read(): Promise<void> {
    const { signal } = this.#over;
    const reader = new OrderedReader(this.#js, {
      jsStream: STREAM,
      filter: `${PREFIX}${this.#table}.>`,
      from: 1,
      lastPerSubject: true,
      dense: false,
      batch: 1000,
    });
    while (!signal.aborted) {
      try {
        const { messages } = await reader.read(READ_WAIT_MS, signal);
        for (const { subject, seq, data } of messages) {
          const key = keyOfRow(subject.slice(PREFIX.length));
          // A deleted row is an empty message.
          if (data.length === 0) this.#rows.delete(key);
          else
            this.#rows.set(key, toMaps((JSON.parse(Buffer.from(data).toString("utf8")) as { value: unknown }).value));
          this.#seq = seq;
        }
        this.#wake();
      } catch (error) {
        if (!(error instanceof StreamGone) && !(error instanceof Error)) throw error;
        await pause(RETRY_MS);
      }
    }
    await reader.close();
  }

  #wake(): void {
    this.#waiters = this.#waiters.filter(({ seq, resolve }) => {
      if (seq > this.#seq) return true;
      resolve();
      return false;
    });
  }
}
