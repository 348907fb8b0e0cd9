/** Who calls, found out once for every request before its body is read, and what it may do, in every protocol. */
import type { TLSSocket } from "node:tls";
import type { DescMethod } from "@bufbuild/protobuf";
import type { Interceptor } from "@connectrpc/connect";
import type { FastifyInstance, FastifyRequest } from "fastify";
import { EventService } from "../../gen/millrace/v1/events_pb.js";
import { ANYONE, type Principal, permissionDenied, whileValid } from "../domain/principal.ts";
import { authorize, authorizeMethod, isOpenService, type Named, principalKey } from "../services/access.ts";
import type { Identity } from "../services/identity.ts";
import { METRICS_PATH, OPERATOR_PATHS } from "./operator.ts";

declare module "fastify" {
  interface FastifyRequest {
    /** Undefined where callers are not asked. */
    principal: Principal | undefined;
  }
}

/** Who makes a request. */
export const principalOf = (req: FastifyRequest): Principal => req.principal ?? ANYONE;

/** Asks every caller who it is, but on the operator's paths and the services that are open. Register it before what answers. */
export function askCallers(app: FastifyInstance, identity: Identity): void {
  app.decorateRequest("principal", undefined);
  if (!identity.isOn) return;
  app.addHook("onRequest", (req, _reply, done) => {
    const { url = "", config } = req.routeOptions;
    const method = config?.rpc;
    if ((OPERATOR_PATHS.includes(url) && url !== METRICS_PATH) || (method && isOpenService(method.parent.typeName)))
      return done();
    const admit = (principal: Principal) => {
      if (method) authorizeMethod(method, principal);
      if (url === METRICS_PATH && !principal.rights.metrics)
        throw permissionDenied("you have no right to read metrics");
      req.principal = principal;
      done();
    };
    try {
      const found = identity.principalOf({
        authorization: req.headers.authorization,
        certificateNames: () => certificateNames(req),
      });
      if (found instanceof Promise) found.then(admit).catch(done);
      else admit(found);
    } catch (error) {
      done(error as Error);
    }
  });
}

/** Holds the table of rights for every call that passes interceptors; ends streams with their credentials. */
export const accessInterceptor: Interceptor = (next) => async (request) => {
  const principal = request.contextValues.get(principalKey);
  if (principal === ANYONE) return next(request);
  const { method } = request;
  if (!request.stream) {
    authorize(method, principal, request.message as Named);
    return next(request);
  }
  const checked = { ...request, message: checkedMessages(method, principal, request.message) };
  const response = await next(checked as typeof request);
  return response.stream ? { ...response, message: whileValid(response.message, principal) } : response;
};

async function* checkedMessages<T>(method: DescMethod, principal: Principal, messages: AsyncIterable<T>) {
  for await (const message of messages) {
    // A stream is named on the first message, and again where it changes.
    const named = message as Named;
    if (method !== EventService.method.publishStream || named.streamName) authorize(method, principal, named);
    yield message;
  }
}

const namesOfSocket = new WeakMap<object, readonly string[]>();

/** The common name and the DNS and URI names of the certificate that the caller's connection was opened with. */
function certificateNames(req: FastifyRequest): readonly string[] {
  const socket = req.raw.socket as Partial<TLSSocket>;
  let names = namesOfSocket.get(socket);
  if (!names) {
    const certificate = socket.authorized === true ? socket.getPeerCertificate?.() : undefined;
    const others = (certificate?.subjectaltname ?? "")
      .split(", ")
      .flatMap((each) => /^(?:DNS|URI):(.+)$/.exec(each)?.[1] ?? []);
    names = [...[certificate?.subject?.CN ?? []].flat(), ...others];
    namesOfSocket.set(socket, names);
  }
  return names;
}
