import { createReadStream } from "node:fs";
import { stat } from "node:fs/promises";
import { addAbortSignal } from "node:stream";
import { usage } from "./failure.ts";
import { linesOf } from "./lines.ts";

/** How people call a file that is given as an argument; `-` is standard input. */
export const nameOfFile = (file: string): string => (file === "-" ? "standard input" : file);

/** Bytes of all files; undefined when one of them is no plain file. @throws CliError when one is not there. */
export async function sizeOfFiles(files: readonly string[]): Promise<number | undefined> {
  let total = 0;
  for (const file of files) {
    if (file === "-") return undefined;
    const found = await stat(file).catch((error: Error) => {
      throw usage(error.message);
    });
    if (!found.isFile()) return undefined;
    total += found.size;
  }
  return files.length > 0 ? total : undefined;
}

/** @throws CliError when the system refuses to read it, as it does for a folder. */
export async function* chunksOfFile(file: string, signal: AbortSignal): AsyncGenerator<Uint8Array> {
  try {
    yield* addAbortSignal(signal, file === "-" ? process.stdin : createReadStream(file));
  } catch (error) {
    throw usage(`${nameOfFile(file)}: ${(error as Error).message}`);
  }
}

/** The lines of a file that are not blank, each with its place. @throws CliError. */
export async function* linesOfFile(file: string, signal: AbortSignal): AsyncGenerator<{ at: string; text: Buffer }> {
  let line = 0;
  for await (const text of linesOf(chunksOfFile(file, signal))) {
    line++;
    if (!isBlank(text)) yield { at: `${nameOfFile(file)}, line ${line}`, text };
  }
}

const isBlank = (text: Buffer): boolean => text.every((byte) => byte === 0x20 || byte === 0x09);
