import { type Deadline, deadlineIn } from "../domain/deadline.ts";
import type { Bucket, Change } from "../jetstream/kv.ts";
import { encodeToken, groupUseKey } from "../jetstream/names.ts";
import type { Gateways } from "./gateways.ts";

export interface GroupUse {
  readonly since: number;
}

const DELETE_MS = 1000;
const RENEW_MS = 10_000;

/**
 * Which gateways hand out events of which groups. One that was killed may have taken events that no caller received, so
 * whoever next uses the group finds its note and sees that it is gone.
 */
export class GroupUses implements AsyncDisposable {
  readonly #bucket: Bucket<GroupUse>;
  readonly #gateways: Gateways;
  /** Other gateways, by the part of the key that names group and stream. */
  readonly #others = new Map<string, Set<string>>();
  /** Keys of this gateway's notes. */
  readonly #own = new Set<string>();
  #watch: AsyncDisposable | undefined;

  private constructor(bucket: Bucket<GroupUse>, gateways: Gateways) {
    this.#bucket = bucket;
    this.#gateways = gateways;
  }

  static async open(bucket: Bucket<GroupUse>, gateways: Gateways): Promise<GroupUses> {
    const uses = new GroupUses(bucket, gateways);
    uses.#watch = await bucket.watch("use.>", (change) => uses.#changed(change));
    return uses;
  }

  /** Notes that this gateway uses a group, and gives the others that do, as they come and go. */
  async note(group: string, streamId: string, deadline: Deadline): Promise<Set<string>> {
    const key = groupUseKey(group, streamId, this.#gateways.own);
    this.#own.add(key);
    await this.#bucket.set(key, { since: Date.now() }, deadline);
    const place = `${encodeToken(group)}.${streamId}`;
    for (const key of (await this.#bucket.list(`use.${place}.*`, deadline)).keys()) this.#add(key);
    return this.#of(place);
  }

  /** Takes this gateway's note back. */
  async unnote(group: string, streamId: string, deadline: Deadline): Promise<void> {
    const key = groupUseKey(group, streamId, this.#gateways.own);
    this.#own.delete(key);
    await this.#bucket.delete(key, deadline);
  }

  /**
   * Takes out those of `others` that have ended.
   *
   * @param ended is told of each at once, before another call can miss it.
   */
  async forgetDead(
    group: string,
    streamId: string,
    others: Set<string>,
    ended: (gateway: string) => void,
    deadline: Deadline,
  ): Promise<void> {
    for (const other of [...others]) {
      if ((await this.#gateways.lives(other, deadline)) || !others.delete(other)) continue;
      ended(other);
      await this.#bucket.delete(groupUseKey(group, streamId, other), deadlineIn(DELETE_MS)).catch(() => {});
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#watch?.[Symbol.asyncDispose]();
  }

  #changed(change: Change<GroupUse>): void {
    const [, token, streamId, gateway] = change.key.split(".");
    if (change.value) this.#add(change.key);
    // Another gateway has taken this one for dead, because its connection was not back yet.
    else if (this.#own.has(change.key))
      void this.#bucket.set(change.key, { since: Date.now() }, deadlineIn(RENEW_MS)).catch(() => {});
    else this.#others.get(`${token}.${streamId}`)?.delete(gateway!);
  }

  #add(key: string): void {
    const [, token, streamId, gateway] = key.split(".");
    if (gateway !== this.#gateways.own) this.#of(`${token}.${streamId}`).add(gateway!);
  }

  #of(place: string): Set<string> {
    let others = this.#others.get(place);
    if (!others) {
      others = new Set();
      this.#others.set(place, others);
    }
    return others;
  }
}
