import { type Deadline, deadlineIn, pause } from "../domain/deadline.ts";
import { ErrorCode, isStreamNotFound, ServiceError } from "../domain/errors.ts";
import type { JetStream } from "../jetstream/connection.ts";
import { type Bucket, openBucket } from "../jetstream/kv.ts";
import { HEALTH_BUCKET, partitionStream, subjectPlace } from "../jetstream/names.ts";
import { type SurveyedPartition, surveyPartitions } from "../jetstream/survey.ts";
import type { Catalog } from "../log/catalog.ts";

/** One partition that can't do all that it should. */
export interface PartitionFault {
  readonly stream: string;
  readonly partition: number;
  readonly problem: "lost_events" | "no_leader" | "full_store";
  /** Of `lost_events`: how many. */
  readonly lostEvents?: number;
  readonly description: string;
}

/**
 * Whether this gateway can serve. `ready` and `degraded` can: a fault of one partition is the same behind every gateway,
 * so taking this one out of service would help nobody.
 */
export interface Readiness {
  readonly status: "ready" | "degraded" | "unavailable";
  /** Why it is unavailable. */
  readonly reasons: readonly string[];
  readonly partitions: readonly PartitionFault[];
}

/** A probe answers within this, or counts as failed. */
const PROBE_MS = 1000;
/** Servers that miss one of their number list their streams only after some seconds. */
const SURVEY_MS = 10_000;
/** How long an answer waits for a survey that has begun; after it the one before is told. */
const SURVEY_WAIT_MS = 500;
/** How long an answer serves other callers too. */
const FRESH_MS = 500;
/** Those of every partition. */
const EVENT_SUBJECTS = "mr.ev.>";
/** How far the clocks of two gateways may be apart. */
const CLOCK_SKEW_MS = 2000;
/** A full store is named as long as nothing else was heard of it. */
const FULL_MS = 60_000;

/** Looks whether JetStream is reachable and takes writes, and which partitions are at fault. */
export class ReadinessProbe {
  readonly #js: JetStream;
  readonly #catalog: Catalog;
  readonly #bucket: Bucket<{ at: number }>;
  readonly #draining: AbortSignal;
  #last: { atMs: number; report: Promise<Readiness> } | undefined;
  /** Of the last survey that came to its end. */
  #faults: readonly PartitionFault[] = [];
  #surveying: Promise<void> | undefined;

  private constructor(js: JetStream, catalog: Catalog, bucket: Bucket<{ at: number }>, draining: AbortSignal) {
    this.#js = js;
    this.#catalog = catalog;
    this.#bucket = bucket;
    this.#draining = draining;
  }

  /** @param draining is aborted when the gateway is to stop: it is not ready from then on. */
  static async open(
    js: JetStream,
    catalog: Catalog,
    { replicas, draining }: { replicas: number; draining: AbortSignal },
  ): Promise<ReadinessProbe> {
    return new ReadinessProbe(js, catalog, await openBucket(js, HEALTH_BUCKET, replicas), draining);
  }

  /** Never rejects, and takes not much longer than a second. Calls that come together share one look. */
  check(): Promise<Readiness> {
    if (this.#draining.aborted) return Promise.resolve(unavailable("this gateway is shutting down"));
    if (!this.#js.connected) return Promise.resolve(unavailable("there is no connection to NATS"));
    const now = performance.now();
    if (!this.#last || now - this.#last.atMs > FRESH_MS) this.#last = { atMs: now, report: this.#look() };
    return this.#last.report;
  }

  async #look(): Promise<Readiness> {
    const [write] = await Promise.allSettled([
      this.#bucket.set("probe", { at: Date.now() }, deadlineIn(PROBE_MS)),
      Promise.race([this.#survey(), pause(SURVEY_WAIT_MS)]),
    ]);
    const partitions = [...this.#faults, ...this.#fullStores()];
    if (write.status === "rejected") return { status: "unavailable", reasons: [reasonOf(write.reason)], partitions };
    return { status: partitions.length > 0 ? "degraded" : "ready", reasons: [], partitions };
  }

  /** Asks about all partitions; calls that come together share one survey. */
  #survey(): Promise<void> {
    this.#surveying ??= this.#surveyed().finally(() => {
      this.#surveying = undefined;
    });
    return this.#surveying;
  }

  async #surveyed(): Promise<void> {
    try {
      const deadline = deadlineIn(SURVEY_MS);
      const before = Date.now();
      this.#faults = await this.#faultsIn(await surveyPartitions(this.#js, deadline), before, deadline);
    } catch {
      // JetStream is out of reach, which the write finds out too; what was known stays.
    }
  }

  async #faultsIn(
    survey: readonly SurveyedPartition[],
    sinceMs: number,
    deadline: Deadline,
  ): Promise<PartitionFault[]> {
    const faults: PartitionFault[] = [];
    const answered = new Set<string>();
    let stored: Promise<ReadonlySet<string> | undefined> | undefined;
    for (const { stream, partition, lost, hasLeader } of survey) {
      if (hasLeader) answered.add(`${stream}/${partition}`);
      if (lost > 0)
        faults.push({
          stream,
          partition,
          problem: "lost_events",
          lostEvents: lost,
          description: `the storage has lost ${lost} stored event${lost === 1 ? "" : "s"}`,
        });
    }
    for (const { name, partitions, createdAtMs } of this.#catalog.list("", "", Number.MAX_SAFE_INTEGER, () => true)) {
      // One made while the servers were listing is in the catalog and not in the list.
      if (createdAtMs > sinceMs - CLOCK_SKEW_MS) continue;
      for (let partition = 0; partition < partitions; partition++)
        if (!answered.has(`${name}/${partition}`) && (await this.#stillThere(name, deadline))) {
          stored ??= this.#stored(deadline);
          const jsStream = partitionStream(name, partition);
          const isGone = (await stored)?.has(jsStream) === false;
          const why = isGone ? `its JetStream stream "${jsStream}" was deleted` : "no server leads it now";
          const description = `${why}, so nothing can be published to it or read`;
          faults.push({ stream: name, partition, problem: "no_leader", description });
        }
    }
    return faults;
  }

  /** Names of what is stored, that has no leader too; undefined when nobody can say. */
  async #stored(deadline: Deadline): Promise<ReadonlySet<string> | undefined> {
    const list = async () => {
      const names = new Set<string>();
      for await (const name of this.#js.jsm.streams.names(EVENT_SUBJECTS)) names.add(name);
      return names;
    };
    return this.#js.call(deadline, list).catch(() => undefined);
  }

  /** A stream that was deleted while the servers were listing is no fault. */
  async #stillThere(stream: string, deadline: Deadline): Promise<boolean> {
    return this.#catalog.refresh(stream, deadline).then(
      () => true,
      (error: unknown) => !isStreamNotFound(error),
    );
  }

  #fullStores(): PartitionFault[] {
    return this.#js.publisher.fullSubjects(FULL_MS).flatMap((subject) => {
      const place = subjectPlace(subject);
      if (!place) return [];
      return [
        { ...place, problem: "full_store" as const, description: "its server's store is full and takes no event" },
      ];
    });
  }
}

const unavailable = (reason: string): Readiness => ({ status: "unavailable", reasons: [reason], partitions: [] });

function reasonOf(error: unknown): string {
  if (error instanceof ServiceError && error.code === ErrorCode.QUOTA_EXCEEDED) return "the storage is full";
  if (error instanceof ServiceError && error.code === ErrorCode.TIMEOUT) return "JetStream does not answer";
  return "JetStream is out of reach";
}
