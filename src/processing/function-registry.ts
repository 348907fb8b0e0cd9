import { readdir, readFile } from "node:fs/promises";
import { extname, join } from "node:path";
import type { Deadline } from "../domain/deadline.ts";
import { invalidArgument, quotaExceeded, resourceNotFound, type ServiceError } from "../domain/errors.ts";
import type { JetStream } from "../jetstream/connection.ts";
import { type Bucket, openBucket } from "../jetstream/kv.ts";
import { encodeToken } from "../jetstream/names.ts";
import { checkFunctionBody, type FunctionBody, type FunctionRecord, functionRecord, SHIPPED } from "./functions.ts";

const FUNCTIONS_BUCKET = "mr_functions";
const MODULE_TYPES: ReadonlySet<string> = new Set([".js", ".mjs", ".ts", ".mts"]);

const MAX_FUNCTIONS = 1000;

const functionNotFound = (name: string): ServiceError =>
  resourceNotFound(`there is no function "${name.slice(0, 128)}"`);

/** Where a function comes from. */
export type FunctionOrigin = "shipped" | "installed" | "module";
export type KnownFunction = FunctionRecord & { readonly origin: FunctionOrigin };

/** The named functions there are: shipped ones, installed ones, and modules of the operator's directory, the later first. */
export class FunctionRegistry {
  readonly #bucket: Bucket<FunctionRecord>;
  readonly #directory: string | undefined;

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
    return registry;
  }

  /** All by name. */
  async all(deadline: Deadline): Promise<Map<string, KnownFunction>> {
    const found = new Map<string, KnownFunction>();
    const add = (origin: FunctionOrigin, records: Iterable<FunctionRecord>) => {
      for (const record of records) found.set(record.name, { ...record, origin });
    };
    add("shipped", SHIPPED);
    // Asked of the storage: what was installed a moment ago, by any process, is there.
    add("installed", (await this.#bucket.list(">", deadline)).values());
    add("module", await this.#modules());
    return found;
  }

  /** @throws ServiceError RESOURCE_NOT_FOUND. */
  async get(name: string, deadline: Deadline): Promise<KnownFunction> {
    const found = (await this.all(deadline)).get(name);
    if (!found) throw functionNotFound(name);
    return found;
  }

  /**
   * Installs a function, in place of the one with that name.
   *
   * @throws ServiceError INVALID_ARGUMENT for a body that can't work, and for the name of a module; QUOTA_EXCEEDED.
   */
  async install(name: string, body: FunctionBody, deadline: Deadline): Promise<KnownFunction> {
    checkFunctionBody(body);
    const all = await this.all(deadline);
    const present = all.get(name);
    if (present?.origin === "module") throw invalidArgument("name", "is that of a module in the operator's directory");
    const record = functionRecord(name, body);
    // The same again changes nothing.
    if (present?.origin === "installed" && present.version === record.version) return present;
    if (present?.origin !== "installed" && all.size >= MAX_FUNCTIONS)
      throw quotaExceeded("functions", `there are ${MAX_FUNCTIONS} functions already`, 10_000);
    const installed = { ...record, installedAtMs: Date.now() };
    await this.#bucket.set(encodeToken(name), installed, deadline);
    return { ...installed, origin: "installed" };
  }

  /** @throws ServiceError RESOURCE_NOT_FOUND, INVALID_ARGUMENT for one that was not installed by a call. */
  async remove(name: string, deadline: Deadline): Promise<void> {
    const { origin } = await this.get(name, deadline);
    if (origin !== "installed")
      throw invalidArgument(
        "name",
        `"${name}" was not installed by a call: it is ${origin === "module" ? "a module" : origin}`,
      );
    await this.#bucket.delete(encodeToken(name), deadline);
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
