import type { Client, StoredEvent } from "./client.ts";

/** How long a poll waits, in milliseconds. */
const WAIT_MS = 250;
const PAGE_EVENTS = 500;

/** What a member has to do with the events that it is handed, in order within each partition. */
type Process<Value> = (events: readonly StoredEvent<Value>[]) => void;

/**
 * A named member of a consumer group. The service shares the partitions among the members that live; this one reads
 * those that it has, live by a stream or by one poll after the other, and counts an event as processed once its commit
 * is taken. A commit that is refused is no fault: the partition has passed to another member, which gets the events.
 */
export class GroupMember<Value> {
  readonly name: string;
  /** The partitions that it has now. */
  partitions: readonly number[] = [];
  /** The last event processed, by partition. */
  readonly committed = new Map<number, number>();
  /** Events processed. */
  events = 0;
  /** Events that were handed to it and not processed by it. */
  dropped = 0;
  readonly #client: Client;
  readonly #stream: string;
  readonly #group: string;
  readonly #process: Process<Value>;
  #generation = 0;

  constructor(client: Client, stream: string, group: string, name: string, process: Process<Value>) {
    this.#client = client;
    this.#stream = stream;
    this.#group = group;
    this.name = name;
    this.#process = process;
  }

  /**
   * Reads live until the signal is aborted, which cuts the connection as a crash would.
   *
   * @param mayCommit asked before each commit; false: the member dies here, with events in its hands.
   */
  async stream(signal: AbortSignal, mayCommit: () => boolean = () => true): Promise<void> {
    const query = { consumerGroup: this.#group, consumerId: this.name };
    try {
      for await (const lines of this.#client.until(signal).streamLines<Line<Value>>(this.#stream, query)) {
        let events: StoredEvent<Value>[] = [];
        for (const line of lines) {
          if ("error" in line) throw new Error(`the stream of ${this.name} ended: ${line.error.description}`);
          if ("offset" in line) events.push(line);
          else if ("assignment" in line) {
            // What came before belongs to the generation before.
            await this.#finish(events);
            events = [];
            this.#assigned(line.assignment);
          }
        }
        if (events.length > 0 && !mayCommit()) {
          this.dropped += events.length;
          return;
        }
        await this.#finish(events);
      }
    } catch (error) {
      if (!signal.aborted) throw error;
    }
  }

  /** Polls until the signal is aborted, and then leaves the group. */
  async poll(signal: AbortSignal): Promise<void> {
    const query = { consumerGroup: this.#group, consumerId: this.name, limit: PAGE_EVENTS, timeout: WAIT_MS };
    while (!signal.aborted) {
      const { events, metadata } = await this.#client.poll<Value>(this.#stream, query);
      if (metadata.assignment) this.#assigned(metadata.assignment);
      await this.#finish(events);
    }
    await this.#client.leave(this.#group, this.name);
  }

  #assigned({ generation, partitions }: { generation: number; partitions: readonly number[] }): void {
    this.#generation = generation;
    this.partitions = partitions;
  }

  async #finish(events: readonly StoredEvent<Value>[]): Promise<void> {
    for (const [partition, its] of Map.groupBy(events, (event) => event.partition)) {
      const { offset } = its.at(-1)!;
      const as = { consumerId: this.name, generation: this.#generation };
      if (await this.#client.commitAs(this.#group, { stream: this.#stream, partition, offset }, as)) {
        this.#process(its);
        this.events += its.length;
        this.committed.set(partition, offset);
      } else this.dropped += its.length;
    }
  }
}

/** A line of a live stream: an event, the member's partitions, how the service ends it, or a sign of life. */
type Line<Value> =
  | StoredEvent<Value>
  | { readonly assignment: { readonly generation: number; readonly partitions: readonly number[] } }
  | { readonly error: { readonly description: string } }
  | { readonly heartbeat: true };
