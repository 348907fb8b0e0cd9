import { type Deadline, deadlineIn } from "../domain/deadline.ts";
import type { Bucket, Change } from "../jetstream/kv.ts";
import { encodeToken, groupUseKey } from "../jetstream/names.ts";
import type { Gateways } from "./gateways.ts";

export interface GroupUse {
  readonly since: number;
}

const DELETE_MS = 1000;

/**
 * Which gateways hand out events of which groups. One that was killed may have taken events that no caller received, so
 * whoever next uses the group finds its note and sees that it is gone.
 */
export class GroupUses implements AsyncDisposable {
  readonly #bucket: Bucket<GroupUse>;
  readonly #gateways: Gateways;
  /** Other gateways, by the part of the key that names group and stream. */
  readonly #others = new Map<string, Set<string>>();
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
    await this.#bucket.set(groupUseKey(group, streamId, this.#gateways.own), { since: Date.now() }, deadline);
    const place = `${encodeToken(group)}.${streamId}`;
    for (const key of (await this.#bucket.list(`use.${place}.*`, deadline)).keys()) this.#add(key);
    return this.#of(place);
  }

  /** Takes this gateway's note back. */
  async unnote(group: string, streamId: string, deadline: Deadline): Promise<void> {
    await this.#bucket.delete(groupUseKey(group, streamId, this.#gateways.own), deadline);
  }

  /** Takes out those of `others` that have ended. @returns their names. */
  async forgetDead(group: string, streamId: string, others: Set<string>): Promise<string[]> {
    const dead: string[] = [];
    for (const other of [...others]) {
      if (await this.#gateways.lives(other)) continue;
      dead.push(other);
      others.delete(other);
      await this.#bucket.delete(groupUseKey(group, streamId, other), deadlineIn(DELETE_MS)).catch(() => {});
    }
    return dead;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#watch?.[Symbol.asyncDispose]();
  }

  #changed(change: Change<GroupUse>): void {
    const [, token, streamId, gateway] = change.key.split(".");
    if (change.value) this.#add(change.key);
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
