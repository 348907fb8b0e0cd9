import type { IncomingMessage } from "node:http";
import type { Transform } from "node:stream";
import { createBrotliDecompress, createGunzip, createInflate, createZstdDecompress } from "node:zlib";
import { notSerializable, type ServiceError } from "../domain/errors.ts";
import { MAX_REQUEST_BYTES } from "../domain/limits.ts";
import { takeBodyBytes } from "./body-budget.ts";

type Inflater = Transform & { readonly bytesWritten: number };

const INFLATERS: Record<string, (() => Inflater) | undefined> = {
  gzip: createGunzip,
  "x-gzip": createGunzip,
  deflate: createInflate,
  br: createBrotliDecompress,
  zstd: createZstdDecompress,
};

const JSON_MEDIA_TYPE = /^\s*application\/(?:[\w.+-]+\+)?json\s*(?:;|$)/i;

/**
 * Reads a JSON request's body as it was before compression.
 *
 * @throws ServiceError SERIALIZATION_ERROR: 413 above `maxBytes`, as sent or inflated; 415 for a content type or encoding
 * that is not known; 400 for broken compression or a body that ends early.
 */
export function readRestBody(req: IncomingMessage, maxBytes = MAX_REQUEST_BYTES): Promise<Buffer> {
  const fault = headerFault(req, maxBytes);
  if (fault) return Promise.reject(fault);
  const encoding = req.headers["content-encoding"]?.trim().toLowerCase();
  if (encoding === undefined || encoding === "" || encoding === "identity") return collect(req, req, maxBytes);
  const inflater = Object.hasOwn(INFLATERS, encoding) ? INFLATERS[encoding] : undefined;
  if (!inflater)
    return Promise.reject(notSerializable(`content encoding "${encoding}" is not one of gzip, deflate, br, zstd`, 415));
  return collect(req.pipe(inflater()), req, maxBytes);
}

function headerFault(req: IncomingMessage, maxBytes: number): ServiceError | undefined {
  const type = req.headers["content-type"];
  // Without a type it is taken for what it has to be.
  if (type !== undefined && !JSON_MEDIA_TYPE.test(type))
    return notSerializable(`content type "${type.slice(0, 100)}" is not application/json`, 415);
  return Number(req.headers["content-length"] ?? 0) > maxBytes ? tooLarge(maxBytes) : undefined;
}

function collect(source: NodeJS.ReadableStream, req: IncomingMessage, maxBytes: number): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = [];
    let length = 0;
    let sent = 0;
    if (source !== req)
      req.on("data", (chunk: Buffer) => {
        sent += chunk.length;
      });
    const fail = (error: ServiceError) => {
      source.removeAllListeners("data");
      req.unpipe();
      // What is held is let go at once, not when the connection closes; an inflater would otherwise go on.
      chunks.length = 0;
      if (source !== req) (source as Transform).destroy();
      reject(error);
    };
    source.on("data", (chunk: Buffer) => {
      length += chunk.length;
      if (length > maxBytes) return fail(tooLarge(maxBytes));
      const refusal = takeBodyBytes(req, chunk.length);
      if (refusal) return fail(refusal);
      chunks.push(chunk);
    });
    source.once("end", () => {
      if (source !== req && goesOn(source as Inflater, req, sent))
        return fail(notSerializable("the body goes on behind the end of what is compressed"));
      resolve(chunks.length === 1 ? chunks[0]! : Buffer.concat(chunks, length));
    });
    source.once("error", (error) => fail(notSerializable(`the body can't be read: ${error.message}`)));
    req.once("close", () => {
      if (!req.readableEnded && !req.complete) fail(notSerializable("the body ended early"));
    });
  });
}

/** Whether bytes were sent that the inflater had no use for; only that of gzip finds them a fault. */
const goesOn = ({ bytesWritten }: Inflater, req: IncomingMessage, sent: number): boolean =>
  bytesWritten < Number(req.headers["content-length"] ?? sent);

const tooLarge = (maxBytes: number): ServiceError => notSerializable(`the body is larger than ${maxBytes} bytes`, 413);
