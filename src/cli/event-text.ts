import type { Event } from "../../gen/millrace/v1/events_pb.js";
import { time } from "./format.ts";
import { printable } from "./table.ts";

const JSON_TYPE = "application/json";

/**
 * An event as one line of JSON, in the form that the HTTP API has. The value is written as it was stored.
 *
 * @param event with its payload as `data`.
 */
export function eventJson(event: Event): string {
  const { eventId, partition, offset, key, headers, deliveryAttempt } = event;
  const place = { eventId, partition, offset: Number(offset), timestamp: time(event.timestamp) };
  const head = JSON.stringify({ ...place, key, deliveryAttempt });
  const tail = Object.keys(headers).length > 0 ? `,"headers":${JSON.stringify(headers)}` : "";
  return `${head.slice(0, -1)},${payloadJson(event)}${tail}}`;
}

function payloadJson(event: Event): string {
  const data = dataOf(event);
  if (event.contentType === JSON_TYPE) return `"value":${data.toString()}`;
  return `"data":"${data.toString("base64")}","contentType":${JSON.stringify(event.contentType ?? "")}`;
}

/** An event as one line for people: where it is, when it came, its key, its value. */
export function eventLine(event: Event): string {
  const place = `${event.partition}:${event.offset}`.padEnd(10);
  const headers = Object.entries(event.headers).map(([name, value]) => `${name}=${value}`);
  const more = headers.length > 0 ? `  [${headers.join(" ")}]` : "";
  return `${place}  ${time(event.timestamp)}  ${printable(event.key ?? "-")}  ${printable(payloadText(event) + more)}`;
}

function payloadText(event: Event): string {
  const data = dataOf(event);
  const isText = event.contentType === JSON_TYPE || event.contentType?.startsWith("text/");
  return isText ? data.toString() : `<${data.length} bytes of ${event.contentType}>`;
}

/** The value alone: JSON as it was stored, other payloads in base64. */
export const valueText = (event: Event): string =>
  dataOf(event).toString(event.contentType === JSON_TYPE ? "utf8" : "base64");

function dataOf({ payload }: Event): Buffer {
  if (payload.case !== "data") return Buffer.alloc(0);
  return Buffer.from(payload.value.buffer, payload.value.byteOffset, payload.value.byteLength);
}
