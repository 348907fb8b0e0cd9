/** The encodings of RPC messages, inflated no further than the message limit allows. */
import { promisify } from "node:util";
import * as zlib from "node:zlib";
import { Code, ConnectError } from "@connectrpc/connect";
import type { Compression } from "@connectrpc/connect/protocol";

type Codec = (bytes: Uint8Array, options: { maxOutputLength?: number }) => Promise<Buffer>;

/**
 * One encoding by its HTTP name. `decompress` throws RESOURCE_EXHAUSTED as soon as the output passes `readMaxBytes`, and
 * INVALID_ARGUMENT on bytes that are not of this encoding, or end too early.
 */
function compression(name: string, deflate: Codec, inflate: Codec): Compression {
  return {
    name,
    compress: async (bytes) => (await deflate(bytes, {})) as Uint8Array<ArrayBuffer>,
    decompress: async (bytes, readMaxBytes) => {
      if (bytes.length === 0) return new Uint8Array(0);
      try {
        return (await inflate(bytes, { maxOutputLength: readMaxBytes })) as Uint8Array<ArrayBuffer>;
      } catch (cause) {
        const tooLarge = (cause as NodeJS.ErrnoException).code === "ERR_BUFFER_TOO_LARGE";
        throw tooLarge
          ? new ConnectError(`message is larger than ${readMaxBytes} bytes once decompressed`, Code.ResourceExhausted)
          : new ConnectError(`message is not valid ${name}`, Code.InvalidArgument, undefined, undefined, cause);
      }
    },
  };
}

/** gzip, br, deflate (zlib's format, as HTTP means it); in the order in which they are announced. */
export const compressions: Compression[] = [
  compression("gzip", promisify(zlib.gzip), promisify(zlib.gunzip)),
  compression("br", promisify(zlib.brotliCompress), promisify(zlib.brotliDecompress)),
  compression("deflate", promisify(zlib.deflate), promisify(zlib.inflate)),
];
