import { type ChildProcess, spawn } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout } from "node:timers/promises";
import { fileURLToPath } from "node:url";

const ROOT = fileURLToPath(new URL("..", import.meta.url));
const START_LIMIT_MS = 30_000;
const STOP_LIMIT_MS = 20_000;
const LAST_WORDS_MS = 100;
const KEPT_LOG_CHARACTERS = 4000;

interface Running {
  readonly child: ChildProcess;
  readonly url: string;
  readonly ended: Promise<number | string>;
}

/**
 * The service as a process of its own, as `node src/main.ts` starts it: on a free port, with its data in a temporary
 * folder that outlives a restart. Disposing ends it and removes the folder.
 */
export class ServiceProcess implements AsyncDisposable {
  readonly #dataDir: string;
  #running: Running | undefined;
  #log = "";

  private constructor(dataDir: string) {
    this.#dataDir = dataDir;
  }

  /** Starts the service. @throws Error with its last words when it ends before it listens. */
  static async start(signal: AbortSignal): Promise<ServiceProcess> {
    const service = new ServiceProcess(await mkdtemp(join(tmpdir(), "millrace-example-")));
    try {
      await service.start(signal);
      return service;
    } catch (error) {
      await service[Symbol.asyncDispose]();
      throw new Error(`${(error as Error).message}\n${service.#log}`.trimEnd(), { cause: error });
    }
  }

  /** Another one after each start. */
  get url(): string {
    if (!this.#running) throw new Error("the service does not run");
    return this.#running.url;
  }

  /** The end of what the service has logged. */
  get log(): string {
    return this.#log;
  }

  /** Starts it again, with the data it had. */
  async start(signal: AbortSignal): Promise<void> {
    const child = spawn(process.execPath, ["src/main.ts"], {
      cwd: ROOT,
      env: { MILLRACE_LOG_LEVEL: "warn", ...process.env, PORT: "0", MILLRACE_DATA_DIR: this.#dataDir },
      stdio: ["ignore", "pipe", "pipe"],
      // Ctrl-C at the terminal goes to this process only, which then ends the service in good order.
      detached: process.platform !== "win32",
    });
    const ended = new Promise<number | string>((resolve) => {
      child.once("error", (error) => resolve(error.message));
      child.once("exit", (code, name) => resolve(code ?? name ?? "unknown"));
    });
    this.#running = { child, url: "", ended };
    child.stderr!.setEncoding("utf8").on("data", (text: string) => {
      this.#log = (this.#log + text).slice(-KEPT_LOG_CHARACTERS);
    });
    const url = await Promise.race([
      listeningUrl(child, AbortSignal.any([signal, AbortSignal.timeout(START_LIMIT_MS)])),
      ended.then(async (how) => {
        // Its last words may still be on their way.
        await setTimeout(LAST_WORDS_MS);
        throw new Error(`the service ended with ${how} before it listened`);
      }),
    ]);
    this.#running = { child, url, ended };
  }

  /** Ends the service by SIGTERM. @returns its exit code, or the name of the signal that killed it. */
  async stop(): Promise<number | string> {
    const running = this.#running;
    if (!running) return 0;
    this.#running = undefined;
    running.child.kill("SIGTERM");
    const patience = new AbortController();
    const kill = () => running.child.kill("SIGKILL");
    setTimeout(STOP_LIMIT_MS, undefined, { signal: patience.signal }).then(kill, () => {});
    try {
      return await running.ended;
    } finally {
      patience.abort();
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
    await rm(this.#dataDir, { recursive: true, force: true, maxRetries: 5 });
  }
}

/** Reads the line `Millrace listens on http://…`. */
function listeningUrl(child: ChildProcess, signal: AbortSignal): Promise<string> {
  return new Promise((resolve, reject) => {
    let output = "";
    child.stdout!.setEncoding("utf8").on("data", (text: string) => {
      output += text;
      const [, url] = /listens on (https?:\S+)\s/.exec(output) ?? [];
      if (url) resolve(url);
    });
    signal.addEventListener("abort", () => reject(signal.reason), { once: true });
    if (signal.aborted) reject(signal.reason);
  });
}
