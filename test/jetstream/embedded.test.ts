import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, readFileSync, rmSync, statfsSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { jetstream, jetstreamManager } from "@nats-io/jetstream";
import { connect, type NatsConnection } from "@nats-io/transport-node";
import { pino } from "pino";
import { beforeEach, describe, expect, onTestFinished, test, vi } from "vitest";
import { findNatsServer } from "../../scripts/nats-server.mjs";
import { type EmbeddedNats, type EmbeddedNatsOptions, startEmbeddedNats } from "../../src/jetstream/embedded.ts";
import { processIdentity } from "../../src/jetstream/process-identity.ts";

const binary = findNatsServer(process.env);
const silent = pino({ level: "silent" });
const isRunning = (pid: number | undefined) => pid !== undefined && processIdentity(pid) !== undefined;
const gone = (pid: number, limitMs: number) =>
  vi.waitFor(() => expect(isRunning(pid)).toBe(false), { timeout: limitMs, interval: 10 });

let dataDir: string;
beforeEach(() => {
  dataDir = mkdtempSync(join(tmpdir(), "millrace-embedded-"));
  // Runs last, behind what the test itself asks for: `afterEach` comes before that, when the server still writes.
  onTestFinished(() => rmSync(dataDir, { recursive: true, force: true }));
});

async function start(options: Partial<EmbeddedNatsOptions> = {}): Promise<EmbeddedNats> {
  const nats = await startEmbeddedNats({ binary, dataDir, fsync: "1s", log: silent, ...options });
  onTestFinished(() => nats[Symbol.asyncDispose]());
  return nats;
}

async function client(url: string): Promise<NatsConnection> {
  const { host, username: user, password: pass } = new URL(url);
  const nc = await connect({ servers: host, user, pass, maxReconnectAttempts: -1, reconnectTimeWait: 50 });
  onTestFinished(() => nc.close());
  return nc;
}

async function storeOne(nc: NatsConnection): Promise<void> {
  const jsm = await jetstreamManager(nc);
  await jsm.streams.add({ name: "kept", subjects: ["kept"] });
  await jetstream(nc).publish("kept", "first");
}

async function storedTexts(nc: NatsConnection): Promise<string[]> {
  const jsm = await jetstreamManager(nc);
  const message = await jsm.streams.getMessage("kept", { seq: 1 });
  return message === null ? [] : [message.string()];
}

/** Another process that runs an embedded server, and says so by a line with its pid and its server's. */
async function startParent(): Promise<{ parent: ChildProcess; natsPid: number; url: string }> {
  const module = new URL("../../src/jetstream/embedded.ts", import.meta.url).href;
  const script = `
    import { startEmbeddedNats } from ${JSON.stringify(module)};
    const log = { info() {}, warn() {}, error() {} };
    const nats = await startEmbeddedNats(${JSON.stringify({ binary, dataDir, fsync: "1s" })
      .slice(0, -1)
      .concat(", log }")});
    console.log(JSON.stringify({ natsPid: nats.pid, url: nats.url }));
  `;
  const parent = spawn(process.execPath, ["--input-type=module", "-e", script], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  onTestFinished(() => void parent.kill("SIGKILL"));
  const [line] = await once(parent.stdout!, "data");
  return { parent, ...JSON.parse(String(line)) };
}

describe("startEmbeddedNats", () => {
  test("gives a server whose JetStream answers, and ends it when disposed", async () => {
    const nats = await startEmbeddedNats({ binary, dataDir, fsync: "always", log: silent });
    const { pid } = nats;
    const nc = await client(nats.url);
    expect(await (await jetstreamManager(nc)).getAccountInfo()).toMatchObject({ streams: 0 });
    expect(nc.info).toMatchObject({ server_name: nats.serverName, max_payload: 8 * 1024 * 1024 });
    expect(nats.serverName).toMatch(/^millrace-[0-9a-f]{8}$/);
    expect(nats.state).toBe("ready");
    await nc.close();
    await nats[Symbol.asyncDispose]();
    expect(isRunning(pid)).toBe(false);
    expect(nats.state).toBe("stopped");
    expect(existsSync(join(dataDir, "millrace.lock"))).toBe(false);
    expect(existsSync(join(dataDir, "nats-server.conf"))).toBe(false);
  });

  test("keeps data and server name from one start to the next", async () => {
    const first = await start();
    await storeOne(await client(first.url));
    await first[Symbol.asyncDispose]();
    const second = await start();
    expect(second.serverName).toBe(first.serverName);
    expect(await storedTexts(await client(second.url))).toEqual(["first"]);
  });

  test("starts a killed server again, with its port, credentials and data", async () => {
    const nats = await start();
    const nc = await client(nats.url);
    await storeOne(nc);
    const { pid, url } = nats;
    process.kill(pid!, "SIGKILL");
    await vi.waitFor(() => expect(nats).toMatchObject({ restarts: 1, state: "ready" }), { timeout: 10_000 });
    expect(nats.url).toBe(url);
    expect(nats.pid).not.toBe(pid);
    // The client that was there before comes back by itself.
    await vi.waitFor(async () => expect(await storedTexts(nc)).toEqual(["first"]), { timeout: 10_000 });
  });

  test("ends the server while it waits to start it again", async () => {
    const nats = await start();
    process.kill(nats.pid!, "SIGKILL");
    await vi.waitFor(() => expect(nats.state).toBe("waiting"), { timeout: 5000, interval: 5 });
    await nats[Symbol.asyncDispose]();
    expect(nats).toMatchObject({ state: "stopped", pid: undefined, restarts: 0 });
  });

  test("leaves no server behind when its process is killed, and starts at once after that", async () => {
    const { parent, natsPid, url } = await startParent();
    await storeOne(await client(url));
    expect(isRunning(natsPid)).toBe(true);
    parent.kill("SIGKILL");
    const next = start();
    await gone(natsPid, 2000);
    expect(await storedTexts(await client((await next).url))).toEqual(["first"]);
  });

  test.skipIf(process.platform === "win32")("leaves none behind when the server does not hear SIGTERM", async () => {
    const { parent, natsPid } = await startParent();
    process.kill(natsPid, "SIGSTOP");
    parent.kill("SIGKILL");
    await gone(natsPid, 5000);
    await start();
  });

  test("refuses a data directory in use, by this process or another", async () => {
    const { parent, natsPid } = await startParent();
    await expect(start()).rejects.toThrow(`"${dataDir}" is in use by process ${parent.pid}`);
    expect(isRunning(natsPid)).toBe(true);
    parent.kill("SIGKILL");
    await start();
    await expect(start()).rejects.toThrow(`is in use by process ${process.pid}`);
  });

  test.each([
    ["is cut short", '{"pi'],
    ["names a pid that now belongs to another process", JSON.stringify({ pid: process.ppid, identity: "earlier" })],
    ["names no running process", JSON.stringify({ pid: 2 ** 22 + 1, identity: "earlier" })],
  ])("takes over a lock that %s", async (_title, content) => {
    writeFileSync(join(dataDir, "millrace.lock"), content);
    writeFileSync(join(dataDir, "nats-server.json"), content);
    expect((await start()).state).toBe("ready");
    expect(isRunning(process.ppid)).toBe(true);
  });

  test("shows its password only in a file that nobody else can read", async () => {
    const nats = await start();
    const { password } = new URL(nats.url);
    expect(password).toMatch(/^[0-9a-f]{48}$/);
    const file = join(dataDir, "nats-server.conf");
    expect(readFileSync(file, "utf8")).toContain(password);
    if (process.platform === "linux") {
      expect(statSync(file).mode & 0o777).toBe(0o600);
      expect(readFileSync(`/proc/${nats.pid}/cmdline`, "utf8")).not.toContain(password);
      expect(readFileSync(`/proc/${nats.pid}/environ`, "utf8")).not.toContain(password);
    }
  });

  test("limits the store to what it holds and a part of the free disk", async () => {
    await start();
    const [, limit] = /max_file_store: (\d+)/.exec(readFileSync(join(dataDir, "nats-server.conf"), "utf8"))!;
    const { bavail, bsize } = statfsSync(dataDir);
    expect(Number(limit)).toBeGreaterThan(0);
    expect(Number(limit)).toBeLessThan(bavail * bsize);
  });

  test.each([
    ["no binary was found", { binary: undefined }, /nats-server is missing: run "node scripts\/setup.mjs"/],
    ["the binary is not there", { binary: "/no/such/nats-server" }, /missing at "\/no\/such\/nats-server"/],
    ["the binary is another program", { binary: process.execPath }, /nats-server ended before it was ready/],
    ["fsync is no span", { fsync: "soon" }, /fsync must be "always" or a span such as "1s", not "soon"/],
    ["it takes too long", { readyLimitMs: 1 }, /did not become ready in time/],
    ["the start is broken off", { signal: AbortSignal.abort(new Error("enough")) }, /enough/],
  ])("fails clearly when %s, and frees the data directory", async (_title, options, message) => {
    await expect(start(options)).rejects.toThrow(message);
    expect((await start()).state).toBe("ready");
  });

  test("logs one warning when a killed server is started again, and none for a quiet start", async () => {
    const warnings: unknown[] = [];
    const log = { info() {}, warn: (fields: unknown) => void warnings.push(fields), error() {} };
    const nats = await start({ log });
    process.kill(nats.pid!, "SIGKILL");
    await vi.waitFor(() => expect(nats.restarts).toBe(1), { timeout: 5000 });
    expect(warnings).toEqual([expect.objectContaining({ how: "SIGKILL" })]);
  });
});
