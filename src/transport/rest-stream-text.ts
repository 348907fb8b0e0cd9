import type { StoredEvent } from "../domain/event.ts";
import { toCompactJson } from "../domain/json.ts";
import { resumeToken } from "../domain/resume-token.ts";
import type { Delivery } from "../log/subscribe.ts";
import { assignmentText, eventsBuffer } from "./rest-text.ts";

/** What a subscription sends over HTTP, assembled around the stored bytes. */

/**
 * A delivery as Server-Sent Events: each event's `id:` says where the reader is in every partition, so that a browser
 * that connects again goes on behind the last event it has seen.
 */
export function sseLines(delivery: Delivery, asData: boolean): Buffer {
  const { events, assignment, caughtUp, heartbeat, positions } = delivery;
  const parts: (string | Buffer)[] = [];
  if (assignment) parts.push(`event: assignment\ndata: ${assignmentText(assignment.consumerId, assignment)}\n\n`);
  const seen = positions && startOf(events, positions);
  for (const event of events) {
    let id: string;
    if (seen) {
      seen.set(event.partition, event.offset + 1);
      id = resumeToken(seen, event.partition);
    } else id = `${event.partition}:${event.offset}`;
    parts.push(`id: ${id}\ndata: `, lineOf(event, asData), "\n\n");
  }
  // An id without data is kept by the browser all the same: also a reader that has seen nothing knows where it is.
  const id = positions ? `id: ${resumeToken(positions)}\n` : "";
  if (caughtUp) parts.push(`${id}event: caughtUp\ndata: {}\n\n`);
  if (heartbeat) parts.push(`${id}: heartbeat\n\n`);
  return joined(parts);
}

/** A delivery as JSON lines: one for each event, and one for whatever else is told. */
export function eventLines(delivery: Delivery, asData: boolean): Buffer {
  const { events, assignment, caughtUp, heartbeat, positions } = delivery;
  const parts: (string | Buffer)[] = [];
  if (assignment) parts.push(`{"assignment":${assignmentText(assignment.consumerId, assignment)}}\n`);
  for (const event of events) parts.push(lineOf(event, asData), "\n");
  const token = positions ? `,"resumeToken":"${resumeToken(positions)}"` : "";
  if (caughtUp) parts.push(`{"caughtUp":true${token}}\n`);
  if (heartbeat) parts.push(`{"heartbeat":true${token}}\n`);
  return joined(parts);
}

/** Where the reader was before the events. */
function startOf(events: readonly StoredEvent[], positions: ReadonlyMap<number, number>): Map<number, number> {
  const start = new Map(positions);
  for (let i = events.length - 1; i >= 0; i--) start.set(events[i]!.partition, events[i]!.offset);
  return start;
}

/** Many readers of one stream are sent the same events. */
const valueLines = new WeakMap<StoredEvent, Buffer>();

/** An event as JSON on one line. */
function lineOf(event: StoredEvent, asData: boolean): Buffer {
  if (asData) return eventsBuffer("", [event], true, "");
  let line = valueLines.get(event);
  if (!line) {
    // What others published straight to NATS may be spread over lines.
    const isOneLine = !event.payload.includes(LF) && !event.payload.includes(CR);
    const payload = isOneLine ? event.payload : compact(event.payload);
    line = eventsBuffer("", [payload === event.payload ? event : { ...event, payload }], false, "");
    valueLines.set(event, line);
  }
  return line;
}

const LF = 0x0a;
const CR = 0x0d;

function compact(payload: Uint8Array): Uint8Array {
  try {
    return toCompactJson(payload);
  } catch {
    return payload; // no JSON: goes out as base64
  }
}

/** In one buffer: names may hold any text, in at most three bytes a UTF-16 unit. */
function joined(parts: readonly (string | Buffer)[]): Buffer {
  let size = 0;
  for (const part of parts) size += typeof part === "string" ? part.length * 3 : part.length;
  const out = Buffer.allocUnsafe(size);
  let at = 0;
  for (const part of parts)
    if (typeof part === "string") at += out.write(part, at);
    else {
      out.set(part, at);
      at += part.length;
    }
  return out.subarray(0, at);
}
