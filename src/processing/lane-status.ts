import type { Logger } from "pino";
import type { JournalWrite } from "../jetstream/journal.ts";
import type { JournalNames, LaneStatus } from "./checkpoint.ts";
import { Fenced, type LaneSpec } from "./lane-spec.ts";

/** Tells beside the checkpoint how a lane is. */
export class LaneStatusTeller {
  readonly #store: (write: JournalWrite) => Promise<void>;
  readonly #subject: string;
  readonly #spec: LaneSpec;
  readonly #log: Logger;
  #told = "";
  /** A fault that does not pass by itself. */
  lasting: string | undefined;

  /** @param store rejects with Fenced when the lane is no longer this process's to speak of. */
  constructor(store: (write: JournalWrite) => Promise<void>, names: JournalNames, spec: LaneSpec, log: Logger) {
    this.#store = store;
    this.#subject = names.status(spec.lane);
    this.#spec = spec;
    this.#log = log;
  }

  /** @param trouble why it is degraded; undefined when it runs, lasting faults aside. */
  async tell(trouble: string | undefined): Promise<void> {
    const reason = trouble ?? this.lasting;
    await this.#write(reason === undefined ? { state: "running" } : { state: "degraded", reason });
  }

  async tellFailed(reason: string): Promise<void> {
    await this.#write({ state: "failed", reason });
  }

  async #write(status: Pick<LaneStatus, "state" | "reason">): Promise<void> {
    const text = JSON.stringify(status);
    if (text === this.#told) return;
    this.#told = text;
    const whole: LaneStatus = { ...status, revision: this.#spec.record.revision, owner: this.#spec.owner };
    const write = { subject: this.#subject, payload: Buffer.from(JSON.stringify(whole)) };
    await this.#store(write).catch((error: unknown) => {
      this.#told = "";
      if (error instanceof Fenced) return;
      this.#log.warn({ err: error }, "a lane's status was not stored");
    });
  }
}
