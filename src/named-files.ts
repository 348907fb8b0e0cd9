/** The files that settings name, looked at before anything is started that a wrong one would have to end again. */
import { X509Certificate } from "node:crypto";
import { readdir, readFile } from "node:fs/promises";
import { createSecureContext } from "node:tls";
import { findNatsServer } from "../scripts/nats-server.mjs";
import { type Config, SettingsError } from "./config.ts";
import type { ListenerOptions } from "./transport/listener.ts";

/** @throws SettingsError when the directory of modules can't be read. */
export async function checkFunctionsDir({ functionsDir }: Config): Promise<void> {
  if (functionsDir === undefined) return;
  await readdir(functionsDir).catch((error: Error) => {
    throw new SettingsError([`MILLRACE_FUNCTIONS_DIR can't be read: ${error.message}`]);
  });
}

/** Path of nats-server's program. @throws SettingsError when a setting names none. */
export function natsServerOf(env: NodeJS.ProcessEnv): string | undefined {
  try {
    return findNatsServer(env);
  } catch (error) {
    throw new SettingsError([(error as Error).message]);
  }
}

/** What the port needs for TLS. @throws SettingsError when a file is missing or holds something else. */
export async function tlsOf({ tls }: Config): Promise<Pick<ListenerOptions, "tls">> {
  if (!tls) return {};
  const faults: string[] = [];
  const read = async (name: string, file: string) => {
    try {
      return await readFile(file);
    } catch (error) {
      faults.push(`${name} can't be read: ${(error as Error).message}`);
      return Buffer.of();
    }
  };
  const [cert, key, clientCa] = await Promise.all([
    read("MILLRACE_TLS_CERT", tls.certFile),
    read("MILLRACE_TLS_KEY", tls.keyFile),
    tls.clientCaFile === undefined ? undefined : read("MILLRACE_TLS_CLIENT_CA", tls.clientCaFile),
  ]);
  if (faults.length > 0) throw new SettingsError(faults);
  try {
    createSecureContext({ cert, key });
  } catch (error) {
    faults.push(`MILLRACE_TLS_CERT and MILLRACE_TLS_KEY are no certificate with its key: ${(error as Error).message}`);
  }
  try {
    if (clientCa) new X509Certificate(clientCa);
  } catch (error) {
    faults.push(`MILLRACE_TLS_CLIENT_CA holds no certificate: ${(error as Error).message}`);
  }
  if (faults.length > 0) throw new SettingsError(faults);
  return { tls: { cert, key, ...(clientCa ? { clientCa } : {}) } };
}
