import { SAMPLERS, type SamplerName, type TracingOptions } from "./telemetry/tracing.ts";
import { VERSION } from "./version.ts";

const PROTOCOLS = ["http/protobuf", "http/json"] as const;

/**
 * Reads OpenTelemetry's own variables: traces are made when an OTLP endpoint is named.
 *
 * @param faults is added to for every setting that is wrong.
 * @see OpenTelemetry's "Environment Variable Specification" and "OpenTelemetry Protocol Exporter"
 */
export function loadTracing(env: NodeJS.ProcessEnv, faults: string[]): TracingOptions | undefined {
  const text = (...names: string[]) => names.map((name) => env[name]?.trim()).find(Boolean);
  const endpoint = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"].find((name) => text(name));
  if (endpoint === undefined || text("OTEL_SDK_DISABLED")?.toLowerCase() === "true") return undefined;
  if (text("OTEL_TRACES_EXPORTER") === "none") return undefined;
  if (!/^https?:\/\//.test(text(endpoint)!) || !URL.canParse(text(endpoint)!))
    faults.push(`${endpoint} must be an http or https URL, not "${text(endpoint)}"`);
  const oneOf = <T extends string>(words: readonly T[], fallback: T, ...names: string[]): T => {
    const value = text(...names) ?? fallback;
    if (!(words as readonly string[]).includes(value))
      faults.push(`${names.at(-1)} must be one of ${words.join(", ")}, not "${value}"`);
    return value as T;
  };
  const number = (name: string, fallback: number, max: number) => {
    const value = Number(text(name) ?? fallback);
    if (!(value >= 0 && value <= max)) faults.push(`${name} must be a number from 0 to ${max}, not "${text(name)}"`);
    return value;
  };
  return {
    version: VERSION,
    protocol: oneOf(PROTOCOLS, "http/protobuf", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"),
    sampler: oneOf<SamplerName>(SAMPLERS, "parentbased_always_on", "OTEL_TRACES_SAMPLER"),
    ratio: number("OTEL_TRACES_SAMPLER_ARG", 1, 1),
    exportDelayMs: number("OTEL_BSP_SCHEDULE_DELAY", 5000, 600_000),
  };
}
