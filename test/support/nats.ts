import { type ChildProcess, spawn } from "node:child_process";
import { closeSync, existsSync, openSync, readFileSync, writeFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { jetstreamManager } from "@nats-io/jetstream";
import { connect } from "@nats-io/transport-node";
import { findNatsServer } from "../../scripts/nats-server.mjs";
import { MAX_MAX_MESSAGE_BYTES, MESSAGE_OVERHEAD_BYTES } from "../../src/domain/limits.ts";
import { freeLoopbackPort, whenJetStreamReady } from "../../src/jetstream/nats-process.ts";
import { startWatchdog } from "../../src/jetstream/watchdog.ts";

export interface TestNatsOptions {
  /** `sync_interval`: `always` or a span. Default `1s`. */
  readonly fsync?: string;
  /** `max_file_store` in bytes. Default 4 GiB. */
  readonly maxFileStoreBytes?: number;
  /** `max_payload` in bytes. Default as the embedded server's. */
  readonly maxPayloadBytes?: number;
  /** More lines for the end of the configuration file. */
  readonly moreConfig?: string;
}

/** A nats-server with JetStream on 127.0.0.1, in a temporary directory. Disposing ends it and removes its data. */
export interface TestNats extends AsyncDisposable {
  /** For `NATS_URL`, with user and password. */
  readonly url: string;
  readonly port: number;
  readonly user: string;
  readonly pass: string;
  readonly serverName: string;
  readonly dataDir: string;
  /** Undefined while it does not run. */
  readonly pid: number | undefined;
  /** What it has logged so far. */
  readonly logText: string;
  /** Sends a signal, and after SIGTERM and SIGKILL returns when the server is gone. Default SIGKILL. */
  kill(signal?: NodeJS.Signals): Promise<void>;
  /** Ends it if it runs, and starts it with the same port and data. A server of a cluster is not waited for. */
  restart(): Promise<void>;
  /** Returns when JetStream answers: in a cluster, when there is a leader. @throws Error after 30 s. */
  whenReady(): Promise<void>;
}

export interface TestNatsCluster extends AsyncDisposable {
  /** For `NATS_URL`: all servers, separated by commas. */
  readonly url: string;
  readonly servers: readonly TestNats[];
  /** Returns when every server answers and streams with as many replicas can be made. @throws Error after 60 s. */
  whenReady(): Promise<void>;
}

const READY_LIMIT_MS = 30_000;
const USER = "test";
const PASS = "test-password";

/** @throws Error when there is no nats-server, or with its log when it does not become ready. */
export async function startNats(options: TestNatsOptions = {}): Promise<TestNats> {
  await using owned = new AsyncDisposableStack();
  const server = owned.use(await TestServer.start("n1", options));
  await server.whenReady();
  owned.move();
  return server;
}

/** @param size 3 or 5 for replicated streams. */
export async function startNatsCluster(size = 3, options: TestNatsOptions = {}): Promise<TestNatsCluster> {
  await using owned = new AsyncDisposableStack();
  const routePorts = await Promise.all(Array.from({ length: size }, () => freeLoopbackPort()));
  const routes = routePorts.map((port) => `"nats://127.0.0.1:${port}"`).join(", ");
  const servers: TestServer[] = [];
  for (const [index, routePort] of routePorts.entries()) {
    const cluster = `cluster { name: "test", listen: "127.0.0.1:${routePort}", routes: [${routes}] }`;
    const moreConfig = `${cluster}\n${options.moreConfig ?? ""}`;
    servers.push(owned.use(await TestServer.start(`n${index + 1}`, { ...options, moreConfig }, true)));
  }
  const whenReady = async () => {
    await Promise.all(servers.map((server) => server.whenReady()));
    await whenReplicasFit(servers[0]!, size);
  };
  await whenReady();
  const running = owned.move();
  return {
    url: servers.map((server) => server.url).join(","),
    servers,
    whenReady,
    [Symbol.asyncDispose]: () => running.disposeAsync(),
  };
}

/** The leader answers before it has heard of every server; until then a stream with that many replicas is refused. */
async function whenReplicasFit({ port }: TestNats, replicas: number): Promise<void> {
  const nc = await connect({ servers: `127.0.0.1:${port}`, user: USER, pass: PASS });
  try {
    const jsm = await jetstreamManager(nc, { checkAPI: false });
    const limit = performance.now() + READY_LIMIT_MS;
    for (;;) {
      try {
        await jsm.streams.add({ name: "ready-probe", subjects: ["ready-probe"], num_replicas: replicas });
        await jsm.streams.delete("ready-probe");
        return;
      } catch (error) {
        if (performance.now() > limit) throw error;
        await new Promise((resolve) => setTimeout(resolve, 50));
      }
    }
  } finally {
    await nc.close();
  }
}

class TestServer implements TestNats {
  readonly url: string;
  readonly user = USER;
  readonly pass = PASS;
  readonly port: number;
  readonly serverName: string;
  readonly dataDir: string;
  readonly #binary: string;
  readonly #inCluster: boolean;
  // A killed test run leaves no servers behind.
  readonly #watchdog = startWatchdog();
  #child: ChildProcess | undefined;
  #gone: Promise<void> = Promise.resolve();

  private constructor(binary: string, serverName: string, port: number, dataDir: string, inCluster: boolean) {
    this.#binary = binary;
    this.serverName = serverName;
    this.port = port;
    this.dataDir = dataDir;
    this.#inCluster = inCluster;
    this.url = `nats://${USER}:${PASS}@127.0.0.1:${port}`;
  }

  static async start(serverName: string, options: TestNatsOptions, inCluster = false): Promise<TestServer> {
    const binary = findNatsServer(process.env);
    if (binary === undefined) throw new Error('no nats-server: run "node scripts/setup.mjs"');
    const port = await freeLoopbackPort();
    const dataDir = await mkdtemp(join(tmpdir(), "millrace-nats-"));
    writeFileSync(
      join(dataDir, "nats.conf"),
      `server_name: "${serverName}"
listen: "127.0.0.1:${port}"
authorization { user: "${USER}", password: "${PASS}" }
max_payload: ${options.maxPayloadBytes ?? MAX_MAX_MESSAGE_BYTES + MESSAGE_OVERHEAD_BYTES}
max_pending: 268435456
jetstream {
  store_dir: ${JSON.stringify(join(dataDir, "store"))}
  sync_interval: "${options.fsync ?? "1s"}"
  max_file_store: ${options.maxFileStoreBytes ?? 4 * 1024 ** 3}
  max_memory_store: ${256 * 1024 * 1024}
}
${options.moreConfig ?? ""}
`,
    );
    const server = new TestServer(binary, serverName, port, dataDir, inCluster);
    server.#spawn();
    return server;
  }

  get pid(): number | undefined {
    return this.#child?.pid;
  }

  get logText(): string {
    const file = join(this.dataDir, "nats.log");
    return existsSync(file) ? readFileSync(file, "utf8") : "";
  }

  #spawn(): void {
    const log = openSync(join(this.dataDir, "nats.log"), "a");
    const child = spawn(this.#binary, ["-c", join(this.dataDir, "nats.conf")], { stdio: ["ignore", log, log] });
    closeSync(log);
    this.#child = child;
    this.#watchdog.watch(child.pid);
    this.#gone = new Promise((resolve) => {
      const end = () => {
        if (this.#child === child) {
          this.#child = undefined;
          this.#watchdog.watch(undefined);
        }
        resolve();
      };
      child.once("exit", end);
      child.once("error", end);
    });
  }

  async whenReady(): Promise<void> {
    const child = this.#child;
    const over = new AbortController();
    void this.#gone.then(() => over.abort(new Error("nats-server ended")));
    try {
      await whenJetStreamReady(this, AbortSignal.any([over.signal, AbortSignal.timeout(READY_LIMIT_MS)]));
    } catch (cause) {
      throw new Error(`nats-server ${this.serverName} (pid ${child?.pid}) is not ready:\n${this.logText}`, { cause });
    }
  }

  async kill(signal: NodeJS.Signals = "SIGKILL"): Promise<void> {
    this.#child?.kill(signal);
    if (signal === "SIGTERM" || signal === "SIGKILL") await this.#gone;
  }

  async restart(): Promise<void> {
    await this.kill("SIGTERM");
    this.#spawn();
    if (!this.#inCluster) await this.whenReady();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // Its data is thrown away, and a server that a test has stopped (SIGSTOP) would not hear SIGTERM.
    await this.kill("SIGKILL");
    this.#watchdog[Symbol.dispose]();
    await rm(this.dataDir, { recursive: true, force: true });
  }
}
