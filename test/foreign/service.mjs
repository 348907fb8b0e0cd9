// The real service as a child process, as a user starts it.

import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as wait } from "node:timers/promises";

const START_TIMEOUT_MS = 60_000;
const STOP_TIMEOUT_MS = 30_000;
/** pino's number for "error". */
const LEVEL_ERROR = 50;

/** @param dataDir where its nats-server keeps its store. */
export async function startService(root, dataDir) {
  // The package "node" brings the Node that runs TypeScript; this script may run under an older one.
  const local = join(root, "node_modules", ".bin", "node");
  const child = spawn(existsSync(local) ? local : process.execPath, ["src/main.ts"], {
    cwd: root,
    env: { ...ownSettings(), HOST: "127.0.0.1", PORT: "0", MILLRACE_DATA_DIR: dataDir, MILLRACE_LOG_LEVEL: "warn" },
    stdio: ["ignore", "pipe", "pipe"],
  });
  const onExit = () => child.kill("SIGTERM");
  process.once("exit", onExit);
  const exited = new Promise((resolve) => {
    child.once("exit", (code, signal) => {
      process.off("exit", onExit);
      resolve(code ?? signal);
    });
    child.once("error", (error) => resolve(error.message));
  });
  let log = "";
  child.stderr.setEncoding("utf8").on("data", (text) => {
    log += text;
  });
  const listening = new Promise((resolve) => {
    let output = "";
    child.stdout.setEncoding("utf8").on("data", (text) => {
      output += text;
      const url = /listens on (\S+)/.exec(output)?.[1];
      if (url) resolve(url);
    });
  });
  const url = await within(
    START_TIMEOUT_MS,
    listening,
    exited.then(() => undefined),
  );
  if (url === undefined) {
    child.kill("SIGKILL");
    throw new Error(`the service did not start: ${log.slice(-2000)}`);
  }
  return {
    url,
    host: new URL(url).host,
    /** What it logged as an error: each is a bug of the service or a loss. */
    errors: () => log.split("\n").filter((line) => levelOf(line) >= LEVEL_ERROR),
    /** Ends it by SIGTERM. @returns its exit code, or what ended it. */
    async stop() {
      child.kill("SIGTERM");
      const code = await within(STOP_TIMEOUT_MS, exited);
      if (code !== undefined) return code;
      child.kill("SIGKILL");
      return `nothing within ${STOP_TIMEOUT_MS} ms`;
    },
  };
}

/** Settings of the shell that started this are not those of the service under test; where its programs are stays. */
function ownSettings() {
  const kept = new Set(["MILLRACE_CACHE_DIR", "NATS_SERVER_BIN"]);
  const isSetting = (name) => /^(MILLRACE_.*|NATS_.*)$/.test(name) && !kept.has(name);
  return Object.fromEntries(Object.entries(process.env).filter(([name]) => !isSetting(name)));
}

/** The first of some promises; undefined after the limit. */
async function within(limitMs, ...promises) {
  const over = new AbortController();
  try {
    return await Promise.race([...promises, wait(limitMs, undefined, { signal: over.signal }).catch(() => undefined)]);
  } finally {
    over.abort();
  }
}

/** Lines that are not the log's, such as a crash, count as errors. */
function levelOf(line) {
  if (line.trim() === "") return 0;
  try {
    return JSON.parse(line).level ?? LEVEL_ERROR;
  } catch {
    return LEVEL_ERROR;
  }
}
