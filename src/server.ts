import type { AddressInfo } from "node:net";
import { Code, ConnectError } from "@connectrpc/connect";
import type { Logger } from "pino";
import { Health } from "../gen/grpc/health/v1/health_pb.js";
import { ConsumerGroupService } from "../gen/millrace/v1/consumers_pb.js";
import { EventService } from "../gen/millrace/v1/events_pb.js";
import { KeyService } from "../gen/millrace/v1/keys_pb.js";
import { StreamService } from "../gen/millrace/v1/streams_pb.js";
import type { Config } from "./config.ts";
import { ByteBudget } from "./domain/byte-budget.ts";
import { connectJetStream, type JetStream } from "./jetstream/connection.ts";
import { startEmbeddedNats } from "./jetstream/embedded.ts";
import { GATEWAYS_BUCKET } from "./jetstream/names.ts";
import { ApiKeys } from "./log/api-keys.ts";
import { Appender } from "./log/append.ts";
import { Catalog } from "./log/catalog.ts";
import { Groups } from "./log/groups.ts";
import { Presence } from "./log/presence.ts";
import { Tails } from "./log/tail.ts";
import { createMetrics } from "./metrics.ts";
import { checkFunctionsDir, natsServerOf, tlsOf } from "./named-files.ts";
import { openProcessing } from "./processing-server.ts";
import { Consumer } from "./services/consumer.ts";
import { eventService } from "./services/events.ts";
import { groupService } from "./services/groups.ts";
import { healthService } from "./services/health.ts";
import { Identity } from "./services/identity.ts";
import { keyService } from "./services/keys.ts";
import { Producer } from "./services/producer.ts";
import { type OwnerOf, Quotas } from "./services/quotas.ts";
import { ReadinessProbe } from "./services/readiness.ts";
import { streamService } from "./services/streams.ts";
import { Survey } from "./services/survey.ts";
import { Traffic } from "./services/traffic.ts";
import { startTracing } from "./telemetry/tracing.ts";
import { type App, createApp } from "./transport/app.ts";
import { BodyBudget } from "./transport/body-budget.ts";
import { Calls } from "./transport/calls.ts";
import { hotCalls } from "./transport/grpc-events.ts";
import { mount } from "./transport/in-process.ts";
import { reflectionServices } from "./transport/reflection.ts";
import { hotHandlers } from "./transport/rest-events.ts";
import { VERSION } from "./version.ts";

/** A running service; disposing it drains and closes everything. */
export interface Server extends AsyncDisposable {
  /** Such as `http://127.0.0.1:8080`. */
  readonly url: string;
  readonly port: number;
}

const SHUTTING_DOWN = new ConnectError("the server is shutting down", Code.Unavailable);

/**
 * Starts the service.
 *
 * @param signal breaks off the start; once it has succeeded, nothing.
 * @throws SettingsError when a file that a setting names can't be used; Error when the port is taken, nats-server is
 * missing or NATS is out of reach; the signal's reason.
 */
export async function startServer(
  config: Config,
  logger: Logger,
  env: NodeJS.ProcessEnv = {},
  signal?: AbortSignal,
): Promise<Server> {
  await using owned = new AsyncDisposableStack();
  const port = await unlessAborted(open(config, logger, env, owned, signal), signal);
  const host = config.host.includes(":") ? `[${config.host}]` : config.host;
  const running = owned.move();
  return {
    url: `${config.tls ? "https" : "http"}://${host}:${port}`,
    port,
    [Symbol.asyncDispose]: () => running.disposeAsync(),
  };
}

/** Opens every part in order. @returns the port. */
async function open(
  config: Config,
  logger: Logger,
  env: NodeJS.ProcessEnv,
  owned: AsyncDisposableStack,
  signal: AbortSignal | undefined,
): Promise<number> {
  // Before anything is started that a wrong file would have to end again.
  const listener = { maxConnections: config.maxConnections, ...(await tlsOf(config)) };
  await checkFunctionsDir(config);
  const binary = config.natsUrl === undefined ? natsServerOf(env) : undefined;
  if (config.tracing) owned.use(await startTracing(config.tracing, logger));
  const url =
    config.natsUrl ??
    owned.use(await startEmbeddedNats({ ...config, binary, log: logger, ...(signal ? { signal } : {}) })).url;
  const js = owned.use(await connectJetStream({ url, log: logger }));
  const appender = new Appender(js);
  const groups: Groups = owned.use(
    await Groups.open(js, {
      replicas: config.catalogReplicas,
      defaults: { ackWaitMs: config.ackWaitMs, sessionTimeoutMs: config.sessionTimeoutMs },
      log: logger,
      hasStream: (name, id) => catalog.known(name)?.id === id,
      deadLetters: { appender, findStream: (name, deadline) => catalog.find(name, deadline) },
    }),
  );
  const catalog: Catalog = owned.use(
    await Catalog.open(js, config.catalogReplicas, groups.gateways, (stream, deadline) =>
      groups.forgetStream(stream, deadline),
    ),
  );
  const keys = owned.use(await ApiKeys.open(js, config.catalogReplicas));
  const draining = new AbortController();
  const traffic = new Traffic();
  const quotas = await openQuotas(config, js, logger, owned);
  const ownerOf: OwnerOf = quotas?.ownerOf ?? ((principal) => principal);
  const producer = new Producer(js, catalog, appender, draining.signal, traffic, quotas);
  const tails = new Tails(js, logger);
  owned.defer(() => tails.close());
  const answers = new ByteBudget(config.maxInFlightBytes);
  const consumer = new Consumer(js, catalog, groups, tails, draining.signal, traffic, quotas, answers);

  const shutdown = new AbortController();
  const processing = await openProcessing({
    js,
    catalog,
    natsUrl: url,
    config,
    logger,
    owned,
    draining: draining.signal,
    ownerOf,
  });
  const mounted = [
    mount(StreamService, streamService(js, catalog, ownerOf)),
    mount(EventService, eventService(producer, consumer)),
    mount(ConsumerGroupService, groupService(consumer, catalog, groups, ownerOf)),
    ...processing.mounted,
    mount(KeyService, keyService(keys)),
  ];
  const services = mounted.map(({ service }) => service);
  const readiness = await ReadinessProbe.open(js, catalog, {
    replicas: config.catalogReplicas,
    draining: draining.signal,
  });
  const calls = new Calls();
  const bodies = new BodyBudget(config.maxInFlightBytes);
  const metrics = createMetrics({
    calls,
    bodies,
    answers,
    readAhead: tails.ahead,
    traffic,
    quotas,
    survey: new Survey(catalog, groups, processing.processors, logger),
    js,
    catalog,
    server: () => app.server,
    version: VERSION,
  });
  const app: App = await createApp({
    mounted: [
      ...mounted,
      mount(Health, healthService(readiness, services, draining.signal)),
      ...reflectionServices([...services, Health]),
    ],
    identity: new Identity(config.identity, keys),
    operator: { services, version: VERSION, readiness, metrics },
    calls,
    bodies,
    quotas,
    corsOrigins: config.corsOrigins,
    hot: hotHandlers(producer, consumer),
    hotGrpc: hotCalls(producer),
    logger,
    listener: { ...listener, unreadAnswers: answers },
    shutdownSignal: shutdown.signal,
  });
  owned.defer(async () => {
    // Refuse what is new, let what runs end, then cut what is left.
    draining.abort(SHUTTING_DOWN);
    setTimeout(() => shutdown.abort(SHUTTING_DOWN), config.drainMs / 2).unref();
    await app.server.drain(config.drainMs);
    await app.close();
    js.hurry();
  });
  await app.listen({ port: config.port, host: config.host });
  return (app.server.address() as AddressInfo).port;
}

/** Gives what `work` does, or fails with the signal's reason as soon as it is aborted, whatever becomes of the work. */
async function unlessAborted<T>(work: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (!signal) return work;
  const aborted = Promise.withResolvers<never>();
  const abort = () => aborted.reject(signal.reason);
  if (signal.aborted) abort();
  signal.addEventListener("abort", abort);
  work.catch(() => {}); // what is being opened fails when the rest is closed
  try {
    return await Promise.race([work, aborted.promise]);
  } finally {
    signal.removeEventListener("abort", abort);
  }
}

/** Several gateways share each quota, so they have to know of each other. */
async function openQuotas(
  config: Config,
  js: JetStream,
  logger: Logger,
  owned: AsyncDisposableStack,
): Promise<Quotas | undefined> {
  if (!config.quotas) return undefined;
  const gateways = owned.use(await Presence.open(js, GATEWAYS_BUCKET, config.catalogReplicas, true, logger));
  return new Quotas(config.quotas, () => gateways.live.length);
}
