import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { findNatsServer } from "../../scripts/nats-server.mjs";

/** A nats-server with JetStream on disk, on loopback; port and data outlive a kill. */
export interface BareNats extends AsyncDisposable {
  readonly url: string;
  readonly pid: number;
  readonly dataDir: string;
  /** Resolves once the process has ended. */
  kill(signal?: NodeJS.Signals): Promise<void>;
  restart(): Promise<void>;
}

export async function startNats(): Promise<BareNats> {
  const binary = findNatsServer(process.env);
  if (!binary) throw new Error("no nats-server: run `node scripts/setup.mjs`");
  const dataDir = await mkdtemp(join(tmpdir(), "millrace-nats-"));
  const port = await freePort();
  const args = ["-js", "-sd", dataDir, "-a", "127.0.0.1", "-p", String(port), "--name", `test-${port}`];
  let child = await start(binary, args);
  const kill = async (signal: NodeJS.Signals = "SIGKILL") => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    const ended = once(child, "exit");
    child.kill(signal);
    await ended;
  };
  return {
    url: `nats://127.0.0.1:${port}`,
    dataDir,
    get pid() {
      return child.pid!;
    },
    kill,
    async restart() {
      child = await start(binary, args);
    },
    async [Symbol.asyncDispose]() {
      await kill("SIGTERM");
      await rm(dataDir, { recursive: true, force: true });
    },
  };
}

function start(binary: string, args: readonly string[]): Promise<ChildProcess> {
  return new Promise((resolve, reject) => {
    const child = spawn(binary, args, { stdio: ["ignore", "ignore", "pipe"] });
    let output = "";
    child.stderr.setEncoding("utf8").on("data", (text: string) => {
      output = (output + text).slice(-4000);
      if (output.includes("Server is ready")) resolve(child);
    });
    child.once("error", reject);
    child.once("exit", () => reject(new Error(`nats-server ended: ${output}`)));
  });
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as { port: number };
  server.close();
  await once(server, "close");
  return port;
}
