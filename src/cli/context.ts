import type { CallOptions } from "@connectrpc/connect";
import type { Command } from "commander";
import { type Api, connectApi } from "./client.ts";
import { Interruption } from "./interruption.ts";
import { Output } from "./output.ts";

/** What every command gets. */
export interface Context {
  readonly api: Api;
  readonly out: Output;
  readonly interruption: Interruption;
  /** For calls that end when the user interrupts. */
  readonly call: CallOptions;
}

interface GlobalOptions {
  readonly url: string;
  readonly apiKey?: string;
  readonly json?: boolean;
  readonly table?: boolean;
}

/** Longest time for one call that does not stream; the service itself takes no longer than 60 s. */
const CALL_TIMEOUT_MS = 70_000;

/** From the options that all commands share. @throws CliError when the URL is none. */
export function contextOf(command: Command): Context {
  const { url, apiKey, json, table } = command.optsWithGlobals<GlobalOptions>();
  const interruption = new Interruption();
  interruption.listen();
  return {
    api: connectApi(url, apiKey),
    out: new Output(process.stdout, json === true || (table !== true && !process.stdout.isTTY)),
    interruption,
    call: { signal: interruption.signal, timeoutMs: CALL_TIMEOUT_MS },
  };
}

/** All items of a list that comes in pages. */
export async function allPages<T>(
  page: (pageToken: string | undefined) => Promise<{ items: readonly T[]; next: string | undefined }>,
): Promise<T[]> {
  const all: T[] = [];
  let token: string | undefined;
  do {
    const { items, next } = await page(token);
    all.push(...items);
    token = next || undefined;
  } while (token !== undefined);
  return all;
}
