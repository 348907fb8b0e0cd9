import { randomBytes } from "node:crypto";
import { type Deadline, deadlineIn } from "../domain/deadline.ts";
import type { JetStream } from "../jetstream/connection.ts";
import { gatewaySubject } from "../jetstream/names.ts";

/** A gateway that does not answer within this is asked again later; one that has ended is known at once. */
const PROBE_MS = 1000;

/** This process among the gateways of one NATS, and whether others live. */
export class Gateways {
  readonly #js: JetStream;
  /** This process. */
  readonly own = randomBytes(6).toString("hex");

  /** @param answer what this process says to a question of another; undefined: it knows nothing of it. */
  constructor(js: JetStream, answer: (question: string) => string | undefined) {
    this.#js = js;
    js.nc.subscribe(gatewaySubject(this.own), {
      callback: (_error, msg) => void msg.respond(msg.data.length === 0 ? undefined : answer(msg.string())),
    });
  }

  /**
   * False only when it is sure: nobody listens for it, so its connection is closed.
   *
   * @throws ServiceError UNAVAILABLE when this process's own connection breaks and is not back by the deadline.
   */
  async lives(gateway: string, deadline: Deadline = deadlineIn(PROBE_MS)): Promise<boolean> {
    if (gateway === this.own) return true;
    for (;;) {
      await this.#js.whenConnected(deadline);
      const { epoch } = this.#js;
      try {
        await this.#js.nc.request(gatewaySubject(gateway), undefined, { timeout: PROBE_MS });
        return true;
      } catch (error) {
        if (/no responders/i.test((error as Error).message)) return false;
        if (this.#js.connected && this.#js.epoch === epoch) return true;
        // The question or its answer went with the connection.
      }
    }
  }

  /** What another process answers to a question; undefined: it knows nothing of it or can't be reached now. */
  async ask(gateway: string, question: string): Promise<string | undefined> {
    try {
      const answer = await this.#js.nc.request(gatewaySubject(gateway), question, { timeout: PROBE_MS });
      return answer.string() || undefined;
    } catch {
      return undefined;
    }
  }
}
