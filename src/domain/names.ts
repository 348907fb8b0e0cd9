import { MAX_GROUP_NAME_BYTES, MAX_STREAM_NAME_LENGTH } from "./limits.ts";

const STREAM_NAME = new RegExp(`^[A-Za-z0-9_-]{1,${MAX_STREAM_NAME_LENGTH}}$`);
const CONTROL = /[\u0000-\u001f\u007f-\u009f]/;

/** Whether `text` may name a stream: letters, digits, `_` and `-`, 1 to 128 of them. */
export function isStreamName(text: string): boolean {
  return STREAM_NAME.test(text);
}

/**
 * What is wrong with a group name or consumer id, or nothing: 1 to 128 bytes of UTF-8, no control characters,
 * no half of a surrogate pair, and not `.` or `..`, which clients take out of paths.
 */
export function groupNameFault(text: string): string | undefined {
  if (text === "") return "must not be empty";
  if (!text.isWellFormed()) return "must be valid Unicode";
  if (Buffer.byteLength(text) > MAX_GROUP_NAME_BYTES) return `must be at most ${MAX_GROUP_NAME_BYTES} bytes`;
  if (text === "." || text === "..") return "must not be . or ..";
  return CONTROL.test(text) ? "must not hold control characters" : undefined;
}
