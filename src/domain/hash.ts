import { createHash } from "node:crypto";

/** FNV-1a of a text's UTF-16 units, finished so that all bits count; 32 bits, unsigned. */
export function hash32(text: string, seed = 0x811c9dc5): number {
  let h = seed;
  for (let i = 0; i < text.length; i++) h = Math.imul(h ^ text.charCodeAt(i), 0x01000193);
  h ^= h >>> 16;
  h = Math.imul(h, 0x85ebca6b);
  h ^= h >>> 13;
  h = Math.imul(h, 0xc2b2ae35);
  return (h ^ (h >>> 16)) >>> 0;
}

/** The first `chars` base64url characters of SHA-256, 6 bits each. */
export const digest = (text: string, chars: number): string =>
  createHash("sha256").update(text).digest("base64url").slice(0, chars);
