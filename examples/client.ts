/** The part of the HTTP/JSON API that a producer and a consumer need, by nothing but `fetch`. */

export interface NewEvent {
  /** Events with one key land in one partition and stay in order. */
  readonly key: string;
  /** Any JSON. */
  readonly value: unknown;
  readonly headers?: Readonly<Record<string, string>>;
  /** Chosen by the publisher: the same id again stores nothing, so a batch without an answer can be sent again. */
  readonly eventId?: string;
}

/** What became of one event of a batch: it has a place, or an error. */
export interface PublishResult {
  readonly eventId?: string;
  readonly partition?: number;
  readonly offset?: number;
  /** An event of this id was stored before; partition and offset are that one's. */
  readonly duplicate?: boolean;
  readonly error?: { readonly code: number; readonly message: string; readonly description: string };
}

export interface BatchAnswer {
  readonly batchId: string;
  readonly totalEvents: number;
  readonly successCount: number;
  readonly failureCount: number;
  /** In the order of the request. */
  readonly results: readonly PublishResult[];
}

export interface StoredEvent<Value> {
  readonly eventId: string;
  readonly partition: number;
  /** Place in the partition, from 0. */
  readonly offset: number;
  readonly timestamp: string;
  readonly key: string;
  readonly value: Value;
  readonly headers?: Readonly<Record<string, string>>;
}

/** Where a group is in one partition. */
export interface PartitionPlace {
  readonly partition: number;
  /** What the group is handed next. */
  readonly nextOffset: number;
  /** Events that it was not handed yet. */
  readonly lag: number;
  /** The last event that it has processed; absent before its first commit. */
  readonly committedOffset?: number;
}

/** The answer to a poll. */
export interface Page<Value> {
  /** In offset order within each partition. */
  readonly events: readonly StoredEvent<Value>[];
  readonly metadata: {
    readonly consumerGroup: string;
    readonly lag: number;
    readonly nextOffset: number;
    readonly partitions: readonly PartitionPlace[];
    /** Of a member: what it has now, and the generation that its commits name. */
    readonly assignment?: { readonly generation: number; readonly partitions: readonly number[] };
  };
}

export interface PollQuery {
  readonly consumerGroup: string;
  /** Name of a member: those of a group share the partitions. */
  readonly consumerId?: string;
  /** Most events, 1 to 10 000; default 100. */
  readonly limit?: number;
  /** Longest wait for the first event, in milliseconds; default 1000. */
  readonly timeout?: number;
  /** `earliest` and `latest` say where a new group starts; a number moves the group there. */
  readonly offset?: "earliest" | "latest" | number;
  /** This partition only; default: all. */
  readonly partition?: number;
}

export interface Stream {
  readonly name: string;
  readonly partitions: number;
  readonly totalMessages: number;
  readonly partitionDetails: readonly {
    readonly partition: number;
    readonly leader: string;
    /** First offset kept. */
    readonly startOffset: number;
    /** One past the last. */
    readonly endOffset: number;
  }[];
}

/** The last event processed of one partition. */
export interface CommitOffset {
  readonly stream: string;
  readonly partition: number;
  readonly offset: number;
}

/** A row of `table`, found by the CEL expression `key`, becomes the member `into` of an event's value. */
export interface Lookup {
  readonly table: string;
  readonly key: string;
  readonly into: string;
  readonly onMissing: "pass" | "null" | "drop" | "error";
}

/** Operations are described in docs/processors.md. */
export interface NewProcessor {
  readonly name: string;
  readonly source: string;
  readonly operations: readonly object[];
  /** Is created when it is not there. */
  readonly sink: string;
  readonly config?: { readonly parallelism?: number; readonly idleTimeout?: number };
}

export interface ProcessorMetrics {
  readonly status: string;
  readonly statusReason?: string;
  readonly metrics: { readonly eventsProcessed: number; readonly lag: number };
  readonly counters: {
    readonly filtered: number;
    readonly errors: number;
    readonly late: number;
    readonly emitted: number;
  };
}

export class Client {
  readonly #url: string;
  readonly #signal: AbortSignal;

  /**
   * @param url of the service, such as `http://127.0.0.1:8080`.
   * @param signal ends every call.
   */
  constructor(url: string, signal: AbortSignal) {
    this.#url = url.replace(/\/+$/, "");
    this.#signal = signal;
  }

  /** The same client with another signal. */
  until(signal: AbortSignal): Client {
    return new Client(this.#url, signal);
  }

  createStream(name: string, partitions: number): Promise<Stream> {
    return this.#call("POST", "/streams", { name, partitions });
  }

  getStream(name: string): Promise<Stream> {
    return this.#call("GET", `/streams/${name}`);
  }

  /** Deletes a stream, and what groups have kept of it. */
  async deleteStream(name: string): Promise<void> {
    await this.#call("DELETE", `/streams/${name}`);
  }

  /** Publishes events and answers once they are stored; a bad one fails alone. */
  publishBatch(stream: string, events: readonly NewEvent[]): Promise<BatchAnswer> {
    return this.#call("POST", `/streams/${stream}/events/batch`, { events });
  }

  /** Takes a group's next events. What it does not commit comes again. */
  poll<Value>(stream: string, query: PollQuery): Promise<Page<Value>> {
    const pairs = Object.entries(query).map(([name, value]): [string, string] => [name, String(value)]);
    const text = new URLSearchParams(pairs);
    return this.#call("GET", `/streams/${stream}/events?${text}`);
  }

  /** Stores that a group has processed everything up to these events, themselves included. */
  async commit(group: string, offsets: readonly CommitOffset[]): Promise<readonly CommitOffset[]> {
    const path = `/consumers/${encodeURIComponent(group)}/commit`;
    const answer = await this.#call<{ committedOffsets: CommitOffset[] }>("POST", path, { offsets });
    return answer.committedOffsets;
  }

  /** Creates a group before its first member comes. */
  async createGroup(group: string, stream: string): Promise<void> {
    await this.#call("POST", "/consumers", { consumerGroup: group, stream });
  }

  /** Commits for a member. @returns false when the partition has passed to another. */
  async commitAs(
    group: string,
    offset: CommitOffset,
    member: { readonly consumerId: string; readonly generation: number },
  ): Promise<boolean> {
    const body = { offsets: [offset], ...member };
    const response = await this.#send("POST", `/consumers/${encodeURIComponent(group)}/commit`, body);
    const text = await response.text();
    if (!response.ok && response.status !== 409) throw new Error(`commit answered ${response.status}: ${text}`);
    return response.ok;
  }

  /** Takes a member out of its group; what it had goes to the others at once. */
  async leave(group: string, consumerId: string): Promise<void> {
    await this.#call("POST", `/consumers/${encodeURIComponent(group)}/leave`, { consumerId });
  }

  /** Reads a stream live, as JSON lines. Gives the lines that came together. */
  async *streamLines<Line>(stream: string, query: Readonly<Record<string, string>>): AsyncGenerator<Line[]> {
    const path = `/streams/${stream}/events/stream?${new URLSearchParams(query)}`;
    const response = await this.#send("GET", path, undefined, { accept: "application/x-ndjson" });
    if (!response.ok) throw new Error(`GET ${path} answered ${response.status}: ${await response.text()}`);
    let rest = "";
    for await (const chunk of response.body!.pipeThrough(new TextDecoderStream())) {
      const lines = (rest + chunk).split("\n");
      rest = lines.pop()!;
      yield lines.filter((line) => line !== "").map((line) => JSON.parse(line) as Line);
    }
  }

  /** Gives a table's rows new values. */
  async putRows(table: string, rows: readonly { readonly key: string; readonly value: unknown }[]): Promise<void> {
    await this.#call("POST", `/tables/${table}/rows`, { rows });
  }

  async deleteRow(table: string, key: string): Promise<void> {
    await this.#call("DELETE", `/tables/${table}/rows/${encodeURIComponent(key)}`);
  }

  /** Installs a function that joins the row of a table into events. */
  async putLookup(name: string, lookup: Lookup): Promise<void> {
    await this.#call("PUT", `/functions/${name}`, { lookup });
  }

  async deleteFunction(name: string): Promise<void> {
    await this.#call("DELETE", `/functions/${name}`);
  }

  createProcessor(processor: NewProcessor): Promise<{ readonly processorId: string }> {
    return this.#call("POST", "/processors", processor);
  }

  processorMetrics(processorId: string): Promise<ProcessorMetrics> {
    return this.#call("GET", `/processors/${processorId}/metrics`);
  }

  async deleteProcessor(processorId: string): Promise<void> {
    await this.#call("DELETE", `/processors/${processorId}`);
  }

  async #call<Answer>(method: string, path: string, body?: unknown): Promise<Answer> {
    const response = await this.#send(method, path, body);
    const text = await response.text();
    if (!response.ok) throw new Error(`${method} ${path} answered ${response.status}: ${text}`);
    return JSON.parse(text) as Answer;
  }

  #send(method: string, path: string, body?: unknown, headers: Record<string, string> = {}): Promise<Response> {
    return fetch(`${this.#url}/api/v1${path}`, {
      method,
      signal: this.#signal,
      headers: { ...headers, ...(body === undefined ? {} : { "content-type": "application/json" }) },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
  }
}
