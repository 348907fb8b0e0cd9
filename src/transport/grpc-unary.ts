import type { ServerResponse } from "node:http";
import {
  create,
  type DescMessage,
  type DescMethod,
  fromBinary,
  type Message,
  type MessageInitShape,
  toBinary,
} from "@bufbuild/protobuf";
import { BinaryWriter } from "@bufbuild/protobuf/wire";
import { Code, ConnectError, type ContextKey } from "@connectrpc/connect";
import { setTrailerStatus } from "@connectrpc/connect/protocol-grpc";
import type { FastifyReply, FastifyRequest } from "fastify";
import { notSerializable } from "../domain/errors.ts";
import { MAX_REQUEST_BYTES } from "../domain/limits.ts";
import type { Principal } from "../domain/principal.ts";
import { authorize, type Named, principalKey } from "../services/access.ts";
import type { CallContext } from "../services/deadline.ts";
import { principalOf } from "./access.ts";
import { noteFailure } from "./calls.ts";
import { rpcFailure } from "./interceptors.ts";
import type { CallLog } from "./log.ts";
import { type DiscardLimits, RequestBody } from "./request-body.ts";
import { validate } from "./validation.ts";

/** A unary implementation that needs no more of its call than {@link CallContext}. */
export type UnaryImplementation = (request: never, context: CallContext) => Promise<object> | object;

/** Answers a call from its request's bytes, or leaves it to {@link UnaryImplementation} by returning undefined. */
export type BytesCall = (
  request: Uint8Array,
  context: CallContext,
  principal: Principal,
) => Promise<Message> | undefined;

/** Answers a request, or leaves it to Connect by returning undefined. */
export type HotRpc = (
  req: FastifyRequest,
  reply: FastifyReply,
  afterAnswer: DiscardLimits,
) => Promise<void> | undefined;

const GONE = new ConnectError("the caller went away", Code.Canceled);
const LATE = new ConnectError("the call's deadline has passed", Code.DeadlineExceeded);
const REQUEST_TIMEOUT_MS = 30_000;
const PREFIX_BYTES = 5;

/**
 * gRPC's framing for the calls that carry events: one uncompressed protobuf message in, one out. Connect's own layers
 * cost several times the call itself; every other protocol, encoding and method stays theirs. The rules of a call are the
 * same: validation, deadline, errors and their log.
 */
export function grpcUnary(
  method: DescMethod,
  implementation: UnaryImplementation,
  ofBytes: BytesCall | undefined,
  log: CallLog,
): HotRpc {
  return (req, reply, afterAnswer) => (isPlainGrpc(req) ? answer(req, reply, afterAnswer) : undefined);

  async function answer(req: FastifyRequest, reply: FastifyReply, afterAnswer: DiscardLimits): Promise<void> {
    reply.hijack();
    const res = reply.raw;
    const body = new RequestBody(req.raw, REQUEST_TIMEOUT_MS);
    const caller = new AbortController();
    let gone = false;
    res.once("close", () => {
      gone = true;
      if (!res.writableEnded) caller.abort(GONE);
    });
    const timeoutMs = grpcTimeoutMs(req.headers["grpc-timeout"]);
    const startMs = performance.now();
    const timer = timeoutMs === undefined ? undefined : setTimeout(() => caller.abort(LATE), timeoutMs);
    let frame: Buffer | undefined;
    let failure: ConnectError | undefined;
    try {
      const request = await readMessage(body);
      const principal = principalOf(req);
      const context: CallContext = {
        timeoutMs: () => (timeoutMs === undefined ? undefined : timeoutMs - (performance.now() - startMs)),
        requestHeader: { get: (name) => (req.headers[name] as string | undefined) ?? null },
        signal: caller.signal,
        values: { get: <T>(key: ContextKey<T>) => (key.id === principalKey.id ? (principal as T) : key.defaultValue) },
      };
      frame = frameOf(
        method.output,
        await (ofBytes?.(request, context, principal) ?? ofMessage(request, context, principal)),
      );
    } catch (error) {
      failure = rpcFailure(error, req.id, method.name, log, (known) => noteFailure(req, known));
    } finally {
      clearTimeout(timer);
    }
    if (gone) return;
    body.discard(afterAnswer);
    write(res, req.headers["content-type"]!, frame, failure);
  }

  async function ofMessage(bytes: Uint8Array, context: CallContext, principal: Principal): Promise<Message> {
    const request = decode(method.input, bytes);
    authorize(method, principal, request as Named);
    validate(method.input, request);
    const made = await implementation(request as never, context);
    return create(method.output, made as MessageInitShape<DescMessage>);
  }
}

function isPlainGrpc({ raw, method, headers }: FastifyRequest): boolean {
  const type = headers["content-type"];
  const encoding = headers["grpc-encoding"];
  return (
    raw.httpVersionMajor === 2 &&
    method === "POST" &&
    (type === "application/grpc" || type === "application/grpc+proto") &&
    (encoding === undefined || encoding === "identity")
  );
}

/** The one message of a request. @throws ConnectError RESOURCE_EXHAUSTED above the bound. */
async function readMessage(body: RequestBody): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  let length = 0;
  for await (const chunk of body) {
    chunks.push(chunk);
    length += chunk.length;
    if (length > MAX_REQUEST_BYTES + PREFIX_BYTES)
      throw new ConnectError(`the message is larger than ${MAX_REQUEST_BYTES} bytes`, Code.ResourceExhausted);
  }
  const bytes = chunks.length === 1 ? chunks[0]! : Buffer.concat(chunks, length);
  if (length < PREFIX_BYTES) throw notSerializable("the request holds no message");
  const size = new DataView(bytes.buffer, bytes.byteOffset, PREFIX_BYTES).getUint32(1);
  if (bytes[0] !== 0) throw notSerializable("the message is marked as compressed, with no encoding named");
  if (size !== length - PREFIX_BYTES)
    throw notSerializable(`the message has ${length - PREFIX_BYTES} bytes, not ${size} as it says`);
  return bytes.subarray(PREFIX_BYTES);
}

function decode(schema: DescMessage, bytes: Uint8Array): Message {
  try {
    return fromBinary(schema, bytes);
  } catch (error) {
    throw notSerializable(`the message can't be decoded: ${(error as Error).message}`);
  }
}

const UNIT_MS: Readonly<Record<string, number>> = { H: 3_600_000, M: 60_000, S: 1000, m: 1, u: 1e-3, n: 1e-6 };
/** The longest that Node's timers take. */
const MAX_TIMER_MS = 2 ** 31 - 1;

/** A `grpc-timeout` header in milliseconds; one that is malformed counts as none. */
function grpcTimeoutMs(header: string | string[] | undefined): number | undefined {
  const match = typeof header === "string" ? /^(\d{1,8})([HMSmun])$/.exec(header) : null;
  return match ? Math.min(Number(match[1]) * UNIT_MS[match[2]!]!, MAX_TIMER_MS) : undefined;
}

/** A message with its prefix. Fields of it that are bytes already, which are nearly all of it, are copied only once. */
function frameOf(schema: DescMessage, message: Message): Buffer {
  const { $unknown: encoded = [] } = message;
  const parts: Uint8Array[] = [
    Buffer.alloc(PREFIX_BYTES),
    toBinary(schema, message, { writeUnknownFields: encoded.length === 0 }),
  ];
  for (const { no, wireType, data } of encoded) parts.push(new BinaryWriter().tag(no, wireType).finish(), data);
  const frame = Buffer.concat(parts);
  frame.writeUInt32BE(frame.length - PREFIX_BYTES, 1);
  return frame;
}

function write(
  res: ServerResponse,
  contentType: string,
  frame: Buffer | undefined,
  failure: ConnectError | undefined,
): void {
  res.on("error", () => {}); // "close" follows
  res.writeHead(200, { "content-type": contentType, "grpc-accept-encoding": "gzip,br,deflate" });
  if (frame) res.write(frame);
  if (failure) {
    const trailers = new Headers();
    setTrailerStatus(trailers, failure);
    res.addTrailers(Object.fromEntries(trailers));
  } else res.addTrailers({ "grpc-status": "0" });
  res.end();
}
