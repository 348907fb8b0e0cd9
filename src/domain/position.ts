import { invalidOffset } from "./errors.ts";

/** A place in a partition as callers name it: a word, an offset, or the first event stored at a time or later. */
export type Position = "earliest" | "latest" | number | { readonly timeMs: number };

const DIGITS = /^[0-9]{1,16}$/;
/** RFC 3339, with a zone. */
const TIME = /^\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)$/;

/**
 * Reads a position.
 *
 * @throws ServiceError INVALID_OFFSET for what is neither a word, nor a whole number below 2^53, nor a time.
 */
export function parsePosition(text: string): Position {
  const position = positionOf(text);
  if (position === undefined)
    throw invalidOffset(`"${text}" is not earliest, latest, a whole number or a time such as 2026-01-31T12:00:00Z`);
  return position;
}

/** The same; undefined for what is none. */
export function positionOf(text: string): Position | undefined {
  if (text === "earliest" || text === "latest") return text;
  if (DIGITS.test(text) && Number.isSafeInteger(Number(text))) return Number(text);
  const timeMs = TIME.test(text) ? Date.parse(text) : Number.NaN;
  return Number.isNaN(timeMs) ? undefined : { timeMs };
}
