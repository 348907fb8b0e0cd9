import type { Transport } from "@connectrpc/connect";
import { createConnectTransport, createGrpcTransport, Http2SessionManager } from "@connectrpc/connect-node";
import { createGrpcWebTransport } from "@connectrpc/connect-web";
import { failureOf, type SubscribeRequest, type Told, toldByRpc } from "./told.ts";

export interface Subscriber {
  readonly name: string;
  /** False: an API that keeps the error of a refused call to itself. Default: true. */
  readonly seesRefusals?: boolean;
  /** False: an API that keeps heartbeats to itself. Default: true. */
  readonly seesHeartbeats?: boolean;
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
        yield* toldByRpc(transport, streamName, request, signal);
      } finally {
        sessionManager?.abort();
      }
    },
  };
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
