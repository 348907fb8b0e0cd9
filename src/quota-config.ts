import { readFileSync } from "node:fs";
import { type Limits, MAXIMA, type PrincipalLimits, type QuotaOptions, type Rates } from "./domain/quota.ts";

const DEFAULT_BURST_SECONDS = 1;
const RATES = { requestsPerSecond: 0.001, bytesPerSecond: 1, burstSeconds: 0.001 };
const LARGEST = 2 ** 50;

/**
 * Reads `MILLRACE_QUOTAS`: a JSON object, or the name of a file that holds one.
 *
 * @param faults is added to for everything that is wrong.
 * @returns undefined when it is not set.
 */
export function loadQuotas(env: NodeJS.ProcessEnv, faults: string[]): QuotaOptions | undefined {
  const setting = env.MILLRACE_QUOTAS?.trim();
  if (!setting) return undefined;
  try {
    const parsed: unknown = JSON.parse(setting.startsWith("{") ? setting : readFileSync(setting, "utf8"));
    const { principals = {}, streams = {} } = objectOf(parsed, "it", ["principals", "streams"]);
    return {
      principals: entriesOf(principals, "principals", (value, at) => limitsOf(value, at, true)),
      streams: entriesOf(streams, "streams", (value, at) => limitsOf(value, at, false)),
    };
  } catch (error) {
    faults.push(`MILLRACE_QUOTAS: ${(error as Error).message}`);
    return undefined;
  }
}

function entriesOf<T>(value: unknown, at: string, read: (value: unknown, at: string) => T): ReadonlyMap<string, T> {
  return new Map(Object.entries(objectOf(value, at)).map(([name, each]) => [name, read(each, `${at}["${name}"]`)]));
}

function limitsOf(value: unknown, at: string, isPrincipal: boolean): PrincipalLimits {
  const { max, ...ways } = objectOf(value, at, isPrincipal ? ["in", "out", "max"] : ["in", "out"]);
  const limits: Limits = Object.fromEntries(
    Object.entries(ways).map(([way, rates]) => [way, ratesOf(rates, `${at}.${way}`)]),
  );
  return max === undefined ? limits : { ...limits, max: numbersOf(max, `${at}.max`, maxima) };
}

const maxima = Object.fromEntries(MAXIMA.map((name) => [name, 0]));

function ratesOf(value: unknown, at: string): Rates {
  return { burstSeconds: DEFAULT_BURST_SECONDS, ...numbersOf(value, at, RATES) };
}

/** @param least by name, the smallest number; those whose smallest is 0 are whole. */
function numbersOf(value: unknown, at: string, least: Readonly<Record<string, number>>): Record<string, number> {
  const numbers = objectOf(value, at, Object.keys(least));
  for (const [name, number] of Object.entries(numbers)) {
    const min = least[name]!;
    if (typeof number !== "number" || !(number >= min && number <= LARGEST) || (min === 0 && !Number.isInteger(number)))
      throw new Error(`${at}.${name} must be a ${min === 0 ? "whole " : ""}number from ${min}`);
  }
  return numbers as Record<string, number>;
}

function objectOf(value: unknown, at: string, names?: readonly string[]): Record<string, unknown> {
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw new Error(`${at} is no JSON object`);
  for (const name of Object.keys(value))
    if (names && !names.includes(name)) throw new Error(`${at} has "${name}", which is none of ${names.join(", ")}`);
  return value as Record<string, unknown>;
}
