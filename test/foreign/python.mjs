// client.py in a virtual environment of its own, with stubs generated from proto/.

import { createHash } from "node:crypto";
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { findProgram, run, runOk } from "./command.mjs";
import { check, fail, pass } from "./report.mjs";

const CLIENT = fileURLToPath(new URL("client.py", import.meta.url));
const REQUIREMENTS = fileURLToPath(new URL("requirements.txt", import.meta.url));
const INSTALL_TIMEOUT_MS = 600_000;
const CLIENT_TIMEOUT_MS = 300_000;

/**
 * Makes the environment, where it is missing, and the stubs.
 *
 * @param temp a folder for the stubs.
 * @returns its Python and where the stubs are; undefined, with a failed check, when they can't be had.
 */
export async function preparePython({ root, cache, temp }) {
  let prepared;
  await check("python: environment and stubs", async () => {
    const python = await pythonEnvironment(join(cache, "python"), REQUIREMENTS, "grpc");
    const stubs = join(temp, "stubs");
    await generate(python, root, stubs);
    prepared = { python, stubs };
  });
  return prepared;
}

/** @param prepared what {@link preparePython} gave. */
export async function checkPython({ python, stubs }, service) {
  const { code, stderr } = await run(python, [CLIENT, service.host], {
    env: { ...process.env, PYTHONPATH: stubs, PYTHONDONTWRITEBYTECODE: "1", PYTHONUTF8: "1" },
    timeoutMs: CLIENT_TIMEOUT_MS,
    onLine: (line) => {
      const [outcome, name, reason] = line.split("\t");
      if (outcome === "PASS") pass(`python: ${name}`);
      else if (outcome === "FAIL") fail(`python: ${name}`, reason);
      else console.log(line);
    },
  }).catch((error) => ({ code: -1, stderr: error.message }));
  // 1 stands for failed checks, which have their lines, and for a program that broke down, which says so.
  if (code !== 0 && (code !== 1 || stderr.includes("Traceback"))) fail("python: the client runs to its end", stderr);
}

/**
 * Makes a virtual environment where it is missing or was made for other requirements.
 *
 * @param module what must be there to import.
 * @returns its Python.
 */
export async function pythonEnvironment(folder, requirements, module) {
  const base = findProgram("python3") ?? findProgram("python");
  const version = base && (await runOk(base, ["--version"])).trim();
  const [, major, minor] = /(\d+)\.(\d+)/.exec(version ?? "") ?? [];
  if (!(major > 3 || (Number(major) === 3 && minor >= 10)))
    throw new Error(`Python 3.10 or newer is needed, with venv; there is ${version ?? "none"} on PATH`);
  const wanted = createHash("sha256").update(`${version}\n`).update(readFileSync(requirements)).digest("hex");
  const python = join(folder, "bin", "python");
  const stamp = join(folder, "millrace-stamp");
  try {
    if (readFileSync(stamp, "utf8") === wanted && (await run(python, ["-c", `import ${module}`])).code === 0)
      return python;
  } catch {
    // It is not there yet.
  }
  console.log(`preparing a Python environment in ${folder}`);
  rmSync(folder, { recursive: true, force: true });
  await runOk(base, ["-m", "venv", folder], { timeoutMs: INSTALL_TIMEOUT_MS });
  const quiet = ["--quiet", "--disable-pip-version-check", "--no-input"];
  await runOk(python, ["-m", "pip", "install", ...quiet, "-r", requirements], { timeoutMs: INSTALL_TIMEOUT_MS });
  // Written last: an installation that was broken off is done again.
  writeFileSync(stamp, wanted);
  return python;
}

/** What google/ holds comes with googleapis-common-protos, as in any Python program; the rest is generated. */
async function generate(python, root, stubs) {
  mkdirSync(stubs);
  const own = readdirSync(join(root, "proto", "millrace", "v1")).map((file) => `millrace/v1/${file}`);
  const out = [`--python_out=${stubs}`, `--grpc_python_out=${stubs}`];
  const paths = ["-I", join(root, "proto"), "-I", join(root, "proto", "vendor")];
  await runOk(python, ["-m", "grpc_tools.protoc", ...paths, ...out, ...own, "buf/validate/validate.proto"]);
}
