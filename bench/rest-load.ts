import { type HttpAnswer, HttpConnection, jsonRequest, plainRequest } from "./http-client.ts";
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
import { batchBody, POLL_EVENTS, publishBody, sampleBatches, sampleEvent } from "./workload.ts";

/** Of an answer, enough to see how it went. */
const HEAD_BYTES = 200;
const METADATA = Buffer.from('"metadata":');
/** Longer than the metadata of a poll over four partitions. */
const METADATA_BYTES = 1024;

/** HTTP/1.1, one connection a caller: for the service's REST and for the floor that imitates it. */
export class RestLoad implements Load {
  readonly #url: string;

  constructor(url: string) {
    this.#url = url;
  }

  publishers(stream: string, count: number): Promise<Worker[]> {
    const path = `/api/v1/streams/${stream}/events`;
    const requests = Array.from({ length: DIFFERENT_EVENTS }, (_, i) => jsonRequest(path, publishBody(sampleEvent(i))));
    return this.#workers(count, requests, 1, '"status":"published"');
  }

  batchers(stream: string, size: number, count: number): Promise<Worker[]> {
    const path = `/api/v1/streams/${stream}/events/batch`;
    const requests = sampleBatches(DIFFERENT_BATCHES, size).map((events) => jsonRequest(path, batchBody(events)));
    return this.#workers(count, requests, size, `"successCount":${size},"failureCount":0`);
  }

  pollers(stream: string, groups: string, count: number): Promise<Worker[]> {
    return eachWorker(count, async (i) => new PollWorker(await RestReader.open(this.#url, stream), `${groups}-${i}`));
  }

  #workers(count: number, requests: Buffer[], events: number, expected: string): Promise<Worker[]> {
    return eachWorker(count, async () => {
      const connection = await HttpConnection.open(this.#url);
      const next = ring(requests);
      return {
        async step() {
          const answer = await connection.exchange(next());
          if (answer.status !== 200 || !answer.body.toString("latin1", 0, HEAD_BYTES).includes(expected))
            throw refused(answer);
          return events;
        },
        close: () => connection.close(),
      };
    });
  }
}

/** Polls and commits over one connection of its own. */
export class RestReader implements Reader {
  readonly #connection: HttpConnection;
  readonly #stream: string;

  private constructor(connection: HttpConnection, stream: string) {
    this.#connection = connection;
    this.#stream = stream;
  }

  static async open(url: string, stream: string): Promise<RestReader> {
    return new RestReader(await HttpConnection.open(url), stream);
  }

  async poll(group: string, verify: boolean): Promise<Polled> {
    const path = `/api/v1/streams/${this.#stream}/events?consumerGroup=${group}&limit=${POLL_EVENTS}`;
    const answer = await this.#connection.exchange(plainRequest("GET", path));
    const { status, body } = answer;
    if (status !== 200) throw refused(answer);
    const from = Math.max(0, body.length - METADATA_BYTES);
    const at = body.indexOf(METADATA, from);
    const { partitions } = JSON.parse(body.toString("latin1", at + METADATA.length, body.length - 1)) as Polled;
    if (verify) verifyEvents(body);
    return { events: countEvents(body), partitions };
  }

  async commit(group: string, entries: readonly CommitEntry[]): Promise<void> {
    const offsets = entries.map((entry) => ({ stream: this.#stream, ...entry }));
    const answer = await this.#connection.exchange(
      jsonRequest(`/api/v1/consumers/${group}/commit`, JSON.stringify({ offsets })),
    );
    if (answer.status !== 200) throw refused(answer);
  }

  close(): void {
    this.#connection.close();
  }
}

const EVENT = Buffer.from('"eventId":"');

function countEvents(body: Buffer): number {
  let count = 0;
  for (let at = body.indexOf(EVENT); at >= 0; at = body.indexOf(EVENT, at + EVENT.length)) count++;
  return count;
}

function verifyEvents(body: Buffer): void {
  const { events } = JSON.parse(body.toString()) as { events: { key: string; value: unknown }[] };
  for (const { key, value } of events) verifyEvent(key, JSON.stringify(value));
}

const refused = ({ status, body }: HttpAnswer): Error =>
  new Error(`status ${status}: ${body.toString().slice(0, 500)}`);
