/** What runs in the page: a user's code with Connect-Web, gRPC-Web and `EventSource`, driven by `chromium.ts`. */
import { createConnectTransport, createGrpcWebTransport } from "@connectrpc/connect-web";
import { failureOf, type SubscribeRequest, SubscriptionFailure, type Told, toldByRpc } from "../support/told.ts";

export type Kind = "connect" | "grpcWeb" | "eventSource";

/** What the driver gives the page to tell it of a subscription. */
interface Driver {
  told(id: number, told: Told): Promise<void>;
  /** @param code of the refusal; undefined: it ended by itself. */
  ended(id: number, code: number | undefined, message: string): Promise<void>;
}

declare global {
  var location: { readonly origin: string };
  var driver: Driver;
  var start: (id: number, kind: Kind, stream: string, request: SubscribeRequest) => void;
  var stop: (id: number) => void;
}

const baseUrl = location.origin;
const running = new Map<number, AbortController>();

globalThis.start = (id, kind, stream, request) => {
  const over = new AbortController();
  running.set(id, over);
  void (async () => {
    try {
      for await (const told of read(kind, stream, request, over.signal)) await driver.told(id, told);
      await driver.ended(id, undefined, "");
    } catch (error) {
      await driver.ended(id, error instanceof SubscriptionFailure ? error.code : -1, String(error));
    }
  })();
};

globalThis.stop = (id) => running.get(id)?.abort();

function read(kind: Kind, stream: string, request: SubscribeRequest, signal: AbortSignal): AsyncIterable<Told> {
  if (kind === "eventSource") return readEventSource(stream, request, signal);
  const transport = kind === "connect" ? createConnectTransport({ baseUrl }) : createGrpcWebTransport({ baseUrl });
  return toldByRpc(transport, stream, request, signal);
}

async function* readEventSource(stream: string, request: SubscribeRequest, signal: AbortSignal): AsyncGenerator<Told> {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(request))
    for (const each of [value].flat()) query.append(name, String(each));
  const source = new EventSource(`/api/v1/streams/${stream}/events/stream?${query}`);
  const told: Told[] = [];
  let failure: SubscriptionFailure | undefined;
  let wake = () => {};
  const on = (name: string, take: (message: MessageEvent) => Omit<Told, "resumeToken">) =>
    source.addEventListener(name, (event) => {
      const message = event as MessageEvent;
      told.push({ ...take(message), resumeToken: message.lastEventId });
      wake();
    });
  on("message", ({ data }) => ({ events: [JSON.parse(data)] }));
  on("assignment", ({ data }) => ({ events: [], assignment: JSON.parse(data) }));
  on("caughtUp", () => ({ events: [], caughtUp: true }));
  source.addEventListener("error", (event) => {
    // The service says how it ends a stream; of a refused request a browser tells nothing, and of a lost connection it gets over itself.
    if (event instanceof MessageEvent) failure = failureOf(JSON.parse(event.data) as object);
    else if (source.readyState === EventSource.CLOSED) failure = new SubscriptionFailure(0, "refused");
    wake();
  });
  signal.addEventListener("abort", () => wake());
  try {
    while (!signal.aborted) {
      yield* told.splice(0);
      if (failure) throw failure;
      const { promise, resolve } = Promise.withResolvers<void>();
      wake = resolve;
      if (told.length === 0 && !failure && !signal.aborted) await promise;
    }
  } finally {
    source.close();
  }
}
