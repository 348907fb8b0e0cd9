#!/usr/bin/env node
// The command `millrace`. Runs on Node 20: the command line itself is TypeScript, which takes the Node that the npm package
// "node" brings, and is run by that one. What is missing is installed first, as by `npm start`.

import { spawn, spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import module from "node:module";
import { constants } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

/** First release that runs TypeScript as it is, with what the program uses. */
const OLDEST_NODE = 24;

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const main = join(root, "src", "cli", "main.ts");
const binary = process.platform === "win32" ? "node.exe" : "node";
const local = join(root, "node_modules", "node", "bin", binary);
const isNewEnough = Number.parseInt(process.versions.node, 10) >= OLDEST_NODE;
const isInstalled = existsSync(join(root, "node_modules", "commander"));

// `serve` is the one that needs nats-server, unless it is told of another. What it is told wrongly it says itself.
const hasNats =
  [process.env.NATS_URL, process.env.NATS_SERVER_BIN].some((value) => value?.trim()) ||
  process.argv.some((argument) => /^--nats(=|$)/.test(argument));
if ((process.argv[2] === "serve" && !hasNats) || !isInstalled || !(isNewEnough || existsSync(local))) {
  const { status } = spawnSync(process.execPath, [join(root, "scripts", "setup.mjs")], { stdio: ["ignore", 2, 2] });
  if (status !== 0) process.exit(1);
}
// Compiled code is kept, so that each command but the first takes half the time to start.
process.env.NODE_COMPILE_CACHE ??= join(root, "node_modules", ".cache", "compiled");
if (isNewEnough) {
  module.enableCompileCache();
  await import(main);
} else runBy(local);

function runBy(node) {
  const child = spawn(node, [main, ...process.argv.slice(2)], { stdio: "inherit" });
  // A terminal sends Ctrl-C to both; only a signal that was meant for this process has to be passed on.
  const hasTerminal = [process.stdin, process.stdout, process.stderr].some((stream) => stream.isTTY);
  process.on("SIGINT", () => hasTerminal || child.kill("SIGINT"));
  for (const signal of ["SIGTERM", "SIGHUP"]) process.on(signal, () => child.kill(signal));
  child.once("error", (error) => {
    console.error(`millrace: ${node}: ${error.message}`);
    process.exit(1);
  });
  child.once("exit", (code, signal) => process.exit(code ?? 128 + (constants.signals[signal] ?? 0)));
}
