/** Events and payload bytes of one stream since the process began. */
export interface StreamTraffic {
  publishedEvents: number;
  publishedBytes: number;
  deliveredEvents: number;
  deliveredBytes: number;
}

/** Streams with counts of their own. */
export const MAX_COUNTED_STREAMS = 500;

/** What goes in and out per stream. Beyond {@link MAX_COUNTED_STREAMS} streams, further ones count together. */
export class Traffic {
  readonly #streams = new Map<string, StreamTraffic>();
  /** Of the streams that have no counts of their own; in `/metrics` it has the label `stream=""`. */
  readonly other: StreamTraffic = zero();
  /** Open ones, of groups and without. */
  groupSubscriptions = 0;
  soloSubscriptions = 0;

  published(stream: string, events: number, bytes: number): void {
    const counts = this.#of(stream);
    counts.publishedEvents += events;
    counts.publishedBytes += bytes;
  }

  delivered(stream: string, events: readonly { readonly payload: Uint8Array }[]): void {
    if (events.length === 0) return;
    const counts = this.#of(stream);
    counts.deliveredEvents += events.length;
    for (const { payload } of events) counts.deliveredBytes += payload.length;
  }

  /** The streams with counts of their own; those that are no more make room for others. */
  streams(exists: (stream: string) => boolean): ReadonlyMap<string, StreamTraffic> {
    for (const stream of this.#streams.keys()) if (!exists(stream)) this.#streams.delete(stream);
    return this.#streams;
  }

  #of(stream: string): StreamTraffic {
    let counts = this.#streams.get(stream);
    if (!counts) {
      if (this.#streams.size >= MAX_COUNTED_STREAMS) return this.other;
      counts = zero();
      this.#streams.set(stream, counts);
    }
    return counts;
  }
}

const zero = (): StreamTraffic => ({ publishedEvents: 0, publishedBytes: 0, deliveredEvents: 0, deliveredBytes: 0 });
