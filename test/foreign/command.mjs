// Commands, run with a limit.

import { spawn } from "node:child_process";
import { accessSync, constants, statSync } from "node:fs";
import { delimiter, join } from "node:path";

/**
 * Runs a command to its end.
 *
 * @param options `cwd`, `env`, `input` (text for its standard input), `timeoutMs` (default 60,000; then it is killed),
 *   `onLine` (called with each line of its standard output).
 * @returns its exit code and both outputs; a command that can't be started or is killed throws.
 */
export function run(command, args, { cwd, env, input, timeoutMs = 60_000, onLine } = {}) {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { cwd, env, stdio: ["pipe", "pipe", "pipe"] });
    const timer = setTimeout(() => child.kill("SIGKILL"), timeoutMs);
    let stdout = "";
    let stderr = "";
    let rest = "";
    child.stdout.setEncoding("utf8").on("data", (text) => {
      stdout += text;
      if (!onLine) return;
      const lines = (rest + text).split("\n");
      rest = lines.pop();
      for (const line of lines) onLine(line);
    });
    child.stderr.setEncoding("utf8").on("data", (text) => {
      stderr += text;
    });
    child.stdin.on("error", () => {}); // it may end without reading all of it
    child.stdin.end(input ?? "");
    child.once("error", (error) => {
      clearTimeout(timer);
      reject(error);
    });
    child.once("close", (code, signal) => {
      clearTimeout(timer);
      if (code === null) reject(new Error(`${command} was ended by ${signal} (limit ${timeoutMs} ms): ${stderr}`));
      else resolve({ code, stdout, stderr });
    });
  });
}

/** Runs a command that must succeed. @returns its standard output. */
export async function runOk(command, args, options) {
  const { code, stdout, stderr } = await run(command, args, options);
  if (code !== 0) throw new Error(`${command} ended with ${code}: ${(stderr || stdout).slice(-2000)}`);
  return stdout;
}

/** The file of a program: from PATH, else from one more folder; undefined when it is in neither. */
export function findProgram(name, folder) {
  const folders = (process.env.PATH ?? "").split(delimiter).filter(Boolean);
  if (folder) folders.push(folder);
  return folders.map((one) => join(one, name)).find(isExecutable);
}

function isExecutable(file) {
  try {
    accessSync(file, constants.X_OK);
    return statSync(file).isFile();
  } catch {
    return false;
  }
}
