import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";

/** A process of the service that may not be up yet. */
export interface SpawnedService {
  readonly pid: number;
  /** Where it listens, once it does. @throws Error with its output when it ends before. */
  readonly listening: Promise<string>;
  /** Resolves with the exit code, or null when a signal ended it. */
  readonly exited: Promise<number | null>;
  /** The end of what it has written so far. */
  output(): string;
  kill(signal: NodeJS.Signals): void;
}

/** The service as a process of its own, as a user runs it. */
export interface ServiceProcess extends Omit<SpawnedService, "listening">, AsyncDisposable {
  readonly url: string;
}

const MAIN = fileURLToPath(new URL("../../src/main.ts", import.meta.url));

/** Starts `src/main.ts` on a free port. */
export function spawnService(env: Record<string, string>): SpawnedService {
  const child = spawn(process.execPath, [MAIN], {
    env: { ...process.env, PORT: "0", MILLRACE_LOG_LEVEL: "warn", ...env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  const exited = once(child, "exit").then(([code]) => code as number | null);
  let output = "";
  for (const stream of [child.stdout, child.stderr])
    stream.setEncoding("utf8").on("data", (text: string) => {
      output = (output + text).slice(-4000);
    });
  return {
    pid: child.pid!,
    listening: listening(child, () => output),
    exited,
    output: () => output,
    kill: (signal) => void child.kill(signal),
  };
}

/** Starts the service and waits until it says where it listens. */
export async function startServiceProcess(env: Record<string, string>): Promise<ServiceProcess> {
  const service = spawnService(env);
  return {
    ...service,
    url: await service.listening,
    async [Symbol.asyncDispose]() {
      service.kill("SIGTERM");
      await service.exited;
    },
  };
}

function listening(child: ChildProcess, output: () => string): Promise<string> {
  return new Promise((resolve, reject) => {
    child.stdout!.on("data", () => {
      const url = /listens on (\S+)/.exec(output())?.[1];
      if (url) resolve(url);
    });
    child.once("error", reject);
    child.once("exit", (code, signal) => reject(new Error(`the service ended (${code ?? signal}): ${output()}`)));
  });
}
