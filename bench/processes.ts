import { type ChildProcess, spawn } from "node:child_process";
import { openSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { mkdtemp, readdir, readFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { findNatsServer } from "../scripts/nats-server.mjs";

/** A process that was started for the run. */
export interface Started {
  readonly pid: number;
  readonly url: string;
}

const START_MS = 30_000;
/** Linux counts a process' CPU time in hundredths of a second. */
const TICK_US = 10_000;
const MAX_FILE_STORE_BYTES = 16 * 1024 ** 3;

/** The processes of a run and their folder; all of it is gone when the run ends, however it ends. */
export class Processes {
  readonly #children: ChildProcess[] = [];
  readonly folder: string;

  private constructor(folder: string) {
    this.folder = folder;
    process.on("exit", () => this.end());
    for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, () => process.exit(130));
  }

  static async open(): Promise<Processes> {
    return new Processes(await mkdtemp(join(tmpdir(), "millrace-bench-")));
  }

  /** nats-server on a free port, with file storage in the run's folder. */
  async startNats(): Promise<Started> {
    const binary = findNatsServer(process.env);
    if (binary === undefined) throw new Error("there is no nats-server: run `node scripts/setup.mjs`");
    const config = join(this.folder, "nats.conf");
    writeFileSync(
      config,
      `listen: "127.0.0.1:-1"
ports_file_dir: ${JSON.stringify(this.folder)}
jetstream { store_dir: ${JSON.stringify(join(this.folder, "store"))}, max_file_store: ${MAX_FILE_STORE_BYTES} }
`,
    );
    const child = this.#spawn("nats-server", binary, ["-c", config], {});
    const until = Date.now() + START_MS;
    while (Date.now() < until) {
      this.#check(child, "nats-server");
      const file = (await readdir(this.folder)).find((name) => name.endsWith(".ports"));
      const text = file ? await readFile(join(this.folder, file), "utf8") : "";
      if (text.trim().endsWith("}")) return { pid: child.pid!, url: (JSON.parse(text) as { nats: [string] }).nats[0] };
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    throw new Error("nats-server did not start");
  }

  /** A program of this repository that prints the URL on which it listens. */
  async startNode(name: string, program: string, natsUrl: string, env: Record<string, string> = {}): Promise<Started> {
    const file = fileURLToPath(new URL(`../${program}`, import.meta.url));
    const child = this.#spawn(name, process.execPath, [file], {
      NATS_URL: natsUrl,
      PORT: "0",
      HOST: "127.0.0.1",
      ...env,
    });
    const until = Date.now() + START_MS;
    while (Date.now() < until) {
      this.#check(child, name);
      const url = /http:\/\/\S+/.exec(readFileSync(this.#output(name, "out"), "utf8"))?.[0];
      if (url !== undefined) return { pid: child.pid!, url };
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    throw new Error(`${name} did not start`);
  }

  /** Ends one process, and waits until it is gone. */
  async stop({ pid }: Started, signal: "SIGTERM" | "SIGKILL" = "SIGTERM"): Promise<void> {
    const at = this.#children.findIndex((child) => child.pid === pid);
    const [child] = at < 0 ? [] : this.#children.splice(at, 1);
    if (!child || child.exitCode !== null) return;
    const gone = new Promise((resolve) => child.once("exit", resolve));
    child.kill(signal);
    await gone;
  }

  /** All that the process has logged. */
  log(name: string): string {
    return readFileSync(this.#output(name, "err"), "utf8");
  }

  /** What the process last wrote to its log. */
  logTail(name: string): string {
    try {
      return readFileSync(this.#output(name, "err"), "utf8").slice(-2000);
    } catch {
      return "";
    }
  }

  end(): void {
    for (const child of this.#children.splice(0)) child.kill("SIGKILL");
    rmSync(this.folder, { recursive: true, force: true, maxRetries: 5 });
  }

  #output(name: string, kind: "out" | "err"): string {
    return join(this.folder, `${name.replaceAll(" ", "-")}.${kind}`);
  }

  #spawn(name: string, command: string, args: string[], env: Record<string, string>): ChildProcess {
    // Files, not pipes: reading a log would be work for this process.
    const out = openSync(this.#output(name, "out"), "w");
    const err = openSync(this.#output(name, "err"), "w");
    const child = spawn(command, args, { env: { ...process.env, ...env }, stdio: ["ignore", out, err] });
    this.#children.push(child);
    return child;
  }

  #check(child: ChildProcess, name: string): void {
    if (child.exitCode !== null || child.pid === undefined)
      throw new Error(`${name} ended at its start: ${this.logTail(name)}`);
  }
}

/** CPU time that a process has used, in microseconds; undefined where the system does not tell. */
export function cpuUs(pid: number): number | undefined {
  if (pid === process.pid) {
    const { user, system } = process.cpuUsage();
    return user + system;
  }
  try {
    const text = readFileSync(`/proc/${pid}/stat`, "latin1");
    // The name in parentheses may hold blanks; utime and stime are the 14th and 15th field.
    const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
    return (Number(fields[11]) + Number(fields[12])) * TICK_US;
  } catch {
    return undefined;
  }
}

/**
 * CPU time that all programs together have used, and what the host took from a virtual machine, in microseconds;
 * undefined where the system does not tell. With soft interrupts: those of local connections run on their process' time.
 */
export function machineCpuUs(): number | undefined {
  try {
    const [user, nice, system, , , irq, softirq, steal] = readFileSync("/proc/stat", "latin1")
      .split("\n", 1)[0]!
      .split(/ +/)
      .slice(1)
      .map(Number);
    return (user! + nice! + system! + irq! + softirq! + steal!) * TICK_US;
  } catch {
    return undefined;
  }
}

/** Resident memory of a process in MiB; undefined where the system does not tell. */
export function rssMiB(pid: number): number | undefined {
  try {
    const found = /^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, "latin1"));
    return found ? Number(found[1]) / 1024 : undefined;
  } catch {
    return undefined;
  }
}
