// Programs that are built with Go, when they are not here.

import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { findProgram, runOk } from "./command.mjs";
import { fail, skip } from "./report.mjs";

const BUILD_TIMEOUT_MS = 600_000;

/** @returns the program's file: from PATH, from the cache folder's bin, or built there; undefined when it can't be had. */
export async function ensureGoTool(cache, name, packagePath, version) {
  const folder = join(cache, "bin");
  const found = findProgram(name, folder);
  if (found) return found;
  const go = findProgram("go");
  if (!go) {
    skip(name, `neither ${name} nor Go is on PATH, and there is no ${join(folder, name)}`);
    return undefined;
  }
  console.log(`building ${packagePath}@${version} into ${folder}`);
  mkdirSync(folder, { recursive: true });
  try {
    const env = { ...process.env, GOBIN: folder };
    await runOk(go, ["install", `${packagePath}@${version}`], { env, timeoutMs: BUILD_TIMEOUT_MS });
  } catch (error) {
    fail(`${name}: go install`, error.message);
    return undefined;
  }
  return findProgram(name, folder);
}
