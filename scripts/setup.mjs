// Brings what the service needs: the npm packages, a Node that runs TypeScript, and nats-server. Called before
// `npm start` and `npm test`; runs on Node 20 with nothing installed, and says nothing when there is nothing to do.

import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { ensureNatsServer } from "./nats-server.mjs";

const ROOT = dirname(dirname(fileURLToPath(import.meta.url)));
const MODULES = join(ROOT, "node_modules");
const STAMP = join(MODULES, ".millrace-setup");
const WINDOWS = process.platform === "win32";
const LAUNCHER = join(MODULES, "node", "bin", WINDOWS ? "node.exe" : "node");
const LINK = join(MODULES, ".bin", WINDOWS ? "node.cmd" : "node");
/** First release that runs TypeScript as it is, with what the service uses. */
const OLDEST_NODE = 24;

const log = (line) => console.log(`setup: ${line}`);

try {
  setUpPackages();
  setUpNode();
  await ensureNatsServer(process.env, log);
} catch (error) {
  console.error(`setup: ${error.message}`);
  process.exitCode = 1;
}

function setUpPackages() {
  const lock = textOf(join(ROOT, "package-lock.json"));
  const wanted = createHash("sha256")
    .update(lock ?? textOf(join(ROOT, "package.json")) ?? "")
    .digest("hex");
  if (textOf(STAMP)?.trim() === wanted) return;
  if (lock !== undefined && isInstalled(lock)) {
    // Somebody ran npm by hand: its result is not thrown away.
    writeFileSync(STAMP, `${wanted}\n`);
    return;
  }
  // No stamp while npm is at work: an installation broken off half-way is done again.
  rmSync(STAMP, { force: true });
  installPackages(lock !== undefined);
  writeFileSync(STAMP, `${wanted}\n`);
}

function installPackages(locked) {
  const quiet = ["--no-audit", "--no-fund", "--loglevel=error"];
  if (locked) {
    log("installing packages (npm ci)");
    const { status, stderr, error } = npm(["ci", ...quiet], ["inherit", "inherit", "pipe"]);
    if (status === 0) return;
    // A lock file lists only those optional packages of other platforms that its writer could see, and `npm ci` refuses
    // it where more can be seen. `npm install` takes the locked versions all the same; --no-save leaves the file alone.
    if (!String(stderr).includes("EUSAGE")) {
      throw new Error(`npm ci failed: ${error?.message ?? String(stderr).trim()}`);
    }
    log("the lock file lacks packages of other platforms: npm install --no-save instead");
  } else {
    log("installing packages (npm install)");
  }
  const { status, error } = npm(["install", ...quiet, ...(locked ? ["--no-save"] : [])]);
  if (status !== 0) throw new Error(`npm install failed${error ? `: ${error.message}` : ""}`);
}

/** Whether npm's own record of what it installed names each package of the lock file, in its version. */
function isInstalled(lock) {
  const record = textOf(join(MODULES, ".package-lock.json"));
  if (record === undefined) return false;
  const installed = JSON.parse(record).packages;
  return Object.entries(JSON.parse(lock).packages).every(
    ([path, { version, optional }]) =>
      path === "" || (installed[path] ? installed[path].version === version : optional === true),
  );
}

/**
 * The package `node` brings its binary by an install script, which npm can be told not to run. The script is then run
 * here: it asks npm for the package that holds the binary for this platform, which the lock file does not list.
 */
function setUpNode() {
  if (majorOf(LAUNCHER) >= OLDEST_NODE && existsSync(LINK)) return;
  const folder = join(MODULES, "node");
  const script = join(folder, "installArchSpecificPackage.js");
  if (existsSync(script)) {
    log(`installing Node ${OLDEST_NODE} for this project`);
    if (majorOf(LAUNCHER) < OLDEST_NODE) {
      spawnSync(process.execPath, [script], { cwd: folder, stdio: "inherit", env: npmEnv() });
    }
    if (!existsSync(LINK)) link(folder);
    if (majorOf(LAUNCHER) >= OLDEST_NODE && existsSync(LINK)) return;
  }
  // Without that package `npm start` finds the Node that runs this, which may do as well.
  if (Number.parseInt(process.versions.node, 10) >= OLDEST_NODE) {
    log(`the package "node" does not work; Node ${process.versions.node} is used instead`);
    return;
  }
  throw new Error(
    `Node ${OLDEST_NODE} is needed, this is ${process.versions.node}, and the npm package "node" could not be made to ` +
      `work: "npm rebuild node --ignore-scripts=false" tells why`,
  );
}

function link(folder) {
  if (WINDOWS) {
    // npm writes three little scripts there; let it.
    npm(["rebuild", "node", "--ignore-scripts"]);
    return;
  }
  // A link to a file that was missing counts as missing too.
  rmSync(LINK, { force: true });
  symlinkSync(join("..", "node", "bin", "node"), join(dirname(folder), ".bin", "node"));
}

function npm(args, stdio = "inherit") {
  // npm is a script on Windows, which takes a shell to run.
  return spawnSync("npm", args, { cwd: ROOT, stdio, shell: WINDOWS });
}

/** The folders of the npm that runs this are not those of the npm that the script starts. */
function npmEnv() {
  const drop = /^npm_config_(global|prefix|local_prefix|global_prefix)$/i;
  return Object.fromEntries(Object.entries(process.env).filter(([name]) => !drop.test(name)));
}

function majorOf(node) {
  const { stdout } = spawnSync(node, ["--version"], { encoding: "utf8" });
  return Number.parseInt((stdout ?? "").slice(1), 10) || 0;
}

function textOf(file) {
  try {
    return readFileSync(file, "utf8");
  } catch {
    return undefined;
  }
}
