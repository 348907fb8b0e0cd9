import { InvalidArgumentError } from "commander";

/** Readers of options and arguments. Each throws commander's InvalidArgumentError, which names the option. */

export function wholeNumber(min: number, max = Number.MAX_SAFE_INTEGER): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (/^\d+$/.test(text) && value >= min && value <= max) return value;
    throw new InvalidArgumentError(
      max === Number.MAX_SAFE_INTEGER
        ? `A whole number from ${min} is needed.`
        : `A whole number from ${min} to ${max} is needed.`,
    );
  };
}

/** Collects the values of an option that may be given again. */
export const each =
  <T>(read: (text: string) => T) =>
  (text: string, before: readonly T[] = []): readonly T[] => [...before, read(text)];

const MS: Record<string, number> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000, w: 604_800_000 };

/** A span as milliseconds: `90s`, `1h30m`, `7d`. */
export function duration(text: string): number {
  if (!/^(\d+(\.\d+)?(ms|s|m|h|d|w))+$/.test(text))
    throw new InvalidArgumentError("A span such as 500ms, 90s, 1h30m or 7d is needed.");
  let total = 0;
  for (const [, amount, unit] of text.matchAll(/(\d+(?:\.\d+)?)(ms|s|m|h|d|w)/g)) total += Number(amount) * MS[unit!]!;
  return Math.round(total);
}

const BYTES: Record<string, number> = { "": 1, k: 1024, m: 1024 ** 2, g: 1024 ** 3, t: 1024 ** 4 };

/** A size as bytes: `1048576`, `512KiB`, `10G`; units count in 1024. */
export function size(text: string): number {
  const match = /^(\d+(?:\.\d+)?)([kmgt]?)(?:i?b)?$/i.exec(text);
  if (!match) throw new InvalidArgumentError("A size such as 1048576, 512KiB or 10GiB is needed.");
  return Math.round(Number(match[1]) * BYTES[match[2]!.toLowerCase()]!);
}

/** `name=value`. */
export function header(text: string): [string, string] {
  const at = text.indexOf("=");
  if (at < 1) throw new InvalidArgumentError("A header such as source=web is needed.");
  return [text.slice(0, at), text.slice(at + 1)];
}
