import { randomBytes } from "node:crypto";
import type { Logger } from "pino";
import { deadlineIn } from "../domain/deadline.ts";
import { digest } from "../domain/hash.ts";
import type { JetStream } from "../jetstream/connection.ts";
import { type Bucket, openBucket } from "../jetstream/kv.ts";

const BEAT_MS = 1000;
/** A process that is silent for this long, by the observer's own clock, counts as gone. */
const SILENCE_MS = 5000;
const FORGET_MS = 60_000;

interface Beat {
  readonly atMs: number;
}

/** Which processes take part in something: each says so every second in a bucket. It is a hint of who shares work, never a lock. */
export class Presence implements AsyncDisposable {
  readonly id = randomBytes(8).toString("hex");
  readonly #bucket: Bucket<Beat>;
  readonly #log: Logger;
  readonly #isMember: boolean;
  /** When each was last heard of, on this process's monotonic clock. */
  readonly #heard = new Map<string, number>();
  #beating: NodeJS.Timeout | undefined;
  #watch: AsyncDisposable | undefined;

  private constructor(bucket: Bucket<Beat>, isMember: boolean, log: Logger) {
    this.#bucket = bucket;
    this.#isMember = isMember;
    this.#log = log;
  }

  /** @param isMember whether this process takes part, or only wants to know who does. */
  static async open(
    js: JetStream,
    bucket: string,
    replicas: number,
    isMember: boolean,
    log: Logger,
  ): Promise<Presence> {
    const presence = new Presence(await openBucket<Beat>(js, bucket, replicas), isMember, log);
    let loaded = false;
    presence.#watch = await presence.#bucket.watch(">", ({ key, value }) => {
      // What was there before may be of a process long gone; clocks are compared for that first look only.
      const ageMs = loaded || !value ? 0 : Math.max(0, Date.now() - value.atMs);
      if (value) presence.#heard.set(key, performance.now() - ageMs);
      else presence.#heard.delete(key);
    });
    loaded = true;
    if (isMember) {
      await presence.#bucket.set(presence.id, { atMs: Date.now() }, deadlineIn(30_000));
      presence.#heard.set(presence.id, performance.now());
      presence.#beating = setInterval(() => void presence.#beat(), BEAT_MS);
    }
    return presence;
  }

  /** Ids of the processes that live, this one among them. */
  get live(): string[] {
    const now = performance.now();
    const others = [...this.#heard].filter(([id, at]) => now - at < SILENCE_MS || (id === this.id && this.#isMember));
    return others.map(([id]) => id).sort();
  }

  /** Which of the live processes a piece of work belongs to (rendezvous hashing); undefined when there is none. */
  ownerOf(work: string): string | undefined {
    let owner: string | undefined;
    let best = "";
    for (const id of this.live) {
      const score = digest(`${id} ${work}`, 16);
      if (owner === undefined || score > best) {
        owner = id;
        best = score;
      }
    }
    return owner;
  }

  /** Says that this process leaves, so that others take over at once. */
  async leave(): Promise<void> {
    clearInterval(this.#beating);
    this.#beating = undefined;
    if (this.#isMember) await this.#bucket.delete(this.id, deadlineIn(2000)).catch(() => {});
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.leave();
    await this.#watch?.[Symbol.asyncDispose]();
  }

  async #beat(): Promise<void> {
    const now = performance.now();
    try {
      await this.#bucket.set(this.id, { atMs: Date.now() }, deadlineIn(BEAT_MS * 2));
      for (const [id, at] of this.#heard)
        if (now - at > FORGET_MS) {
          this.#heard.delete(id);
          await this.#bucket.delete(id, deadlineIn(BEAT_MS * 2));
        }
    } catch (error) {
      this.#log.debug({ err: error }, "a sign of life was not stored");
    }
  }
}
