/** Refuses calls beyond their principal's quota, in every protocol, before their bodies are read. */
import type { DescMethod } from "@bufbuild/protobuf";
import type { FastifyInstance } from "fastify";
import { EventService } from "../../gen/millrace/v1/events_pb.js";
import { MAX_REQUEST_BYTES } from "../domain/limits.ts";
import { isOpenService } from "../services/access.ts";
import type { Quotas } from "../services/quotas.ts";
import { principalOf } from "./access.ts";
import { countBodyBytes } from "./body-budget.ts";

/** The calls whose answers are events; all others are of the way in. */
const READS: ReadonlySet<DescMethod> = new Set([
  EventService.method.poll,
  EventService.method.subscribe,
  EventService.method.readPartition,
]);

/** Follows every call of `app`. To be called when its callers and the bytes of its bodies are followed already. */
export function holdToQuotas(app: FastifyInstance, quotas: Quotas | undefined): void {
  if (!quotas) return;
  app.addHook("onRequest", (req, _reply, done) => {
    const method = req.routeOptions.config?.rpc;
    if (!method || isOpenService(method.parent.typeName)) return done();
    const principal = principalOf(req);
    if (READS.has(method)) return done(quotas.admit(principal, "out", 0, method.methodKind !== "unary"));
    // What an RPC that sends a stream brings is counted event by event.
    const isStream = method.methodKind === "client_streaming" || method.methodKind === "bidi_streaming";
    const length = req.headers["content-length"];
    const declared = Number(length ?? 0) || 0;
    // A length that no body may have is refused for itself, and must not use the quota up.
    const bytes = declared <= MAX_REQUEST_BYTES ? declared : 0;
    const refusal = quotas.admit(principal, "in", bytes, isStream);
    if (refusal) return done(refusal);
    if (length === undefined && !isStream) countBodyBytes(req.raw, (bytes) => quotas.received(principal, bytes));
    done();
  });
}
