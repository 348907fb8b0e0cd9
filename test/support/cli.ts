import { spawn } from "node:child_process";
import { text } from "node:stream/consumers";
import { fileURLToPath } from "node:url";
import { onTestFinished } from "vitest";

/** The command as npm installs it. */
export const BIN = fileURLToPath(new URL("../../bin/millrace.mjs", import.meta.url));

export interface Ended {
  /** 128 and more for a signal, as shells have it. */
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
  /** Its standard output as JSON lines. */
  // biome-ignore lint/suspicious/noExplicitAny: whatever the command wrote
  readonly json: any[];
}

export interface Running {
  /** What it wrote to standard output so far. */
  readonly stdout: string;
  readonly stderr: string;
  readonly ended: Promise<Ended>;
  kill(signal: NodeJS.Signals): void;
  write(input: string): void;
}

export interface RunOptions {
  readonly url?: string;
  readonly env?: NodeJS.ProcessEnv;
  /** Its standard input; undefined leaves it open for {@link Running.write}. */
  readonly input?: string;
  /** The Node to start it with; default the one that runs the tests. */
  readonly node?: string;
}

/** Starts `millrace` as a process; it is ended with the test. */
export const start = (args: readonly string[], { node = process.execPath, ...options }: RunOptions = {}): Running =>
  follow(node, [BIN, ...args], options);

/** The same on a terminal of its own: all that it writes is its standard output, and what is written to it is typed. */
export const onTerminal = (url: string, ...args: readonly string[]): Running =>
  follow("script", ["-qefc", [process.execPath, BIN, ...args].map((each) => `"${each}"`).join(" "), "/dev/null"], {
    url,
  });

function follow(program: string, args: readonly string[], { url, env, input }: Omit<RunOptions, "node">): Running {
  const { MILLRACE_URL: _, MILLRACE_API_KEY: __, ...rest } = process.env;
  const child = spawn(program, args, {
    env: { ...rest, ...(url === undefined ? {} : { MILLRACE_URL: url }), ...env },
    stdio: ["pipe", "pipe", "pipe"],
  });
  onTestFinished(() => void child.kill("SIGKILL"));
  child.stdin.on("error", () => {}); // it may end without reading all of it
  if (input !== undefined) child.stdin.end(input);
  const seen = { stdout: "", stderr: "" };
  for (const name of ["stdout", "stderr"] as const)
    child[name].setEncoding("utf8").on("data", (chunk: string) => {
      seen[name] += chunk;
    });
  const ended = new Promise<Ended>((resolve, reject) => {
    child.once("error", reject);
    child.once("close", (code, signal) => {
      if (code === null) return reject(new Error(`it was ended by ${signal}: ${seen.stderr}`));
      resolve({
        ...seen,
        code,
        get json() {
          return seen.stdout
            .split("\n")
            .filter(Boolean)
            .map((line) => JSON.parse(line));
        },
      });
    });
  });
  ended.catch(() => {}); // a test that kills it may not look
  return {
    get stdout() {
      return seen.stdout;
    },
    get stderr() {
      return seen.stderr;
    },
    ended,
    kill: (signal) => void child.kill(signal),
    write: (data) => void child.stdin.write(data),
  };
}

/** Runs `millrace` to its end, without input. */
export const millrace = (url: string, ...args: readonly string[]): Promise<Ended> =>
  start(args, { url, input: "" }).ended;

/** Runs a line of shell with `millrace` as a command. @returns its exit code and output. */
export async function shell(url: string, line: string): Promise<{ code: number | null; stdout: string }> {
  const quoted = `millrace() { "${process.execPath}" "${BIN}" "$@"; }; ${line}`;
  const child = spawn("bash", ["-c", quoted], {
    env: { ...process.env, MILLRACE_URL: url },
    stdio: ["ignore", "pipe", "inherit"],
  });
  onTestFinished(() => void child.kill("SIGKILL"));
  const exited = new Promise<number | null>((resolve) => child.once("exit", resolve));
  return { stdout: await text(child.stdout), code: await exited };
}
