import { stripVTControlCharacters } from "node:util";

export interface Column<T> {
  readonly title: string;
  readonly of: (item: T) => string | number | bigint;
}

/** Rows under their titles; columns of numbers are set to the right. */
export function table<T>(items: readonly T[], columns: readonly Column<T>[]): string {
  const cells = columns.map(({ title, of }) => {
    const values = items.map(of);
    const isNumber = values.length > 0 && values.every((value) => typeof value !== "string");
    const texts = [title, ...values.map((value) => (typeof value === "string" ? printable(value) : count(value)))];
    const width = Math.max(...texts.map((text) => text.length));
    return texts.map((text) => (isNumber ? text.padStart(width) : text.padEnd(width)));
  });
  const lines = ["", ...items].map((_, row) =>
    cells
      .map((column) => column[row])
      .join("  ")
      .trimEnd(),
  );
  return `${lines.join("\n")}\n`;
}

/** Names and values, one pair a line. */
export function pairs(rows: readonly (readonly [name: string, value: string | number | bigint | undefined])[]): string {
  const known = rows.filter(([, value]) => value !== undefined) as [string, string | number | bigint][];
  const width = Math.max(...known.map(([name]) => name.length));
  const text = (value: string | number | bigint) => (typeof value === "string" ? printable(value) : count(value));
  return known.map(([name, value]) => `${name.padEnd(width)}  ${text(value)}\n`).join("");
}

/** Text from others without what a terminal would obey. */
export const printable = (text: string): string =>
  stripVTControlCharacters(text).replace(/[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, "\u00b7");

/** A whole number with separators: 1,234,567. */
export const count = (value: number | bigint): string => value.toLocaleString("en-US");

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

/** Bytes as people say them: 1.5 MiB. */
export function bytes(value: number | bigint): string {
  let size = Number(value);
  let unit = 0;
  while (size >= 1024 && unit < UNITS.length - 1) {
    size /= 1024;
    unit++;
  }
  return `${unit === 0 || size >= 100 ? Math.round(size) : size.toFixed(1)} ${UNITS[unit]}`;
}

/** Milliseconds as people say them: 7d, 1h30m, 250ms. */
export function span(ms: number | bigint): string {
  let left = Number(ms);
  if (left < 1000) return `${Math.round(left)}ms`;
  left = Math.round(left / 1000);
  let text = "";
  for (const [letter, seconds] of [
    ["d", 86_400],
    ["h", 3600],
    ["m", 60],
    ["s", 1],
  ] as const) {
    const whole = Math.floor(left / seconds);
    left -= whole * seconds;
    if (whole > 0) text += `${whole}${letter}`;
  }
  return text;
}
