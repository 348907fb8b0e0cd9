/** What the service says of itself: its description, its health and its figures. No RPC stands behind these paths. */
import { createHash } from "node:crypto";
import type { DescService } from "@bufbuild/protobuf";
import type { FastifyInstance, FastifyReply } from "fastify";
import type { Registry } from "prom-client";
import type { ReadinessProbe } from "../services/readiness.ts";
import { docsPage } from "./docs/page.ts";
import { STYLE } from "./docs/style.ts";
import { openApiDocument } from "./openapi/document.ts";

export interface OperatorOptions {
  readonly services: readonly DescService[];
  readonly version: string;
  readonly readiness: ReadinessProbe;
  readonly metrics: Registry;
}

/** Its figures name streams, groups and processors, so reading them is a right. */
export const METRICS_PATH = "/metrics";
/** The paths that {@link operatorPlugin} answers, with GET and HEAD. */
export const OPERATOR_PATHS: readonly string[] = ["/healthz", "/readyz", METRICS_PATH, "/openapi.json", "/docs"];

const JSON_UTF8 = "application/json; charset=utf-8";
/** The page has no script and loads nothing. */
const DOCS_CSP = `default-src 'none'; style-src 'sha256-${createHash("sha256").update(STYLE).digest("base64")}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'`;

export async function operatorPlugin(app: FastifyInstance, options: OperatorOptions): Promise<void> {
  const { services, version, readiness, metrics } = options;
  const document = openApiDocument(services, version);
  const text = JSON.stringify(document);
  const page = docsPage(document, services);

  const get = (url: string, answer: (reply: FastifyReply) => Promise<unknown>) =>
    app.route({ method: "GET", url, exposeHeadRoute: true, handler: (_req, reply) => answer(reply) });
  get("/openapi.json", async (reply) => reply.type(JSON_UTF8).header("cache-control", "no-cache").send(text));
  get("/docs", async (reply) =>
    reply.type("text/html; charset=utf-8").header("content-security-policy", DOCS_CSP).send(page),
  );
  get("/healthz", async (reply) => reply.type(JSON_UTF8).header("cache-control", "no-store").send('{"status":"ok"}'));
  get(METRICS_PATH, async (reply) => {
    const figures = await metrics.metrics();
    return reply.type(metrics.contentType).header("cache-control", "no-store").send(figures);
  });
  get("/readyz", async (reply) => {
    const report = await readiness.check();
    return reply
      .code(report.status === "unavailable" ? 503 : 200)
      .type(JSON_UTF8)
      .header("cache-control", "no-store")
      .send(JSON.stringify(report));
  });
}
