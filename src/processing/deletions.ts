import type { Logger } from "pino";
import { type Deadline, deadlineIn } from "../domain/deadline.ts";
import type { JetStream } from "../jetstream/connection.ts";
import { Journal } from "../jetstream/journal.ts";
import { JournalNames } from "./checkpoint.ts";
import type { ProcessorStore } from "./store.ts";

const LOOK_MS = 2000;
/** Whoever began a deletion has this long to end it. */
const GRACE_MS = 5000;
const CALL_MS = 10_000;

/** Removes what is left of a processor that is marked as to be deleted; its record goes last. */
export async function finishDeletion(
  js: JetStream,
  store: ProcessorStore,
  id: string,
  deadline: Deadline,
): Promise<void> {
  await new Journal(js, new JournalNames(id).stream).delete(deadline);
  await store.remove(id, deadline);
}

/** Finishes deletions that a process began and did not end, because it was killed for instance. */
export class Deletions implements AsyncDisposable {
  readonly #js: JetStream;
  readonly #store: ProcessorStore;
  readonly #log: Logger;
  readonly #looking: NodeJS.Timeout;
  /** When each unfinished one was first seen, on this process's monotonic clock. */
  #seen = new Map<string, number>();
  #working: Promise<void> | undefined;

  constructor(js: JetStream, store: ProcessorStore, log: Logger) {
    this.#js = js;
    this.#store = store;
    this.#log = log;
    this.#looking = setInterval(() => {
      this.#working ??= this.#look().finally(() => {
        this.#working = undefined;
      });
    }, LOOK_MS);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    clearInterval(this.#looking);
    await this.#working;
  }

  async #look(): Promise<void> {
    const now = performance.now();
    const unfinished = this.#store.all().filter(({ desired }) => desired === "deleting");
    this.#seen = new Map(unfinished.map(({ id }) => [id, this.#seen.get(id) ?? now]));
    for (const [id, since] of this.#seen) {
      if (now - since < GRACE_MS) continue;
      try {
        await finishDeletion(this.#js, this.#store, id, deadlineIn(CALL_MS));
        this.#log.info({ processor: id }, "a processor's deletion is finished");
      } catch (error) {
        this.#log.warn({ err: error, processor: id }, "a processor's deletion can't be finished yet");
      }
    }
  }
}
