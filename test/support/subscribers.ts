import { ConnectError, createClient, type Transport } from "@connectrpc/connect";
import { createConnectTransport, createGrpcTransport, Http2SessionManager } from "@connectrpc/connect-node";
import { createGrpcWebTransport } from "@connectrpc/connect-web";
import { ErrorInfoSchema } from "../../gen/google/rpc/error_details_pb.js";
import { EventService } from "../../gen/millrace/v1/events_pb.js";

/** What a subscription is asked for, in every protocol. */
export interface SubscribeRequest {
  consumerGroup?: string;
  consumerId?: string;
  offset?: string;
  resumeToken?: string;
  partition?: number[];
  filter?: string;
  autoCommit?: boolean;
  limit?: number;
  maxUncommitted?: number;
  heartbeat?: number;
  keepMembership?: boolean;
}

/** One thing that a subscription told; over HTTP each event comes by itself. */
export interface Told {
  events: { partition: number; offset: number; value: unknown }[];
  assignment?: { consumerId: string; generation: number; partitions: number[] };
  caughtUp?: boolean;
  heartbeat?: boolean;
  resumeToken?: string;
}

/** How a subscription was ended by the service. */
export class SubscriptionFailure extends Error {
  readonly code: number;
  constructor(code: number, message: string) {
    super(`${code}: ${message}`);
    this.code = code;
  }
}

export interface Subscriber {
  readonly name: string;
  subscribe(url: string, stream: string, request: SubscribeRequest, signal: AbortSignal): AsyncIterable<Told>;
}

/** Every way to read live. */
export const subscribers: readonly Subscriber[] = [
  rpc("Connect JSON over HTTP/1.1", (baseUrl) => ({
    transport: createConnectTransport({ baseUrl, httpVersion: "1.1", useBinaryFormat: false }),
  })),
  rpc("Connect over h2c", (baseUrl) => {
    const sessionManager = new Http2SessionManager(baseUrl);
    return {
      transport: createConnectTransport({ baseUrl, httpVersion: "2", useBinaryFormat: true, sessionManager }),
      sessionManager,
    };
  }),
  rpc("gRPC", (baseUrl) => {
    const sessionManager = new Http2SessionManager(baseUrl);
    return { transport: createGrpcTransport({ baseUrl, sessionManager }), sessionManager };
  }),
  rpc("gRPC-Web over HTTP/1.1", (baseUrl) => ({ transport: createGrpcWebTransport({ baseUrl }) })),
  { name: "Server-Sent Events", subscribe: overHttp("text/event-stream", readSse) },
  { name: "JSON lines", subscribe: overHttp("application/x-ndjson", readLines) },
];

function rpc(
  name: string,
  connect: (url: string) => { transport: Transport; sessionManager?: Http2SessionManager },
): Subscriber {
  return {
    name,
    async *subscribe(url, streamName, request, signal) {
      const { transport, sessionManager } = connect(url);
      try {
        const answers = createClient(EventService, transport).subscribe({ streamName, ...request }, { signal });
        for await (const { events, assignment, caughtUp, heartbeat, resumeToken } of answers)
          yield {
            events: events.map(({ partition, offset, payload }) => ({
              partition,
              offset: Number(offset),
              value: payload.case === "value" ? plain(payload.value) : payload.value,
            })),
            caughtUp,
            heartbeat,
            ...(resumeToken === undefined ? {} : { resumeToken }),
            ...(assignment ? { assignment: { ...assignment, generation: Number(assignment.generation) } } : {}),
          };
      } catch (error) {
        if (signal.aborted) return;
        const [info] = ConnectError.from(error).findDetails(ErrorInfoSchema);
        throw new SubscriptionFailure(Number(info?.metadata.code ?? 0), String(error));
      } finally {
        sessionManager?.abort();
      }
    },
  };
}

function plain({ kind }: { kind: { case: string | undefined; value?: unknown } }): unknown {
  return kind.case === "nullValue" ? null : kind.value;
}

function overHttp(
  accept: string,
  read: (chunks: AsyncIterable<string>) => AsyncIterable<Told>,
): Subscriber["subscribe"] {
  return async function* (url, stream, { resumeToken, ...request }, signal) {
    const query = new URLSearchParams();
    for (const [name, value] of Object.entries(request))
      for (const each of [value].flat()) query.append(name, String(each));
    const headers = { accept, ...(resumeToken === undefined ? {} : { "last-event-id": resumeToken }) };
    try {
      const response = await fetch(`${url}/api/v1/streams/${stream}/events/stream?${query}`, { headers, signal });
      if (response.status !== 200) throw failureOf((await response.json()) as object);
      if (!response.headers.get("content-type")!.startsWith(accept)) throw new Error("answered in another form");
      yield* read(response.body!.pipeThrough(new TextDecoderStream()) as unknown as AsyncIterable<string>);
    } catch (error) {
      if (!signal.aborted) throw error;
    }
  };
}

async function* readSse(chunks: AsyncIterable<string>): AsyncGenerator<Told> {
  let id = "";
  for await (const block of split(chunks, "\n\n")) {
    let event = "message";
    let data = "";
    let comment = "";
    for (const line of block.split("\n")) {
      if (line.startsWith(":")) comment = line.slice(1).trim();
      else if (line.startsWith("id: ")) id = line.slice(4);
      else if (line.startsWith("event: ")) event = line.slice(7);
      else if (line.startsWith("data: ")) data += line.slice(6);
    }
    const told = { resumeToken: id };
    if (event === "error") throw failureOf(JSON.parse(data) as object);
    if (event === "assignment") yield { ...told, events: [], assignment: JSON.parse(data) };
    else if (event === "caughtUp") yield { ...told, events: [], caughtUp: true };
    else if (data !== "") yield { ...told, events: [JSON.parse(data)] };
    else if (comment === "heartbeat") yield { ...told, events: [], heartbeat: true };
  }
}

async function* readLines(chunks: AsyncIterable<string>): AsyncGenerator<Told> {
  for await (const line of split(chunks, "\n")) {
    const told = JSON.parse(line);
    if (told.error) throw failureOf(told);
    yield "offset" in told ? { events: [told] } : { events: [], ...told };
  }
}

async function* split(chunks: AsyncIterable<string>, separator: string): AsyncGenerator<string> {
  let rest = "";
  for await (const chunk of chunks) {
    const parts = (rest + chunk).split(separator);
    rest = parts.pop()!;
    for (const part of parts) if (part !== "") yield part;
  }
}

function failureOf(body: object): SubscriptionFailure {
  const { code, description } = (body as { error: { code: number; description: string } }).error;
  return new SubscriptionFailure(code, description);
}
