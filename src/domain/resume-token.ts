import { invalidArgument } from "./errors.ts";

/**
 * Where a reader is in every partition, as text: `partition:offset` of the last event seen, the one just sent first, the
 * others behind it, separated by commas; -1 where the reader has seen none of a partition's events.
 */
export function resumeToken(next: ReadonlyMap<number, number>, first?: number): string {
  let token = first === undefined ? "" : `${first}:${next.get(first)! - 1}`;
  for (const [partition, offset] of next) if (partition !== first) token += `${token && ","}${partition}:${offset - 1}`;
  return token;
}

const TOKEN = /^\d{1,4}:(-1|\d{1,16})(,\d{1,4}:(-1|\d{1,16}))*$/;

/** The next offset of each partition that a token names. @throws ServiceError INVALID_ARGUMENT. */
export function parseResumeToken(token: string, field: string): Map<number, number> {
  if (!TOKEN.test(token)) throw invalidArgument(field, "is not a resume token, such as 0:41,1:-1");
  const next = new Map<number, number>();
  for (const pair of token.split(",")) {
    const [partition, offset] = pair.split(":").map(Number) as [number, number];
    if (next.has(partition)) throw invalidArgument(field, `names partition ${partition} twice`);
    if (!Number.isSafeInteger(offset)) throw invalidArgument(field, `has an offset beyond 2^53`);
    next.set(partition, offset + 1);
  }
  return next;
}
