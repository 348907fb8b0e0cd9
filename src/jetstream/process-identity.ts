import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";

/**
 * What tells a running process from a later one with the same pid: when it started.
 *
 * @returns undefined when no such process runs; one that ended and is not yet reaped does not run. Windows tells only
 * that some process has this pid.
 */
export function processIdentity(pid: number): string | undefined {
  try {
    if (process.platform === "win32") return process.kill(pid, 0) ? "running" : undefined;
    if (process.platform !== "linux") {
      const [state, ...started] = execFileSync("ps", ["-o", "stat=,lstart=", "-p", String(pid)], {
        encoding: "utf8",
        stdio: ["ignore", "pipe", "ignore"],
      })
        .trim()
        .split(/\s+/);
      return state === undefined || state.startsWith("Z") ? undefined : started.join(" ");
    }
    // The second field, the command's name, may hold spaces and parentheses, so the others are counted from its end.
    // See proc(5): state is the 3rd field, starttime, in clock ticks since boot, the 22nd.
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    if (fields[0] === "Z" || fields[0] === "X") return undefined;
    return `${readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim()} ${fields[19]}`;
  } catch {
    return undefined;
  }
}
