import { isDeepStrictEqual } from "node:util";

/** Compares what came out with what should, and prints both where they differ. */
export class Checks {
  #held = 0;
  readonly #failed: string[] = [];

  equal(what: string, actual: unknown, expected: unknown): void {
    if (isDeepStrictEqual(actual, expected)) {
      this.#held++;
      console.log(`  ok       ${what}${brief(actual)}`);
      return;
    }
    this.#failed.push(what);
    console.log(`  DIFFERS  ${what}`);
    for (const line of differences(actual, expected)) console.log(`           ${line}`);
  }

  /** Says how it came out. @returns whether all held. */
  conclude(): boolean {
    const all = this.#held + this.#failed.length;
    if (this.#failed.length === 0) console.log(`All ${all} checks hold.`);
    else console.log(`${this.#failed.length} of ${all} checks do not hold: ${this.#failed.join("; ")}.`);
    return this.#failed.length === 0;
  }
}

const SHOWN = 10;

function differences(actual: unknown, expected: unknown): string[] {
  if (!(actual instanceof Map) || !(expected instanceof Map)) return [`is ${show(actual)}, expected ${show(expected)}`];
  const keys = [...new Set([...expected.keys(), ...actual.keys()])];
  const lines = keys
    .filter((key) => !isDeepStrictEqual(actual.get(key), expected.get(key)))
    .map((key) => `${key} is ${show(actual.get(key))}, expected ${show(expected.get(key))}`);
  return lines.length > SHOWN ? [...lines.slice(0, SHOWN), `and ${lines.length - SHOWN} more`] : lines;
}

/** What is worth a place behind "ok". */
function brief(value: unknown): string {
  if (Array.isArray(value) && value.length === 0) return ": none";
  if (value instanceof Map) return `: all ${value.size}`;
  return typeof value === "object" ? "" : `: ${value}`;
}

const show = (value: unknown): string => JSON.stringify(value) ?? "missing";
