import { isDeepStrictEqual } from "node:util";
import type { StoredEvent } from "./client.ts";
import { type Flight, FlightTotals } from "./flights-file.ts";
import { kafkaPartition } from "./kafka-partitioner.ts";

/** Looks at every event that a group processes, and adds up the flights. */
export class Audit {
  readonly totals = new FlightTotals();
  /** Rows of the file, in the order they came. */
  readonly rows: number[] = [];
  /** The first faults found, in words; none when all is well. */
  readonly faults: string[] = [];
  readonly #flights: readonly Flight[];
  readonly #partitions: number;
  readonly #lastOffset = new Map<number, number>();
  readonly #lastRow = new Map<string, number>();

  constructor(flights: readonly Flight[], partitions: number) {
    this.#flights = flights;
    this.#partitions = partitions;
  }

  add(event: StoredEvent<Flight>): void {
    const { key, value, partition, offset, headers, eventId } = event;
    const row = Number(headers?.row);
    this.rows.push(row);
    this.totals.add(value);
    const where = `${eventId} at offset ${offset} of partition ${partition}`;
    this.#expect(isDeepStrictEqual(value, this.#flights[row]), `${where} differs from row ${row} of the file`);
    this.#expect(key === value.origin, `${where} has key ${key}, not ${value.origin}`);
    this.#expect(partition === kafkaPartition(key, this.#partitions), `${where}: Kafka puts ${key} elsewhere`);
    // A group gets each partition without a gap or a step back, and therefore each key in the order of the file.
    const previous = this.#lastOffset.get(partition);
    this.#expect(previous === undefined || offset === previous + 1, `${where} comes after offset ${previous}`);
    this.#lastOffset.set(partition, offset);
    const earlier = this.#lastRow.get(key) ?? -1;
    this.#expect(row > earlier, `${where} brings row ${row} of ${key} after row ${earlier}`);
    this.#lastRow.set(key, row);
  }

  #expect(holds: boolean, fault: string): void {
    if (!holds && this.faults.length < MAX_FAULTS) this.faults.push(fault);
  }
}

const MAX_FAULTS = 5;
