import { closeSync, fstatSync, openSync, readSync } from "node:fs";

/** Hands on the lines that another process appends to a file. */
export interface LogTail extends Disposable {
  /** Hands on at once what is there, and not only at the next look. */
  poll(): void;
}

const INTERVAL_MS = 500;
const MAX_READ_BYTES = 64 * 1024;

/**
 * Follows a file from its present end. It may be missing, and be replaced by a new one with the same name.
 *
 * nats-server logs to a file and not to a pipe, since it would die of the first line it writes after our death, before
 * it has written down its state.
 */
export function tailLog(file: string, onLine: (line: string) => void): LogTail {
  let position = 0;
  let rest = "";
  const read = (from: number | undefined) => {
    let fd: number;
    try {
      fd = openSync(file, "r");
    } catch {
      return; // not there yet
    }
    try {
      const { size } = fstatSync(fd);
      if (from === undefined) {
        position = size;
        return;
      }
      if (size < position) position = 0; // a new file
      const buffer = Buffer.alloc(MAX_READ_BYTES);
      for (;;) {
        const length = readSync(fd, buffer, 0, buffer.length, position);
        if (length === 0) break;
        position += length;
        const lines = (rest + buffer.toString("utf8", 0, length)).split("\n");
        rest = lines.pop()!;
        for (const line of lines) onLine(line);
      }
    } finally {
      closeSync(fd);
    }
  };
  read(undefined);
  const poll = () => read(position);
  const timer = setInterval(poll, INTERVAL_MS).unref();
  return {
    poll,
    [Symbol.dispose]() {
      clearInterval(timer);
      poll();
    },
  };
}
