import { randomBytes } from "node:crypto";
import { Writable } from "node:stream";
import { pino } from "pino";
import { afterAll, beforeAll, expect } from "vitest";
import { loadConfig } from "../../src/config.ts";
import { startServer } from "../../src/server.ts";
import { startNats, type TestNats } from "./nats.ts";

/** The real service in this process, on a free port. Disposing drains it. */
export interface TestService extends AsyncDisposable {
  readonly url: string;
  readonly port: number;
  /** What it logged as an error: each is a bug of the service or a loss. */
  readonly errors: readonly string[];
}

/** Starts the service on a NATS server. @param env more settings, as in the environment. */
export async function startService(natsUrl: string, env: NodeJS.ProcessEnv = {}): Promise<TestService> {
  const errors: string[] = [];
  const sink = new Writable({
    write(line: Buffer, _encoding, done) {
      errors.push(line.toString());
      done();
    },
  });
  const settings = { PORT: "0", NATS_URL: natsUrl, MILLRACE_DRAIN_MS: "2000", ...env };
  const server = await startServer(loadConfig(settings), pino({ level: "error" }, sink));
  const dispose = () => server[Symbol.asyncDispose]();
  return { url: server.url, port: server.port, errors, [Symbol.asyncDispose]: dispose };
}

/** A service with a nats-server of its own for all tests of a file; both are there from `beforeAll` to `afterAll`. */
export interface FileService {
  readonly url: string;
  readonly port: number;
  readonly nats: TestNats;
}

/** Call it once at the top of a test file. At the end the service must have logged no error. */
export function useService(env: NodeJS.ProcessEnv = {}): FileService {
  const owned = new AsyncDisposableStack();
  let nats: TestNats | undefined;
  let service: TestService | undefined;
  beforeAll(async () => {
    nats = owned.use(await startNats());
    service = owned.use(await startService(nats.url, env));
  });
  afterAll(async () => {
    await owned.disposeAsync();
    expect(service?.errors).toEqual([]);
  });
  return {
    get url() {
      return service!.url;
    },
    get port() {
      return service!.port;
    },
    get nats() {
      return nats!;
    },
  };
}

/** A name that nothing else has. */
export const freshName = (prefix = "t"): string => `${prefix}-${randomBytes(6).toString("hex")}`;
