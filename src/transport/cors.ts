import { cors as connectCors } from "@connectrpc/connect";
import type { FastifyCorsOptions, FastifyCorsOptionsDelegateCallback } from "@fastify/cors";
import type { FastifyRequest } from "fastify";

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
