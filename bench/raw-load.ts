import { deadlineIn } from "../src/domain/deadline.ts";
import { JSON_TYPE } from "../src/domain/event.ts";
import type { JetStream } from "../src/jetstream/connection.ts";
import type { Bucket } from "../src/jetstream/kv.ts";
import { decodeHeader, encodeHeader } from "../src/jetstream/message.ts";
import { partitionSubject } from "../src/jetstream/names.ts";
import type { AckSink } from "../src/jetstream/publish.ts";
import { newEventId } from "../src/log/event-ids.ts";
import { partitionOf } from "../src/log/partitioner.ts";
import { BareGroup } from "./bare-group.ts";
import {
  type CommitEntry,
  DIFFERENT_BATCHES,
  DIFFERENT_EVENTS,
  eachWorker,
  type Load,
  type Polled,
  PollWorker,
  type Reader,
  ring,
  verifyEvent,
  type Worker,
} from "./load.ts";
import { PARTITIONS, POLL_EVENTS, type SampleEvent, sampleBatches } from "./workload.ts";

const CALL_MS = 10_000;

/** No gateway: this process writes and reads the same messages over its own connection to NATS. */
export class RawLoad implements Load {
  readonly #js: JetStream;
  readonly #offsets: Bucket<unknown>;

  constructor(js: JetStream, offsets: Bucket<unknown>) {
    this.#js = js;
    this.#offsets = offsets;
  }

  publishers(stream: string, count: number): Promise<Worker[]> {
    return this.#workers(stream, count, sampleBatches(DIFFERENT_EVENTS, 1));
  }

  batchers(stream: string, size: number, count: number): Promise<Worker[]> {
    return this.#workers(stream, count, sampleBatches(DIFFERENT_BATCHES, size));
  }

  pollers(stream: string, groups: string, count: number): Promise<Worker[]> {
    return eachWorker(
      count,
      async (i) => new PollWorker(new RawReader(this.#js, this.#offsets, stream), `${groups}-${i}`),
    );
  }

  /** Publishes samples until the stream has `events`. */
  async fill(stream: string, events: number): Promise<void> {
    const [worker] = await this.batchers(stream, 1000, 1);
    for (let done = 0; done < events; ) done += await worker!.step();
  }

  #workers(stream: string, count: number, batches: SampleEvent[][]): Promise<Worker[]> {
    return eachWorker(count, async () => {
      const next = ring(batches);
      return { step: () => this.#publish(stream, next()), close() {} };
    });
  }

  #publish(stream: string, events: readonly SampleEvent[]): Promise<number> {
    const { promise, resolve, reject } = Promise.withResolvers<number>();
    let open = events.length;
    const sink: AckSink = {
      stored: () => {
        if (--open === 0) resolve(events.length);
      },
      failed: (_index, error) => reject(error),
    };
    for (const [index, { key, payload }] of events.entries()) {
      const header = encodeHeader({
        contentType: JSON_TYPE,
        eventId: newEventId(),
        key,
        partitionKey: undefined,
        headers: undefined,
      });
      const subject = partitionSubject(stream, partitionOf(key, PARTITIONS));
      this.#js.publisher.publish(subject, header, payload, deadlineIn(CALL_MS), sink, index, true);
    }
    return promise;
  }
}

class RawReader implements Reader {
  readonly #js: JetStream;
  readonly #offsets: Bucket<unknown>;
  readonly #stream: string;
  #name: string | undefined;
  #group: BareGroup | undefined;

  constructor(js: JetStream, offsets: Bucket<unknown>, stream: string) {
    this.#js = js;
    this.#offsets = offsets;
    this.#stream = stream;
  }

  async poll(name: string, verify: boolean): Promise<Polled> {
    if (this.#name !== name) {
      this.#name = name;
      this.#group = await BareGroup.open(this.#js, this.#offsets, this.#stream, name, PARTITIONS);
    }
    const taken = await this.#group!.poll(POLL_EVENTS);
    if (verify)
      for (const { header, data } of taken.flat()) verifyEvent(decodeHeader(header).key, Buffer.from(data).toString());
    return {
      events: taken.reduce((sum, messages) => sum + messages.length, 0),
      partitions: taken.flatMap((messages, partition) =>
        messages.length > 0 ? [{ partition, nextOffset: messages.at(-1)!.seq }] : [],
      ),
    };
  }

  async commit(_name: string, entries: readonly CommitEntry[]): Promise<void> {
    await Promise.all(entries.map(({ partition, offset }) => this.#group!.commit(partition, offset)));
  }

  close(): void {}
}
