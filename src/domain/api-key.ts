import { hash, randomBytes, timingSafeEqual } from "node:crypto";

/** A key's text is `mrk_<id>_<secret>`: 16 hexadecimal digits that find it, and 256 random bits as base64url. */
const FORM = /^mrk_([0-9a-f]{16})_([A-Za-z0-9_-]{43})$/;

/** A new key. Its text is shown once; only {@link secretHash} of it is to be stored. */
export function newApiKey(): { readonly id: string; readonly text: string } {
  const id = randomBytes(8).toString("hex");
  return { id, text: `mrk_${id}_${randomBytes(32).toString("base64url")}` };
}

/** The id in a key's text; undefined if the text has not the form of a key. */
export function apiKeyId(text: string): string | undefined {
  return FORM.exec(text)?.[1];
}

/** SHA-256 of a key's whole text, or of another secret, 32 bytes. In one step: what a hash object leaves behind holds up the collector. */
export function secretHash(text: string): Buffer {
  return hash("sha256", text, "buffer");
}

/** Whether two hashes are the same, in a time that does not tell where they differ. */
export function isSameHash(one: Uint8Array, other: Uint8Array): boolean {
  return one.length === other.length && timingSafeEqual(one, other);
}
