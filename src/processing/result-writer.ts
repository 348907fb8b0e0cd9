import { type Deadline, deadlineIn, pause } from "../domain/deadline.ts";
import { ErrorCode, type ServiceError } from "../domain/errors.ts";
import type { NewEvent } from "../domain/event.ts";
import type { JetStream } from "../jetstream/connection.ts";
import { decodeHeader } from "../jetstream/message.ts";
import { partitionStream, partitionSubject } from "../jetstream/names.ts";
import { OrderedReader, StreamGone } from "../jetstream/ordered-reader.ts";
import type { Appender } from "../log/append.ts";
import type { StreamRecord } from "../log/catalog.ts";

/** A result with the id that every attempt to write it has. */
export type ResultEvent = NewEvent & { readonly eventId: string };

/** A result that the sink refuses for good. */
export interface RefusedResult {
  /** Place among the results given. */
  readonly index: number;
  readonly reason: string;
}

export interface WriterOptions {
  /** Ends all attempts. */
  readonly signal: AbortSignal;
  /** Says why results can't be written now, or that they can again. */
  readonly onTrouble: (reason: string | undefined) => void;
  /** Rejects when the results are no longer this process's to write. */
  readonly makeSure: () => Promise<void>;
}

interface Job {
  readonly results: readonly ResultEvent[];
  readonly resolve: (refused: RefusedResult[]) => void;
  readonly reject: (error: unknown) => void;
}

const MAX_AT_ONCE = 2000;
const ATTEMPT_MS = 30_000;
const RETRY_MS = 200;
/** Clocks of servers may differ by this much. */
const MARGIN_MS = 30_000;

/**
 * Writes results to the sink, in order, again and again under the same ids until they are stored. Within the sink's
 * duplicate window JetStream drops repeats; what may be older is looked for in the sink before it is written again.
 */
export class ResultWriter {
  readonly #js: JetStream;
  readonly #appender: Appender;
  readonly #sink: StreamRecord;
  readonly #options: WriterOptions;
  readonly #jobs: Job[] = [];
  #stored: ReadonlySet<string> = new Set();
  #working = false;
  #queued = 0;

  constructor(js: JetStream, appender: Appender, sink: StreamRecord, options: WriterOptions) {
    this.#js = js;
    this.#appender = appender;
    this.#sink = sink;
    this.#options = options;
  }

  /** Results given and not stored yet. */
  get queued(): number {
    return this.#queued;
  }

  /** @returns those that the sink refuses for good, once all others are stored. */
  write(results: readonly ResultEvent[]): Promise<RefusedResult[]> {
    if (results.length === 0) return Promise.resolve([]);
    this.#queued += results.length;
    return new Promise((resolve, reject) => {
      this.#jobs.push({ results, resolve, reject });
      if (!this.#working) void this.#work();
    });
  }

  /** Whether repeats of what was written `ageMs` ago may be taken for new. */
  mayRepeat(ageMs: number): boolean {
    return ageMs > this.#sink.duplicateWindowMs / 2;
  }

  /** Looks for results in the sink that were written since a moment of the storage's clock; they are not written again. */
  async readBack(sinceMs: number, idPrefix: string): Promise<void> {
    const found = new Set<string>(this.#stored);
    for (let partition = 0; partition < this.#sink.partitions; partition++) {
      const reader = new OrderedReader(this.#js, {
        jsStream: partitionStream(this.#sink.name, partition),
        filter: partitionSubject(this.#sink.name, partition),
        from: 1,
        fromTimeMs: sinceMs - MARGIN_MS,
        headersOnly: true,
        dense: false,
        batch: 1000,
      });
      try {
        for (let atEnd = false; !atEnd; ) {
          this.#options.signal.throwIfAborted();
          const batch = await reader.read(0, this.#options.signal);
          for (const { header } of batch.messages) {
            const { eventId } = decodeHeader(header);
            if (eventId?.startsWith(idPrefix)) found.add(eventId);
          }
          atEnd = batch.atEnd;
        }
      } catch (error) {
        if (!(error instanceof StreamGone)) throw error;
      } finally {
        await reader.close();
      }
    }
    this.#stored = found;
  }

  async #work(): Promise<void> {
    this.#working = true;
    while (this.#jobs.length > 0) {
      const jobs = this.#jobs.splice(0, jobsWithin(this.#jobs, MAX_AT_ONCE));
      try {
        const refused = await this.#storeAll(jobs.flatMap(({ results }) => results));
        let from = 0;
        for (const { results, resolve } of jobs) {
          const own = refused.filter(({ index }) => index >= from && index < from + results.length);
          resolve(own.map(({ index, reason }) => ({ index: index - from, reason })));
          from += results.length;
          this.#queued -= results.length;
        }
      } catch (error) {
        for (const { reject } of jobs) reject(error);
        for (const { reject } of this.#jobs.splice(0)) reject(error);
      }
    }
    this.#working = false;
  }

  async #storeAll(results: readonly ResultEvent[]): Promise<RefusedResult[]> {
    const refused: RefusedResult[] = [];
    let open = results.map((_, index) => index).filter((index) => !this.#stored.has(results[index]!.eventId));
    const began = performance.now();
    const beganMs = Date.now();
    while (open.length > 0) {
      this.#options.signal.throwIfAborted();
      await this.#options.makeSure();
      const deadline: Deadline = deadlineIn(ATTEMPT_MS);
      const attempt = open;
      const outcomes = await this.#appender.appendAll(
        this.#sink,
        attempt.map((index) => results[index]!),
        { deadline },
      );
      open = [];
      let trouble: ServiceError | undefined;
      for (const [i, outcome] of outcomes.entries()) {
        if (!("error" in outcome)) continue;
        if (isFinal(outcome.error)) refused.push({ index: attempt[i]!, reason: outcome.error.message });
        else {
          open.push(attempt[i]!);
          trouble = outcome.error;
        }
      }
      if (!trouble) break;
      this.#options.onTrouble(`the sink "${this.#sink.name}" does not take results: ${trouble.message}`);
      await pause(RETRY_MS);
      if (this.mayRepeat(performance.now() - began)) {
        await this.readBack(beganMs, "px_");
        open = open.filter((index) => !this.#stored.has(results[index]!.eventId));
      }
    }
    this.#options.onTrouble(undefined);
    return refused;
  }
}

/** Refusals that another attempt does not change. */
const isFinal = ({ code }: ServiceError): boolean =>
  code === ErrorCode.SERIALIZATION_ERROR || code === ErrorCode.INVALID_ARGUMENT;

function jobsWithin(jobs: readonly Job[], limit: number): number {
  let count = 0;
  let sum = 0;
  while (count < jobs.length && (count === 0 || sum + jobs[count]!.results.length <= limit))
    sum += jobs[count++]!.results.length;
  return count;
}
