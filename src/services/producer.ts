import { isUtf8 } from "node:buffer";
import { randomBytes } from "node:crypto";
import { type Deadline, deadlineIn } from "../domain/deadline.ts";
import { invalidArgument, ServiceError, unavailable } from "../domain/errors.ts";
import { type Ack, type EventFields, isRefused, type NewEvent, newEvent, type RefusedEvent } from "../domain/event.ts";
import { MAX_BATCH_EVENTS, MAX_EVENT_ID_BYTES } from "../domain/limits.ts";
import type { Principal } from "../domain/principal.ts";
import type { JetStream } from "../jetstream/connection.ts";
import type { Appender, AppendOptions, Outcome } from "../log/append.ts";
import { appendAtomic } from "../log/atomic.ts";
import type { Catalog, StreamRecord } from "../log/catalog.ts";
import { presentTrace, withTrace } from "../telemetry/event-trace.ts";
import type { Quotas } from "./quotas.ts";
import type { Traffic } from "./traffic.ts";

export interface BatchRequest {
  readonly events: readonly (EventFields | RefusedEvent)[];
  readonly gzip: boolean;
  readonly atomic: boolean;
  /** Of the `Idempotency-Key` header: gives every event without id one made of the key and its place. */
  readonly idempotencyKey?: string | undefined;
  readonly deadline: Deadline;
}

export interface BatchResult {
  readonly batchId: string;
  readonly successCount: number;
  /** In the order of the request. */
  readonly outcomes: readonly Outcome[];
}

/** Publishes events to streams, whichever protocol they came by. */
export class Producer {
  readonly #js: JetStream;
  readonly #catalog: Catalog;
  readonly #appender: Appender;
  readonly #traffic: Traffic;
  readonly #draining: AbortSignal;
  readonly #quotas: Quotas | undefined;

  /** @param draining ends publish streams, when the gateway is to stop. */
  constructor(
    js: JetStream,
    catalog: Catalog,
    appender: Appender,
    draining: AbortSignal,
    traffic: Traffic,
    quotas: Quotas | undefined,
  ) {
    this.#js = js;
    this.#catalog = catalog;
    this.#appender = appender;
    this.#draining = draining;
    this.#traffic = traffic;
    this.#quotas = quotas;
  }

  /** Stores one event. @throws ServiceError, at once or as a rejection. */
  publish(
    streamName: string,
    fields: EventFields,
    idempotencyKey: string | undefined,
    deadline: Deadline,
  ): Promise<Ack> {
    const event = withTrace(newEvent(identified(fields, idempotencyKey)), presentTrace(streamName, 1));
    const stream = this.#stream(streamName, deadline);
    const append = (found: StreamRecord) => {
      this.#quotas?.publish(streamName, event.payload.length);
      return this.#append(found, event, deadline);
    };
    return stream instanceof Promise ? stream.then(append) : append(stream);
  }

  // Every promise less counts: an event goes through here by itself.
  #append(stream: StreamRecord, event: NewEvent, deadline: Deadline): Promise<Ack> {
    return this.#appender.append(stream, event, { deadline }).then(
      (ack) => {
        this.#traffic.published(stream.name, 1, event.payload.length);
        return ack;
      },
      async (error: unknown) => {
        throw await this.#catalog.explain(stream, error);
      },
    );
  }

  /** Stores many events. @throws ServiceError when the batch as a whole can't be published. */
  async publishBatch(streamName: string, request: BatchRequest): Promise<BatchResult> {
    const { events, deadline, gzip } = request;
    if (events.length === 0) throw invalidArgument("events", "must not be empty");
    if (events.length > MAX_BATCH_EVENTS) throw invalidArgument("events", `must be at most ${MAX_BATCH_EVENTS}`);
    // A batch's own time is for its events; whether there is such a stream is said in any case.
    const stream = await this.#stream(streamName, Math.max(deadline, deadlineIn(MIN_LOOKUP_MS)));
    const trace = presentTrace(streamName, events.length);
    const checked = events.map((event, index) => checkedEvent(event, index, request.idempotencyKey, trace));
    const options: AppendOptions = { deadline, gzip };
    this.#quotas?.publish(streamName, payloadBytes(checked));
    const ends = request.atomic
      ? await this.#catalog.during(stream, () => appendAtomic(this.#js, this.#appender, stream, checked, options))
      : await this.#appender.appendAll(stream, checked, options);
    const outcomes = ends.map(withPlace);
    let successCount = 0;
    let bytes = 0;
    for (const [index, outcome] of outcomes.entries()) {
      if ("error" in outcome) continue;
      successCount++;
      bytes += (checked[index] as NewEvent).payload.length;
    }
    if (successCount > 0) this.#traffic.published(streamName, successCount, bytes);
    return { batchId: `batch_${randomBytes(9).toString("base64url")}`, successCount, outcomes };
  }

  /**
   * Stores the events of a source as they come, several at a time; within quotas, which slow it.
   *
   * @param signal the caller is gone.
   * @returns one outcome each, in order.
   */
  async *publishStream(
    source: AsyncIterable<{ stream: string; fields: EventFields | RefusedEvent }>,
    deadlineOf: () => Deadline,
    principal: Principal,
    signal: AbortSignal,
  ): AsyncGenerator<Outcome> {
    const open: Promise<Outcome>[] = [];
    let ended = false;
    let wake = Promise.withResolvers<void>();
    let room = Promise.withResolvers<void>();
    let failure: unknown;
    // What was read is stored and answered; what comes after it is not read.
    const drain = () => {
      if (ended) return;
      ended = true;
      failure = unavailable("this gateway is stopping: publish the rest again");
      wake.resolve();
      room.resolve();
    };
    if (this.#draining.aborted) drain();
    this.#draining.addEventListener("abort", drain, { once: true });
    const reading = (async () => {
      for await (const { stream, fields } of source) {
        while (open.length >= MAX_OPEN && !ended) await room.promise;
        if (this.#quotas) await this.#quotas.paceIn(principal, stream, payloadBytes([fields]), signal);
        if (ended) return;
        const outcome = this.#outcomeOf(stream, fields, deadlineOf());
        // Its failure is thrown when its turn comes.
        outcome.catch(() => {});
        open.push(outcome);
        wake.resolve();
      }
    })()
      .catch((error: unknown) => {
        failure ??= error;
      })
      .finally(() => {
        ended = true;
        wake.resolve();
      });
    try {
      for (;;) {
        const next = open.shift();
        if (next) {
          room.resolve();
          room = Promise.withResolvers();
          yield await next;
        } else if (ended) break;
        else {
          await wake.promise;
          wake = Promise.withResolvers();
        }
      }
      if (failure !== undefined) throw failure;
    } finally {
      ended = true;
      room.resolve();
      this.#draining.removeEventListener("abort", drain);
    }
    await reading;
  }

  async #outcomeOf(stream: string, fields: EventFields | RefusedEvent, deadline: Deadline): Promise<Outcome> {
    try {
      if (isRefused(fields)) return fields;
      const event = withTrace(newEvent(fields), presentTrace(stream, 1));
      return await this.#append(await this.#stream(stream, deadline), event, deadline);
    } catch (error) {
      if (!(error instanceof ServiceError)) throw error;
      return { eventId: fields.eventId, error };
    }
  }

  #stream(name: string, deadline: Deadline): StreamRecord | Promise<StreamRecord> {
    return this.#catalog.known(name) ?? this.#catalog.find(name, deadline);
  }
}

/** Time to look a stream up, however short the caller's own is. */
const MIN_LOOKUP_MS = 1000;
/** Events of one publish stream without an outcome; a faster publisher waits. */
const MAX_OPEN = 1024;

/** Bytes of the payloads; those of events that are refused are none. */
function payloadBytes(events: readonly (EventFields | NewEvent | RefusedEvent)[]): number {
  let bytes = 0;
  for (const event of events) if (!isRefused(event)) bytes += payloadOf(event);
  return bytes;
}

function payloadOf(event: EventFields | NewEvent): number {
  if ("payload" in event) return event.payload.length;
  return (event.data ?? event.value)?.length ?? 0;
}

/** A fault that only the stream could find is told by its field's place in the batch, as the others are. */
function withPlace(outcome: Outcome, index: number): Outcome {
  if (!isRefused(outcome)) return outcome;
  const { code, message, details, httpStatus, cause } = outcome.error;
  const field = details[0]?.field;
  if (field === undefined || field.startsWith(`events[${index}]`)) return outcome;
  const place = `events[${index}].`;
  const error = new ServiceError(code, message.startsWith(`${field}: `) ? place + message : message, {
    details: details.map((each) => ({ ...each, field: place + each.field })),
    httpStatus,
    cause,
  });
  return { eventId: outcome.eventId, error };
}

function checkedEvent(
  event: EventFields | RefusedEvent,
  index: number,
  idempotencyKey: string | undefined,
  trace: ReturnType<typeof presentTrace>,
): NewEvent | RefusedEvent {
  if (isRefused(event)) return event;
  try {
    const key = event.eventId === undefined && idempotencyKey !== undefined ? `${idempotencyKey}.${index}` : undefined;
    return withTrace(newEvent(identified(event, key), `events[${index}].`), trace);
  } catch (error) {
    if (error instanceof ServiceError) return { eventId: event.eventId, error };
    throw error;
  }
}

/** The event under the id of its `Idempotency-Key`. @throws ServiceError INVALID_ARGUMENT when it has another id. */
function identified(event: EventFields, key: string | undefined): EventFields {
  if (key === undefined || key === event.eventId) return event;
  if (event.eventId !== undefined) throw invalidArgument("eventId", "differs from the Idempotency-Key header");
  return { ...event, eventId: key };
}

/** A header's characters are bytes; they are mostly meant as UTF-8, and else stay what they are. */
function utf8Of(header: string): string {
  const bytes = Buffer.from(header, "latin1");
  return isUtf8(bytes) ? bytes.toString("utf8") : header;
}

/**
 * Reads an `Idempotency-Key` header: a quoted string as the IETF draft has it, or the bare key.
 *
 * @throws ServiceError INVALID_ARGUMENT when it is empty or longer than an event id may be.
 */
export function parseIdempotencyKey(header: string | null | undefined): string | undefined {
  if (header === null || header === undefined) return undefined;
  const text = utf8Of(header.trim());
  const key =
    text.length >= 2 && text.startsWith('"') && text.endsWith('"')
      ? text.slice(1, -1).replace(/\\(["\\])/g, "$1")
      : text;
  if (key === "" || Buffer.byteLength(key) > MAX_EVENT_ID_BYTES)
    throw invalidArgument("Idempotency-Key", `must have 1 to ${MAX_EVENT_ID_BYTES} bytes`);
  return key;
}
