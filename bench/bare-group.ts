import { deadlineIn } from "../src/domain/deadline.ts";
import type { JetStream } from "../src/jetstream/connection.ts";
import { acknowledge, createDurable } from "../src/jetstream/durable.ts";
import type { Delivered } from "../src/jetstream/fetch.ts";
import type { Bucket } from "../src/jetstream/kv.ts";
import { durableName, partitionStream } from "../src/jetstream/names.ts";

interface Place {
  readonly jsStream: string;
  readonly key: string;
  revision: number;
  last: Delivered | undefined;
}

const ACK_WAIT_MS = 30_000;
const CALL_MS = 10_000;

/**
 * A consumer group with the storage work of the service's own and nothing else: pulls from one durable a partition; a
 * commit writes one KV entry a partition by compare-and-set, waits for its acknowledgement and moves the ack floor.
 */
export class BareGroup {
  readonly #js: JetStream;
  readonly #offsets: Bucket<unknown>;
  readonly #durable: string;
  readonly #places: readonly Place[];

  private constructor(js: JetStream, offsets: Bucket<unknown>, durable: string, places: readonly Place[]) {
    this.#js = js;
    this.#offsets = offsets;
    this.#durable = durable;
    this.#places = places;
  }

  static async open(
    js: JetStream,
    offsets: Bucket<unknown>,
    stream: string,
    group: string,
    partitions: number,
  ): Promise<BareGroup> {
    const durable = durableName(group);
    const places = Array.from({ length: partitions }, (_, partition) => ({
      jsStream: partitionStream(stream, partition),
      key: `${group}.${stream}.${partition}`,
      revision: 0,
      last: undefined,
    }));
    await Promise.all(
      places.map((place) => createDurable(js, place.jsStream, durable, ACK_WAIT_MS, deadlineIn(CALL_MS))),
    );
    return new BareGroup(js, offsets, durable, places);
  }

  /** The next events of each partition, at most `limit` together. */
  async poll(limit: number): Promise<Delivered[][]> {
    const batch = Math.floor(limit / this.#places.length);
    return Promise.all(
      this.#places.map(async (place) => {
        const { messages, end } = await this.#js.fetcher.pull(place.jsStream, this.#durable, { batch, waitMs: 0 });
        if (end !== "full" && end !== "empty") throw new Error(`a pull ended as "${end}"`);
        place.last = messages.at(-1) ?? place.last;
        return messages;
      }),
    );
  }

  /** Stores that everything of a partition up to `offset`, which its last poll gave, is processed. */
  async commit(partition: number, offset: number): Promise<void> {
    const place = this.#places[partition]!;
    const record = { committed: offset, resume: offset + 1 };
    const revision = await this.#offsets.put(place.key, record, place.revision, deadlineIn(CALL_MS));
    if (revision === undefined) throw new Error(`${place.key} was written by another`);
    place.revision = revision;
    const { seq, consumerSeq } = place.last!;
    acknowledge(this.#js, place.jsStream, this.#durable, offset + 1, consumerSeq - (seq - (offset + 1)));
  }
}
