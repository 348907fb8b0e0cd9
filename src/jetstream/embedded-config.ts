import { readdir, stat, statfs } from "node:fs/promises";
import { join } from "node:path";
import { MAX_MAX_MESSAGE_BYTES, MESSAGE_OVERHEAD_BYTES } from "../domain/limits.ts";

/** What nats-server's configuration file says that differs from one start to another. */
export interface EmbeddedConfig {
  readonly serverName: string;
  readonly port: number;
  readonly user: string;
  readonly pass: string;
  readonly storeDir: string;
  readonly logFile: string;
  readonly fsync: string;
  readonly maxFileStoreBytes: number;
}

/** Share of the free disk that the store may fill, so that other programs' growth does not fill it up. */
const FREE_DISK_SHARE = 0.8;
/** Only what a user asks for by a stream of its own is kept in memory; the log is not. */
const MAX_MEMORY_STORE_BYTES = 64 * 1024 * 1024;
/** A reader that takes whole batches of 8 MiB messages gets far behind before it is cut off. */
const MAX_PENDING_BYTES = 256 * 1024 * 1024;
const MAX_LOG_FILE_BYTES = 16 * 1024 * 1024;

/** The configuration file's text. @throws Error when `fsync` is neither "always" nor a span such as "1s". */
export function renderEmbeddedConfig(config: EmbeddedConfig): string {
  if (!/^(always|[1-9]\d*(ms|s|m|h))$/.test(config.fsync)) {
    throw new Error(`fsync must be "always" or a span such as "1s", not "${config.fsync}"`);
  }
  // Spans need their quotes: nats-server reads a bare 2m as the number 2,000,000. Its quoted strings take the escapes
  // of JSON that a path can need.
  return `# Written at every start; changes are lost.
server_name: ${JSON.stringify(config.serverName)}
listen: "127.0.0.1:${config.port}"
authorization {
  user: ${JSON.stringify(config.user)}
  password: ${JSON.stringify(config.pass)}
}
max_payload: ${MAX_MAX_MESSAGE_BYTES + MESSAGE_OVERHEAD_BYTES}
max_pending: ${MAX_PENDING_BYTES}
write_deadline: "10s"
log_file: ${JSON.stringify(config.logFile)}
logfile_size_limit: ${MAX_LOG_FILE_BYTES}
logfile_max_num: 3
jetstream {
  store_dir: ${JSON.stringify(config.storeDir)}
  sync_interval: ${JSON.stringify(config.fsync)}
  max_file_store: ${config.maxFileStoreBytes}
  max_memory_store: ${MAX_MEMORY_STORE_BYTES}
  limits { default_max_consumers: -1 }
}
`;
}

/**
 * Most bytes that the store may hold: what it holds now, and a share of the free disk. On a disk that is truly full
 * publishes get no answer and only a restart heals the stream; at this limit they get a clean refusal.
 *
 * @param storeDir an existing directory.
 */
export async function fileStoreLimit(storeDir: string): Promise<number> {
  const { bavail, bsize } = await statfs(storeDir);
  return Math.floor((await bytesUnder(storeDir)) + bavail * bsize * FREE_DISK_SHARE);
}

async function bytesUnder(folder: string): Promise<number> {
  let bytes = 0;
  for (const entry of await readdir(folder, { withFileTypes: true, recursive: true })) {
    if (!entry.isFile()) continue;
    bytes += (await stat(join(entry.parentPath, entry.name)).catch(() => undefined))?.size ?? 0;
  }
  return bytes;
}
