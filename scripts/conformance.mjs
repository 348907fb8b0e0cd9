// Runs the Connect conformance suite against the transport: node scripts/conformance.mjs [options of connectconformance]
//
// connectconformance is taken from PATH, else from the cache folder, else built there with Go. Exit code: the suite's;
// 2 when the suite could not be had.
import { spawnSync } from "node:child_process";
import { accessSync, constants, mkdirSync } from "node:fs";
import { homedir } from "node:os";
import { delimiter, join } from "node:path";
import { fileURLToPath } from "node:url";

const PACKAGE = "connectrpc.com/conformance/cmd/connectconformance";
const VERSION = "v1.0.7";

const root = fileURLToPath(new URL("..", import.meta.url));
const program = process.platform === "win32" ? "connectconformance.exe" : "connectconformance";
const cache = join(process.env.XDG_CACHE_HOME || join(homedir(), ".cache"), "millrace", "bin");

function isExecutable(path) {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

function find() {
  const folders = (process.env.PATH ?? "").split(delimiter).filter(Boolean);
  return [...folders, cache].map((folder) => join(folder, program)).find(isExecutable);
}

function install() {
  console.error(`${program} is neither on PATH nor in ${cache}: building ${PACKAGE}@${VERSION}, which takes minutes`);
  mkdirSync(cache, { recursive: true });
  const go = spawnSync("go", ["install", `${PACKAGE}@${VERSION}`], {
    stdio: ["ignore", "inherit", "inherit"],
    env: { ...process.env, GOBIN: cache },
  });
  if (go.error?.code === "ENOENT") {
    console.error(
      `Go is missing. Either install Go (https://go.dev/dl) and run this again, or put ${program} on PATH;`,
    );
    console.error(`releases: https://github.com/connectrpc/conformance/releases/tag/${VERSION}`);
    process.exit(2);
  }
  if (go.status !== 0) {
    console.error(`go install ${PACKAGE}@${VERSION} failed: ${go.error?.message ?? `exit code ${go.status}`}`);
    process.exit(2);
  }
  return join(cache, program);
}

// The package "node" brings the Node that runs TypeScript as it is; this script itself may run under an older one.
const local = join(root, "node_modules", ".bin", "node");
const node = isExecutable(local) ? local : process.execPath;
const suite = spawnSync(
  find() ?? install(),
  [
    ...["--mode", "server", "--conf", join(root, "test", "conformance", "conformance.yaml")],
    ...process.argv.slice(2),
    ...["--", node, join(root, "test", "conformance", "server.ts")],
  ],
  { stdio: "inherit" },
);
if (suite.error) console.error(`could not run the suite: ${suite.error.message}`);
process.exit(suite.status ?? 2);
