import { randomBytes } from "node:crypto";
import type { IncomingMessage } from "node:http";
import type { DescMethod } from "@bufbuild/protobuf";
import { type ConnectRouter, createContextValues } from "@connectrpc/connect";
import cors from "@fastify/cors";
import Fastify, { type FastifyInstance } from "fastify";
import type { Logger } from "pino";
import { ConsumerGroupService } from "../../gen/millrace/v1/consumers_pb.js";
import { EventService } from "../../gen/millrace/v1/events_pb.js";
import { notSerializable } from "../domain/errors.ts";
import { MAX_REQUEST_BYTES } from "../domain/limits.ts";
import { principalKey } from "../services/access.ts";
import type { Identity } from "../services/identity.ts";
import type { Quotas } from "../services/quotas.ts";
import { isTracing } from "../telemetry/tracing.ts";
import { accessInterceptor, askCallers, principalOf } from "./access.ts";
import type { BodyBudget } from "./body-budget.ts";
import { type Calls, noteConnectFailure, noteFailure } from "./calls.ts";
import { corsOptions, refuseOtherOrigins } from "./cors.ts";
import { connectFailure, statusFailure, toConnectError, toServiceError } from "./errors.ts";
import { answers, ownRequestId } from "./every-answer.ts";
import { type BytesCall, grpcUnary, type HotRpc, type UnaryImplementation } from "./grpc-unary.ts";
import type { Mounted } from "./in-process.ts";
import { errorInterceptor, failedKey, requestIdKey } from "./interceptors.ts";
import { createListener, type ListenerOptions, MAX_HEADER_BYTES, type OnePortServer } from "./listener.ts";
import { type CallLog, createCallLog } from "./log.ts";
import { OPERATOR_PATHS, type OperatorOptions, operatorPlugin } from "./operator.ts";
import { holdToQuotas } from "./quotas.ts";
import { answerFailure, clientError, frameworkError, type HotHandler, refuseConnect, restPlugin } from "./rest.ts";
import { rpcPlugin } from "./rpc.ts";
import { traceCalls } from "./traces.ts";
import { validateInterceptor } from "./validation.ts";

export interface AppOptions {
  readonly mounted: readonly Mounted[];
  readonly hot: ReadonlyMap<string, HotHandler>;
  /** By the name of an RPC of {@link HOT_SERVICES}. */
  readonly hotGrpc: ReadonlyMap<string, BytesCall>;
  /** Counts every call. */
  readonly calls: Calls;
  readonly bodies: BodyBudget;
  readonly quotas: Quotas | undefined;
  /** Origins whose pages may call, or `*` alone. */
  readonly corsOrigins: readonly string[];
  readonly logger: Logger;
  readonly listener: ListenerOptions;
  /** Is aborted when running streams shall end. */
  readonly shutdownSignal: AbortSignal;
  /** Who may call. */
  readonly identity: Identity;
  /** What the service says of itself. */
  readonly operator: OperatorOptions;
}

/** What {@link createApp} gives: Fastify on the one port. */
export type App = Pick<FastifyInstance, "listen" | "close"> & { readonly server: OnePortServer };

/** Everything that answers on the one port, not yet listening. */
export async function createApp(options: AppOptions): Promise<App> {
  const log = createCallLog(options.logger);
  const prefix = randomBytes(4).toString("hex");
  let requests = 0;
  const app = Fastify({
    // Failures go to our own log. One of Fastify's would cost each request a logger and two listeners.
    logger: false,
    genReqId: (req) => ownRequestId(req) ?? `${prefix}-${(requests++).toString(36)}`,
    serverFactory: (handler) => createListener(handler as never, options.listener) as never,
    frameworkErrors: frameworkError,
    clientErrorHandler: clientError as never,
    bodyLimit: MAX_REQUEST_BYTES,
    // A path's names are checked by their own rules, which give better reasons.
    routerOptions: { maxParamLength: 1024 },
    exposeHeadRoutes: false,
  });
  app.decorateRequest("failedAs", undefined);
  app.addHook("onRequest", (req, reply, done) => {
    answers(reply, req);
    const begunAt = options.calls.begin();
    // An answer to a caller that has gone: "close" says so too, and who waits for it.
    reply.raw.on("error", ignored);
    // One listener for all who wait for the end: they are a part of what the fastest calls cost.
    reply.raw.on("close", () => {
      options.calls.end(req, begunAt);
      options.bodies.end(req.raw);
    });
    done(faultOfHead(req.raw));
  });
  app.server.on("connect", refuseConnect);
  if (isTracing()) traceCalls(app as unknown as FastifyInstance);
  app.setErrorHandler(answerFailure(log));
  if (options.corsOrigins.length > 0) await app.register(cors, corsOptions(options.corsOrigins));
  refuseOtherOrigins(app as unknown as FastifyInstance, options.corsOrigins);
  askCallers(app as unknown as FastifyInstance, options.identity);
  options.bodies.attach(app);
  holdToQuotas(app as unknown as FastifyInstance, options.quotas);
  const interceptors = [errorInterceptor(log), accessInterceptor, validateInterceptor];
  await app.register(rpcPlugin, {
    routes: (router: ConnectRouter) => {
      for (const { service, implementation } of options.mounted) router.service(service, implementation);
    },
    interceptors,
    readMaxBytes: MAX_REQUEST_BYTES,
    // A misspelt field, or an enum's word that is none, is no wish to have the default.
    jsonOptions: { ignoreUnknownFields: false },
    shutdownSignal: options.shutdownSignal,
    mend: (req, code, message) => connectFailure(code, message, req.id),
    refuse: (req, status, message, code) => statusFailure(status, message, req.id, code),
    failed: noteConnectFailure,
    broken: (req, rpc, err) => options.logger.error({ err, rpc, requestId: req.id }, "rpc failed"),
    hot: hotRpcs(options, log),
    contextValues: (req) =>
      createContextValues()
        .set(requestIdKey, req.id)
        .set(principalKey, principalOf(req))
        .set(failedKey, (error) => noteFailure(req, error)),
    toConnectError: (error, req) => toConnectError(toServiceError(error, req.id)),
  });
  await app.register(operatorPlugin, options.operator);
  await app.register(restPlugin, {
    mounted: options.mounted,
    readOnlyPaths: OPERATOR_PATHS,
    interceptors: [accessInterceptor, validateInterceptor],
    hot: options.hot,
    log,
  });
  await app.ready();
  return app as unknown as App;
}

const ignored = (): void => {};

/** What is wrong with a request's headers as such. */
function faultOfHead({ httpVersion, httpVersionMajor, headers, rawHeaders }: IncomingMessage): Error | undefined {
  if (httpVersion === "1.1" && headers.host === undefined) return notSerializable("HTTP/1.1 needs a Host header");
  // Node keeps to the bound over HTTP/1.1, but over HTTP/2 only once the caller has confirmed that it knows it.
  if (httpVersionMajor < 2) return undefined;
  let bytes = 0;
  for (const text of rawHeaders) bytes += text.length + FIELD_OVERHEAD / 2;
  return bytes > MAX_HEADER_BYTES ? notSerializable("the request's headers are too large", 431) : undefined;
}

/** What HTTP/2 counts of a field beside its name and value (RFC 9113, 6.5.2). */
const FIELD_OVERHEAD = 32;

/** Publishing, polling and committing, which callers do all the time. */
const HOT_METHODS: readonly DescMethod[] = [
  EventService.method.publish,
  EventService.method.publishBatch,
  EventService.method.poll,
  EventService.method.readPartition,
  ConsumerGroupService.method.commit,
];

/** The same over plain gRPC. */
function hotRpcs({ mounted, hotGrpc }: AppOptions, log: CallLog): ReadonlyMap<string, HotRpc> {
  const found = new Map<string, HotRpc>();
  for (const { service, implementation } of mounted)
    for (const method of service.methods) {
      if (!HOT_METHODS.includes(method)) continue;
      const call = (implementation as Record<string, UnaryImplementation | undefined>)[method.localName];
      if (call)
        found.set(`/${service.typeName}/${method.name}`, grpcUnary(method, call, hotGrpc.get(method.name), log));
    }
  return found;
}
