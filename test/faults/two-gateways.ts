import { type Api, ApiFailure, protocols } from "../support/clients.ts";
import { startNats, type TestNats } from "../support/nats.ts";
import { type ServiceProcess, startServiceProcess } from "../support/process.ts";
import { subscribers } from "../support/subscribers.ts";
import type { SubscribeRequest, Told } from "../support/told.ts";
import { SubscriptionFailure } from "../support/told.ts";

/** The protocols by which members speak, each with its way to read live. */
const WAYS = [
  { api: "REST over HTTP/1.1", live: "Server-Sent Events" },
  { api: "gRPC", live: "gRPC" },
] as const;
export const WAY_COUNT = WAYS.length;

/** What is known of a call that did not succeed. */
export type Failure = "refused" | "not sent" | "lost";

/** Two gateways as processes of their own on one nats-server. One that is started again has its port again. */
export class TwoGateways implements AsyncDisposable {
  readonly #nats: TestNats;
  readonly #env: Record<string, string>;
  readonly #services: ServiceProcess[] = [];
  readonly #apis: Api[][] = [];

  private constructor(nats: TestNats, env: Record<string, string>) {
    this.#nats = nats;
    this.#env = { ...env, NATS_URL: nats.url };
  }

  static async start(env: Record<string, string> = {}): Promise<TwoGateways> {
    await using owned = new AsyncDisposableStack();
    const gateways = owned.use(new TwoGateways(await startNats(), env));
    for (let index = 0; index < 2; index++) {
      const service = await startServiceProcess(gateways.#env);
      gateways.#services.push(service);
      gateways.#apis.push(WAYS.map((way) => protocols.find(({ name }) => name === way.api)!.connect(service.url)));
    }
    owned.move();
    return gateways;
  }

  /** The API of a gateway by one of the {@link WAY_COUNT} ways. */
  api(gateway: number, way = 0): Api {
    return this.#apis[gateway]![way]!;
  }

  subscribe(
    gateway: number,
    way: number,
    stream: string,
    request: SubscribeRequest,
    signal: AbortSignal,
  ): AsyncIterable<Told> {
    const by = subscribers.find(({ name }) => name === WAYS[way]!.live)!;
    return by.subscribe(this.#services[gateway]!.url, stream, request, signal);
  }

  async kill(gateway: number): Promise<void> {
    const service = this.#services[gateway]!;
    service.kill("SIGKILL");
    await service.exited;
  }

  /** Starts a killed gateway on the port that it had. */
  async restart(gateway: number): Promise<void> {
    const { port } = new URL(this.#services[gateway]!.url);
    for (let attempt = 0; ; attempt++) {
      try {
        this.#services[gateway] = await startServiceProcess({ ...this.#env, PORT: port });
        return;
      } catch (error) {
        // Another process may have the port for a moment, as that of a connection.
        if (attempt === 5) throw error;
      }
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.#apis.flat().map((api) => api[Symbol.asyncDispose]()));
    await Promise.all(this.#services.map((service) => service[Symbol.asyncDispose]()));
    await this.#nats[Symbol.asyncDispose]();
  }
}

/** @throws the error itself when no gateway that is killed or being started explains it. */
export function failureOfKill(error: unknown): Failure {
  const text = `${error} ${(error as Error).cause ?? ""}`;
  if (/ECONNREFUSED/.test(text)) return "not sent";
  if (!(error instanceof ApiFailure || error instanceof SubscriptionFailure)) {
    if (error instanceof TypeError || /socket|terminated|ECONN|closed/i.test(text)) return "lost";
    throw error;
  }
  if (error.code === NOT_PARTITION_OWNER) return "refused";
  // 0: no gateway has said anything.
  if (error.code === 0 || error.code === TIMEOUT || error.code === UNAVAILABLE) return "lost";
  throw error;
}

const TIMEOUT = 1006;
const NOT_PARTITION_OWNER = 1103;
const UNAVAILABLE = 1107;
