import { errorRule, type ServiceError } from "../domain/errors.ts";
import { type Ack, JSON_TYPE, type StoredEvent } from "../domain/event.ts";
import type { PollResult } from "../log/poll.ts";
import type { ReadResult } from "../log/read.ts";
import type { BatchResult } from "../services/producer.ts";

/** Answers of the hot REST paths, assembled as text: a value that only passes through is never parsed. */

/** Milliseconds since 1970 as RFC 3339 in UTC; events of one second share most of it. */
export function isoTime(ms: number): string {
  const second = Math.floor(ms / 1000);
  if (second !== lastSecond) {
    lastSecond = second;
    lastText = new Date(second * 1000).toISOString().slice(0, 20);
  }
  const rest = ms - second * 1000;
  return `${lastText}${rest < 10 ? "00" : rest < 100 ? "0" : ""}${rest}Z`;
}
let lastSecond = Number.NaN;
let lastText = "";

/** Text that needs no escape in JSON. */
const PLAIN = /^[\x20\x21\x23-\x5b\x5d-\x7e]*$/;
const quote = (text: string): string => (PLAIN.test(text) ? `"${text}"` : JSON.stringify(text));

/** The answer to one publish. */
export function publishedText({ eventId, partition, offset, duplicate }: Ack, timestampMs: number): string {
  return `{"eventId":${quote(eventId)},"partition":${partition},"offset":${offset},"timestamp":"${isoTime(timestampMs)}","status":"published"${duplicate ? ',"duplicate":true' : ""}}`;
}

/** The answer to a batch. */
export function batchText({ batchId, successCount, outcomes }: BatchResult): string {
  const total = outcomes.length;
  let text = `{"batchId":"${batchId}","totalEvents":${total},"successCount":${successCount},"failureCount":${total - successCount},"results":[`;
  for (let i = 0; i < total; i++) {
    const outcome = outcomes[i]!;
    if (i > 0) text += ",";
    if ("error" in outcome)
      text += `{${outcome.eventId === undefined ? "" : `"eventId":${quote(outcome.eventId)},`}"error":${errorText(outcome.error)}}`;
    else
      text += `{"eventId":${quote(outcome.eventId)},"partition":${outcome.partition},"offset":${outcome.offset}${outcome.duplicate ? ',"duplicate":true' : ""}}`;
  }
  return `${text}]}`;
}

function errorText(error: ServiceError): string {
  return JSON.stringify({
    code: error.code,
    message: errorRule(error.code).name,
    description: error.message,
    ...(error.details.length > 0 ? { details: error.details } : {}),
  });
}

/** The events of an answer as a JSON array's items, into one buffer together with what stands before and after. */
export function eventsBuffer(before: string, events: readonly StoredEvent[], asData: boolean, after: string): Buffer {
  const heads = new Array<string>(events.length);
  let size = before.length + after.length * 3 + 16;
  for (let i = 0; i < events.length; i++) {
    const head = eventHead(events[i]!, asData);
    heads[i] = head;
    // Three bytes hold any UTF-16 unit in UTF-8.
    size += head.length * 3 + events[i]!.payload.length + 2;
  }
  const out = Buffer.allocUnsafe(size);
  let at = out.write(before, 0, "latin1");
  for (let i = 0; i < events.length; i++) {
    if (i > 0) out[at++] = COMMA;
    const head = heads[i]!;
    at += ASCII.test(head) ? out.write(head, at, "latin1") : out.write(head, at, "utf8");
    const { payload } = events[i]!;
    if (isValue(events[i]!, asData)) {
      out.set(payload, at);
      at += payload.length;
    }
    out[at++] = CLOSE;
  }
  at += out.write(after, at, "utf8");
  return out.subarray(0, at);
}

const COMMA = 0x2c;
const CLOSE = 0x7d;
const ASCII = /^[\x00-\x7f]*$/;

const isValue = (event: StoredEvent, asData: boolean): boolean => !asData && event.contentType === JSON_TYPE;

/** Everything of an event but its value, which comes last. */
function eventHead(event: StoredEvent, asData: boolean): string {
  let text = `{"eventId":${quote(event.eventId)},"partition":${event.partition},"offset":${event.offset},"timestamp":"${isoTime(event.timestampMs)}"`;
  if (event.key !== undefined) text += `,"key":${quote(event.key)}`;
  if (event.deliveryAttempt !== undefined) text += `,"deliveryAttempt":${event.deliveryAttempt}`;
  if (event.headers) {
    text += ',"headers":{';
    let first = true;
    for (const [name, value] of event.headers) {
      text += `${first ? "" : ","}${quote(name)}:${quote(value)}`;
      first = false;
    }
    text += "}";
  }
  if (isValue(event, asData)) return `${text},"value":`;
  const { buffer, byteOffset, length } = event.payload;
  return `${text},"contentType":${quote(event.contentType)},"data":"${Buffer.from(buffer, byteOffset, length).toString("base64")}"`;
}

/** The answer to a poll. */
export function pollBuffer(group: string, consumerId: string | undefined, result: PollResult, asData: boolean): Buffer {
  let partitions = "";
  for (const { partition, nextOffset, lag, committedOffset } of result.partitions) {
    const committed = committedOffset === undefined ? "" : `,"committedOffset":${committedOffset}`;
    partitions += `${partitions && ","}{"partition":${partition},"nextOffset":${nextOffset},"lag":${lag}${committed}}`;
  }
  const { assignment } = result;
  const member =
    consumerId === undefined || assignment === undefined
      ? ""
      : `,"generation":${assignment.generation},"assignment":${assignmentText(consumerId, assignment)}`;
  const metadata = `{"consumerGroup":${quote(group)},"lag":${result.lag},"nextOffset":${result.nextOffset},"partitions":[${partitions}]${member}}`;
  return eventsBuffer('{"events":[', result.events, asData, `],"metadata":${metadata}}`);
}

/** What a member may read and commit. */
export function assignmentText(
  consumerId: string,
  { generation, partitions }: { readonly generation: number; readonly partitions: readonly number[] },
): string {
  return `{"consumerId":${quote(consumerId)},"generation":${generation},"partitions":[${partitions.join(",")}]}`;
}

/** The answer to a read of one partition. */
export function readBuffer({ events, state, nextOffset }: ReadResult, asData: boolean): Buffer {
  const { startOffset, endOffset } = state;
  const metadata = `{"startOffset":${startOffset},"endOffset":${endOffset},"nextOffset":${nextOffset}}`;
  return eventsBuffer('{"events":[', events, asData, `],"metadata":${metadata}}`);
}
