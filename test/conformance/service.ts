/** The suite's own service, which says back what it was told to and what it saw of the request. */
import { setTimeout as sleep } from "node:timers/promises";
import { create, type DescMessage, type MessageShape } from "@bufbuild/protobuf";
import { type Any, anyPack } from "@bufbuild/protobuf/wkt";
import { type Code, ConnectError, type ConnectRouter, type HandlerContext } from "@connectrpc/connect";
import {
  BidiStreamRequestSchema,
  ClientStreamRequestSchema,
  type ConformancePayload_RequestInfo,
  ConformancePayload_RequestInfoSchema,
  ConformancePayloadSchema,
  ConformanceService,
  type Error as ErrorDefinition,
  type Header,
  IdempotentUnaryRequestSchema,
  ServerStreamRequestSchema,
  type StreamResponseDefinition,
  UnaryRequestSchema,
  type UnaryResponseDefinition,
} from "./gen/connectrpc/conformance/v1/service_pb.js";

export function conformanceRoutes(router: ConnectRouter): void {
  router.service(ConformanceService, {
    unary: (request, context) => answer(request.responseDefinition, pack(UnaryRequestSchema, [request]), context),

    idempotentUnary: (request, context) =>
      answer(request.responseDefinition, pack(IdempotentUnaryRequestSchema, [request]), context),

    async clientStream(requests, context) {
      const all = await collect(requests);
      return answer(all[0]?.responseDefinition, pack(ClientStreamRequestSchema, all), context);
    },

    async *serverStream(request, context) {
      yield* answers(request.responseDefinition, pack(ServerStreamRequestSchema, [request]), context);
    },

    async *bidiStream(requests, context) {
      const first = await requests[Symbol.asyncIterator]().next();
      if (first.done) return;
      const definition = first.value.responseDefinition;
      const rest = { [Symbol.asyncIterator]: () => requests[Symbol.asyncIterator]() };
      if (!first.value.fullDuplex) {
        const all = [first.value, ...(await collect(rest))];
        yield* answers(definition, pack(BidiStreamRequestSchema, all), context);
        return;
      }
      setHeaders(definition, context);
      let sent = 0;
      const respond = async (request: MessageShape<typeof BidiStreamRequestSchema>) => {
        const info = requestInfo(pack(BidiStreamRequestSchema, [request]), context, sent === 0);
        const data = definition?.responseData[sent++];
        if (data === undefined) throw failure(definition?.error ?? undefined, sent === 1 ? info : undefined);
        await sleep(definition?.responseDelayMs ?? 0);
        return payload(data, info);
      };
      yield await respond(first.value);
      for await (const request of rest) yield await respond(request);
      for (; sent < (definition?.responseData.length ?? 0); sent++) {
        await sleep(definition?.responseDelayMs ?? 0);
        yield payload(definition?.responseData[sent]);
      }
      if (definition?.error) throw failure(definition.error);
    },
  });
}

async function answer(definition: UnaryResponseDefinition | undefined, requests: Any[], context: HandlerContext) {
  setHeaders(definition, context);
  const info = requestInfo(requests, context);
  await sleep(definition?.responseDelayMs ?? 0);
  if (definition?.response.case === "error") throw failure(definition.response.value, info);
  return payload(definition?.response.value, info);
}

async function* answers(definition: StreamResponseDefinition | undefined, requests: Any[], context: HandlerContext) {
  setHeaders(definition, context);
  let info: ConformancePayload_RequestInfo | undefined = requestInfo(requests, context);
  for (const data of definition?.responseData ?? []) {
    await sleep(definition?.responseDelayMs ?? 0);
    yield payload(data, info);
    info = undefined; // said once
  }
  if (definition?.error) throw failure(definition.error, info);
}

const payload = (data?: Uint8Array, info?: ConformancePayload_RequestInfo) => ({
  payload: create(ConformancePayloadSchema, { data: data ?? new Uint8Array(0), ...(info && { requestInfo: info }) }),
});

const pack = <D extends DescMessage>(schema: D, requests: MessageShape<D>[]): Any[] =>
  requests.map((request) => anyPack(schema, request));

function requestInfo(requests: Any[], context: HandlerContext, isFirst = true): ConformancePayload_RequestInfo {
  if (!isFirst) return create(ConformancePayload_RequestInfoSchema, { requests });
  const timeoutMs = context.timeoutMs();
  return create(ConformancePayload_RequestInfoSchema, {
    requests,
    requestHeaders: pairs(context.requestHeader),
    ...(timeoutMs === undefined ? {} : { timeoutMs: BigInt(Math.round(timeoutMs)) }),
    ...(context.requestMethod === "GET"
      ? { connectGetInfo: { queryParams: pairs(new URL(context.url).searchParams) } }
      : {}),
  });
}

async function collect<T>(all: AsyncIterable<T>): Promise<T[]> {
  const list: T[] = [];
  for await (const one of all) list.push(one);
  return list;
}

const pairs = (entries: Iterable<[string, string]>) => [...entries].map(([name, value]) => ({ name, value: [value] }));

function setHeaders(
  definition: { responseHeaders: Header[]; responseTrailers: Header[] } | undefined,
  context: HandlerContext,
): void {
  for (const { name, value } of definition?.responseHeaders ?? []) {
    for (const one of value) context.responseHeader.append(name, one);
  }
  for (const { name, value } of definition?.responseTrailers ?? []) {
    for (const one of value) context.responseTrailer.append(name, one);
  }
}

function failure(definition: ErrorDefinition | undefined, info?: ConformancePayload_RequestInfo): ConnectError {
  const error = new ConnectError(definition?.message ?? "", definition?.code as Code | undefined);
  for (const { typeUrl, value } of definition?.details ?? []) {
    error.details.push({ type: typeUrl.slice(typeUrl.lastIndexOf("/") + 1), value });
  }
  if (info) error.details.push({ desc: ConformancePayload_RequestInfoSchema, value: info });
  return error;
}
