import { MAX_MAX_MESSAGE_BYTES } from "../domain/limits.ts";
import { usage } from "./failure.ts";

const NEWLINE = 0x0a;
const CARRIAGE_RETURN = 0x0d;
/** An event that is written as a whole, its key and headers included, and white space between. */
const MAX_LINE_BYTES = 2 * MAX_MAX_MESSAGE_BYTES;

/**
 * The lines of a stream of bytes, without their ends. The last one need not have one.
 *
 * @throws CliError when a line is longer than any event can be.
 */
export async function* linesOf(chunks: AsyncIterable<Uint8Array>): AsyncGenerator<Buffer> {
  let parts: Buffer[] = [];
  let held = 0;
  const take = (end: Buffer): Buffer => {
    const line = parts.length === 0 ? end : Buffer.concat([...parts, end]);
    parts = [];
    held = 0;
    return line.at(-1) === CARRIAGE_RETURN ? line.subarray(0, -1) : line;
  };
  for await (const bytes of chunks) {
    const chunk = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    let start = 0;
    for (let end = chunk.indexOf(NEWLINE); end >= 0; end = chunk.indexOf(NEWLINE, start)) {
      yield take(chunk.subarray(start, end));
      start = end + 1;
    }
    if (start === chunk.length) continue;
    parts.push(chunk.subarray(start));
    held += chunk.length - start;
    if (held > MAX_LINE_BYTES) throw usage(`a line of the input is longer than ${MAX_LINE_BYTES} bytes`);
  }
  if (parts.length > 0) yield take(Buffer.alloc(0));
}

/**
 * Puts items together as they come: a batch is full, or holds what came within `lingerMs` of its first item.
 *
 * @param sizeOf what an item adds to a batch's `maxBytes`; a batch may be as much over it as its last item.
 */
export async function* batchesOf<T>(
  items: AsyncIterable<T>,
  options: { readonly limit: number; readonly maxBytes: number; readonly lingerMs: number; sizeOf(item: T): number },
): AsyncGenerator<T[]> {
  const iterator = items[Symbol.asyncIterator]();
  try {
    let next = iterator.next();
    for (;;) {
      const first = await next;
      if (first.done) return;
      const batch = [first.value];
      let size = options.sizeOf(first.value);
      next = iterator.next();
      // Looked at when the batch goes out; a failure is thrown by the next turn.
      next.catch(() => {});
      let timer: NodeJS.Timeout | undefined;
      const over = new Promise<undefined>((resolve) => {
        timer = setTimeout(resolve, options.lingerMs, undefined);
      });
      while (batch.length < options.limit && size < options.maxBytes) {
        const more = await Promise.race([next.catch(() => undefined), over]);
        if (more === undefined || more.done) break;
        batch.push(more.value);
        size += options.sizeOf(more.value);
        next = iterator.next();
        next.catch(() => {});
      }
      clearTimeout(timer);
      yield batch;
    }
  } finally {
    void iterator.return?.();
  }
}
