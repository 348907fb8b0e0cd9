import * as http2 from "node:http2";
import {
  create,
  type DescMessage,
  type DescMethodUnary,
  fromBinary,
  fromJson,
  type JsonObject,
  type JsonValue,
  type Message,
  type MessageShape,
  ScalarType,
  toBinary,
  toJson,
} from "@bufbuild/protobuf";
import { type ReflectMessage, reflect } from "@bufbuild/protobuf/reflect";
import { BinaryReader, WireType } from "@bufbuild/protobuf/wire";
import { AnySchema, anyUnpack, FeatureSet_FieldPresence } from "@bufbuild/protobuf/wkt";
import { ConnectError, type Transport } from "@connectrpc/connect";
import { createConnectTransport, createGrpcTransport, Http2SessionManager } from "@connectrpc/connect-node";
import { createGrpcWebTransport } from "@connectrpc/connect-web";
import * as grpc from "@grpc/grpc-js";
import {
  BadRequestSchema,
  ErrorInfoSchema,
  QuotaFailureSchema,
  RetryInfoSchema,
} from "../../gen/google/rpc/error_details_pb.js";
import { ConsumerGroupService } from "../../gen/millrace/v1/consumers_pb.js";
import {
  EventService,
  PublishStreamRequestSchema,
  PublishStreamResponseSchema,
} from "../../gen/millrace/v1/events_pb.js";
import { StreamService } from "../../gen/millrace/v1/streams_pb.js";
import { type ProcessorApi, restProcessors, rpcProcessors } from "./processor-clients.ts";

/** One API over every protocol: requests and answers are plain objects with numbers, whatever went over the wire. */
export interface Api extends AsyncDisposable {
  createStream(request: StreamRequest, options?: CallOptions): Promise<StreamInfo>;
  getStream(streamName: string, options?: CallOptions): Promise<StreamInfo>;
  listStreams(request?: ListRequest): Promise<{ streams: StreamInfo[]; nextPageToken?: string }>;
  updateStream(streamName: string, change: Omit<StreamRequest, "name">): Promise<StreamInfo>;
  deleteStream(streamName: string): Promise<{ status: string; streamName: string; deletedAt: string }>;
  publish(streamName: string, event: NewEvent, options?: CallOptions): Promise<PublishAnswer>;
  publishBatch(
    streamName: string,
    events: readonly NewEvent[],
    batch?: BatchOptions,
    options?: CallOptions,
  ): Promise<BatchAnswer>;
  poll(streamName: string, consumerGroup: string, request?: PollOptions, options?: CallOptions): Promise<PollAnswer>;
  readPartition(streamName: string, partition: number, request?: ReadOptions): Promise<ReadAnswer>;
  commit(consumerGroup: string, offsets: readonly CommitEntry[], more?: CommitOptions): Promise<CommitAnswer>;
  nack(consumerGroup: string, events: readonly CommitEntry[], more?: NackOptions): Promise<NackAnswer>;
  createConsumerGroup(consumerGroup: string, stream: string, more?: NewGroup): Promise<GroupInfo>;
  listConsumerGroups(request?: ListGroupsRequest): Promise<GroupList>;
  getConsumerGroup(consumerGroup: string, stream?: string): Promise<GroupInfo>;
  deleteConsumerGroup(consumerGroup: string, stream?: string): Promise<{ status: string; consumerGroup: string }>;
  seek(consumerGroup: string, stream: string, to: SeekTarget): Promise<SeekAnswer>;
  heartbeat(consumerGroup: string, stream: string, consumerId: string): Promise<HeartbeatAnswer>;
  leave(consumerGroup: string, consumerId: string, stream?: string): Promise<{ streams: string[] }>;
  readonly processors: ProcessorApi;
  /** Only where the protocol has it. */
  publishStream?(requests: AsyncIterable<StreamedEvent>): AsyncIterable<PublishResult>;
}

export interface CallOptions {
  /** Sent with the call. */
  readonly headers?: Readonly<Record<string, string>>;
  /** The caller's deadline; over REST, where a call can't name one, it only ends the wait. */
  readonly timeoutMs?: number;
  readonly signal?: AbortSignal;
}

export interface StreamConfig {
  retentionMs?: number;
  compressionType?: "none" | "gzip" | "s2";
  maxMessageBytes?: number;
  maxBytes?: number;
  duplicateWindowMs?: number;
}
export interface StreamRequest {
  name: string;
  partitions?: number;
  replicationFactor?: number;
  config?: StreamConfig;
}
export interface ListRequest {
  prefix?: string;
  pageSize?: number;
  pageToken?: string;
}
export interface StreamInfo {
  name: string;
  partitions: number;
  replicationFactor: number;
  totalMessages: number;
  totalSize: number;
  config: StreamConfig;
  createdAt: string;
  partitionDetails: PartitionDetail[];
}
export interface PartitionDetail {
  partition: number;
  leader?: string;
  replicas: string[];
  startOffset: number;
  endOffset: number;
}
export interface NewEvent {
  key?: string;
  value?: unknown;
  data?: Uint8Array;
  contentType?: string;
  headers?: Record<string, string>;
  partitionKey?: string;
  partition?: number;
  eventId?: string;
  expectedOffset?: number;
}
export interface PublishAnswer {
  eventId: string;
  partition: number;
  offset: number;
  timestamp: string;
  status: string;
  duplicate?: boolean;
}
export interface BatchOptions {
  compression?: "none" | "gzip" | "s2";
  timeout?: number;
  atomic?: boolean;
}
export interface ErrorObject {
  code: number;
  message: string;
  description: string;
  details?: ErrorDetail[];
}
/** The body of a REST failure. */
export interface ErrorBody {
  error: ErrorObject;
}
export interface ErrorDetail {
  field?: string;
  description?: string;
  endOffset?: number;
}
export interface PublishResult {
  eventId?: string;
  partition?: number;
  offset?: number;
  duplicate?: boolean;
  error?: ErrorObject;
}
export interface BatchAnswer {
  batchId: string;
  totalEvents: number;
  successCount: number;
  failureCount: number;
  results: PublishResult[];
}
export interface PollOptions {
  offset?: string | number;
  limit?: number;
  timeout?: number;
  partition?: number[];
  filter?: string;
  consumerId?: string;
  autoCommit?: boolean;
  maxBytes?: number;
  payload?: "value" | "data";
}
export interface ReadOptions {
  offset?: string | number;
  limit?: number;
  filter?: string;
  maxBytes?: number;
  payload?: "value" | "data";
}
export interface StoredEvent {
  eventId: string;
  partition: number;
  offset: number;
  timestamp: string;
  key?: string;
  value?: unknown;
  data?: Uint8Array;
  contentType?: string;
  headers?: Record<string, string>;
  deliveryAttempt?: number;
}
export interface PollAnswer {
  events: StoredEvent[];
  metadata: {
    consumerGroup: string;
    lag: number;
    nextOffset: number;
    partitions: { partition: number; nextOffset: number; lag: number; committedOffset?: number }[];
    generation?: number;
    assignment?: Assignment;
  };
}
export interface Assignment {
  consumerId: string;
  generation: number;
  partitions: number[];
}
export interface ReadAnswer {
  events: StoredEvent[];
  metadata: { startOffset: number; endOffset: number; nextOffset: number };
}
export interface CommitEntry {
  stream: string;
  partition: number;
  offset: number;
}
export interface CommitOptions {
  consumerId?: string;
  generation?: number;
}
export interface CommitAnswer {
  status: string;
  committedOffsets: CommitEntry[];
}
export interface NackOptions extends CommitOptions {
  delay?: number;
  reason?: string;
}
export interface NackAnswer {
  events: (CommitEntry & { outcome: string; deliveries: number })[];
}
export interface GroupConfig {
  ackWait?: number;
  sessionTimeout?: number;
  maxDeliveries?: number;
  deadLetterStream?: string;
}
export interface NewGroup {
  offset?: string | number;
  config?: GroupConfig;
}
export interface ListGroupsRequest {
  prefix?: string;
  stream?: string;
  pageSize?: number;
  pageToken?: string;
}
export interface GroupList {
  consumerGroups: { consumerGroup: string; streams: string[]; members: number }[];
  nextPageToken?: string;
}
export interface GroupInfo {
  consumerGroup: string;
  state: string;
  lag: number;
  streams: GroupStream[];
}
export interface GroupStream {
  stream: string;
  state: string;
  generation: number;
  config: GroupConfig;
  createdAt: string;
  lag: number;
  members: GroupMember[];
  partitions: GroupPartition[];
}
export interface GroupMember {
  consumerId: string;
  partitions: number[];
  generation: number;
  lastSeen: string;
  subscribed: boolean;
}
export interface GroupPartition {
  partition: number;
  consumerId?: string;
  position: number;
  committedOffset?: number;
  startOffset: number;
  endOffset: number;
  lag: number;
  lagSeconds: number;
  returned: number;
}
export interface SeekTarget {
  offset?: string | number;
  timestamp?: string;
  partition?: number;
  partitions?: number[];
}
export interface SeekAnswer {
  consumerGroup: string;
  stream: string;
  partitions: { partition: number; position: number }[];
}
export interface HeartbeatAnswer {
  generation: number;
  partitions: number[];
}
export interface StreamedEvent {
  streamName?: string;
  event?: NewEvent;
}

/** A call that was refused or failed, with what its caller was told. */
export class ApiFailure extends Error {
  /** Number of the error code; 0 when the answer had none. */
  readonly code: number;
  /** HTTP status over REST, number of google.rpc.Code over the others. */
  readonly httpOrGrpcStatus: number;
  readonly description: string;
  readonly details: readonly ErrorDetail[];
  readonly retryAfterMs: number | undefined;
  /** The `retry-after` header, or RPC metadata of that name. */
  readonly retryAfter: string | undefined;
  /** Whose quotas a QuotaFailure names. */
  readonly quotaSubjects: readonly string[];

  constructor(
    code: number,
    name: string,
    status: number,
    description: string,
    details: readonly ErrorDetail[],
    retryAfterMs?: number,
    retryAfter?: string,
    quotaSubjects: readonly string[] = [],
  ) {
    super(`${code} ${name} (${status}): ${description}`);
    this.code = code;
    this.name = name;
    this.httpOrGrpcStatus = status;
    this.description = description;
    this.details = details;
    this.retryAfterMs = retryAfterMs;
    this.retryAfter = retryAfter;
    this.quotaSubjects = quotaSubjects;
  }
}

/** The failure of a call that must fail. @throws Error when it succeeds, or what is thrown that is no {@link ApiFailure}. */
export async function failureOf(call: Promise<unknown>): Promise<ApiFailure> {
  let answer: unknown;
  try {
    answer = await call;
  } catch (error) {
    if (error instanceof ApiFailure) return error;
    throw error;
  }
  throw new Error(`did not fail: ${JSON.stringify(answer)}`);
}

export interface Protocol {
  readonly name: string;
  /** Whether a failure's status is HTTP's. */
  readonly isRest: boolean;
  readonly connect: (url: string, headers?: CallOptions["headers"]) => Api;
}

/** Every way to speak with the service. `headers` go with every call. */
export const protocols: readonly Protocol[] = [
  {
    name: "REST over HTTP/1.1",
    isRest: true,
    connect: (url, headers) => new RestApi(fetchSender(url), headers),
  },
  { name: "REST over h2c", isRest: true, connect: (url, headers) => new RestApi(http2Sender(url), headers) },
  {
    name: "Connect JSON over HTTP/1.1",
    isRest: false,
    connect: (baseUrl, headers) =>
      new RpcApi(unaryOf(createConnectTransport({ baseUrl, httpVersion: "1.1", useBinaryFormat: false })), headers),
  },
  {
    name: "Connect over h2c",
    isRest: false,
    connect: (baseUrl, headers) => {
      const sessionManager = new Http2SessionManager(baseUrl);
      const transport = createConnectTransport({ baseUrl, httpVersion: "2", useBinaryFormat: true, sessionManager });
      const close = () => sessionManager.abort();
      return new RpcApi({ ...unaryOf(transport), bidi: bidiOf(transport), close }, headers);
    },
  },
  {
    name: "Connect with GET",
    isRest: false,
    connect: (baseUrl, headers) =>
      new RpcApi(
        unaryOf(createConnectTransport({ baseUrl, httpVersion: "1.1", useBinaryFormat: true, useHttpGet: true })),
        headers,
      ),
  },
  {
    name: "gRPC",
    isRest: false,
    connect: (baseUrl, headers) => {
      const sessionManager = new Http2SessionManager(baseUrl);
      const transport = createGrpcTransport({ baseUrl, sessionManager });
      const close = () => sessionManager.abort();
      return new RpcApi({ ...unaryOf(transport), bidi: bidiOf(transport), close }, headers);
    },
  },
  {
    name: "gRPC-Web over HTTP/1.1",
    isRest: false,
    connect: (baseUrl, headers) => new RpcApi(unaryOf(createGrpcWebTransport({ baseUrl })), headers),
  },
  { name: "gRPC by grpc-js", isRest: false, connect: (url, headers) => new RpcApi(grpcJsCaller(url), headers) },
];

/** Those that can send and receive many messages in one call. */
export const bidiProtocols: readonly Protocol[] = protocols.filter(({ name }) =>
  ["Connect over h2c", "gRPC", "gRPC by grpc-js"].includes(name),
);

// REST

/** An answer over HTTP as it came. */
export interface HttpAnswer {
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  readonly text: string;
}

interface HttpRequest {
  readonly method: string;
  readonly path: string;
  readonly body?: string | undefined;
  readonly options: CallOptions;
}

interface HttpSender {
  send(request: HttpRequest): Promise<HttpAnswer>;
  close?(): void;
}

const HANG_MS = 30_000;

const signalOf = ({ signal, timeoutMs }: CallOptions): AbortSignal =>
  AbortSignal.any([...(signal ? [signal] : []), AbortSignal.timeout(timeoutMs ?? HANG_MS)]);

function fetchSender(url: string): HttpSender {
  return {
    async send({ method, path, body, options }) {
      const response = await fetch(url + path, {
        method,
        headers: { ...(body === undefined ? {} : { "content-type": "application/json" }), ...options.headers },
        ...(body === undefined ? {} : { body }),
        signal: signalOf(options),
      });
      return {
        status: response.status,
        headers: Object.fromEntries(response.headers),
        text: await response.text(),
      };
    },
  };
}

function http2Sender(url: string): HttpSender {
  let session: http2.ClientHttp2Session | undefined;
  return {
    send({ method, path, body, options }) {
      if (!session || session.closed || session.destroyed) {
        session = http2.connect(url);
        session.on("error", () => {}); // the requests on it tell
      }
      const request = session.request(
        {
          ":method": method,
          ":path": path,
          ...(body === undefined ? {} : { "content-type": "application/json" }),
          ...options.headers,
        },
        { signal: signalOf(options) },
      );
      return new Promise((resolve, reject) => {
        let status = 0;
        let headers: Record<string, string> = {};
        const chunks: Buffer[] = [];
        request.on("response", ({ ":status": code, ...rest }) => {
          status = Number(code);
          headers = rest as Record<string, string>;
        });
        request.on("data", (chunk: Buffer) => chunks.push(chunk));
        request.on("end", () => resolve({ status, headers, text: Buffer.concat(chunks).toString("utf8") }));
        request.on("error", reject);
        request.end(body);
      });
    },
    close: () => session?.close(),
  };
}

/** A request as it is, for what no client would send. `body` is sent as JSON unless it is text or bytes. */
export async function rawRequest(
  url: string,
  method: string,
  path: string,
  body?: unknown,
  headers: Readonly<Record<string, string>> = {},
): Promise<HttpAnswer & { readonly json: <T = ErrorBody>() => T }> {
  const isRaw = typeof body === "string" || body instanceof Uint8Array;
  const response = await fetch(url + path, {
    method,
    headers: { ...(body === undefined ? {} : { "content-type": "application/json" }), ...headers },
    ...(body === undefined ? {} : { body: isRaw ? (body as string) : JSON.stringify(body) }),
    signal: AbortSignal.timeout(HANG_MS),
  });
  const text = await response.text();
  const answer = { status: response.status, headers: Object.fromEntries(response.headers), text };
  return { ...answer, json: <T>() => JSON.parse(text) as T };
}

class RestApi implements Api {
  readonly #sender: HttpSender;
  readonly #headers: CallOptions["headers"];
  readonly processors = restProcessors((...call) => this.#call(...call), pathPart);

  constructor(sender: HttpSender, headers: CallOptions["headers"] = {}) {
    this.#sender = sender;
    this.#headers = headers;
  }

  createStream(request: StreamRequest, options?: CallOptions): Promise<StreamInfo> {
    return this.#call("POST", "/streams", undefined, request, options);
  }
  getStream(streamName: string, options?: CallOptions): Promise<StreamInfo> {
    return this.#call("GET", `/streams/${pathPart(streamName)}`, undefined, undefined, options);
  }
  listStreams(request: ListRequest = {}): Promise<{ streams: StreamInfo[]; nextPageToken?: string }> {
    return this.#call("GET", "/streams", request);
  }
  updateStream(streamName: string, change: Omit<StreamRequest, "name">): Promise<StreamInfo> {
    return this.#call("PATCH", `/streams/${pathPart(streamName)}`, undefined, change);
  }
  deleteStream(streamName: string): Promise<{ status: string; streamName: string; deletedAt: string }> {
    return this.#call("DELETE", `/streams/${pathPart(streamName)}`);
  }
  publish(streamName: string, event: NewEvent, options?: CallOptions): Promise<PublishAnswer> {
    return this.#call("POST", `/streams/${pathPart(streamName)}/events`, undefined, jsonEvent(event), options);
  }
  publishBatch(
    streamName: string,
    events: readonly NewEvent[],
    batch?: BatchOptions,
    options?: CallOptions,
  ): Promise<BatchAnswer> {
    const body = { events: events.map(jsonEvent), ...(batch ? { options: batch } : {}) };
    return this.#call("POST", `/streams/${pathPart(streamName)}/events/batch`, undefined, body, options);
  }
  async poll(
    streamName: string,
    consumerGroup: string,
    request: PollOptions = {},
    options?: CallOptions,
  ): Promise<PollAnswer> {
    const path = `/streams/${pathPart(streamName)}/events`;
    const answer = await this.#call<PollAnswer>("GET", path, { consumerGroup, ...request }, undefined, options);
    return { ...answer, events: answer.events.map(readEvent) };
  }
  async readPartition(streamName: string, partition: number, request: ReadOptions = {}): Promise<ReadAnswer> {
    const path = `/streams/${pathPart(streamName)}/partitions/${partition}/events`;
    const answer = await this.#call<ReadAnswer>("GET", path, request);
    return { ...answer, events: answer.events.map(readEvent) };
  }
  commit(consumerGroup: string, offsets: readonly CommitEntry[], more: CommitOptions = {}): Promise<CommitAnswer> {
    return this.#call("POST", `${groupPath(consumerGroup)}/commit`, undefined, { offsets, ...more });
  }
  nack(consumerGroup: string, events: readonly CommitEntry[], more: NackOptions = {}): Promise<NackAnswer> {
    return this.#call("POST", `${groupPath(consumerGroup)}/nack`, undefined, { events, ...more });
  }
  createConsumerGroup(consumerGroup: string, stream: string, more: NewGroup = {}): Promise<GroupInfo> {
    return this.#call("POST", "/consumers", undefined, { consumerGroup, stream, ...textOffset(more) });
  }
  listConsumerGroups(request: ListGroupsRequest = {}): Promise<GroupList> {
    return this.#call("GET", "/consumers", request);
  }
  getConsumerGroup(consumerGroup: string, stream?: string): Promise<GroupInfo> {
    return this.#call("GET", groupPath(consumerGroup), optional({ stream }));
  }
  deleteConsumerGroup(consumerGroup: string, stream?: string): Promise<{ status: string; consumerGroup: string }> {
    return this.#call("DELETE", groupPath(consumerGroup), optional({ stream }));
  }
  seek(consumerGroup: string, stream: string, to: SeekTarget): Promise<SeekAnswer> {
    return this.#call("POST", `${groupPath(consumerGroup)}/seek`, undefined, { stream, ...textOffset(to) });
  }
  heartbeat(consumerGroup: string, stream: string, consumerId: string): Promise<HeartbeatAnswer> {
    return this.#call("POST", `${groupPath(consumerGroup)}/heartbeat`, undefined, { stream, consumerId });
  }
  leave(consumerGroup: string, consumerId: string, stream?: string): Promise<{ streams: string[] }> {
    return this.#call("POST", `${groupPath(consumerGroup)}/leave`, undefined, { consumerId, stream });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#sender.close?.();
  }

  async #call<T>(
    method: string,
    path: string,
    query: object = {},
    body?: unknown,
    options: CallOptions = {},
  ): Promise<T> {
    const answer = await this.#sender.send({
      method,
      path: `/api/v1${path}${queryText(query)}`,
      body: body === undefined ? undefined : JSON.stringify(body),
      options: { ...options, headers: { ...this.#headers, ...options.headers } },
    });
    let json: unknown;
    try {
      json = JSON.parse(answer.text);
    } catch (cause) {
      throw new Error(`${answer.status} with a body that is not JSON: ${answer.text.slice(0, 200)}`, { cause });
    }
    if (answer.status < 300) return json as T;
    const { code, message, description, details = [] } = (json as ErrorBody).error;
    const retryAfter = answer.headers["retry-after"];
    const retryAfterMs = retryAfter === undefined ? undefined : Number(retryAfter) * 1000;
    throw new ApiFailure(code, message, answer.status, description, details, retryAfterMs, retryAfter);
  }
}

/** One part of a path; the whole parts `.` and `..` would be taken for steps by clients on the way. */
const pathPart = (text: string): string =>
  text === "." || text === ".." ? text.replaceAll(".", "%2E") : encodeURIComponent(text.toWellFormed());

const groupPath = (consumerGroup: string): string => `/consumers/${pathPart(consumerGroup)}`;

const optional = (query: object): object =>
  Object.fromEntries(Object.entries(query).filter(([, value]) => value !== undefined));

function queryText(query: object): string {
  const parts = Object.entries(query).flatMap(([name, value]) =>
    [value].flat().map((each) => `${name}=${encodeURIComponent(String(each).toWellFormed())}`),
  );
  return parts.length > 0 ? `?${parts.join("&")}` : "";
}

const jsonEvent = ({ data, ...rest }: NewEvent): object =>
  data === undefined ? rest : { ...rest, data: Buffer.from(data).toString("base64") };

function readEvent(event: StoredEvent): StoredEvent {
  const { data, ...rest } = event as unknown as { data?: string } & StoredEvent;
  return data === undefined ? rest : { ...rest, data: new Uint8Array(Buffer.from(data, "base64")) };
}

// RPC

type Unary = (method: DescMethodUnary, message: Message, options: CallOptions) => Promise<Message>;
type Bidi = (requests: AsyncIterable<Message>, headers: CallOptions["headers"]) => AsyncIterable<Message>;

interface RpcCaller {
  readonly unary: Unary;
  readonly bidi?: Bidi;
  readonly close?: () => void;
}

function unaryOf(transport: Transport): RpcCaller {
  return {
    async unary(method, message, { headers, timeoutMs, signal }) {
      const hang = AbortSignal.any([...(signal ? [signal] : []), AbortSignal.timeout(HANG_MS)]);
      try {
        const answer = await transport.unary(method, hang, timeoutMs, headers, message as never);
        return answer.message as Message;
      } catch (error) {
        throw error instanceof ConnectError ? failureOfConnect(error) : error;
      }
    },
  };
}

function bidiOf(transport: Transport): Bidi {
  return async function* (requests, headers) {
    const { publishStream } = EventService.method;
    try {
      const answer = await transport.stream(
        publishStream,
        AbortSignal.timeout(HANG_MS),
        undefined,
        headers,
        requests as never,
      );
      yield* answer.message as AsyncIterable<Message>;
    } catch (error) {
      throw error instanceof ConnectError ? failureOfConnect(error) : error;
    }
  };
}

function failureOfConnect(error: ConnectError): ApiFailure {
  const [info] = error.findDetails(ErrorInfoSchema);
  const [fields] = error.findDetails(BadRequestSchema);
  const [retry] = error.findDetails(RetryInfoSchema);
  const [quota] = error.findDetails(QuotaFailureSchema);
  const retryAfter = error.metadata.get("retry-after") ?? undefined;
  return rpcFailure(error.code, error.rawMessage, retryAfter, info, fields, retry, quota);
}

function rpcFailure(
  status: number,
  description: string,
  retryAfter: string | undefined,
  info: MessageShape<typeof ErrorInfoSchema> | undefined,
  fields: MessageShape<typeof BadRequestSchema> | undefined,
  retry: MessageShape<typeof RetryInfoSchema> | undefined,
  quota: MessageShape<typeof QuotaFailureSchema> | undefined,
): ApiFailure {
  const details: ErrorDetail[] = (fields?.fieldViolations ?? []).map((violation) => ({
    ...(violation.field ? { field: violation.field } : {}),
    description: violation.description,
  }));
  if (info?.metadata.endOffset !== undefined) details.push({ endOffset: Number(info.metadata.endOffset) });
  const retryAfterMs = retry?.retryDelay && Number(retry.retryDelay.seconds) * 1000 + retry.retryDelay.nanos / 1e6;
  return new ApiFailure(
    Number(info?.metadata.code ?? 0),
    info?.reason ?? "",
    status,
    description,
    details,
    retryAfterMs,
    retryAfter,
    quota?.violations.map(({ subject }) => subject),
  );
}

/** A gRPC client that shares no code with the server. */
function grpcJsCaller(url: string): RpcCaller {
  const client = new grpc.Client(new URL(url).host, grpc.credentials.createInsecure(), {
    "grpc.max_receive_message_length": -1,
    // A connection of its own, so that closing it disturbs no other client.
    "grpc.use_local_subchannel_pool": 1,
  });
  const pathOf = (method: { parent: { typeName: string }; name: string }) =>
    `/${method.parent.typeName}/${method.name}`;
  return {
    unary: (method, message, { headers = {}, timeoutMs, signal }) =>
      new Promise((resolve, reject) => {
        const metadata = new grpc.Metadata();
        for (const [name, value] of Object.entries(headers)) metadata.set(name, value);
        const call = client.makeUnaryRequest<Message, Message>(
          pathOf(method),
          (request) => Buffer.from(toBinary(method.input, request)),
          (bytes) => fromBinary(method.output, bytes),
          message,
          metadata,
          { deadline: Date.now() + (timeoutMs ?? HANG_MS) },
          (error, answer) => (error ? reject(failureOfGrpc(error)) : resolve(answer!)),
        );
        signal?.addEventListener("abort", () => call.cancel(), { once: true });
      }),
    async *bidi(requests, headers = {}) {
      const metadata = new grpc.Metadata();
      for (const [name, value] of Object.entries(headers)) metadata.set(name, value);
      const call = client.makeBidiStreamRequest<Message, Message>(
        pathOf(EventService.method.publishStream),
        (request) => Buffer.from(toBinary(PublishStreamRequestSchema, request as never)),
        (bytes) => fromBinary(PublishStreamResponseSchema, bytes),
        metadata,
        { deadline: Date.now() + HANG_MS },
      );
      const sending = (async () => {
        for await (const request of requests) call.write(request);
        call.end();
      })();
      try {
        yield* call as AsyncIterable<Message>;
      } catch (error) {
        throw failureOfGrpc(error as grpc.ServiceError);
      }
      await sending;
    },
    close: () => client.close(),
  };
}

function failureOfGrpc(error: grpc.ServiceError): ApiFailure {
  const [bytes] = error.metadata?.get("grpc-status-details-bin") ?? [];
  const details = bytes === undefined ? [] : statusDetails(bytes as Buffer);
  const find = <S extends DescMessage>(schema: S) =>
    details.map((any) => anyUnpack(any, schema)).find((found) => found);
  return rpcFailure(
    error.code,
    error.details,
    error.metadata?.get("retry-after")[0] as string | undefined,
    find(ErrorInfoSchema),
    find(BadRequestSchema),
    find(RetryInfoSchema),
    find(QuotaFailureSchema),
  );
}

/** The details of a google.rpc.Status. */
function statusDetails(bytes: Uint8Array): MessageShape<typeof AnySchema>[] {
  const reader = new BinaryReader(bytes);
  const details: MessageShape<typeof AnySchema>[] = [];
  while (reader.pos < reader.len) {
    const [field, wireType] = reader.tag();
    if (field === 3 && wireType === WireType.LengthDelimited) details.push(fromBinary(AnySchema, reader.bytes()));
    else reader.skip(wireType, field);
  }
  return details;
}

class RpcApi implements Api {
  readonly #caller: RpcCaller;
  readonly #headers: CallOptions["headers"];
  readonly processors = rpcProcessors((...call) => this.#call(...call));
  readonly publishStream?: NonNullable<Api["publishStream"]>;

  constructor(caller: RpcCaller, headers: CallOptions["headers"] = {}) {
    this.#caller = caller;
    this.#headers = headers;
    const { bidi } = caller;
    if (bidi) this.publishStream = (requests) => publishStream((messages) => bidi(messages, headers), requests);
  }

  async createStream(request: StreamRequest, options?: CallOptions): Promise<StreamInfo> {
    return (await this.#call<{ stream: StreamInfo }>(StreamService.method.createStream, request, options)).stream;
  }
  async getStream(streamName: string, options?: CallOptions): Promise<StreamInfo> {
    return (await this.#call<{ stream: StreamInfo }>(StreamService.method.getStream, { streamName }, options)).stream;
  }
  listStreams(request: ListRequest = {}): Promise<{ streams: StreamInfo[]; nextPageToken?: string }> {
    return this.#call(StreamService.method.listStreams, request);
  }
  async updateStream(streamName: string, change: Omit<StreamRequest, "name">): Promise<StreamInfo> {
    return (await this.#call<{ stream: StreamInfo }>(StreamService.method.updateStream, { streamName, ...change }))
      .stream;
  }
  deleteStream(streamName: string): Promise<{ status: string; streamName: string; deletedAt: string }> {
    return this.#call(StreamService.method.deleteStream, { streamName });
  }
  publish(streamName: string, event: NewEvent, options?: CallOptions): Promise<PublishAnswer> {
    return this.#call(EventService.method.publish, { streamName, event }, options);
  }
  publishBatch(
    streamName: string,
    events: readonly NewEvent[],
    batch?: BatchOptions,
    options?: CallOptions,
  ): Promise<BatchAnswer> {
    return this.#call(EventService.method.publishBatch, { streamName, events, options: batch }, options);
  }
  poll(streamName: string, consumerGroup: string, request?: PollOptions, options?: CallOptions): Promise<PollAnswer> {
    return this.#call(EventService.method.poll, { streamName, consumerGroup, ...textOffset(request) }, options);
  }
  readPartition(streamName: string, partition: number, request?: ReadOptions): Promise<ReadAnswer> {
    return this.#call(EventService.method.readPartition, { streamName, partition, ...textOffset(request) });
  }
  commit(consumerGroup: string, offsets: readonly CommitEntry[], more: CommitOptions = {}): Promise<CommitAnswer> {
    return this.#call(ConsumerGroupService.method.commit, { consumerGroup, offsets, ...more });
  }
  nack(consumerGroup: string, events: readonly CommitEntry[], more: NackOptions = {}): Promise<NackAnswer> {
    return this.#call(ConsumerGroupService.method.nack, { consumerGroup, events, ...more });
  }
  async createConsumerGroup(consumerGroup: string, stream: string, more?: NewGroup): Promise<GroupInfo> {
    const request = { consumerGroup, stream, ...textOffset(more) };
    return (await this.#call<{ group: GroupInfo }>(ConsumerGroupService.method.createConsumerGroup, request)).group;
  }
  listConsumerGroups(request: ListGroupsRequest = {}): Promise<GroupList> {
    return this.#call(ConsumerGroupService.method.listConsumerGroups, request);
  }
  async getConsumerGroup(consumerGroup: string, stream?: string): Promise<GroupInfo> {
    const request = { consumerGroup, stream };
    return (await this.#call<{ group: GroupInfo }>(ConsumerGroupService.method.getConsumerGroup, request)).group;
  }
  deleteConsumerGroup(consumerGroup: string, stream?: string): Promise<{ status: string; consumerGroup: string }> {
    return this.#call(ConsumerGroupService.method.deleteConsumerGroup, { consumerGroup, stream });
  }
  seek(consumerGroup: string, stream: string, to: SeekTarget): Promise<SeekAnswer> {
    return this.#call(ConsumerGroupService.method.seek, { consumerGroup, stream, ...textOffset(to) });
  }
  heartbeat(consumerGroup: string, stream: string, consumerId: string): Promise<HeartbeatAnswer> {
    return this.#call(ConsumerGroupService.method.heartbeat, { consumerGroup, stream, consumerId });
  }
  leave(consumerGroup: string, consumerId: string, stream?: string): Promise<{ streams: string[] }> {
    return this.#call(ConsumerGroupService.method.leave, { consumerGroup, consumerId, stream });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#caller.close?.();
  }

  async #call<T>(method: DescMethodUnary, request: object, options: CallOptions = {}): Promise<T> {
    const message = messageOf(method.input, request);
    const headers = { ...this.#headers, ...options.headers };
    return plain(method.output, await this.#caller.unary(method, message, { ...options, headers })) as T;
  }
}

async function* publishStream(
  bidi: (messages: AsyncIterable<Message>) => AsyncIterable<Message>,
  requests: AsyncIterable<StreamedEvent>,
): AsyncGenerator<PublishResult> {
  async function* messages() {
    for await (const request of requests) yield messageOf(PublishStreamRequestSchema, request);
  }
  for await (const answer of bidi(messages()))
    yield (plain(PublishStreamResponseSchema, answer) as { result: PublishResult }).result;
}

const textOffset = (request: { offset?: string | number } = {}): object =>
  request.offset === undefined ? request : { ...request, offset: String(request.offset) };

/** A plain object as a message: enum words and bytes get protobuf's JSON form, `undefined` is left out. */
function messageOf(schema: DescMessage, value: object): Message {
  const json = protoJson(schema, value);
  return Object.keys(json).length === 0 ? create(schema) : fromJson(schema, json);
}

function protoJson(schema: DescMessage, value: object): JsonObject {
  const out: JsonObject = {};
  for (const [name, member] of Object.entries(value)) {
    if (member === undefined) continue;
    const field = schema.fields.find((each) => each.jsonName === name);
    if (!field) throw new Error(`${schema.typeName} has no ${name}`);
    const convert = (item: unknown): JsonValue => {
      if (field.enum)
        return field.enum.values.find((each) => each.localName.toLowerCase() === item)?.name ?? (item as JsonValue);
      if (field.message && !field.message.typeName.startsWith("google."))
        return protoJson(field.message, item as object);
      if (item instanceof Uint8Array) return Buffer.from(item).toString("base64");
      return item as JsonValue;
    };
    out[name] = field.fieldKind === "list" ? (member as unknown[]).map(convert) : convert(member);
  }
  return out;
}

/** A message as a plain object: numbers for 64-bit integers, lower-case words for enums, RFC 3339 for times. */
function plain(schema: DescMessage, message: Message): unknown {
  return plainMessage(reflect(schema, message as MessageShape<DescMessage>));
}

function plainMessage(message: ReflectMessage): unknown {
  const { desc } = message;
  if (desc.typeName === "google.protobuf.Timestamp")
    return new Date(toJson(desc, message.message) as string).toISOString();
  if (desc.typeName.startsWith("google.protobuf.")) return toJson(desc, message.message);
  const out: Record<string, unknown> = {};
  for (const field of desc.fields) {
    const isImplicit = field.presence === FeatureSet_FieldPresence.IMPLICIT && field.fieldKind !== "map";
    if (!message.isSet(field) && !isImplicit) continue;
    // An empty list of details is one that is not there.
    if (field.name === "details" && !message.isSet(field)) continue;
    const value = message.get(field) as unknown;
    const convert = (item: unknown): unknown => {
      if (field.enum) return field.enum.value[item as number]?.localName.toLowerCase();
      if (field.message) return plainMessage(item as ReflectMessage);
      if ("scalar" in field && field.scalar === ScalarType.BYTES) return new Uint8Array(item as Uint8Array);
      return typeof item === "bigint" ? Number(item) : item;
    };
    if (field.fieldKind === "list") out[field.jsonName] = [...(value as Iterable<unknown>)].map(convert);
    else if (field.fieldKind === "map")
      out[field.jsonName] = Object.fromEntries(
        [...(value as Iterable<[unknown, unknown]>)].map(([name, item]) => [String(name), convert(item)]),
      );
    else out[field.jsonName] = convert(value);
  }
  return out;
}
