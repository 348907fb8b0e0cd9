import { toMaps } from "../domain/expression.ts";
import { OperationError } from "../domain/getter.ts";
import { mapValueToJson } from "../domain/map-json.ts";
import type { Mutex } from "../domain/mutex.ts";
import { Flight, type StepResult } from "./flight.ts";

/** What a module is given of an event: plain JSON. */
export interface ModuleEvent {
  readonly key: string | null;
  readonly value: unknown;
  readonly headers: Readonly<Record<string, string>>;
  readonly partition: number;
  readonly offset: number;
  readonly timestampMs: number;
}

/** The default export of a module: gives the new value, a list of values, or null to leave the event out. */
export type ModuleExport = (event: ModuleEvent) => unknown;

/** Longer an event's promise is not waited for. */
const PROMISE_LIMIT_MS = 5000;
const MAX_PARTS = 10_000;

/** Is told which events modules work on, so that one that never ends can be found. */
export interface Attention {
  begin(partition: number, offset: number): Work;
  /** There where events are to be worked on one after the other, because it is not known which of several held the thread. */
  readonly turns?: Mutex | undefined;
}

/** A module's work on one event. */
export interface Work {
  /** It has given a promise, and works on at any time until {@link end}. */
  wait(): void;
  end(): void;
}

/** A function of the operator's directory, loaded. */
export class ModuleFunction {
  readonly #call: ModuleExport;
  readonly #attention: Attention;

  constructor(call: ModuleExport, attention: Attention) {
    this.#call = call;
    this.#attention = attention;
  }

  run(flight: Flight): StepResult | Promise<StepResult> {
    const { turns } = this.#attention;
    return turns ? turns.run(async () => this.#run(flight)) : this.#run(flight);
  }

  #run(flight: Flight): StepResult | Promise<StepResult> {
    const { event } = flight;
    const input: ModuleEvent = {
      key: flight.key,
      value: JSON.parse(mapValueToJson(flight.value)) as unknown,
      headers: Object.fromEntries(flight.headers),
      partition: event.partition,
      offset: event.offset,
      timestampMs: event.timestampMs,
    };
    const work = this.#attention.begin(event.partition, event.offset);
    let result: unknown;
    try {
      result = this.#call(input);
    } catch (error) {
      work.end();
      throw error;
    }
    if (result instanceof Promise) {
      work.wait();
      return inTime(result)
        .finally(() => work.end())
        .then((value) => resultOf(flight, value));
    }
    work.end();
    return resultOf(flight, result);
  }
}

function resultOf(flight: Flight, result: unknown): StepResult {
  if (result === null || result === undefined) return false;
  if (Array.isArray(result)) {
    if (result.length > MAX_PARTS) throw new OperationError(`gave more than ${MAX_PARTS} values`);
    return result.map((value, part) => new Flight(flight.event, flight.part * MAX_PARTS + part, fromPlain(value)));
  }
  flight.value = fromPlain(result);
  return true;
}

/** What a module made, through JSON: it may hold anything. */
function fromPlain(value: unknown): unknown {
  const text = JSON.stringify(value);
  if (text === undefined) throw new OperationError("gave something that is not JSON");
  return toMaps(JSON.parse(text));
}

async function inTime<T>(promise: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(() => reject(new OperationError(`took longer than ${PROMISE_LIMIT_MS} ms`)), PROMISE_LIMIT_MS);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}
