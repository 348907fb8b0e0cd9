import { once } from "node:events";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { eventually } from "./wait.ts";

/** A span as it came in over OTLP's JSON form; ids are hexadecimal. */
export interface CollectedSpan {
  readonly name: string;
  readonly traceId: string;
  readonly spanId: string;
  readonly parentSpanId?: string;
  readonly links?: readonly { readonly traceId: string; readonly spanId: string }[];
  readonly status: { readonly code?: number; readonly message?: string };
  readonly attributes: Readonly<Record<string, unknown>>;
  /** Attributes of the process that sent it. */
  readonly resource: Readonly<Record<string, unknown>>;
}

type Attributes = { key: string; value: Record<string, unknown> }[];
interface Export {
  resourceSpans: {
    resource: { attributes: Attributes };
    scopeSpans: { spans: (Omit<CollectedSpan, "attributes" | "resource"> & { attributes: Attributes })[] }[];
  }[];
}

/** Takes spans as an OpenTelemetry collector does, by OTLP over HTTP in JSON. */
export class Collector implements AsyncDisposable {
  readonly spans: CollectedSpan[] = [];
  readonly #server = createServer(async (req, res) => {
    let body = "";
    for await (const chunk of req.setEncoding("utf8")) body += chunk;
    if (req.url === "/v1/traces") this.#take(JSON.parse(body) as Export);
    res.setHeader("content-type", "application/json").end("{}");
  });

  static async start(): Promise<Collector> {
    const collector = new Collector();
    await once(collector.#server.listen(0, "127.0.0.1"), "listening");
    return collector;
  }

  /** Settings that make a service send its spans here, at once. */
  get env(): Record<string, string> {
    const { port } = this.#server.address() as AddressInfo;
    return {
      OTEL_EXPORTER_OTLP_ENDPOINT: `http://127.0.0.1:${port}`,
      OTEL_EXPORTER_OTLP_PROTOCOL: "http/json",
      OTEL_BSP_SCHEDULE_DELAY: "20",
    };
  }

  /** The first span that fits, once it is there. */
  span(name: string, fits: (span: CollectedSpan) => boolean = () => true): Promise<CollectedSpan> {
    return eventually(`a span ${name}`, () => this.spans.find((span) => span.name === name && fits(span)));
  }

  #take({ resourceSpans }: Export): void {
    for (const { resource, scopeSpans } of resourceSpans)
      for (const span of scopeSpans.flatMap(({ spans }) => spans))
        this.spans.push({ ...span, attributes: plain(span.attributes), resource: plain(resource.attributes) });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((closed) => this.#server.close(closed));
  }
}

const plain = (attributes: Attributes): Record<string, unknown> =>
  Object.fromEntries(attributes.map(({ key, value }) => [key, Object.values(value)[0]]));
