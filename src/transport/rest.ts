import { isUtf8 } from "node:buffer";
import { type IncomingHttpHeaders, STATUS_CODES } from "node:http";
import type { Socket } from "node:net";
import type { Duplex } from "node:stream";
import type { JsonValue } from "@bufbuild/protobuf";
import { Code, ConnectError, createContextValues, type Interceptor } from "@connectrpc/connect";
import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import { ErrorCode, invalidArgument, notSerializable, ServiceError } from "../domain/errors.ts";
import { principalKey } from "../services/access.ts";
import { createdKey } from "../services/streams.ts";
import { principalOf } from "./access.ts";
import { wasAnswered } from "./answered.ts";
import { noteFailure } from "./calls.ts";
import { restErrorBody, restErrorHeaders, toServiceError } from "./errors.ts";
import { answers } from "./every-answer.ts";
import { inProcess, type Mounted } from "./in-process.ts";
import { requestIdKey } from "./interceptors.ts";
import type { CallLog } from "./log.ts";
import { type DiscardLimits, RequestBody } from "./request-body.ts";
import { readRestBody } from "./rest-body.ts";
import { decodeRequest, encodeResponse, type RestRoute, restRoutes, withoutBodyPrefix } from "./rest-routes.ts";

/**
 * Answers one route in place of the generic way through messages. `caller` makes the signal that its caller has gone;
 * `fail` notes a failure that comes after the answer has begun.
 */
export type HotHandler = (
  req: FastifyRequest,
  reply: FastifyReply,
  route: RestRoute,
  caller: () => AbortSignal,
  fail: (error: unknown) => ServiceError,
) => Promise<void>;

export interface RestOptions {
  readonly mounted: readonly Mounted[];
  readonly interceptors: readonly Interceptor[];
  /** By the RPC's name. */
  readonly hot: ReadonlyMap<string, HotHandler>;
  readonly log: CallLog;
  /** Paths beside the routes that take GET and HEAD. */
  readonly readOnlyPaths: readonly string[];
}

/** What a caller may go on sending after its answer. */
const AFTER_ANSWER: DiscardLimits = { bytes: 64 * 1024 * 1024, ms: 5000 };
/** Announced bodies of so many bytes are on their way already when the headers are here. */
const DUMPED_BYTES = 16 * 1024;
const GONE = new ConnectError("the caller went away", Code.Canceled);

/** Every REST route of the services, and the answers to paths and methods that are none. */
export async function restPlugin(app: FastifyInstance, options: RestOptions): Promise<void> {
  const call = inProcess(options.mounted, options.interceptors);
  const routes = options.mounted.flatMap(({ service }) => restRoutes(service));

  // Bodies are read by the handlers, which know their own form.
  app.removeAllContentTypeParsers();
  app.addContentTypeParser("*", (_req, _payload, done) => done(null));
  const unknown = (req: FastifyRequest) => notFound(req, routes, options.readOnlyPaths);
  app.setErrorHandler((error, req, reply) =>
    sendError(reply, req.is404 ? unknown(req) : failureOf(error, req, options.log)),
  );

  for (const route of routes) {
    const hot = options.hot.get(route.method.name);
    app.route({
      method: route.httpMethod,
      url: route.path,
      exposeHeadRoute: false,
      config: { rpc: route.method },
      // Before Fastify parses content types and looks for handlers: nothing of that is needed here.
      ...(hot && {
        onRequest: (req, reply) =>
          hot(
            req,
            reply,
            route,
            () => callerSignal(reply),
            (error) => failureOf(error, req, options.log),
          ),
      }),
      handler: async (req, reply) => {
        const signal = callerSignal(reply);
        const body = route.body === undefined ? undefined : parseJson(await readRestBody(req.raw));
        const message = decodeRequest(route, req.params as Record<string, string>, queryOf(req), body);
        const contextValues = createContextValues().set(requestIdKey, req.id).set(principalKey, principalOf(req));
        try {
          const answer = await call({
            method: route.method,
            message,
            httpMethod: req.method,
            url: `http://${req.host || "localhost"}${req.url}`,
            header: webHeaders(req.headers),
            signal,
            contextValues,
          });
          await reply
            .code(contextValues.get(createdKey) ? 201 : 200)
            .header("content-type", "application/json; charset=utf-8")
            .send(JSON.stringify(encodeResponse(route, answer)));
        } catch (error) {
          throw withoutBodyPrefix(toServiceError(error, req.id), route);
        }
      },
    });
  }
  app.setNotFoundHandler((req, reply) => sendError(reply, unknown(req)));
}

/** What Fastify's router refuses before any handler, such as a path that is not URL-encoded. */
export function frameworkError(error: Error & { statusCode?: number }, req: FastifyRequest, reply: FastifyReply): void {
  answers(reply, req);
  void sendError(reply, invalidArgument("path", error.message));
}

/** What Node's parser refuses before there is a request: headers that are too large, or that do not come to an end. */
export function clientError(error: NodeJS.ErrnoException, socket: Socket): void {
  if (error.code === "ECONNRESET" || !socket.writable) return void socket.destroy();
  const failure =
    error.code === "HPE_HEADER_OVERFLOW"
      ? notSerializable("the request's headers are too large", 431)
      : error.code === "ERR_HTTP_REQUEST_TIMEOUT"
        ? new ServiceError(ErrorCode.TIMEOUT, "the request did not come to its end in time", { httpStatus: 408 })
        : notSerializable("this is no HTTP request");
  endWith(socket, failure);
}

/** CONNECT, which Node gives to no request handler. */
export function refuseConnect(_req: unknown, socket: Duplex): void {
  const allow = ["GET", "POST", "PUT", "PATCH", "DELETE"];
  endWith(
    socket,
    new ServiceError(ErrorCode.METHOD_NOT_ALLOWED, "this is no proxy: CONNECT is not allowed", { allow }),
  );
}

function endWith(socket: Duplex, failure: ServiceError): void {
  const body = JSON.stringify(restErrorBody(failure));
  const headers = {
    "Content-Type": "application/json; charset=utf-8",
    "Content-Length": Buffer.byteLength(body),
    Connection: "close",
    ...restErrorHeaders(failure),
  };
  const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`);
  socket.end(`HTTP/1.1 ${failure.httpStatus} ${STATUS_CODES[failure.httpStatus]}\r\n${lines.join("")}\r\n${body}`);
}

/** A failure as REST's answer. */
export function sendError(reply: FastifyReply, failure: ServiceError): FastifyReply {
  noteFailure(reply.request, failure);
  // A caller that sends all before it reads would never see an answer given before.
  if (!isDumped(reply.request)) new RequestBody(reply.request.raw).discard(AFTER_ANSWER);
  return reply
    .code(failure.httpStatus)
    .headers(restErrorHeaders(failure))
    .header("content-type", "application/json; charset=utf-8")
    .send(JSON.stringify(restErrorBody(failure)));
}

/** Whether Node itself reads on to the end of a request that was answered, since nobody else has begun to, and that end is near. */
const isDumped = ({ raw, headers }: FastifyRequest): boolean =>
  raw.httpVersionMajor === 1 && raw.readableFlowing === null && Number(headers["content-length"]) <= DUMPED_BYTES;

/** Answers what a route or a hook has thrown, in REST's form. */
export const answerFailure =
  (log: CallLog) =>
  (error: unknown, req: FastifyRequest, reply: FastifyReply): FastifyReply =>
    sendError(reply, failureOf(error, req, log));

function failureOf(error: unknown, req: FastifyRequest, log: CallLog): ServiceError {
  const failure = toServiceError(ofFastify(error), req.id);
  log.failed(`${req.method} ${req.routeOptions.url ?? ""}`, req.id, failure);
  noteFailure(req, failure);
  return failure;
}

/** Fastify's own refusals carry a status below 500. */
function ofFastify(error: unknown): unknown {
  const { statusCode, message } = error as { statusCode?: number; message: string };
  if (error instanceof ServiceError || error instanceof ConnectError || statusCode === undefined || statusCode >= 500)
    return error;
  return notSerializable(message, statusCode === 413 || statusCode === 415 ? statusCode : 400);
}

function notFound(req: FastifyRequest, routes: readonly RestRoute[], readOnly: readonly string[]): ServiceError {
  const path = req.url.split("?", 1)[0]!;
  const allow = readOnly.includes(path)
    ? ["GET", "HEAD"]
    : routes.filter((route) => patternOf(route).test(path)).map((route) => route.httpMethod);
  if (allow.length === 0) return new ServiceError(ErrorCode.NOT_FOUND, `there is no ${path.slice(0, 200)}`);
  return new ServiceError(
    ErrorCode.METHOD_NOT_ALLOWED,
    `${req.method} is not allowed here: use ${allow.join(" or ")}`,
    { allow },
  );
}

const patternOf = (route: RestRoute): RegExp =>
  new RegExp(`^${route.path.replace(/::|:\w+/g, (part) => (part === "::" ? ":" : "[^/]+"))}$`);

/** Is aborted when the caller goes away before its answer is complete. */
function callerSignal(reply: FastifyReply): AbortSignal {
  const controller = new AbortController();
  reply.raw.once("close", () => {
    if (!wasAnswered(reply.raw)) controller.abort(GONE);
  });
  return controller.signal;
}

/** The JSON of a body; none is an empty object. @throws ServiceError SERIALIZATION_ERROR. */
function parseJson(body: Buffer): JsonValue {
  if (body.length === 0) return {};
  if (!isUtf8(body)) throw notSerializable("the body is not UTF-8");
  try {
    return JSON.parse(body.toString("utf8")) as JsonValue;
  } catch (error) {
    throw notSerializable(`the body is not JSON: ${(error as Error).message}`);
  }
}

/** The query's parameters, each with its one text or its several. @throws ServiceError INVALID_ARGUMENT. */
export function queryOf(req: FastifyRequest): Record<string, string | string[]> {
  const { url } = req;
  const start = url.indexOf("?") + 1;
  // The parser takes what is no encoding of UTF-8 as it stands: a name of such a kind would be another one in a path.
  if (start > 0 && url.includes("%", start))
    for (const part of url.slice(start).split("&"))
      if (!isUriComponent(part)) throw invalidArgument(part.split("=", 1)[0]!, "is not UTF-8 in percent-encoding");
  return (req.query ?? {}) as Record<string, string | string[]>;
}

function isUriComponent(text: string): boolean {
  try {
    decodeURIComponent(text);
    return true;
  } catch {
    return false;
  }
}

/** Node's headers as the web's; the pseudo headers of HTTP/2 are left out. */
function webHeaders(headers: IncomingHttpHeaders): Headers {
  const out = new Headers();
  for (const name in headers) {
    if (name.startsWith(":")) continue;
    for (const value of [headers[name]].flat()) if (value !== undefined) out.append(name, value);
  }
  return out;
}
