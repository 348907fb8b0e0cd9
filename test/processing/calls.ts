import { eventually } from "../support/wait.ts";

/** REST calls of a service for tests of processors. */
export class Calls {
  url: string;
  readonly #limitMs: number;

  /** @param limitMs how long one call may take. */
  constructor(url: string, limitMs = 30_000) {
    this.url = url;
    this.#limitMs = limitMs;
  }

  /** @throws Error with the answer unless it is a success. */
  async ok<T = Record<string, unknown>>(method: string, path: string, body?: unknown): Promise<T> {
    const { status, json } = await this.any(method, path, body);
    if (status >= 300) throw new Error(`${method} ${path}: ${status} ${JSON.stringify(json)}`);
    return json as T;
  }

  async any(method: string, path: string, body?: unknown, headers: Record<string, string> = {}) {
    const response = await fetch(`${this.url}/api/v1${path}`, {
      method,
      headers: { ...(body === undefined ? {} : { "content-type": "application/json" }), ...headers },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      signal: AbortSignal.timeout(this.#limitMs),
    });
    return { status: response.status, json: (await response.json()) as Record<string, never> };
  }

  publish(stream: string, events: readonly object[]): Promise<{ successCount: number }> {
    return this.ok("POST", `/streams/${stream}/events/batch`, { events });
  }

  metrics(id: string): Promise<Metrics> {
    return this.ok("GET", `/processors/${id}/metrics`);
  }

  /** Everything in a stream, partition by partition. */
  async readAll(stream: string): Promise<SinkEvent[]> {
    const { partitions } = await this.ok<{ partitions: number }>("GET", `/streams/${stream}`);
    const events: SinkEvent[] = [];
    for (let partition = 0; partition < partitions; partition++) {
      for (let next = 0; ; ) {
        const path = `/streams/${stream}/partitions/${partition}/events?offset=${next}&limit=10000`;
        const page = await this.ok<{ events: SinkEvent[]; metadata: { nextOffset: number; endOffset: number } }>(
          "GET",
          path,
        );
        events.push(...page.events);
        next = page.metadata.nextOffset;
        if (next >= page.metadata.endOffset) break;
      }
    }
    return events;
  }

  /** Waits until a stream holds at least so many events. */
  whenHolds(stream: string, count: number, limitMs = 20_000): Promise<SinkEvent[]> {
    return eventually(
      `${count} events in ${stream}`,
      async () => {
        const { totalMessages } = await this.ok<{ totalMessages: number }>("GET", `/streams/${stream}`);
        return totalMessages >= count ? this.readAll(stream) : undefined;
      },
      limitMs,
    );
  }
}

export interface SinkEvent {
  eventId: string;
  partition: number;
  offset: number;
  key?: string;
  value: Record<string, unknown>;
  headers?: Record<string, string>;
}

export interface Metrics {
  processorId: string;
  status: string;
  statusReason?: string;
  metrics: { eventsProcessed: number; throughput: number; avgLatency: number; lag: number; errorRate: number };
  windows: { windowStart: string; windowEnd: string; eventsCount: number; closed: boolean }[];
  counters: { filtered: number; errors: number; deadLetters: number; late: number; emitted: number };
  partitions: {
    partition: number;
    nextOffset: number;
    lag: number;
    watermark?: string;
    idle: boolean;
    holdsWatermark: boolean;
  }[];
}
