import type { Flight } from "./flight.ts";
import { StepFailure } from "./pipeline.ts";
import { type ProcessorRecord, resultPrefix } from "./record.ts";
import type { RefusedResult, ResultEvent, ResultWriter } from "./result-writer.ts";

/** Results given to the sink, and those of them that it refused. */
export interface Written {
  readonly flights: readonly Flight[];
  readonly refused: readonly RefusedResult[];
}

/** Results of a processor without windows: each goes to the sink at once, and the commit that counts it waits for it. */
export class DirectResults {
  readonly #record: ProcessorRecord;
  readonly #sinkPartitions: number;
  readonly #writer: ResultWriter;
  #outputs: Promise<Written>[] = [];

  constructor(record: ProcessorRecord, sinkPartitions: number, writer: ResultWriter) {
    this.#record = record;
    this.#sinkPartitions = sinkPartitions;
    this.#writer = writer;
  }

  /**
   * Sends results of one event.
   *
   * @param headers of each result.
   * @param onFailure is told of those that can't be encoded.
   */
  write(passed: readonly Flight[], headers: ResultEvent["headers"], onFailure: (failure: StepFailure) => void): void {
    const record = this.#record;
    const results: ResultEvent[] = [];
    const flights: Flight[] = [];
    for (const flight of passed) {
      const { event } = flight;
      try {
        const { payload, contentType } = flight.encode();
        results.push({
          payload,
          contentType,
          key: event.key,
          headers,
          // Always the same one, since repeats are found within one partition only.
          ...(event.key === undefined ? { partition: event.partition % this.#sinkPartitions } : {}),
          eventId: `${resultPrefix(record)}${event.partition}-${event.offset}${flight.part ? `-${flight.part}` : ""}`,
        });
        flights.push(flight);
      } catch (error) {
        const last = record.topology.before.length - 1;
        onFailure(new StepFailure(record.topology.before[last]?.index ?? 0, "dlq", error, flight));
      }
    }
    const written = this.#writer.write(results).then((refused) => ({ flights, refused }));
    // Its failure shows when the commit waits for it.
    written.catch(() => {});
    this.#outputs.push(written);
  }

  /** All sent since the last call, to be waited for. */
  drain(): Promise<Written[]> {
    return Promise.all(this.#outputs.splice(0));
  }
}
