import { context, type DiagLogger, DiagLogLevel, diag, propagation, type Tracer, trace } from "@opentelemetry/api";
import type { Sampler } from "@opentelemetry/sdk-trace";
import type { Logger } from "pino";
import { pause } from "../domain/deadline.ts";

/** How traces are made and where they go; the exporter itself reads the standard `OTEL_EXPORTER_OTLP_…` variables. */
export interface TracingOptions {
  /** The service's. */
  readonly version: string;
  readonly protocol: "http/protobuf" | "http/json";
  readonly sampler: SamplerName;
  /** Part of the traces that a ratio sampler keeps, 0 to 1. */
  readonly ratio: number;
  /** Longest time that an ended span waits for others to be sent with, in milliseconds. */
  readonly exportDelayMs: number;
}

/** The samplers that OpenTelemetry's `OTEL_TRACES_SAMPLER` knows. */
export const SAMPLERS = [
  "always_on",
  "always_off",
  "traceidratio",
  "parentbased_always_on",
  "parentbased_always_off",
  "parentbased_traceidratio",
] as const;
export type SamplerName = (typeof SAMPLERS)[number];

const NAME = "millrace";
/** Longest wait for the last spans to be sent. */
const LAST_EXPORT_MS = 2000;
let started = false;

/** Whether this thread makes traces; where not, nothing of them costs anything. */
export const isTracing = (): boolean => started;

export const tracer = (): Tracer => trace.getTracer(NAME);

/**
 * Has this thread make traces and send them, once for its life. Trouble with sending them is logged and loses spans, nothing
 * else.
 *
 * @returns sends what is left when it is disposed.
 */
export async function startTracing(options: TracingOptions, log: Logger): Promise<AsyncDisposable> {
  // Loaded only where traces are made: it is a good part of the time that the service takes to start.
  const [{ BatchSpanProcessor, TracerProvider }, { AsyncLocalStorageContextManager }, core, resources, exporter] =
    await Promise.all([
      import("@opentelemetry/sdk-trace"),
      import("@opentelemetry/context-async-hooks"),
      import("@opentelemetry/core"),
      import("@opentelemetry/resources"),
      options.protocol === "http/json"
        ? import("@opentelemetry/exporter-trace-otlp-http")
        : import("@opentelemetry/exporter-trace-otlp-proto"),
    ]);
  diag.setLogger(diagTo(log), { logLevel: DiagLogLevel.WARN, suppressOverrideMessage: true });
  context.setGlobalContextManager(new AsyncLocalStorageContextManager().enable());
  propagation.setGlobalPropagator(new core.W3CTraceContextPropagator());
  const own = resources.resourceFromAttributes({ "service.name": NAME, "service.version": options.version });
  const provider = new TracerProvider({
    sampler: await samplerOf(options),
    // What OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say goes before.
    resource: own.merge(resources.detectResources({ detectors: [resources.envDetector] })),
    spanProcessors: [
      new BatchSpanProcessor({
        exporter: new exporter.OTLPTraceExporter(),
        scheduledDelayMillis: options.exportDelayMs,
      }),
    ],
  });
  trace.setGlobalTracerProvider(provider);
  started = true;
  // A collector that does not answer must not hold up the end of the service.
  return { [Symbol.asyncDispose]: () => Promise.race([provider.shutdown(), pause(LAST_EXPORT_MS)]) };
}

async function samplerOf({ sampler, ratio }: TracingOptions): Promise<Sampler> {
  const sdk = await import("@opentelemetry/sdk-trace");
  const root = sampler.endsWith("traceidratio")
    ? new sdk.TraceIdRatioBasedSampler(ratio)
    : sampler.endsWith("always_off")
      ? new sdk.AlwaysOffSampler()
      : new sdk.AlwaysOnSampler();
  return sampler.startsWith("parentbased") ? new sdk.ParentBasedSampler({ root }) : root;
}

function diagTo(log: Logger): DiagLogger {
  const warn = (message: string) => log.warn({ tracing: message }, "traces are not sent as they should be");
  const quiet = () => {};
  return { error: warn, warn, info: quiet, debug: quiet, verbose: quiet };
}
