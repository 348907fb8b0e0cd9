import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { expect, onTestFinished, test } from "vitest";
import { start } from "../support/cli.ts";
import { eventually } from "../support/wait.ts";

const certificate = (name: string): string => fileURLToPath(new URL(`../transport/certs/${name}`, import.meta.url));
const THIS_FILE = fileURLToPath(import.meta.url);

function folder(): string {
  const made = mkdtempSync(join(tmpdir(), "millrace-serve-"));
  onTestFinished(() => rmSync(made, { recursive: true, force: true }));
  return made;
}

/** `millrace serve` on a free port; its data directory has to be named. */
const serve = (env: NodeJS.ProcessEnv) => start(["serve"], { env: { PORT: "0", ...env }, input: "" });

/** A port on which something answers every connection by silence. */
async function silentPort(): Promise<{ port: number; asked: () => boolean }> {
  let asked = false;
  const server = createServer((socket) => {
    asked = true;
    socket.on("error", () => {});
    onTestFinished(() => void socket.destroy());
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  onTestFinished(() => void server.close());
  return { port: (server.address() as { port: number }).port, asked: () => asked };
}

const PAIR = { MILLRACE_TLS_CERT: certificate("server.pem"), MILLRACE_TLS_KEY: certificate("server.key") };

test.each<[string, NodeJS.ProcessEnv]>([
  ["MILLRACE_TLS_CERT", { ...PAIR, MILLRACE_TLS_CERT: "/nowhere/cert.pem" }],
  ["MILLRACE_TLS_KEY", { ...PAIR, MILLRACE_TLS_KEY: "/nowhere/key.pem" }],
  ["MILLRACE_TLS_CERT", { ...PAIR, MILLRACE_TLS_CERT: THIS_FILE }],
  ["MILLRACE_TLS_KEY", { ...PAIR, MILLRACE_TLS_KEY: certificate("client.key") }],
  ["MILLRACE_TLS_CLIENT_CA", { ...PAIR, MILLRACE_TLS_CLIENT_CA: THIS_FILE }],
  ["MILLRACE_TLS_CLIENT_CA", { MILLRACE_TLS_CLIENT_CA: certificate("ca.pem") }],
  ["MILLRACE_FUNCTIONS_DIR", { MILLRACE_FUNCTIONS_DIR: "/nowhere/functions" }],
  ["NATS_SERVER_BIN", { NATS_SERVER_BIN: THIS_FILE }],
  ["NATS_URL", { NATS_URL: "http://127.0.0.1:4222" }],
  ["NATS_URL", { NATS_URL: "nats://a," }],
])("a %s that can't be used is exit code 2, before anything is started: %j", async (name, env) => {
  const dataDir = join(folder(), "data");
  const { code, stdout, stderr } = await serve({ MILLRACE_DATA_DIR: dataDir, ...env }).ended;
  expect([code, stdout]).toEqual([2, ""]);
  expect(stderr).toMatch(new RegExp(`^settings: .*${name}.*\n$`));
});

test("a port that is taken is told in words, and no nats-server stays behind", async () => {
  const { port } = await silentPort();
  const dataDir = folder();
  const running = serve({ PORT: String(port), MILLRACE_DATA_DIR: dataDir });
  const { code, stderr } = await running.ended;
  expect([code, stderr]).toEqual([1, expect.stringContaining(`address already in use 127.0.0.1:${port}`)]);
  expect(stderr).not.toMatch(/\bat .*:\d+:\d+/);
  const { natsPid } = JSON.parse(stderr.split("\n").find((line) => line.includes("natsPid"))!) as { natsPid: number };
  expect(() => process.kill(natsPid, 0)).toThrow("ESRCH");
});

test("a data directory that can't be made is told with its name and setting", async () => {
  const file = join(folder(), "file");
  writeFileSync(file, "");
  const { code, stderr } = await serve({ MILLRACE_DATA_DIR: file }).ended;
  expect([code, stderr]).toEqual([1, expect.stringMatching(/data directory .*file.*MILLRACE_DATA_DIR/)]);
  expect(stderr).not.toContain("mkdirSync");
});

test("SIGTERM ends a start that waits for NATS, with 0", async () => {
  const { port, asked } = await silentPort();
  const running = serve({ NATS_URL: `nats://127.0.0.1:${port}` });
  await eventually("it asks NATS", asked);
  running.kill("SIGTERM");
  // Without the signal it waits for half a minute.
  await eventually("it says so", () => running.stderr.includes("draining"));
  const code = await Promise.race([running.ended.then((ended) => ended.code), setTimeout(10_000, "still running")]);
  expect(code).toBe(0);
});
