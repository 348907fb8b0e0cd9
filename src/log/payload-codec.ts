import { promisify } from "node:util";
import { gunzipSync, gzip, gzipSync } from "node:zlib";
import { compress, compressSync, uncompressSync } from "snappy";
import { MAX_MAX_MESSAGE_BYTES } from "../domain/limits.ts";
import type { PayloadCodec } from "../jetstream/message.ts";

/** Smaller payloads gain nothing from compression. */
const FROM_BYTES = 256;
/** Larger ones are compressed off the event loop. */
const ASYNC_FROM_BYTES = 16 * 1024;
const gzipAsync = promisify(gzip);

/** A payload as it is stored. A promise where it is a large one; undefined where it is too small to be compressed. */
export function compressed(codec: PayloadCodec, payload: Uint8Array): Uint8Array | Promise<Uint8Array> | undefined {
  if (payload.length < FROM_BYTES) return undefined;
  if (payload.length < ASYNC_FROM_BYTES) return codec === "gzip" ? gzipSync(payload) : compressSync(payload);
  return codec === "gzip" ? gzipAsync(payload) : compress(payload);
}

/** @throws Error when the bytes are not of that codec, or hold more than any payload has. */
export function decompressed(codec: PayloadCodec, stored: Uint8Array): Uint8Array {
  if (codec === "gzip") return gunzipSync(stored, { maxOutputLength: MAX_MAX_MESSAGE_BYTES });
  if (snappyLength(stored) > MAX_MAX_MESSAGE_BYTES) throw new RangeError("the payload is larger than any can be");
  return uncompressSync(stored) as Buffer;
}

/** The size that a Snappy block begins with, as a little-endian base-128 number (Snappy's format description, section 1). */
function snappyLength(block: Uint8Array): number {
  let length = 0;
  for (let at = 0, scale = 1; at < 5; at++, scale *= 128) {
    const byte = block[at] ?? 0;
    length += (byte & 0x7f) * scale;
    if (byte < 0x80) break;
  }
  return length;
}
