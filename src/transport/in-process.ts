import {
  create,
  type DescMessage,
  type DescMethod,
  type DescService,
  type Message,
  type MessageInitShape,
} from "@bufbuild/protobuf";
import {
  Code,
  ConnectError,
  type ContextValues,
  createHandlerContext,
  type HandlerContext,
  type Interceptor,
  type ServiceImpl,
  type UnaryRequest,
  type UnaryResponse,
} from "@connectrpc/connect";

/** A service with its implementation. */
export interface Mounted<S extends DescService = DescService> {
  readonly service: S;
  readonly implementation: Partial<ServiceImpl<S>>;
}

/** Keeps the type of a service and its implementation together. */
export const mount = <S extends DescService>(service: S, implementation: Partial<ServiceImpl<S>>): Mounted =>
  ({ service, implementation }) as unknown as Mounted;

/** One unary call that does not come over an RPC protocol. */
export interface InProcessCall {
  readonly method: DescMethod;
  readonly message: Message;
  readonly httpMethod: string;
  readonly url: string;
  readonly header: Headers;
  readonly signal: AbortSignal;
  readonly contextValues: ContextValues;
}

/** A ready-made reason: an abort without one builds an exception with a stack for every call. */
const OVER = new ConnectError("the call is over", Code.Canceled);

type Implementation = (message: Message, context: HandlerContext) => Promise<object> | object;
type Next = (request: UnaryRequest) => Promise<UnaryResponse>;

/** Calls implementations through the interceptors of the RPC protocols, without a wire format between. */
export function inProcess(
  mounted: readonly Mounted[],
  interceptors: readonly Interceptor[],
): (call: InProcessCall) => Promise<Message> {
  const implementations = new Map<DescMethod, Implementation>();
  for (const { service, implementation } of mounted)
    for (const method of service.methods) {
      const found = (implementation as Record<string, Implementation | undefined>)[method.localName];
      if (found) implementations.set(method, found.bind(implementation));
    }
  return async (call) => {
    const { method } = call;
    const context = createHandlerContext({
      service: method.parent,
      method,
      protocolName: "rest",
      requestMethod: call.httpMethod,
      url: call.url,
      requestHeader: call.header,
      requestSignal: call.signal,
      contextValues: call.contextValues,
    });
    const run = async (request: UnaryRequest): Promise<UnaryResponse> => {
      const answer = await implementations.get(method)!(request.message, context);
      const message = create(method.output, answer as MessageInitShape<DescMessage>);
      return {
        stream: false,
        service: method.parent,
        method: method as UnaryResponse["method"],
        header: context.responseHeader,
        trailer: context.responseTrailer,
        message,
      };
    };
    const chain = interceptors.reduceRight<Next>((next, interceptor) => interceptor(next as never) as Next, run);
    try {
      const response = await chain({
        stream: false,
        service: method.parent,
        method: method as UnaryRequest["method"],
        requestMethod: call.httpMethod,
        url: call.url,
        header: context.requestHeader,
        signal: context.signal,
        contextValues: context.values,
        message: call.message,
      });
      return response.message as Message;
    } finally {
      context.abort(OVER);
    }
  };
}
