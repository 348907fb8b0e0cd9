/** Counts what is called, over every protocol, when its connection is done with it. */
import type { DescMethod } from "@bufbuild/protobuf";
import type { ConnectError } from "@connectrpc/connect";
import type { FastifyRequest } from "fastify";
import { errorRule, type ServiceError } from "../domain/errors.ts";
import { toServiceError } from "./errors.ts";

declare module "fastify" {
  interface FastifyContextConfig {
    /** The RPC that a route stands for. */
    rpc?: DescMethod;
    /** Its counts by protocol, once there are any. */
    series?: (CallSeries | undefined)[];
  }
  interface FastifyRequest {
    /** Name of the error that the call failed with; undefined: it did not. */
    failedAs: string | undefined;
  }
}

export const PROTOCOLS = ["rest", "connect", "grpc", "grpc-web"] as const;
export type ProtocolName = (typeof PROTOCOLS)[number];

/** Upper bounds of the latency histogram, in seconds, inclusive. */
export const LATENCY_BOUNDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30];

/** What is known of one method over one protocol. */
export interface CallSeries {
  readonly method: string;
  readonly protocol: ProtocolName;
  /** By the error's name, or `OK`. */
  readonly byCode: Map<string, number>;
  /** Answers within each of {@link LATENCY_BOUNDS} and above the one before; the last place: longer than all. */
  readonly latency: Float64Array;
  seconds: number;
}

/** The counts of all calls. Label values are the routes' and the error table's, so there is a bounded number of them. */
export class Calls {
  readonly series: CallSeries[] = [];
  /** Begun and not ended; streams too. */
  inProgress = 0;
  readonly #elsewhere: (CallSeries | undefined)[] = [];

  /** Counts a request that begins. @returns its time. */
  begin(): number {
    this.inProgress++;
    return performance.now();
  }

  /** Counts a request whose connection is done with it. */
  end(req: FastifyRequest, begunAt: number): void {
    this.inProgress--;
    const { config } = req.routeOptions;
    const series = this.#seriesOf(req);
    const code = req.failedAs ?? "OK";
    series.byCode.set(code, (series.byCode.get(code) ?? 0) + 1);
    // How long a stream lasts is its caller's choice.
    const kind = config?.rpc?.methodKind;
    if (kind !== undefined && kind !== "unary") return;
    const seconds = (performance.now() - begunAt) / 1000;
    let place = 0;
    while (place < LATENCY_BOUNDS.length && seconds > LATENCY_BOUNDS[place]!) place++;
    series.latency[place]!++;
    series.seconds += seconds;
  }

  #seriesOf(req: FastifyRequest): CallSeries {
    const { config, url } = req.routeOptions;
    const protocol = protocolOf(req);
    const isRoute = url !== undefined && !req.is404 && !url.startsWith("/:");
    if (isRoute && config && config.series === undefined) config.series = [];
    const ofRoute = (isRoute ? config?.series : undefined) ?? this.#elsewhere;
    const known = ofRoute[protocol];
    if (known) return known;
    const method = config?.rpc ? methodName(config.rpc) : isRoute ? url : "unknown";
    const made = this.#named(method, PROTOCOLS[protocol]!);
    ofRoute[protocol] = made;
    return made;
  }

  /** Several routes may stand for one method. */
  #named(method: string, protocol: ProtocolName): CallSeries {
    const known = this.series.find((each) => each.method === method && each.protocol === protocol);
    if (known) return known;
    const series: CallSeries = {
      method,
      protocol,
      byCode: new Map(),
      latency: new Float64Array(LATENCY_BOUNDS.length + 1),
      seconds: 0,
    };
    this.series.push(series);
    return series;
  }
}

/** Notes what a call failed with; the first failure is the one that counts. */
export function noteFailure(req: FastifyRequest, error: ServiceError): void {
  req.failedAs ??= errorRule(error.code).name;
}

/** The same for a failure in its RPC form. */
export function noteConnectFailure(req: FastifyRequest, error: ConnectError): void {
  req.failedAs ??= errorRule(toServiceError(error, "").code).name;
}

const methodName = (method: DescMethod): string => `${method.parent.typeName}/${method.name}`;

/** The protocol of a request, by its headers and path. */
export const protocolNameOf = (req: FastifyRequest): ProtocolName => PROTOCOLS[protocolOf(req)]!;

/** Place in {@link PROTOCOLS}. */
function protocolOf({ headers, url }: FastifyRequest): number {
  const type = headers["content-type"];
  if (type?.startsWith("application/grpc")) return type.startsWith("application/grpc-web") ? 3 : 2;
  return url.startsWith("/api/") || !RPC_PATH.test(url) ? 0 : 1;
}

const RPC_PATH = /^\/[A-Za-z_][\w]*\.[\w.]+\//;
