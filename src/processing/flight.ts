import { type Timestamp, timestampFromMs } from "@bufbuild/protobuf/wkt";
import type { Place } from "../domain/aggregate.ts";
import { JSON_TYPE, type StoredEvent } from "../domain/event.ts";
import { toMaps, type Variables } from "../domain/expression.ts";
import { mapValueToJson } from "../domain/map-json.ts";

const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
const NOT_READ = Symbol();

/** An event, or a result of windows, on its way through the steps: the variables of expressions, read once. */
export class Flight implements Variables {
  readonly event: StoredEvent;
  /** Place among what one event became; several come of a function that gives a list. */
  readonly part: number;
  #value: unknown;
  #changed = false;
  #headers: Map<string, string> | undefined;
  #timestamp: Timestamp | undefined;

  constructor(event: StoredEvent, part = 0, value: unknown = NOT_READ) {
    this.event = event;
    this.part = part;
    this.#value = value;
    this.#changed = value !== NOT_READ;
  }

  get key(): string | null {
    return this.event.key ?? null;
  }

  get value(): unknown {
    if (this.#value === NOT_READ) {
      const { contentType, payload } = this.event;
      this.#value = contentType === JSON_TYPE ? toMaps(JSON.parse(decoder.decode(payload))) : null;
    }
    return this.#value;
  }

  set value(value: unknown) {
    this.#value = value;
    this.#changed = true;
  }

  get headers(): Map<string, string> {
    this.#headers ??= new Map(this.event.headers);
    return this.#headers;
  }

  get partition(): bigint {
    return BigInt(this.event.partition);
  }

  get offset(): bigint {
    return BigInt(this.event.offset);
  }

  get timestamp(): Timestamp {
    this.#timestamp ??= timestampFromMs(this.event.timestampMs);
    return this.#timestamp;
  }

  /** Adds a member to a value that is an object. */
  join(name: string, member: unknown): void {
    const { value } = this;
    if (value instanceof Map) {
      value.set(name, member);
      this.#changed = true;
    }
  }

  place(timeMs: number): Place {
    return [timeMs, this.event.partition, this.event.offset, this.part];
  }

  /** The payload as it is now: the bytes that were published as long as no step changed the value. @throws Error. */
  encode(): { payload: Uint8Array; contentType: string } {
    if (!this.#changed) return { payload: this.event.payload, contentType: this.event.contentType };
    return { payload: Buffer.from(mapValueToJson(this.#value)), contentType: JSON_TYPE };
  }
}

/** What a step makes of an event: `true` keeps it, `false` leaves it out, a list puts these in its place. */
export type StepResult = boolean | readonly Flight[];
