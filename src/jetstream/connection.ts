import { type JetStreamManager, jetstreamManager } from "@nats-io/jetstream";
import { type ConnectionOptions, connect, errors, type NatsConnection } from "@nats-io/transport-node";
import type { Logger } from "pino";
import { type Deadline, deadlineIn, msLeft, pause } from "../domain/deadline.ts";
import { timedOut, unavailable } from "../domain/errors.ts";
import { Gate } from "../domain/gate.ts";
import { DirectGets } from "./direct-gets.ts";
import { isTransient, jsErrorCode, toServiceError } from "./errors.ts";
import { Fetcher } from "./fetch.ts";
import { Publisher } from "./publish.ts";

/** The connection to a NATS server or cluster, and what the log needs of it. */
export interface JetStream extends AsyncDisposable {
  readonly nc: NatsConnection;
  readonly jsm: JetStreamManager;
  readonly publisher: Publisher;
  readonly fetcher: Fetcher;
  readonly directGets: DirectGets;
  /**
   * Every read of what is stored already goes through it, and asks for {@link READ_BYTES} at most: nats-server cuts a
   * connection off that does not take fast enough what is sent on it, by default at 64 MiB.
   */
  readonly reads: Gate;
  /** Whether there is a connection now. */
  readonly connected: boolean;
  /** Grows with every new connection: what an earlier one had in flight may be lost. */
  readonly epoch: number;
  /** Most bytes of a message, header and payload together, that the servers take. */
  readonly maxPayload: number;
  /** Name of the server connected to. */
  readonly serverName: string;
  /** Waits for a connection, 10 s at most. @throws ServiceError UNAVAILABLE when there is none by then or the deadline. */
  whenConnected(deadline: Deadline): Promise<void>;
  /** From now on nobody waits for a connection that is not there: what is closed needs none. */
  hurry(): void;
  /**
   * Runs a request, again as long as no server took it, and when the connection breaks before its answer.
   *
   * @param isRepeatable false: what an earlier send may have done must not be done again later.
   * @throws ServiceError UNAVAILABLE when none did by the deadline, TIMEOUT when one was silent; JetStreamApiError for
   * what JetStream refused.
   */
  call<T>(deadline: Deadline, request: () => Promise<T>, isRepeatable?: boolean): Promise<T>;
}

export interface JetStreamOptions {
  /** `nats://` or `tls://` URLs, separated by commas; user and password or a token may stand in the first. */
  readonly url: string;
  readonly log: Logger;
  /** How long the first connection may take, in milliseconds. */
  readonly connectTimeoutMs?: number;
}

/** Requests time out after this long when their server is silent; the caller's deadline may come first. */
const REQUEST_TIMEOUT_MS = 5000;
/** Calls that may take long are not to wait as long for a connection. */
const OUTAGE_MS = 10_000;
const MAX_IN_FLIGHT = 65_536;
const MAX_IN_FLIGHT_BYTES = 64 * 1024 * 1024;
/** Most bytes of one read, a single larger message excepted. */
export const READ_BYTES = 2 * 1024 * 1024;
const READS_AT_ONCE = 24;
/** Whoever waits longer waits for a silent server, and puts no load on the connection. */
const READ_PATIENCE_MS = 1000;

/** Connects and stays connected: a broken connection is made again for ever. @throws ServiceError UNAVAILABLE. */
export async function connectJetStream(options: JetStreamOptions): Promise<JetStream> {
  const deadline = deadlineIn(options.connectTimeoutMs ?? 30_000);
  const nc = await firstConnection(connectionOptions(options.url), deadline);
  const jsm = await jetstreamManager(nc, { checkAPI: false, timeout: REQUEST_TIMEOUT_MS });
  return new Connection(nc, jsm, options.log);
}

function connectionOptions(url: string): ConnectionOptions {
  const urls = url.split(",").map((text) => new URL(text.includes("://") ? text.trim() : `nats://${text.trim()}`));
  const first = urls[0]!;
  const user = decodeURIComponent(first.username);
  const pass = decodeURIComponent(first.password);
  return {
    servers: urls.map((each) => `${each.hostname}:${each.port || 4222}`),
    ...(user && pass ? { user, pass } : user ? { token: user } : {}),
    ...(urls.some((each) => each.protocol === "tls:") ? { tls: {} } : {}),
    name: "millrace",
    // Ten attempts by default, after which the client gives up for ever.
    maxReconnectAttempts: -1,
    reconnectTimeWait: 200,
    reconnectJitter: 100,
    // Two minutes by default, so that a silent network goes unnoticed.
    pingInterval: 2000,
    maxPingOut: 2,
    // Half the CPU of a request would go into stack traces of requests that succeed.
    noAsyncTraces: true,
  };
}

async function firstConnection(options: ConnectionOptions, deadline: Deadline): Promise<NatsConnection> {
  for (;;) {
    try {
      return await connect({ ...options, timeout: Math.max(500, Math.min(5000, msLeft(deadline))) });
    } catch (error) {
      if (msLeft(deadline) === 0) throw unavailable(`no connection to NATS: ${(error as Error).message}`, error);
      await pause(250, deadline);
    }
  }
}

class Connection implements JetStream {
  readonly nc: NatsConnection;
  readonly jsm: JetStreamManager;
  readonly publisher: Publisher;
  readonly fetcher: Fetcher;
  readonly directGets: DirectGets;
  readonly reads = new Gate(READS_AT_ONCE, READ_PATIENCE_MS);
  connected = true;
  epoch = 1;
  readonly #watching: Promise<void>;
  #waiters: (() => void)[] = [];
  /** Told when the connection breaks; the client itself lets requests wait for their timeout. */
  readonly #unanswered = new Set<(error: Error) => void>();
  #hurries = false;
  #serverName: string;
  #maxPayload: number;

  constructor(nc: NatsConnection, jsm: JetStreamManager, log: Logger) {
    this.nc = nc;
    this.jsm = jsm;
    this.publisher = new Publisher(nc, { maxInFlight: MAX_IN_FLIGHT, maxInFlightBytes: MAX_IN_FLIGHT_BYTES });
    this.fetcher = new Fetcher(nc);
    this.directGets = new DirectGets(nc);
    this.#serverName = nc.info?.server_name ?? "";
    this.#maxPayload = nc.info?.max_payload ?? 1024 * 1024;
    this.#watching = this.#watch(log);
  }

  get maxPayload(): number {
    return this.#maxPayload;
  }

  get serverName(): string {
    return this.#serverName;
  }

  async call<T>(deadline: Deadline, request: () => Promise<T>, isRepeatable = true): Promise<T> {
    for (;;) {
      await this.whenConnected(deadline);
      try {
        return await this.#answer(request(), deadline, isRepeatable);
      } catch (error) {
        if (!isTransient(error) || msLeft(deadline) === 0) throw toServiceErrorButApi(error);
        await pause(100, deadline);
      }
    }
  }

  async whenConnected(deadline: Deadline): Promise<void> {
    const until = Math.min(deadline, deadlineIn(OUTAGE_MS));
    while (!this.connected) {
      if (this.#hurries) throw unavailable("the storage is out of reach");
      await new Promise<void>((resolve, reject) => {
        const timer = setTimeout(() => reject(unavailable("the storage is out of reach")), msLeft(until));
        this.#waiters.push(() => {
          clearTimeout(timer);
          resolve();
        });
      });
    }
  }

  hurry(): void {
    this.#hurries = true;
    for (const wake of this.#waiters.splice(0)) wake();
  }

  async #answer<T>(request: Promise<T>, deadline: Deadline, isRepeatable: boolean): Promise<T> {
    const over = Promise.withResolvers<never>();
    const timer = setTimeout(() => over.reject(new DeadlinePassed()), msLeft(deadline));
    if (isRepeatable) this.#unanswered.add(over.reject);
    try {
      return await Promise.race([request, over.promise]);
    } finally {
      clearTimeout(timer);
      this.#unanswered.delete(over.reject);
    }
  }

  async #watch(log: Logger): Promise<void> {
    for await (const status of this.nc.status()) {
      switch (status.type) {
        case "disconnect":
          this.connected = false;
          for (const fail of this.#unanswered) fail(new errors.ConnectionError("the connection to NATS broke"));
          this.publisher.disconnected();
          this.fetcher.disconnected();
          this.directGets.disconnected();
          log.warn({ server: status.server }, "connection to NATS lost");
          break;
        case "reconnect":
          this.connected = true;
          this.epoch++;
          this.#serverName = this.nc.info?.server_name ?? this.#serverName;
          this.#maxPayload = this.nc.info?.max_payload ?? this.#maxPayload;
          this.publisher.reconnected();
          for (const wake of this.#waiters.splice(0)) wake();
          log.info({ server: status.server }, "connection to NATS is back");
          break;
        case "error":
          log.warn({ err: status.error }, "NATS reported an error");
          break;
        default:
      }
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.fetcher.close();
    this.directGets.close();
    this.publisher.close();
    await Promise.race([this.nc.drain().catch(() => {}), pause(2000)]);
    await this.nc.close();
    await this.#watching;
  }
}

class DeadlinePassed extends Error {}

/** JetStream's own refusals stay as they are, since callers tell them apart by number. */
function toServiceErrorButApi(error: unknown): unknown {
  if (error instanceof DeadlinePassed) return timedOut("the storage did not answer in time");
  return jsErrorCode(error) === undefined ? toServiceError(error) : error;
}
