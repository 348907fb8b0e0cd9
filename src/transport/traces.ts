/** A span for every call of an RPC, over every protocol; its trace is the caller's, where that sends `traceparent`. */
import { context, propagation, ROOT_CONTEXT, type Span, SpanKind, SpanStatusCode, trace } from "@opentelemetry/api";
import type { FastifyInstance, FastifyRequest } from "fastify";
import { tracer } from "../telemetry/tracing.ts";
import { protocolNameOf } from "./calls.ts";

/** Follows every call of `app`. Register it before what answers or refuses them. */
export function traceCalls(app: FastifyInstance): void {
  app.addHook("onRequest", (req, reply, done) => {
    const { rpc } = req.routeOptions.config;
    if (!rpc) return done();
    const parent = propagation.extract(ROOT_CONTEXT, req.headers);
    const service = rpc.parent.typeName;
    const attributes = {
      "rpc.system": protocolNameOf(req),
      "rpc.service": service,
      "rpc.method": rpc.name,
      "http.request.method": req.method,
      "http.route": req.routeOptions.url ?? "",
      "millrace.request_id": req.id,
    };
    const span = tracer().startSpan(`${service}/${rpc.name}`, { kind: SpanKind.SERVER, attributes }, parent);
    reply.raw.on("close", () => end(span, req, reply.raw.statusCode));
    context.with(trace.setSpan(parent, span), done);
  });
}

function end(span: Span, req: FastifyRequest, status: number): void {
  span.setAttribute("http.response.status_code", status);
  const { failedAs } = req;
  if (failedAs !== undefined) {
    span.setAttribute("error.type", failedAs);
    if (FAULTS_OF_OURS.has(failedAs)) span.setStatus({ code: SpanStatusCode.ERROR, message: failedAs });
  }
  span.end();
}

/** What is the service's failure; the others are their callers'. */
const FAULTS_OF_OURS = new Set(["INTERNAL", "UNAVAILABLE", "TIMEOUT"]);
