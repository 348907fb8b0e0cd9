import { ConnectError } from "@connectrpc/connect";
import { ErrorCode } from "../../gen/millrace/v1/errors_pb.js";
import type { Event } from "../../gen/millrace/v1/events_pb.js";
import type { Api } from "./client.ts";
import { errorCodeOf } from "./failure.ts";
import { note } from "./output.ts";

/** Commits are put together for so long. */
const EVERY_MS = 500;
const CALL_TIMEOUT_MS = 5000;

interface Membership {
  readonly consumerId: string;
  readonly generation: bigint;
}

/** Stores how far a member of a group has come: behind the events that have been written out, never ahead of them. */
export class Committer {
  readonly #api: Api;
  readonly #group: string;
  readonly #stream: string;
  readonly #written = new Map<number, bigint>();
  /** Events that came out of order, after they had been returned: each is committed by itself. */
  #returned: { partition: number; offset: bigint }[] = [];
  #member: Membership | undefined;
  #committedAt = performance.now();

  constructor(api: Api, group: string, stream: string) {
    this.#api = api;
    this.#group = group;
    this.#stream = stream;
  }

  /** What the subscription was told of its share. */
  assigned({ consumerId, generation }: Membership): void {
    this.#member = { consumerId, generation };
  }

  /** These events have been written out. */
  wrote(events: readonly Event[]): void {
    for (const { partition, offset, deliveryAttempt } of events)
      if (deliveryAttempt === undefined) this.#written.set(partition, offset);
      else this.#returned.push({ partition, offset });
  }

  /** Forgets what is not committed: the subscription broke, and its events come again. */
  forget(): void {
    this.#written.clear();
    this.#returned = [];
  }

  /** Commits if the last time was long enough ago. */
  async commitNowAndThen(): Promise<void> {
    if (performance.now() - this.#committedAt >= EVERY_MS) await this.commit();
  }

  /** Commits all that was written out. Partitions that another member has by now are left to it. */
  async commit(): Promise<void> {
    const places = [...[...this.#written].map(([partition, offset]) => ({ partition, offset })), ...this.#returned];
    const offsets = places.map((place) => ({ stream: this.#stream, ...place }));
    this.forget();
    this.#committedAt = performance.now();
    if (offsets.length === 0) return;
    try {
      await this.#send(offsets);
    } catch (error) {
      if (!isLost(error)) throw error;
      // One partition that is gone refuses all of them; the others are stored by themselves.
      for (const one of offsets)
        await this.#send([one]).catch((cause: unknown) => {
          if (!isLost(cause)) throw cause;
          note(`partition ${one.partition} went to another member; what is not committed comes again there`);
        });
    }
  }

  async #send(offsets: readonly { stream: string; partition: number; offset: bigint }[]): Promise<void> {
    const request = { consumerGroup: this.#group, offsets: [...offsets], ...this.#member };
    await this.#api.groups.commit(request, { timeoutMs: CALL_TIMEOUT_MS });
  }
}

const isLost = (error: unknown): boolean =>
  error instanceof ConnectError && errorCodeOf(error) === ErrorCode.NOT_PARTITION_OWNER;
