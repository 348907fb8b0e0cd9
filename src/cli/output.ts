import type { DescMessage, Message } from "@bufbuild/protobuf";
import { toRestJson } from "../transport/json.ts";
import { type Column, table } from "./table.ts";

/** Standard output: tables for people, JSON lines for programs. Every write waits until it is taken. */
export class Output {
  /** Whether JSON lines are written. */
  readonly isJson: boolean;
  readonly #stream: NodeJS.WriteStream;

  constructor(stream: NodeJS.WriteStream, isJson: boolean) {
    this.#stream = stream;
    this.isJson = isJson;
  }

  /** Whether people watch it. */
  get isTerminal(): boolean {
    return this.#stream.isTTY === true;
  }

  /** @throws the stream's error; EPIPE when its reader is gone. */
  write(text: string | Uint8Array): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#stream.write(text, (error) => (error ? reject(error) : resolve()));
    });
  }

  line(text: string): Promise<void> {
    return this.write(`${text}\n`);
  }

  json(value: unknown): Promise<void> {
    return this.line(JSON.stringify(value));
  }

  /** Messages as a table, or as JSON lines in the form that the HTTP API has. */
  async list<M extends Message>(desc: DescMessage, items: readonly M[], columns: readonly Column<M>[], none: string) {
    if (this.isJson) for (const item of items) await this.json(toRestJson(desc, item));
    else await this.write(items.length > 0 ? table(items, columns) : `${none}\n`);
  }

  /** One message: as text made by `text`, or as a JSON line. */
  async one<M extends Message>(desc: DescMessage, item: M, text: (item: M) => string) {
    if (this.isJson) await this.json(toRestJson(desc, item));
    else await this.write(text(item));
  }
}

/** A word to people beside the output, on standard error. */
export function note(text: string): void {
  process.stderr.write(`millrace: ${text}\n`);
}
