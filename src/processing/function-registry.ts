import { readdir, readFile } from "node:fs/promises";
import { extname, join } from "node:path";
import type { Deadline } from "../domain/deadline.ts";
import { deadlineIn } from "../domain/deadline.ts";
import type { JetStream } from "../jetstream/connection.ts";
import { type Bucket, openBucket } from "../jetstream/kv.ts";
import { decodeToken, encodeToken } from "../jetstream/names.ts";
import { type FunctionBody, type FunctionRecord, functionRecord, SHIPPED } from "./functions.ts";

const FUNCTIONS_BUCKET = "mr_functions";
const MODULE_TYPES: ReadonlySet<string> = new Set([".js", ".mjs", ".ts", ".mts"]);

/** The named functions there are: shipped ones, modules of the operator's directory, and installed ones, the later first. */
export class FunctionRegistry implements AsyncDisposable {
  readonly #bucket: Bucket<FunctionRecord>;
  readonly #installed = new Map<string, FunctionRecord>();
  readonly #directory: string | undefined;
  #watch: AsyncDisposable | undefined;

  private constructor(bucket: Bucket<FunctionRecord>, directory: string | undefined) {
    this.#bucket = bucket;
    this.#directory = directory;
  }

  /**
   * @param directory of ES modules, each a function named after its file.
   * @throws Error when the directory can't be read.
   */
  static async open(js: JetStream, replicas: number, directory: string | undefined): Promise<FunctionRegistry> {
    const registry = new FunctionRegistry(await openBucket<FunctionRecord>(js, FUNCTIONS_BUCKET, replicas), directory);
    await registry.#modules();
    registry.#watch = await registry.#bucket.watch(">", ({ key, value }) => {
      if (value) registry.#installed.set(value.name, value);
      else registry.#installed.delete(decodeToken(key));
    });
    return registry;
  }

  /** All by name. */
  async all(): Promise<Map<string, FunctionRecord>> {
    const found = new Map(SHIPPED.map((each) => [each.name, each]));
    for (const record of await this.#modules()) found.set(record.name, record);
    // Asked of the storage: the watch may not have told yet what was installed a moment ago.
    const deadline = deadlineIn(5000);
    for (const value of (await this.#bucket.list(">", deadline)).values()) found.set(value.name, value);
    return found;
  }

  async install(name: string, body: FunctionBody, deadline: Deadline): Promise<FunctionRecord> {
    const record = functionRecord(name, body);
    await this.#bucket.set(encodeToken(name), record, deadline);
    return record;
  }

  async remove(name: string, deadline: Deadline): Promise<void> {
    await this.#bucket.delete(encodeToken(name), deadline);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#watch?.[Symbol.asyncDispose]();
  }

  async #modules(): Promise<FunctionRecord[]> {
    const directory = this.#directory;
    if (directory === undefined) return [];
    const all = await readdir(directory).catch((cause: Error) => {
      throw new Error(`MILLRACE_FUNCTIONS_DIR can't be read: ${cause.message}`, { cause });
    });
    const files = all.filter((file) => MODULE_TYPES.has(extname(file))).sort();
    return Promise.all(
      files.map(async (file) => {
        const text = await readFile(join(directory, file), "utf8");
        return functionRecord(file.slice(0, -extname(file).length), { kind: "module", file }, text);
      }),
    );
  }
}
