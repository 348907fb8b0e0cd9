import { createServer } from "node:net";
import { jetstreamManager } from "@nats-io/jetstream";
import { connect } from "@nats-io/transport-node";
import { pause } from "../domain/deadline.ts";

export interface NatsLogin {
  readonly port: number;
  readonly user: string;
  readonly pass: string;
  readonly serverName: string;
}

/** Below the ports that systems give to outgoing connections, which could take it while the server restarts. */
const FIRST_PORT = 20_000;
const LAST_PORT = 32_767;

/** A random TCP port of 127.0.0.1 that nobody listens on now. @throws Error after 50 taken ones. */
export async function freeLoopbackPort(): Promise<number> {
  for (let tries = 0; tries < 50; tries++) {
    const port = FIRST_PORT + Math.floor(Math.random() * (LAST_PORT - FIRST_PORT + 1));
    const { promise, resolve } = Promise.withResolvers<boolean>();
    const probe = createServer().once("error", () => resolve(false));
    probe.listen(port, "127.0.0.1", () => probe.close(() => resolve(true)));
    if (await promise) return port;
  }
  throw new Error(`no free port found between ${FIRST_PORT} and ${LAST_PORT}`);
}

/** Waits until that server answers a JetStream request. @throws the signal's reason. */
export async function whenJetStreamReady(login: NatsLogin, signal: AbortSignal): Promise<void> {
  for (;;) {
    signal.throwIfAborted();
    if (await answers(login)) return;
    await pause(20);
  }
}

async function answers({ port, user, pass, serverName }: NatsLogin): Promise<boolean> {
  try {
    const servers = `127.0.0.1:${port}`;
    const nc = await connect({ servers, user, pass, reconnect: false, timeout: 1000, ignoreClusterUpdates: true });
    try {
      if (nc.info?.server_name !== serverName) return false;
      await jetstreamManager(nc, { timeout: 1000 }); // asks for the account's information
      return true;
    } finally {
      await nc.close();
    }
  } catch {
    return false; // not yet
  }
}
