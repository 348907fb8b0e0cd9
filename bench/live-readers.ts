import { connect as connectHttp2 } from "node:http2";
import { connect } from "node:net";
import { create, toBinary } from "@bufbuild/protobuf";
import { PayloadFormat, SubscribeRequestSchema } from "../gen/millrace/v1/events_pb.js";

/** Stands once in the value of every event, in every form in which it is sent. */
export const MARKER = Buffer.from('"orderId":');
/** The form of the time at which an event was published, in milliseconds of this process' clock. */
const SENT_AT = /"sentAt":(\d+\.\d+),/g;
/** An event and its form are shorter. */
const MAX_EVENT_BYTES = 2048;
const WINDOW_BYTES = 16 * 1024 * 1024;

/** A subscription that is open. */
export interface LiveReader {
  close(): void;
}

/** How to subscribe to all of a stream, from `offset` on. @param onBytes takes what comes, in whatever pieces. */
export type OpenLive = (
  url: string,
  stream: string,
  offset: string,
  onBytes: (bytes: Buffer) => void,
  onEnd: (error: Error) => void,
) => LiveReader;

/** Server-Sent Events on a bare socket. */
export const openSse: OpenLive = (url, stream, offset, onBytes, onEnd) => {
  const { hostname, port } = new URL(url);
  const socket = connect(Number(port), hostname);
  socket.setNoDelay(true);
  socket.write(
    `GET /api/v1/streams/${stream}/events/stream?offset=${offset} HTTP/1.1\r\nhost: bench\r\naccept: text/event-stream\r\n\r\n`,
  );
  socket.on("data", onBytes);
  socket.on("error", onEnd);
  socket.on("end", () => onEnd(new Error("the stream has ended")));
  return { close: () => socket.destroy() };
};

/** `Subscribe` over gRPC, on a connection of its own, with JSON as `data`. */
export const openGrpc: OpenLive = (url, streamName, offset, onBytes, onEnd) => {
  const session = connectHttp2(url, { settings: { initialWindowSize: WINDOW_BYTES } });
  session.on("connect", () => session.setLocalWindowSize(WINDOW_BYTES));
  session.on("error", onEnd);
  const call = session.request({
    ":method": "POST",
    ":path": "/millrace.v1.EventService/Subscribe",
    "content-type": "application/grpc",
    te: "trailers",
  });
  const message = toBinary(
    SubscribeRequestSchema,
    create(SubscribeRequestSchema, { streamName, offset, payload: PayloadFormat.DATA }),
  );
  const prefix = Buffer.alloc(5);
  prefix.writeUInt32BE(message.length, 1);
  call.end(Buffer.concat([prefix, message]));
  call.on("data", onBytes);
  call.on("error", onEnd);
  let status = "without a status";
  call.on("trailers", (trailers) => {
    status = `with ${trailers["grpc-status"]} ${trailers["grpc-message"] ?? ""}`;
  });
  call.on("end", () => onEnd(new Error(`the stream has ended ${status}`)));
  return { close: () => session.destroy() };
};

/** Counts events in the pieces of an answer. @param onEvents is told of each piece's. */
export function eventCounter(onEvents: (events: number) => void): (bytes: Buffer) => void {
  let rest: Buffer = Buffer.alloc(0);
  return (bytes) => {
    const all = rest.length > 0 ? Buffer.concat([rest, bytes]) : bytes;
    let events = 0;
    let from = 0;
    for (let at = all.indexOf(MARKER); at >= 0; at = all.indexOf(MARKER, from)) {
      events++;
      from = at + MARKER.length;
    }
    // The marker may be cut in two.
    rest = all.subarray(Math.max(from, all.length - MARKER.length + 1));
    if (events > 0) onEvents(events);
  };
}

/** Finds when the events in the pieces of an answer were published. */
export function latencyTaker(latencies: number[]): (bytes: Buffer) => void {
  let rest = "";
  return (bytes) => {
    const now = performance.now();
    const all = rest + bytes.toString("latin1");
    let end = 0;
    for (const match of all.matchAll(SENT_AT)) {
      latencies.push(now - Number(match[1]));
      end = match.index + match[0].length;
    }
    rest = all.slice(Math.max(end, all.length - MAX_EVENT_BYTES));
  };
}
