/**
 * The trace that an event belongs to, carried in its headers as W3C's `traceparent` and `tracestate`: from the publish to
 * whoever reads the event, processors among them.
 */
import {
  context,
  propagation,
  ROOT_CONTEXT,
  type Span,
  type SpanContext,
  SpanKind,
  SpanStatusCode,
  trace,
} from "@opentelemetry/api";
import type { StoredEvent } from "../domain/event.ts";
import { isTracing, tracer } from "./tracing.ts";

type Headers = ReadonlyArray<readonly [string, string]>;

const PARENT = "traceparent";
const SYSTEM = { "messaging.system": "millrace" };
/** Links that one span has; OpenTelemetry's own bound. */
const MAX_LINKS = 128;

const isOfTrace = (name: string): boolean => /^trace(parent|state)$/i.test(name);
const carries = (headers: Headers | undefined): boolean =>
  headers?.some(([name]) => name.toLowerCase() === PARENT) === true;

/** Headers of the trace that the present call belongs to, for {@link withTrace}; none where there are no traces. */
export function presentTrace(stream: string, eventCount: number): Headers {
  if (!isTracing()) return [];
  trace.getActiveSpan()?.setAttributes({
    ...SYSTEM,
    "messaging.operation.type": "send",
    "messaging.destination.name": stream,
    "messaging.batch.message_count": eventCount,
  });
  return headersOf(context.active());
}

function headersOf(of: Parameters<typeof propagation.inject>[0]): Headers {
  const headers: [string, string][] = [];
  propagation.inject(of, headers, { set: (carrier, name, value) => void carrier.push([name, value]) });
  return headers;
}

/** An event with the headers of a trace, unless its publisher has named one itself. */
export function withTrace<E extends { readonly headers?: Headers | undefined }>(event: E, headers: Headers): E {
  if (headers.length === 0 || carries(event.headers)) return event;
  return { ...event, headers: [...(event.headers ?? []), ...headers] };
}

function contextOf(headers: Headers | undefined) {
  if (!carries(headers)) return undefined;
  const found = Object.fromEntries(headers!.map(([name, value]) => [name.toLowerCase(), value]));
  const of = propagation.extract(ROOT_CONTEXT, found);
  return trace.getSpanContext(of) && of;
}

/** Notes that events were handed to a reader, with links to the traces that they belong to. */
export function traceDelivery(stream: string, events: readonly StoredEvent[]): void {
  if (!isTracing()) return;
  const links = new Map<string, { context: SpanContext }>();
  for (const { headers } of events) {
    const of = contextOf(headers);
    const span = of && trace.getSpanContext(of);
    if (span && links.size < MAX_LINKS) links.set(span.traceId + span.spanId, { context: span });
  }
  if (links.size === 0) return;
  const attributes = {
    ...SYSTEM,
    "messaging.operation.type": "receive",
    "messaging.destination.name": stream,
    "messaging.batch.message_count": events.length,
  };
  tracer()
    .startSpan(`receive ${stream}`, { kind: SpanKind.CONSUMER, attributes, links: [...links.values()] })
    .end();
}

/** A processor's work on one event. */
export interface ProcessTrace {
  readonly span: Span;
  /** The event's headers for what comes of it: they continue the trace. */
  readonly headers: Headers;
}

/** Begins the span of an event that a processor works on; undefined for one that belongs to no trace that is kept. */
export function traceProcess(
  processor: { readonly id: string; readonly name: string },
  source: string,
  event: StoredEvent,
): ProcessTrace | undefined {
  if (!isTracing()) return undefined;
  const parent = contextOf(event.headers);
  if (!parent) return undefined;
  const attributes = {
    ...SYSTEM,
    "messaging.operation.type": "process",
    "messaging.destination.name": source,
    "messaging.destination.partition.id": String(event.partition),
    "millrace.offset": event.offset,
    "millrace.processor.id": processor.id,
  };
  const span = tracer().startSpan(`process ${processor.name}`, { kind: SpanKind.CONSUMER, attributes }, parent);
  const others = event.headers!.filter(([name]) => !isOfTrace(name));
  return { span, headers: [...others, ...headersOf(trace.setSpan(parent, span))] };
}

/** Ends the span of {@link traceProcess}. @param failure why the event was set aside, if it was. */
export function endProcess({ span }: ProcessTrace, failure: string | undefined): void {
  if (failure !== undefined) span.setStatus({ code: SpanStatusCode.ERROR, message: failure });
  span.end();
}
