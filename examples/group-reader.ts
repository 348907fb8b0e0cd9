import type { Client, CommitOffset, Page } from "./client.ts";

/** How long a poll waits before it says that there is nothing more, in milliseconds. */
const WAIT_MS = 250;

/** Reads a stream for a consumer group: {@link nextPage}, process it, {@link commit}, and again. */
export class GroupReader<Value> {
  readonly #client: Client;
  readonly #stream: string;
  readonly #group: string;
  readonly #pageEvents: number;
  /** Partitions to be moved, and where to. */
  readonly #moves = new Map<number, number>();
  /** The last event processed, by partition. */
  readonly committed = new Map<number, number>();

  /** For a group that has read nothing yet; it starts with the oldest event. */
  constructor(client: Client, stream: string, group: string, pageEvents: number) {
    this.#client = client;
    this.#stream = stream;
    this.#group = group;
    this.#pageEvents = pageEvents;
  }

  /**
   * For a group that somebody else has read with, and perhaps left in the middle. What was handed out and not committed
   * comes again only after the group's `ackWait`, and a commit of later events would pass it over. So the reader does
   * not wait: it asks what is committed, and moves each partition back to the event after that.
   */
  static async resume<Value>(
    client: Client,
    stream: string,
    group: string,
    pageEvents: number,
  ): Promise<GroupReader<Value>> {
    const reader = new GroupReader<Value>(client, stream, group, pageEvents);
    const { partitionDetails } = await client.getStream(stream);
    // The smallest poll there is. Should it take an event, the move back brings that one again.
    const { metadata } = await client.poll(stream, { consumerGroup: group, limit: 1, timeout: 0 });
    for (const { partition, nextOffset, committedOffset } of metadata.partitions) {
      const { startOffset } = partitionDetails[partition]!;
      const resumeAt = committedOffset === undefined ? startOffset : Math.max(committedOffset + 1, startOffset);
      if (resumeAt !== nextOffset) reader.#moves.set(partition, resumeAt);
      if (committedOffset !== undefined) reader.committed.set(partition, committedOffset);
    }
    return reader;
  }

  /** The next events; none when all was handed out. */
  async nextPage(): Promise<Page<Value>> {
    const query = { consumerGroup: this.#group, limit: this.#pageEvents, timeout: WAIT_MS };
    for (const [partition, offset] of this.#moves) {
      this.#moves.delete(partition);
      const page = await this.#client.poll<Value>(this.#stream, { ...query, partition, offset, timeout: 0 });
      if (page.events.length > 0) return page;
    }
    return this.#client.poll<Value>(this.#stream, query);
  }

  /** Says that a page is processed; the group never sees it again. */
  async commit(page: Page<Value>): Promise<void> {
    const offsets = lastOffsets(this.#stream, page);
    if (offsets.length === 0) return;
    for (const { partition, offset } of await this.#client.commit(this.#group, offsets))
      this.committed.set(partition, offset);
  }
}

/** The last event of a page, for each partition that is in it. */
function lastOffsets(stream: string, page: Page<unknown>): CommitOffset[] {
  const last = new Map(page.events.map(({ partition, offset }) => [partition, offset]));
  return Array.from(last, ([partition, offset]) => ({ stream, partition, offset }));
}
