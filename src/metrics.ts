/** The figures of `/metrics`. Everything is counted elsewhere, in plain numbers, and read here when it is asked for. */
import type { Server as HttpServer } from "node:http";
import { collectDefaultMetrics, type Metric, Registry } from "prom-client";
import type { ByteBudget } from "./domain/byte-budget.ts";
import type { JetStream } from "./jetstream/connection.ts";
import type { Catalog } from "./log/catalog.ts";
import type { Quotas } from "./services/quotas.ts";
import type { Survey, SurveyResult } from "./services/survey.ts";
import type { StreamTraffic, Traffic } from "./services/traffic.ts";
import { type Calls, LATENCY_BOUNDS } from "./transport/calls.ts";

export interface MetricsSources {
  readonly calls: Calls;
  readonly bodies: ByteBudget;
  readonly answers: ByteBudget;
  readonly readAhead: ByteBudget;
  readonly traffic: Traffic;
  readonly quotas: Quotas | undefined;
  readonly survey: Survey;
  readonly js: JetStream;
  readonly catalog: Catalog;
  /** The one port; asked for when there is one. */
  readonly server: () => HttpServer & { readonly http2SessionCount: number };
  readonly version: string;
}

type Labels = Readonly<Record<string, string | number>>;
interface Value {
  readonly value: number;
  readonly labels: Labels;
  readonly metricName?: string;
}
type Read = () => readonly Value[] | Promise<readonly Value[]>;

/** Registers every metric of the service and of its process. */
export function createMetrics(sources: MetricsSources): Registry {
  const { calls, bodies, answers, readAhead, traffic, quotas, survey, js, catalog, version } = sources;
  const registry = new Registry();
  const add = (type: "counter" | "gauge" | "histogram", name: string, help: string, values: Read) =>
    registry.registerMetric({
      name,
      get: async () => ({ name, help, type, values: await values(), aggregator: "sum" }),
    } as unknown as Metric);
  const one = (value: number, labels: Labels = {}): Value[] => [{ value, labels }];

  add("gauge", "millrace_build_info", "Always 1; the version is its label.", () => one(1, { version }));

  add("counter", "millrace_calls_total", "Calls that have ended, by the name of their error or OK.", () =>
    calls.series.flatMap(({ method, protocol, byCode }) =>
      [...byCode].map(([code, value]) => ({ value, labels: { method, protocol, code } })),
    ),
  );
  const duration = "millrace_call_duration_seconds";
  add("histogram", duration, "Time from a call's headers to the end of its answer; without streams.", () =>
    calls.series.flatMap((series) => histogram(duration, series)),
  );
  add("gauge", "millrace_calls_in_progress", "Calls that have begun and not ended, streams among them.", () =>
    one(calls.inProgress),
  );

  add("gauge", "millrace_request_in_flight_bytes", "Bytes of request bodies held now.", () => one(bodies.heldBytes));
  add("gauge", "millrace_answer_in_flight_bytes", "Bytes read for answers, and of answers not taken, held now.", () =>
    one(answers.heldBytes),
  );
  add("counter", "millrace_requests_shed_total", "Requests refused because too many bytes were held.", () =>
    one(bodies.refused + answers.refused),
  );

  add("counter", "millrace_quota_refusals_total", "Requests refused as QUOTA_EXCEEDED for a quota.", () =>
    [...(quotas?.refusals.values() ?? [])].map(({ kind, reason, count }) => ({
      value: count,
      labels: { kind, reason },
    })),
  );
  add("counter", "millrace_quota_pauses_total", "Times that a stream had to wait for a quota.", () =>
    one(quotas?.pauses ?? 0),
  );

  const perStream = (name: string, help: string, field: keyof StreamTraffic) =>
    add("counter", name, help, () => [
      ...[...traffic.streams((stream) => catalog.known(stream) !== undefined)].map(([stream, counts]) => ({
        value: counts[field],
        labels: { stream },
      })),
      { value: traffic.other[field], labels: { stream: "" } },
    ]);
  perStream("millrace_events_published_total", "Events stored for publishers.", "publishedEvents");
  perStream("millrace_published_bytes_total", "Bytes of their payloads, as sent.", "publishedBytes");
  perStream("millrace_events_delivered_total", "Events handed to readers, once for each.", "deliveredEvents");
  perStream("millrace_delivered_bytes_total", "Bytes of their payloads.", "deliveredBytes");

  add("gauge", "millrace_subscriptions", "Open subscriptions, of groups and without.", () => [
    { value: traffic.groupSubscriptions, labels: { kind: "group" } },
    { value: traffic.soloSubscriptions, labels: { kind: "single" } },
  ]);
  add("gauge", "millrace_read_ahead_bytes", "Bytes read from the storage that subscriptions have not sent yet.", () =>
    one(readAhead.heldBytes),
  );
  add("gauge", "millrace_publish_in_flight_events", "Events sent to JetStream and not yet acknowledged.", () =>
    one(js.publisher.inFlight),
  );
  add("gauge", "millrace_publish_in_flight_bytes", "Bytes of them.", () => one(js.publisher.inFlightBytes));
  add("gauge", "millrace_nats_connected", "1 while there is a connection to NATS.", () => one(js.connected ? 1 : 0));
  add("counter", "millrace_nats_connections_total", "Connections made to NATS, the first among them.", () =>
    one(js.epoch),
  );
  add("gauge", "millrace_connections", "Connections of callers, of both HTTP versions.", async () =>
    one(await connectionsOf(sources.server())),
  );
  add("gauge", "millrace_http2_connections", "Those of HTTP/2.", () => one(sources.server().http2SessionCount));

  const surveyed = (
    type: "counter" | "gauge",
    name: string,
    help: string,
    values: (result: SurveyResult) => readonly Value[],
  ) => add(type, name, help, async () => values(await survey.latest()));
  surveyed("gauge", "millrace_group_lag_events", "Events of a stream that a group has not committed.", ({ groups }) =>
    groups.map(({ group, stream, lag }) => ({ value: lag, labels: { group, stream } })),
  );
  surveyed("counter", "millrace_processor_events_total", "What became of a processor's events.", ({ processors }) =>
    processors.flatMap(({ record, metrics: { counts } }) =>
      Object.entries(OUTCOMES).map(([outcome, field]) => ({
        value: counts[field],
        labels: { processor: record.id, name: record.name, outcome },
      })),
    ),
  );
  surveyed("gauge", "millrace_processor_lag_events", "Events that a processor has not read.", ({ processors }) =>
    processors.map(({ record, metrics }) => ({
      value: metrics.lag,
      labels: { processor: record.id, name: record.name },
    })),
  );
  surveyed("gauge", "millrace_processor_latency_seconds", "Average time that an event takes.", ({ processors }) =>
    processors.map(({ record, metrics }) => ({
      value: metrics.latencyMs / 1000,
      labels: { processor: record.id, name: record.name },
    })),
  );
  surveyed("gauge", "millrace_processor_status", "1 for the status that a processor has.", ({ processors }) =>
    processors.map(({ record, status }) => ({
      value: 1,
      labels: { processor: record.id, name: record.name, status },
    })),
  );
  surveyed("gauge", "millrace_survey_left_out", "Groups and processors that have no series of their own.", (result) => [
    { value: result.groupsLeftOut, labels: { kind: "groups" } },
    { value: result.processorsLeftOut, labels: { kind: "processors" } },
  ]);
  surveyed("gauge", "millrace_survey_timestamp_seconds", "When groups and processors were looked at.", ({ atMs }) =>
    one(atMs / 1000),
  );

  collectDefaultMetrics({ register: registry });
  return registry;
}

const OUTCOMES = {
  processed: "processed",
  filtered: "filtered",
  errors: "errors",
  dead_letters: "deadLetters",
  late: "late",
  emitted: "emitted",
} as const;

function histogram(name: string, { method, protocol, latency, seconds }: Calls["series"][number]): Value[] {
  const labels = { method, protocol };
  let count = 0;
  const buckets = [...LATENCY_BOUNDS, "+Inf"].map((le, place): Value => {
    count += latency[place]!;
    return { metricName: `${name}_bucket`, value: count, labels: { le, ...labels } };
  });
  if (count === 0) return [];
  return [
    ...buckets,
    { metricName: `${name}_sum`, value: seconds, labels },
    { metricName: `${name}_count`, value: count, labels },
  ];
}

function connectionsOf(server: HttpServer): Promise<number> {
  return new Promise((resolve) => {
    server.getConnections((_error, count) => resolve(count ?? 0));
  });
}
