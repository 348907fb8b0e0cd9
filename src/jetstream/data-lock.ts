import { randomBytes } from "node:crypto";
import { linkSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { deadlineIn, msLeft, pause } from "../domain/deadline.ts";
import { processIdentity } from "./process-identity.ts";

/** The right to use a data directory, and the record of the nats-server that runs on it. */
export interface DataLock extends Disposable {
  /** Records the nats-server that was started, so that a later start finds it if it outlives this process. */
  recordServer(pid: number): void;
}

interface ProcessRecord {
  readonly pid: number;
  readonly identity: string;
}

/** A process that is being killed, or is closing, holds its lock a little longer. */
const OWNER_LIMIT_MS = 1000;
/** A watchdog ends a left-over nats-server within a second; one that is stuck is then ended from here. */
const LEFT_OVER_LIMIT_MS = 2000;

/**
 * Takes the data directory for this process, and sees to it that no nats-server of an earlier one is left on it.
 *
 * The lock is a file with the owner's pid, so it holds among processes that see each other's pids: two containers that
 * share a volume do not.
 *
 * @throws Error when another process, or this one, holds it for longer than a second; when a nats-server cannot be ended.
 */
export async function lockDataDir(dataDir: string): Promise<DataLock> {
  const lockFile = join(dataDir, "millrace.lock");
  const serverFile = join(dataDir, "nats-server.json");
  await take(lockFile, dataDir);
  try {
    await endLeftOver(serverFile);
  } catch (error) {
    rmSync(lockFile, { force: true });
    throw error;
  }
  return {
    recordServer(pid) {
      writeFileSync(serverFile, JSON.stringify({ pid, identity: processIdentity(pid) ?? "" }));
    },
    [Symbol.dispose]() {
      rmSync(serverFile, { force: true });
      rmSync(lockFile, { force: true });
    },
  };
}

async function take(lockFile: string, dataDir: string): Promise<void> {
  const deadline = deadlineIn(OWNER_LIMIT_MS);
  const own = `${lockFile}.${process.pid}-${randomBytes(4).toString("hex")}`;
  writeFileSync(own, JSON.stringify({ pid: process.pid, identity: processIdentity(process.pid) ?? "" }));
  try {
    for (;;) {
      try {
        linkSync(own, lockFile); // fails when there is a lock, and otherwise shows the whole content at once
        return;
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
      }
      const owner = readRecord(lockFile);
      if (owner === undefined || !isRunning(owner)) removeStale(lockFile);
      else if (msLeft(deadline) === 0) throw inUse(dataDir, owner.pid);
      else await pause(20, deadline);
    }
  } finally {
    rmSync(own, { force: true });
  }
}

/** Of two processes that find the same stale lock, the slower must not remove the new lock of the faster. */
function removeStale(lockFile: string): void {
  const aside = `${lockFile}.stale-${randomBytes(4).toString("hex")}`;
  try {
    renameSync(lockFile, aside);
    const moved = readRecord(aside);
    if (moved !== undefined && isRunning(moved)) linkSync(aside, lockFile);
  } catch (error) {
    if (!["ENOENT", "EEXIST"].includes((error as NodeJS.ErrnoException).code ?? "")) throw error;
  } finally {
    rmSync(aside, { force: true });
  }
}

async function endLeftOver(serverFile: string): Promise<void> {
  const server = readRecord(serverFile);
  if (server === undefined) return;
  const ended = async (limitMs: number) => {
    const deadline = deadlineIn(limitMs);
    while (isRunning(server)) {
      if (msLeft(deadline) === 0) return false;
      await pause(20, deadline);
    }
    return true;
  };
  if (await ended(LEFT_OVER_LIMIT_MS)) return;
  // On Windows the pid may by now be another program's.
  if (process.platform !== "win32") {
    process.kill(server.pid, "SIGKILL");
    if (await ended(LEFT_OVER_LIMIT_MS)) return;
  }
  throw new Error(`nats-server of an earlier start still runs as process ${server.pid} and could not be ended`);
}

const isRunning = ({ pid, identity }: ProcessRecord): boolean => identity !== "" && processIdentity(pid) === identity;

function readRecord(file: string): ProcessRecord | undefined {
  try {
    const { pid, identity } = JSON.parse(readFileSync(file, "utf8"));
    return Number.isInteger(pid) && pid > 0 && typeof identity === "string" ? { pid, identity } : undefined;
  } catch {
    return undefined; // missing, or cut short by a crash
  }
}

const inUse = (dataDir: string, pid: number): Error =>
  new Error(`data directory "${dataDir}" is in use by process ${pid}: end it, or set MILLRACE_DATA_DIR to another one`);
