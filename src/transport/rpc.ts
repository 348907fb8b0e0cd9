/**
 * gRPC, gRPC-Web and Connect from one router, as a Fastify plugin. Any path that is not an RPC's is left to other routes.
 *
 * The protocols themselves are Connect's; here are the two ends that touch Node: a request becomes Connect's universal
 * form, and its answer is written with regard to a slow, vanished, or over-eager caller.
 */
import type { OutgoingHttpHeaders, ServerResponse } from "node:http";
import { base64Decode } from "@bufbuild/protobuf/wire";
import {
  Code,
  ConnectError,
  type ConnectRouter,
  type ConnectRouterOptions,
  type ContextValues,
  createConnectRouter,
} from "@connectrpc/connect";
import type { UniversalHandler, UniversalServerRequest, UniversalServerResponse } from "@connectrpc/connect/protocol";
import type { FastifyInstance, FastifyReply, FastifyRequest, RouteShorthandOptions } from "fastify";
import { MAX_REQUEST_BYTES } from "../domain/limits.ts";
import { compressions } from "./compression.ts";
import type { HotRpc } from "./grpc-unary.ts";
import { type DiscardLimits, RequestBody } from "./request-body.ts";
import { type Mend, mended } from "./rpc-mend.ts";
import { codeOfStatus, refusal } from "./rpc-refusal.ts";
import { writable } from "./writable.ts";

export interface RpcPluginOptions extends ConnectRouterOptions {
  /** Registers the services. */
  routes: (router: ConnectRouter) => void;
  /**
   * Bound on each request message, as sent and once decompressed, inclusive; above it the answer is RESOURCE_EXHAUSTED
   * in the caller's protocol. Default `MAX_REQUEST_BYTES`. A message in the URL of a GET is bounded by the listener only.
   */
  readMaxBytes?: number;
  /** Longest wait for the one message of a unary or server-streaming call; then DEADLINE_EXCEEDED. Default 30,000. */
  requestTimeoutMs?: number;
  /** Bytes and time for which a caller may go on sending after its answer. Default 64 MiB and 5,000 ms. */
  afterAnswer?: DiscardLimits;
  contextValues?: (req: FastifyRequest) => ContextValues;
  /** Gives failures of Connect's own, before any interceptor, the service's form. */
  mend?: (req: FastifyRequest, ...failure: Parameters<Mend>) => ConnectError;
  /** The same for a request that Connect refuses by an HTTP status alone: 405, 415, 505. `code`: in place of its own. */
  refuse?: (req: FastifyRequest, status: number, message: string, code?: Code) => ConnectError;
  /** Answers in place of Connect, by the RPC's path. */
  hot?: ReadonlyMap<string, HotRpc>;
  /** Is told of failures that no interceptor sees. */
  failed?: (req: FastifyRequest, error: ConnectError) => void;
  /** Is told of what Connect itself throws, which is a bug. */
  broken?: (req: FastifyRequest, rpc: string, error: unknown) => void;
  /** Form of what a Fastify hook throws before the call begins. Default: the code that fits its `statusCode`. */
  toConnectError?: (error: unknown, req: FastifyRequest) => ConnectError;
}

// Ready-made: abort() without a reason builds a DOMException, stack and all, for each request.
const gone = new ConnectError("the caller went away", Code.Canceled);
const AFTER_ANSWER: DiscardLimits = { bytes: 64 * 1024 * 1024, ms: 5_000 };
/** `/package.Service/Method` and whatever else is below a dotted name; registered routes come first. */
const RPC_PATHS = "/:service(^[A-Za-z_][\\w.]*[.]\\w+$)/*";

/** Mounts the services on `app`. Register it beside the REST routes, after the hooks that shall hold for RPCs too. */
export async function rpcPlugin(app: FastifyInstance, options: RpcPluginOptions): Promise<void> {
  const {
    routes,
    requestTimeoutMs = 30_000,
    afterAnswer = AFTER_ANSWER,
    contextValues,
    hot,
    mend = (_req, code, message) => new ConnectError(message, code),
    refuse = (_req, status, message, code) => new ConnectError(message, code ?? codeOfStatus(status)),
    failed = () => {},
    broken = () => {},
    ...routerOptions
  } = options;
  const toConnectError = options.toConnectError ?? connectErrorOf;
  const router = createConnectRouter({
    acceptCompression: compressions,
    ...routerOptions,
    readMaxBytes: options.readMaxBytes ?? MAX_REQUEST_BYTES,
  });
  routes(router);

  // Connect reads bodies itself, in every content type.
  app.removeAllContentTypeParsers();
  app.addContentTypeParser("*", (_req, _payload, done) => done(null));

  app.setErrorHandler((error, req, reply) => {
    const known = toConnectError(error, req);
    failed(req, known);
    const status = (error as { statusCode?: number }).statusCode;
    reply.hijack();
    const body = new RequestBody(req.raw);
    return write(reply, refusal(req.headers["content-type"], known, status), new Call(reply.raw), body, afterAnswer);
  });

  for (const handler of router.handlers) {
    const { methodKind } = handler.method;
    const isStream = methodKind === "client_streaming" || methodKind === "bidi_streaming";
    const isPaced = methodKind === "server_streaming" || methodKind === "bidi_streaming";
    const hotRpc = hot?.get(handler.requestPath);
    const options: RouteShorthandOptions = { config: { rpc: handler.method } };
    // Before Fastify parses content types and looks for handlers: nothing of that is needed here.
    if (hotRpc) options.onRequest = (req, reply, done) => hotRpc(req, reply, afterAnswer) ?? done();
    app.all(handler.requestPath, options, async (req, reply) => {
      reply.hijack();
      const call = new Call(reply.raw);
      const body = new RequestBody(req.raw, isStream ? 0 : requestTimeoutMs);
      try {
        const noted = (better: ConnectError) => {
          failed(req, better);
          return better;
        };
        if (!isDecodable(req)) {
          const error = noted(mend(req, Code.InvalidArgument, "message is not base64"));
          return await write(reply, refusal(undefined, error), call, body, afterAnswer);
        }
        const request = universalRequest(req, body, call.signal, contextValues?.(req));
        const answer = await handler(request);
        const better = answer.body
          ? await mended(answer, (code, message) => noted(mend(req, code, message)))
          : refused(handler, req, answer.status, (...why) => noted(refuse(req, answer.status, ...why)));
        await write(reply, better, call, body, afterAnswer, isPaced);
      } catch (error) {
        if (call.signal.aborted) return;
        broken(req, handler.requestPath, error);
        const internal = new ConnectError("internal error", Code.Internal);
        failed(req, internal);
        if (reply.raw.headersSent) reply.raw.destroy();
        else await write(reply, refusal(req.headers["content-type"], internal), call, body, afterAnswer);
      }
    });
  }

  app.all(RPC_PATHS, async (req, reply) => {
    reply.hijack();
    const path = req.url.split("?", 1)[0];
    const unknown = mend(req, Code.Unimplemented, `no such method: ${path}`);
    failed(req, unknown);
    const body = new RequestBody(req.raw);
    await write(reply, refusal(req.headers["content-type"], unknown, 404), new Call(reply.raw), body, afterAnswer);
  });
}

/** Follows one response: its signal is aborted when the caller goes away before the answer is complete. */
class Call {
  readonly #controller = new AbortController();
  isAnswered = false;

  constructor(res: ServerResponse) {
    res.once("close", () => {
      if (!this.isAnswered) this.#controller.abort(gone);
    });
    res.on("error", () => {}); // "close" follows
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }
}

function universalRequest(
  req: FastifyRequest,
  body: RequestBody,
  signal: AbortSignal,
  contextValues: ContextValues | undefined,
): UniversalServerRequest {
  const raw = req.raw;
  const header = new Headers();
  for (const name in raw.headers) {
    if (name.charCodeAt(0) === 0x3a) continue; // HTTP/2's pseudo headers, which Headers refuses
    const value = raw.headers[name];
    if (typeof value === "string") header.append(name, value);
    else for (const one of value ?? []) header.append(name, one);
  }
  const origin = `${req.protocol}://${req.host}`;
  return {
    httpVersion: raw.httpVersion,
    method: req.method,
    url: (URL.canParse(origin) ? origin : "http://localhost") + req.url,
    header,
    body,
    signal,
    ...(contextValues === undefined ? {} : { contextValues }),
  };
}

/** Whether the message in the URL of a GET is base64 where it says so: Connect would take another for a fault of its own. */
function isDecodable(req: FastifyRequest): boolean {
  if (req.method !== "GET") return true;
  const query = new URLSearchParams(req.url.split("?")[1]);
  try {
    if (query.get("base64") === "1") base64Decode(query.get("message") ?? "");
    return true;
  } catch {
    return false;
  }
}

/** Connect answers a wrong HTTP method, content type or version with a bare status: clients would have to guess. */
function refused(
  handler: UniversalHandler,
  req: FastifyRequest,
  status: number,
  refuse: (message: string, code?: Code) => ConnectError,
): UniversalServerResponse {
  const contentType = req.headers["content-type"];
  const isGrpc = contentType?.startsWith("application/grpc");
  const say = (message: string) =>
    refusal(contentType, isGrpc ? refuse(message, Code.Unimplemented) : refuse(message), status);
  switch (status) {
    case 405: {
      const answer = say(`${req.method} is not allowed: use ${handler.allowedMethods.join(" or ")}`);
      answer.header?.set("allow", handler.allowedMethods.join(", "));
      return answer;
    }
    case 415: {
      const answer = say(`content type "${(contentType ?? "").slice(0, 100)}" is not supported`);
      // Of a caller that sends, say, an image, not even the protocol is known: clients of gRPC take JSON for Connect's.
      if (contentType !== undefined && !contentType.startsWith("application/"))
        answer.header?.set("content-type", "text/plain; charset=utf-8");
      answer.header?.set("accept-post", "application/json, application/proto, application/grpc, application/grpc-web");
      return answer;
    }
    case 505: {
      const answer = say("bidirectional streams need HTTP/2");
      answer.header?.set("connection", "close"); // a caller that waits for its turn would wait for ever
      return answer;
    }
    default:
      return say(`HTTP ${status}`);
  }
}

/**
 * @param isPaced whether the answer is made bit by bit, as fast as its caller takes it. Of any other all is in memory
 * already: it ends at once, and so comes under the time for answers of which their caller takes nothing.
 */
async function write(
  reply: FastifyReply,
  answer: UniversalServerResponse,
  call: Call,
  body: RequestBody,
  afterAnswer: DiscardLimits,
  isPaced = false,
): Promise<void> {
  const res = reply.raw;
  const chunks = answer.body?.[Symbol.asyncIterator]();
  try {
    let chunk = await chunks?.next(); // before the headers: until the first message they may change
    if (call.signal.aborted) return;
    if ((!chunk || chunk.done) && !answer.trailer?.keys().next().value) {
      // An answer without a body is one header frame, which writeHead would follow by an empty one of data.
      res.statusCode = answer.status;
      for (const [name, value] of Object.entries(nodeHeaders(reply, answer.header)))
        if (value !== undefined) res.setHeader(name, value);
    } else res.writeHead(answer.status, nodeHeaders(reply, answer.header));
    // A body of announced length is in one piece, which goes out with the end of the answer.
    const whole = answer.header?.has("content-length") && !chunk?.done ? chunk?.value : undefined;
    for (; !whole && chunk && !chunk.done; chunk = await chunks?.next()) {
      if (!res.write(chunk.value) && isPaced) await writable(res);
      if (call.signal.aborted) return;
    }
    if (call.signal.aborted) return;
    if (answer.trailer) res.addTrailers(Object.fromEntries(answer.trailer) as OutgoingHttpHeaders as never);
    body.discard(afterAnswer);
    call.isAnswered = true;
    res.end(whole);
  } finally {
    await chunks?.return?.().catch(() => {});
  }
}

function nodeHeaders(reply: FastifyReply, header: Headers | undefined): OutgoingHttpHeaders {
  const isHttp2 = reply.request.raw.httpVersionMajor > 1;
  const out: OutgoingHttpHeaders = { ...(reply.getHeaders() as OutgoingHttpHeaders) }; // what hooks have set
  header?.forEach((value, name) => {
    if (name === "set-cookie") out[name] = [...[out[name] ?? []].flat().map(String), value];
    else if (!isHttp2 || name !== "connection") out[name] = value;
  });
  return out;
}

function connectErrorOf(error: unknown): ConnectError {
  if (error instanceof ConnectError) return error;
  const { statusCode = 500, message = "" } = error as { statusCode?: number; message?: string };
  const code = codeOfStatus(statusCode);
  return new ConnectError(statusCode < 500 ? message : "internal error", code, undefined, undefined, error);
}
