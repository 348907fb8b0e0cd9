import { type ChildProcess, spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import type { Logger } from "pino";
import { lockDataDir } from "./data-lock.ts";
import { fileStoreLimit, renderEmbeddedConfig } from "./embedded-config.ts";
import { tailLog } from "./log-tail.ts";
import { freeLoopbackPort, type NatsLogin, whenJetStreamReady } from "./nats-process.ts";
import { startWatchdog } from "./watchdog.ts";

export interface EmbeddedNatsOptions {
  /** File of nats-server 2.14 or newer; see `findNatsServer`. */
  readonly binary: string | undefined;
  /** Directory for the store, the log and the lock; made when missing, readable by its owner only. */
  readonly dataDir: string;
  /** When what is stored goes to the disk: `always` before each acknowledgement, else every span such as `1s`. */
  readonly fsync: string;
  readonly log: Pick<Logger, "info" | "warn" | "error">;
  /** Breaks off the start; once it has succeeded, nothing. */
  readonly signal?: AbortSignal;
  /** How long the first start may take, in milliseconds; 5 minutes, for a large store takes its time to open. */
  readonly readyLimitMs?: number;
  /** How long nats-server may take to end after SIGTERM, in milliseconds; then SIGKILL follows. 10 s. */
  readonly stopLimitMs?: number;
}

/** A nats-server of our own on loopback. Disposing ends it and returns when it is gone. */
export interface EmbeddedNats extends AsyncDisposable {
  /** With user and password; the same after nats-server has been started again. */
  readonly url: string;
  /** Kept in the data directory: `millrace-` and 8 hex digits. */
  readonly serverName: string;
  /** Undefined while none runs. */
  readonly pid: number | undefined;
  readonly state: "starting" | "ready" | "waiting" | "stopped";
  /** How often it was started again. */
  readonly restarts: number;
}

const FIRST_BACKOFF_MS = 100;
const MAX_BACKOFF_MS = 2000;
/** Having run this long, the next end counts as the first. */
const STABLE_MS = 10_000;
const PORT_TRIES = 5;
const SLOW_START_MS = 10_000;

/**
 * Starts nats-server as a child process: on 127.0.0.1, with a random port and credentials, its store in
 * `dataDir/nats`. It is started again when it dies, and ends with this process, however that ends.
 *
 * @returns when JetStream answers.
 * @throws Error when the binary is missing, when the data directory is in use, or with nats-server's last words when it
 * ends before it is ready; the signal's reason.
 */
export async function startEmbeddedNats(options: EmbeddedNatsOptions): Promise<EmbeddedNats> {
  const { binary, log } = options;
  if (binary === undefined || !existsSync(binary)) {
    throw new Error(
      `nats-server is missing${binary === undefined ? "" : ` at "${binary}"`}: run "node scripts/setup.mjs", or set ` +
        "NATS_SERVER_BIN to its file, or NATS_URL to a server that runs",
    );
  }
  await using owned = new AsyncDisposableStack();
  const dataDir = resolve(options.dataDir);
  const storeDir = join(dataDir, "nats");
  try {
    mkdirSync(storeDir, { recursive: true, mode: 0o700 });
  } catch (error) {
    const why = (error as Error).message;
    throw new Error(`data directory "${dataDir}" can't be made: ${why}; set MILLRACE_DATA_DIR to another one`, {
      cause: error,
    });
  }
  const lock = owned.use(await lockDataDir(dataDir));
  const watchdog = owned.use(startWatchdog());

  const configFile = join(dataDir, "nats-server.conf");
  const logFile = join(dataDir, "nats-server.log");
  owned.defer(() => rmSync(configFile, { force: true }));
  const serverName = readServerName(join(dataDir, "server-name"));
  const user = "millrace";
  const pass = randomBytes(24).toString("hex");
  const readyLimit = AbortSignal.timeout(options.readyLimitMs ?? 300_000);
  const startSignal = AbortSignal.any([readyLimit, ...(options.signal ? [options.signal] : [])]);

  for (let tries = 1; ; tries++) {
    startSignal.throwIfAborted();
    const login: NatsLogin = { port: await freeLoopbackPort(), user, pass, serverName };
    const maxFileStoreBytes = await fileStoreLimit(storeDir);
    rmSync(configFile, { force: true }); // an old file would keep its old mode
    const text = renderEmbeddedConfig({ ...login, storeDir, logFile, fsync: options.fsync, maxFileStoreBytes });
    writeFileSync(configFile, text, { mode: 0o600 });

    const server = new EmbeddedServer({
      args: [binary, "-c", configFile],
      login,
      log,
      logFile,
      stopLimitMs: options.stopLimitMs ?? 10_000,
      onPid: (pid) => {
        watchdog.watch(pid);
        if (pid !== undefined) lock.recordServer(pid);
      },
    });
    try {
      await server.firstStart(startSignal);
    } catch (error) {
      await server[Symbol.asyncDispose]();
      // Somebody took the port since it was looked up.
      if (tries < PORT_TRIES && /address already in use/.test((error as Error).message)) continue;
      if (readyLimit.aborted) throw new Error("nats-server did not become ready in time", { cause: error });
      throw error;
    }
    owned.use(server); // keeps the server's own dispose, which the caller's then runs before the rest
    const running = owned.move();
    log.info({ natsPid: server.pid, serverName, maxFileStoreBytes, fsync: options.fsync }, "nats-server is ready");
    return Object.assign(server, { [Symbol.asyncDispose]: () => running.disposeAsync() });
  }
}

interface ServerParts {
  readonly args: readonly [binary: string, ...rest: string[]];
  readonly login: NatsLogin;
  readonly log: EmbeddedNatsOptions["log"];
  readonly logFile: string;
  readonly stopLimitMs: number;
  /** Called on every start and, with undefined, every end. */
  readonly onPid: (pid: number | undefined) => void;
}

class EmbeddedServer implements EmbeddedNats {
  readonly url: string;
  readonly serverName: string;
  state: EmbeddedNats["state"] = "starting";
  restarts = 0;
  readonly #parts: ServerParts;
  readonly #tail;
  readonly #stopping = new AbortController();
  #child: ChildProcess | undefined;
  #gone: Promise<void> = Promise.resolve();
  #backoffMs = FIRST_BACKOFF_MS;
  #retry: NodeJS.Timeout | undefined;
  /** Last words of the running child, for the error or log line about its end. */
  #lastWords: string[] = [];

  constructor(parts: ServerParts) {
    const { user, pass, port, serverName } = parts.login;
    this.#parts = parts;
    this.url = `nats://${user}:${pass}@127.0.0.1:${port}`;
    this.serverName = serverName;
    this.#tail = tailLog(parts.logFile, (line) => this.#onLogLine(line));
  }

  get pid(): number | undefined {
    return this.#child?.pid;
  }

  /** @throws Error when it ends before it is ready; the signal's reason. */
  async firstStart(signal: AbortSignal): Promise<void> {
    const ended = Promise.withResolvers<never>();
    const stop = new AbortController();
    this.#spawn((how) => ended.reject(new Error(`nats-server ended before it was ready (${how})`)));
    const slow = setInterval(() => this.#parts.log.info("nats-server is still opening its store"), SLOW_START_MS);
    try {
      const ready = whenJetStreamReady(this.#parts.login, AbortSignal.any([signal, stop.signal]));
      ready.catch(() => {}); // it is broken off when the child ends first
      await Promise.race([ready, ended.promise]);
    } finally {
      clearInterval(slow);
      stop.abort();
    }
    this.state = "ready";
  }

  /** @param onFirstEnd takes the end of a child that was never ready; without it, the child is started again. */
  #spawn(onFirstEnd?: (how: string) => void): void {
    const [binary, ...args] = this.#parts.args;
    const startedAt = performance.now();
    this.#lastWords = [];
    // A session of its own (`detached`): Ctrl-C in a terminal goes to every process of ours, and this one has to serve
    // until the others have drained.
    const child = spawn(binary, args, { stdio: ["ignore", "ignore", "pipe"], detached: true, windowsHide: true });
    this.#child = child;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#gone = promise;
    if (child.pid !== undefined) this.#parts.onPid(child.pid);
    // Faults of the configuration, and Go's last words in a crash, do not go to the log file.
    child.stderr.on("data", (part: Buffer) => this.#keepWords(part.toString("utf8").trim()));

    const onEnd = (how: string) => {
      if (this.#child !== child) return;
      this.#tail.poll();
      this.#child = undefined;
      this.#parts.onPid(undefined);
      resolve();
      if (this.#stopping.signal.aborted) return;
      const words = this.#lastWords.length > 0 ? `${how}: ${this.#lastWords.join(" | ")}` : how;
      if (onFirstEnd !== undefined && this.state === "starting") onFirstEnd(words);
      else this.#startAgain(words, performance.now() - startedAt);
    };
    child.on("error", (error) => {
      if (child.pid === undefined) onEnd(error.message);
    });
    // "close" comes after the last of its standard error was read, "exit" may come before.
    child.on("close", (code, signal) => onEnd(signal ?? `exit code ${code}`));
  }

  #startAgain(how: string, ranMs: number): void {
    if (ranMs > STABLE_MS) this.#backoffMs = FIRST_BACKOFF_MS;
    const backoffMs = this.#backoffMs;
    this.#backoffMs = Math.min(2 * backoffMs, MAX_BACKOFF_MS);
    this.state = "waiting";
    this.#parts.log.warn({ how, ranMs: Math.round(ranMs), backoffMs }, "nats-server ended; it is started again");
    this.#retry = setTimeout(() => {
      this.restarts++;
      this.state = "starting";
      this.#spawn();
      void this.#noteWhenReady(this.#child);
    }, backoffMs);
  }

  async #noteWhenReady(child: ChildProcess | undefined): Promise<void> {
    const over = new AbortController();
    child?.once("close", () => over.abort());
    try {
      await whenJetStreamReady(this.#parts.login, AbortSignal.any([over.signal, this.#stopping.signal]));
    } catch {
      return; // it ended again, or we do
    }
    if (this.#child !== child || this.#stopping.signal.aborted) return;
    this.state = "ready";
    this.#parts.log.info({ natsPid: this.pid, restarts: this.restarts }, "nats-server is ready again");
  }

  #onLogLine(line: string): void {
    // [pid] date time [LEVEL] text
    const [, level, text] = /\[(WRN|ERR|FTL)\] (.*)$/.exec(line) ?? [];
    if (level === undefined || text === undefined) return;
    // The password is random, lives as long as this process, and stands in a file that only its owner can read.
    if (text.startsWith("Plaintext passwords detected")) return;
    if (level === "WRN") this.#parts.log.warn({ nats: text }, "nats-server warns");
    else this.#keepWords(text);
    if (level === "ERR") this.#parts.log.error({ nats: text }, "nats-server reports an error");
  }

  #keepWords(text: string): void {
    if (text !== "") this.#lastWords = [...this.#lastWords, text.slice(0, 2000)].slice(-5);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stopping.abort();
    clearTimeout(this.#retry);
    this.state = "stopped";
    const child = this.#child;
    child?.kill("SIGTERM");
    const kill = setTimeout(() => child?.kill("SIGKILL"), this.#parts.stopLimitMs);
    try {
      await this.#gone;
    } finally {
      clearTimeout(kill);
      this.#tail[Symbol.dispose]();
    }
  }
}

function readServerName(file: string): string {
  if (existsSync(file)) {
    const name = readFileSync(file, "utf8").trim();
    if (/^millrace-[0-9a-f]{8}$/.test(name)) return name;
  }
  const name = `millrace-${randomBytes(4).toString("hex")}`;
  writeFileSync(file, `${name}\n`);
  return name;
}
