import { availableParallelism } from "node:os";
import { DEFAULT_ACK_WAIT_MS, DEFAULT_SESSION_TIMEOUT_MS, MAX_REQUEST_BYTES } from "./domain/limits.ts";
import type { QuotaOptions } from "./domain/quota.ts";
import { loadIdentity } from "./identity-config.ts";
import { isLoopback } from "./listen-address.ts";
import { loadQuotas } from "./quota-config.ts";
import type { IdentityOptions } from "./services/identity.ts";
import type { TracingOptions } from "./telemetry/tracing.ts";
import { loadTracing } from "./tracing-config.ts";

/** Every setting, from the environment; see the README. */
export interface Config {
  /** 0: any free port. */
  readonly port: number;
  readonly host: string;
  /** URLs of the NATS servers to use; undefined: run an embedded one. */
  readonly natsUrl: string | undefined;
  /** Where the embedded nats-server keeps its store. */
  readonly dataDir: string;
  /** How often the embedded nats-server syncs to disk: `always` or a span such as `1s`. */
  readonly fsync: string;
  /** Servers that keep each record of the catalog. */
  readonly catalogReplicas: number;
  /** After it, what a new group was handed and did not commit is handed out again, in milliseconds. */
  readonly ackWaitMs: number;
  /** A new group's member that is not heard of for so long loses its partitions, in milliseconds. */
  readonly sessionTimeoutMs: number;
  /** What this process does: serve callers, run processors, or both. A process of any role answers every call. */
  readonly role: "all" | "gateway" | "processor";
  /** Most threads that run processors in this process. */
  readonly processorThreads: number;
  /** Directory of ES modules that processors may use as functions; undefined: none. */
  readonly functionsDir: string | undefined;
  readonly logLevel: string;
  readonly tls:
    | { readonly certFile: string; readonly keyFile: string; readonly clientCaFile: string | undefined }
    | undefined;
  /** Who may call; undefined: nobody is asked. */
  readonly identity: IdentityOptions | undefined;
  /** What callers and streams may use; undefined: there are no quotas. */
  readonly quotas: QuotaOptions | undefined;
  /** Connections open at once; one more is closed unanswered. */
  readonly maxConnections: number;
  /** Bytes of request bodies held at once, and of answers; what goes beyond is refused as UNAVAILABLE. */
  readonly maxInFlightBytes: number;
  /** Origins whose pages may call, or `*` alone; none: no page may. */
  readonly corsOrigins: readonly string[];
  /** How traces are made; undefined: not at all. */
  readonly tracing: TracingOptions | undefined;
  /** How long running calls may take to end after SIGTERM, in milliseconds. */
  readonly drainMs: number;
}

const LOG_LEVELS = ["fatal", "error", "warn", "info", "debug", "trace", "silent"];

/** Settings that the service can't run with. */
export class SettingsError extends Error {
  constructor(faults: readonly string[]) {
    super(`settings: ${faults.join("; ")}`);
    this.name = "SettingsError";
  }
}

/** Reads the settings. @throws SettingsError that names every setting that is wrong. */
export function loadConfig(env: NodeJS.ProcessEnv): Config {
  const faults: string[] = [];
  const text = (name: string, fallback: string) => env[name]?.trim() || fallback;
  const number = (name: string, fallback: number, min: number, max: number) => {
    const value = Number(text(name, String(fallback)));
    if (Number.isInteger(value) && value >= min && value <= max) return value;
    faults.push(`${name} must be a whole number from ${min} to ${max}, not "${env[name]}"`);
    return fallback;
  };
  const oneOf = (name: string, fallback: string, words: readonly string[]) => {
    const value = text(name, fallback);
    if (!words.includes(value)) faults.push(`${name} must be one of ${words.join(", ")}, not "${value}"`);
    return value;
  };

  // An IPv6 address as it stands in URLs too.
  const host = text("HOST", "127.0.0.1").replace(/^\[(.*)\]$/, "$1");
  const allowAnonymous = oneOf("MILLRACE_ALLOW_ANONYMOUS", "false", ["true", "false"]) === "true";
  const identity = loadIdentity(env, faults);
  if (!isLoopback(host) && !allowAnonymous && !identity)
    faults.push(
      `HOST "${host}" can be reached from other machines, and callers are not asked who they are: ` +
        `set MILLRACE_ADMIN_KEY or another way to ask them, MILLRACE_ALLOW_ANONYMOUS=true to listen there all the same, or HOST=127.0.0.1`,
    );
  const fsync = text("MILLRACE_FSYNC", "1s");
  if (fsync !== "always" && !/^[1-9][0-9]*(ms|s|m)$/.test(fsync))
    faults.push(`MILLRACE_FSYNC must be "always" or a span such as "1s", not "${fsync}"`);
  const natsUrl = env.NATS_URL?.trim() || undefined;
  for (const url of natsUrl?.split(",") ?? [])
    if (!isNatsUrl(url.includes("://") ? url.trim() : `nats://${url.trim()}`))
      faults.push(`NATS_URL holds "${url}", which is no URL such as nats://host:4222 or tls://host:4222`);
  const corsOrigins = (env.MILLRACE_CORS_ORIGINS ?? "")
    .split(",")
    .map((origin) => origin.trim())
    .filter((origin) => origin !== "");
  for (const origin of corsOrigins)
    if (origin !== "*" && !(URL.canParse(origin) && new URL(origin).origin === origin))
      faults.push(`MILLRACE_CORS_ORIGINS holds "${origin}", which is no origin such as "https://app.example"`);
  if (corsOrigins.includes("*") && corsOrigins.length > 1)
    faults.push("MILLRACE_CORS_ORIGINS is either * or a list of origins");
  const certFile = env.MILLRACE_TLS_CERT;
  const keyFile = env.MILLRACE_TLS_KEY;
  if (Boolean(certFile) !== Boolean(keyFile)) faults.push("MILLRACE_TLS_CERT and MILLRACE_TLS_KEY go together");
  // Left alone it would let everybody in whom it is to keep out.
  if (env.MILLRACE_TLS_CLIENT_CA && !certFile && !keyFile)
    faults.push("MILLRACE_TLS_CLIENT_CA needs MILLRACE_TLS_CERT and MILLRACE_TLS_KEY");

  const config: Config = {
    port: number("PORT", 8080, 0, 65_535),
    host,
    natsUrl,
    dataDir: text("MILLRACE_DATA_DIR", ".millrace"),
    fsync,
    catalogReplicas: number("MILLRACE_CATALOG_REPLICAS", 1, 1, 5),
    ackWaitMs: number("MILLRACE_ACK_WAIT_MS", DEFAULT_ACK_WAIT_MS, 100, 86_400_000),
    sessionTimeoutMs: number("MILLRACE_SESSION_TIMEOUT_MS", DEFAULT_SESSION_TIMEOUT_MS, 100, 3_600_000),
    role: oneOf("MILLRACE_ROLE", "all", ["all", "gateway", "processor"]) as Config["role"],
    processorThreads: number("MILLRACE_PROCESSOR_THREADS", Math.min(64, availableParallelism()), 1, 64),
    functionsDir: env.MILLRACE_FUNCTIONS_DIR?.trim() || undefined,
    logLevel: oneOf("MILLRACE_LOG_LEVEL", "info", LOG_LEVELS),
    tls: certFile && keyFile ? { certFile, keyFile, clientCaFile: env.MILLRACE_TLS_CLIENT_CA || undefined } : undefined,
    identity,
    quotas: loadQuotas(env, faults),
    maxConnections: number("MILLRACE_MAX_CONNECTIONS", 10_000, 1, 1_000_000),
    maxInFlightBytes: number("MILLRACE_MAX_IN_FLIGHT_BYTES", 256 * 1024 * 1024, MAX_REQUEST_BYTES, 2 ** 40),
    corsOrigins,
    tracing: loadTracing(env, faults),
    drainMs: number("MILLRACE_DRAIN_MS", 10_000, 0, 600_000),
  };
  if (faults.length > 0) throw new SettingsError(faults);
  return Object.freeze(config);
}

function isNatsUrl(text: string): boolean {
  if (!URL.canParse(text)) return false;
  const { protocol, hostname } = new URL(text);
  return (protocol === "nats:" || protocol === "tls:") && hostname !== "";
}
