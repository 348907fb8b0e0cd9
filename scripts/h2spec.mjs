// Runs h2spec against the service and against Node's own http2 server: node scripts/h2spec.mjs
//
// Fails when the service has a failure that Node's server has not, and has it again when the case is repeated. Prints a line
// for each case in which either fails; exit code 1 on such a failure or when h2spec can't be had. h2spec is taken from PATH,
// else from the cache folder, else built there with Go. Runs on Node 20.

import { spawn } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { run } from "../test/foreign/command.mjs";
import { ensureGoTool } from "../test/foreign/go-tool.mjs";
import { close, fail, pass } from "../test/foreign/report.mjs";
import { startService } from "../test/foreign/service.mjs";
import { cacheFolder } from "./nats-server.mjs";

// Releases after this one are no versions to Go: their module has no "/v2" in its path.
const VERSION = "v2.2.1+incompatible";
const TIMEOUT_MS = 180_000;
const LEAST_CASES = 140;
const REPEATS = 3;
/**
 * This case sends 20 KB of headers to exceed the 16 KiB that a frame has by default. The service takes larger frames, as it
 * says in its settings; here the headers are longer than those.
 */
const LONG_HEADERS = ["http2/4.2/3", "--max-header-length", "100000"];
const NODE_SERVER = `
  const server = require("node:http2").createServer((req, res) => { req.resume(); res.end("Hello, HTTP/2"); });
  server.on("sessionError", () => {});
  server.listen(0, "127.0.0.1", () => console.log(server.address().port));
`;

const root = dirname(dirname(fileURLToPath(import.meta.url)));
// nats-server has a folder for its version in a folder of its own there.
const cache = dirname(dirname(cacheFolder(process.env)));
const temp = mkdtempSync(join(tmpdir(), "millrace-h2spec-"));
for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, () => process.exit(1));
process.once("exit", () => rmSync(temp, { recursive: true, force: true }));

try {
  mkdirSync(cache, { recursive: true });
  const program = await ensureGoTool(cache, "h2spec", "github.com/summerwind/h2spec/cmd/h2spec", VERSION);
  if (!program) throw new Error("there is no h2spec");
  const service = await startService(root, join(temp, "data"));
  const node = await startNodeServer();
  try {
    await compare(program, new URL(service.url).port, node.port);
  } finally {
    node.stop();
    await service.stop();
  }
} catch (error) {
  fail("h2spec", error.message);
}
process.exitCode = close() ? 0 : 1;

async function compare(program, servicePort, nodePort) {
  const [ours, longer, nodes] = await Promise.all([
    outcomes(program, servicePort),
    outcomes(program, servicePort, LONG_HEADERS),
    outcomes(program, nodePort),
  ]);
  for (const [id, outcome] of longer) ours.set(id, outcome);
  const failuresOf = (all) => [...all].filter(([, { failure }]) => failure !== undefined);
  for (const [id, { title, failure }] of failuresOf(ours)) {
    if (nodes.get(id)?.failure !== undefined) console.log(`both  h2spec ${id} ${title}`);
    else if (await isRacy(program, servicePort, id)) console.log(`racy  h2spec ${id} ${title}`);
    else fail(`h2spec ${id} ${title}`, failure);
  }
  for (const [id, { title }] of failuresOf(nodes))
    if (ours.get(id)?.failure === undefined)
      console.log(`node  h2spec ${id} ${title}: fails with Node's own server only`);
  const count = (all) => `${all.size - failuresOf(all).length} of ${all.size}`;
  if (ours.size < LEAST_CASES) fail("h2spec", `it ran ${ours.size} cases only`);
  else pass(`h2spec: the service passes ${count(ours)} cases, Node's own http2 server ${count(nodes)}`);
}

/** Whether a case that failed passes when it is run again: some wait for what a busy machine does later. */
async function isRacy(program, port, id) {
  for (let again = 0; again < REPEATS; again++) {
    const outcome = (await outcomes(program, port, [id])).get(id);
    if (outcome && outcome.failure === undefined) return true;
  }
  return false;
}

async function startNodeServer() {
  // The Node that the service runs on.
  const local = join(root, "node_modules", ".bin", "node");
  const child = spawn(existsSync(local) ? local : process.execPath, ["-e", NODE_SERVER], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const port = await new Promise((resolve, reject) => {
    child.stdout.once("data", (text) => resolve(String(text).trim()));
    child.once("error", reject);
    child.once("exit", (code) => reject(new Error(`Node's own server ended with ${code}`)));
  });
  return { port, stop: () => child.kill() };
}

/**
 * Runs h2spec, or one case of it.
 *
 * @returns by the case's id, such as "http2/4.2/3", its `title` and its `failure` as text; a skipped case has none.
 */
async function outcomes(program, port, options = []) {
  const report = join(mkdtempSync(join(temp, "run-")), "report.xml");
  const args = ["--host", "127.0.0.1", "--port", port, "--timeout", "3", "--junit-report", report, ...options];
  const { stdout, stderr } = await run(program, args, { timeoutMs: TIMEOUT_MS });
  if (!existsSync(report)) throw new Error(`it wrote no report: ${stderr || stdout}`);
  const found = new Map();
  const numbers = new Map();
  const cases = /<testcase package="([^"]*)" classname="([^"]*)"[^>]*>(.*?)<\/testcase>/gs;
  for (const [, group, title, inside] of readFileSync(report, "utf8").matchAll(cases)) {
    const number = (numbers.get(group) ?? 0) + 1;
    numbers.set(group, number);
    const [, failure] = /<(?:error|failure)>(.*)<\/(?:error|failure)>/s.exec(inside) ?? [];
    found.set(`${group}/${number}`, { title, failure });
  }
  // A case that runs alone is the first in the report, whatever its number.
  const [only] = options;
  return only === undefined ? found : new Map([[only, [...found.values()][0]]]);
}
