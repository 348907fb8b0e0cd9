import { spawn } from "node:child_process";

/** Ends one process after this one is gone, however that came about, SIGKILL included. */
export interface Watchdog extends Disposable {
  /** Sets the process to end, instead of any earlier one; undefined: none. */
  watch(pid: number | undefined): void;
}

/**
 * The pid arrives on standard input, and so does the news of our death: the kernel closes the pipe. SIGTERM goes first,
 * since nats-server then writes down what it holds back for up to 100 ms; after 0.7 s SIGKILL follows. Signals that a
 * terminal sends to all of a service's processes are not meant for the one that waits for its end.
 */
const SHELL_SCRIPT = `
trap '' INT TERM HUP
pid=0
while read -r line; do pid=$line; done
[ "$pid" -gt 0 ] || exit 0
kill -TERM "$pid" 2>/dev/null || exit 0
for _ in 1 2 3 4 5 6 7; do
  sleep 0.1
  kill -0 "$pid" 2>/dev/null || exit 0
done
kill -KILL "$pid" 2>/dev/null
`;

/** For Windows, which has no shell of that kind and no SIGTERM. */
const NODE_SCRIPT = `
let text = "";
process.stdin.on("data", (part) => { text += part; });
process.stdin.on("end", () => {
  const pid = Number(text.trim().split(/\\s+/).at(-1));
  if (pid > 0) try { process.kill(pid, "SIGKILL"); } catch {}
});
`;

/** Starts a small process that does it; should that one be killed, another takes its place. */
export function startWatchdog(): Watchdog {
  let watched = 0;
  let closed = false;
  let retry: NodeJS.Timeout | undefined;
  let child = start();

  function start() {
    const [command, args] =
      process.platform === "win32" ? [process.execPath, ["-e", NODE_SCRIPT]] : ["/bin/sh", ["-c", SHELL_SCRIPT]];
    // A session of its own (`detached`), for a closed terminal ends every process of the old one. It says nothing and
    // does not keep this process running.
    const started = spawn(command, args, { stdio: ["pipe", "ignore", "ignore"], detached: true, windowsHide: true });
    started.unref();
    (started.stdin as unknown as { unref(): void }).unref();
    started.stdin.on("error", () => {}); // It is gone: "exit" tells.
    const again = () => {
      if (closed || retry !== undefined) return;
      retry = setTimeout(() => {
        retry = undefined;
        child = start();
      }, 100).unref();
    };
    started.on("error", again);
    started.on("exit", again);
    started.stdin.write(`${watched}\n`);
    return started;
  }

  return {
    watch(pid) {
      watched = pid ?? 0;
      child.stdin.write(`${watched}\n`);
    },
    [Symbol.dispose]() {
      closed = true;
      clearTimeout(retry);
      child.stdin.end("0\n");
    },
  };
}
