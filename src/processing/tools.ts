import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import type { JetStream } from "../jetstream/connection.ts";
import { type FunctionRecord, functionRecord } from "./functions.ts";
import { LaneFailed, type LaneTools } from "./lane-spec.ts";
import { type Attention, type ModuleExport, ModuleFunction } from "./module-functions.ts";
import { reasonOf } from "./pipeline.ts";
import { TableMirror } from "./tables.ts";

export interface ToolOptions {
  /** Is called only where a table is looked up. */
  readonly js: () => JetStream;
  readonly functions: readonly FunctionRecord[];
  /** Of ES modules; undefined: there are none. */
  readonly directory: string | undefined;
  /** Tables by name, kept for all who look them up; whoever owns them closes them. */
  readonly mirrors: Map<string, TableMirror>;
  readonly attention: Attention;
}

/** Gives functions what they need. @throws LaneFailed when a module is missing or another one than it was. */
export async function openTools({ js, functions, directory, mirrors, attention }: ToolOptions): Promise<LaneTools> {
  const tables = new Set<TableMirror>();
  const modules = new Map<string, ModuleFunction>();
  const mirrorOf = (table: string): TableMirror => {
    let mirror = mirrors.get(table);
    if (!mirror) {
      mirror = new TableMirror(js(), table);
      mirrors.set(table, mirror);
    }
    return mirror;
  };
  for (const record of functions) {
    if (record.body.kind === "lookup") tables.add(mirrorOf(record.body.table));
    if (record.body.kind === "module")
      modules.set(record.name, new ModuleFunction(await load(record, record.body.file, directory), attention));
  }
  return {
    functions: { table: mirrorOf, module: (record) => modules.get(record.name)! },
    whenCurrent:
      tables.size === 0
        ? undefined
        : async () => {
            await Promise.all(Array.from(tables, (table) => table.whenCurrent()));
          },
  };
}

/** Loads a module in the version that the processor was made with. */
async function load(record: FunctionRecord, file: string, directory: string | undefined): Promise<ModuleExport> {
  if (directory === undefined) throw new LaneFailed(`there is no directory of functions for "${record.name}"`);
  const path = join(directory, file);
  const text = await readFile(path, "utf8").catch(() => undefined);
  if (text === undefined) throw new LaneFailed(`the module of "${record.name}" is missing`);
  if (functionRecord(record.name, record.body, text).version !== record.version)
    throw new LaneFailed(`the module of "${record.name}" has changed: update the processor to take it`);
  const loaded = await loadedFrom(`${pathToFileURL(path)}?v=${record.version}`, record.name);
  if (typeof loaded.default !== "function")
    throw new LaneFailed(`the module of "${record.name}" has no default function`);
  return loaded.default as ModuleExport;
}

async function loadedFrom(url: string, name: string): Promise<{ default?: unknown }> {
  try {
    return (await import(url)) as { default?: unknown };
  } catch (error) {
    throw new LaneFailed(`the module of "${name}" can't be loaded: ${reasonOf(error)}`);
  }
}
