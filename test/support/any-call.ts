/** Calls any RPC by its descriptor over any protocol, to learn how it is refused. */
import { type DescMethod, fromJson, type JsonObject, type Message } from "@bufbuild/protobuf";
import { ConnectError, type Transport } from "@connectrpc/connect";
import { createConnectTransport, createGrpcTransport, Http2SessionManager } from "@connectrpc/connect-node";
import { createGrpcWebTransport } from "@connectrpc/connect-web";
import { ErrorInfoSchema } from "../../gen/google/rpc/error_details_pb.js";
import { restRoutes } from "../../src/transport/rest-routes.ts";
import { type ErrorBody, rawRequest } from "./clients.ts";

/** @returns number of the error code; 0 for success; undefined when the protocol does not have the method. */
export type AnyCall = (
  method: DescMethod,
  request: JsonObject,
  headers: Readonly<Record<string, string>>,
) => Promise<number | undefined>;

export interface AnyCaller extends Disposable {
  readonly call: AnyCall;
}

const HANG_MS = 20_000;

/** The four protocols, by name. */
export const anyCallers: Readonly<Record<string, (url: string) => AnyCaller>> = {
  REST: (url) => ({ call: restCall(url), [Symbol.dispose]: () => {} }),
  Connect: (baseUrl) =>
    overHttp2(baseUrl, (sessionManager) => createConnectTransport({ baseUrl, httpVersion: "2", sessionManager })),
  gRPC: (baseUrl) => overHttp2(baseUrl, (sessionManager) => createGrpcTransport({ baseUrl, sessionManager })),
  "gRPC-Web": (baseUrl) => ({
    call: rpcCall(createGrpcWebTransport({ baseUrl }), false),
    [Symbol.dispose]: () => {},
  }),
};

function overHttp2(url: string, transportOf: (sessions: Http2SessionManager) => Transport): AnyCaller {
  const sessions = new Http2SessionManager(url);
  return { call: rpcCall(transportOf(sessions), true), [Symbol.dispose]: () => sessions.abort() };
}

function rpcCall(transport: Transport, sendsStreams: boolean): AnyCall {
  return async (method, request, headers) => {
    const message = fromJson(method.input, request) as Message;
    const over = new AbortController();
    const signal = AbortSignal.any([over.signal, AbortSignal.timeout(HANG_MS)]);
    try {
      if (method.methodKind === "unary")
        await transport.unary(method as never, signal, undefined, headers, message as never);
      else if (method.methodKind !== "server_streaming" && !sendsStreams) return undefined;
      else {
        const messages = (async function* () {
          yield message as never;
        })();
        const answer = await transport.stream(method as never, signal, undefined, headers, messages);
        for await (const _first of answer.message) break;
      }
      return 0;
    } catch (error) {
      const [info] = ConnectError.from(error).findDetails(ErrorInfoSchema);
      if (!info) throw new Error(`${method.name} failed without a code`, { cause: error });
      return Number(info.metadata.code);
    } finally {
      over.abort();
    }
  };
}

/** Over the first route that the method has. */
function restCall(url: string): AnyCall {
  return async (method, request, headers) => {
    const route = restRoutes(method.parent).find((each) => each.method === method);
    if (!route) return undefined;
    const rest: JsonObject = { ...request };
    const path = route.path.replace(/::|:\w+/g, (part) => {
      if (part === "::") return ":";
      const { jsonName } = route.params.get(part.slice(1))!;
      const text = String(rest[jsonName] ?? 0);
      delete rest[jsonName];
      return encodeURIComponent(text);
    });
    const hasBody = route.body !== undefined;
    const body = route.body === "*" ? rest : route.body ? (rest[route.body.jsonName] ?? {}) : undefined;
    const query = hasBody ? "" : `?${new URLSearchParams(rest as Record<string, string>)}`;
    const answer = await rawRequest(url, route.httpMethod, path + query, body, headers);
    return answer.status < 300 ? 0 : answer.json<ErrorBody>().error.code;
  };
}
