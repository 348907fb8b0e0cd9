import { cors as connectCors } from "@connectrpc/connect";
import type { FastifyCorsOptions, FastifyCorsOptionsDelegateCallback } from "@fastify/cors";
import type { FastifyInstance, FastifyRequest } from "fastify";
import { permissionDenied } from "../domain/principal.ts";

/** What pages of other origins send beside what Connect and gRPC-Web need. */
const ALLOWED_HEADERS = [
  "Authorization",
  "X-Api-Key",
  "Idempotency-Key",
  "Last-Event-ID",
  "X-Request-Id",
  "Traceparent",
];
/** What they may read beside it. */
const EXPOSED_HEADERS = ["X-Request-Id", "Retry-After", "Allow"];
const PREFLIGHT_SECONDS = 7200;

/** @param origins as in the settings. Credentials of the browser are never asked for. */
export function corsOptions(origins: readonly string[]): () => FastifyCorsOptionsDelegateCallback {
  const options: FastifyCorsOptions = {
    origin: origins[0] === "*" ? "*" : [...origins],
    methods: [...new Set([...connectCors.allowedMethods, "GET", "POST", "PUT", "PATCH", "DELETE"])],
    allowedHeaders: [...connectCors.allowedHeaders, ...ALLOWED_HEADERS],
    exposedHeaders: [...connectCors.exposedHeaders, ...EXPOSED_HEADERS],
    maxAge: PREFLIGHT_SECONDS,
    credentials: false,
  };
  // An OPTIONS that is no preflight is a call like any other: @fastify/cors would answer it itself, past the credentials.
  const others = { ...options, preflight: false };
  return () => (req, use) => use(null, isPreflight(req) ? options : others);
}

const isPreflight = ({ method, headers }: FastifyRequest): boolean =>
  method === "OPTIONS" && Boolean(headers.origin) && Boolean(headers["access-control-request-method"]);

/**
 * Refuses what pages of other origins make a browser send to the REST API. Where it needs no preflight, a browser keeps
 * only the answer from such a page, and the call would be carried out. Newer browsers say what they are about in
 * `Sec-Fetch-Site` (W3C Fetch Metadata); of the others, requests that change something have an `Origin`.
 */
export function refuseOtherOrigins(app: FastifyInstance, origins: readonly string[]): void {
  if (origins[0] === "*") return;
  app.addHook("onRequest", (req, _reply, done) => {
    if (!isOfOtherOrigin(req) || !req.url.startsWith("/api/") || origins.includes(req.headers.origin ?? ""))
      return done();
    done(permissionDenied("pages of other origins may call only where MILLRACE_CORS_ORIGINS lists their origin"));
  });
}

function isOfOtherOrigin({ method, headers }: FastifyRequest): boolean {
  const site = headers["sec-fetch-site"];
  if (site !== undefined) return site !== "same-origin" && site !== "none";
  if (headers.origin === undefined || method === "GET" || method === "HEAD" || method === "OPTIONS") return false;
  const host = headers[":authority"] ?? headers.host;
  return headers.origin.replace(/^[a-z]+:\/\//, "") !== host;
}
