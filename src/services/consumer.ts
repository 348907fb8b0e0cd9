import { randomBytes } from "node:crypto";
import type { PollRequest, ReadPartitionRequest, SubscribeRequest } from "../../gen/millrace/v1/events_pb.js";
import type { ByteBudget, Holding } from "../domain/byte-budget.ts";
import { type Deadline, deadlineIn, msLeft, pause } from "../domain/deadline.ts";
import { invalidArgument, invalidOffset, partitionNotFound } from "../domain/errors.ts";
import type { StoredEvent } from "../domain/event.ts";
import { compileFilter } from "../domain/expression.ts";
import {
  DEFAULT_HEARTBEAT_MS,
  DEFAULT_MAX_UNCOMMITTED,
  DEFAULT_POLL_BYTES,
  DEFAULT_POLL_LIMIT,
  DEFAULT_POLL_TIMEOUT_MS,
  DEFAULT_SUBSCRIBE_BYTES,
  DEFAULT_SUBSCRIBE_LIMIT,
} from "../domain/limits.ts";
import { groupNameFault } from "../domain/names.ts";
import { type Position, parsePosition, positionOf } from "../domain/position.ts";
import type { Principal } from "../domain/principal.ts";
import { parseResumeToken } from "../domain/resume-token.ts";
import type { JetStream } from "../jetstream/connection.ts";
import type { Catalog, StreamRecord } from "../log/catalog.ts";
import { commit } from "../log/commit.ts";
import type { Committer, EventPlace } from "../log/group-places.ts";
import { GroupSource } from "../log/group-source.ts";
import type { GroupInStream, Groups } from "../log/groups.ts";
import { type Nacked, type NackOptions, nack } from "../log/nack.ts";
import { checkSeek, type PollOptions, type PollResult, poll } from "../log/poll.ts";
import { type ReadResult, readPartition, type StartOffset } from "../log/read.ts";
import { SoloSource } from "../log/solo-source.ts";
import { type Delivery, type Source, subscribe, Wake } from "../log/subscribe.ts";
import type { Tails } from "../log/tail.ts";
import { traceDelivery } from "../telemetry/event-trace.ts";
import type { OwnerOf, Quotas } from "./quotas.ts";
import type { Traffic } from "./traffic.ts";

type Filter = (event: StoredEvent) => boolean;

/** Compiled filters kept, since a consumer sends the same one with every poll. */
const KEPT_FILTERS = 256;
/** How long a read waits for others' answers to be taken, and how often it looks. */
const ROOM_WAIT_MS = 1000;
const ROOM_LOOK_MS = 20;

/** Reads streams for groups and without, whichever protocol the request came by. */
export class Consumer {
  readonly #js: JetStream;
  readonly #catalog: Catalog;
  readonly #groups: Groups;
  readonly #tails: Tails;
  readonly #draining: AbortSignal;
  readonly #traffic: Traffic;
  readonly #quotas: Quotas | undefined;
  readonly #answers: ByteBudget;
  readonly #ownerOf: OwnerOf;
  readonly #filters = new Map<string, Filter>();

  /**
   * @param draining ends the waits of polls and the subscriptions, when the gateway is to stop.
   * @param answers bounds what is held of answers by the service.
   */
  constructor(
    js: JetStream,
    catalog: Catalog,
    groups: Groups,
    tails: Tails,
    draining: AbortSignal,
    traffic: Traffic,
    quotas: Quotas | undefined,
    answers: ByteBudget,
  ) {
    this.#js = js;
    this.#catalog = catalog;
    this.#groups = groups;
    this.#tails = tails;
    this.#draining = draining;
    this.#traffic = traffic;
    this.#quotas = quotas;
    this.#answers = answers;
    this.#ownerOf = quotas?.ownerOf ?? ((principal) => principal);
  }

  /**
   * Hands out a group's next events.
   *
   * @param deadline for everything but the wait for events.
   * @throws ServiceError.
   */
  async poll(request: PollRequest, deadline: Deadline, signal: AbortSignal, principal: Principal): Promise<PollResult> {
    checkGroupName("consumerGroup", request.consumerGroup);
    const start = parseOffset(request.offset);
    if (request.consumerId !== undefined) checkGroupName("consumerId", request.consumerId);
    const filter = this.#filter(request.filter);
    const stream = await this.#catalog.find(request.streamName, deadline);
    for (const index of request.partition)
      if (index >= stream.partitions) throw partitionNotFound(stream.name, index, stream.partitions);
    this.#quotas?.read(stream.name);
    return this.#catalog.during(stream, async () => {
      using holding = await this.#hold(deadline, signal);
      const group = await this.#polledGroup(request, stream, start, deadline, principal);
      const options: PollOptions = {
        reader: {
          ...(request.consumerId === undefined ? {} : { member: { id: request.consumerId } }),
          ...(request.partition.length > 0 ? { partitions: request.partition } : {}),
        },
        seekTo: typeof start === "number" ? start : undefined,
        limit: request.limit ?? DEFAULT_POLL_LIMIT,
        maxBytes: this.#readBytes(principal, stream, request.maxBytes ?? DEFAULT_POLL_BYTES),
        waitMs: request.timeout ?? DEFAULT_POLL_TIMEOUT_MS,
        filter,
        autoCommit: request.autoCommit,
        holding,
        deadline,
        signal,
        draining: this.#draining,
      };
      const result = await this.#groups.during([group], () => poll(this.#catalog, this.#groups, group, options));
      this.#delivered(principal, stream, result.events);
      return result;
    });
  }

  /** The group that a poll names, made if it is new; by a poll that is refused it is not. */
  async #polledGroup(
    { consumerGroup, partition }: PollRequest,
    stream: StreamRecord,
    start: StartOffset,
    deadline: Deadline,
    principal: Principal,
  ): Promise<GroupInStream> {
    if (typeof start === "number" && !(await this.#groups.get(consumerGroup, stream, deadline))) {
      const polled = partition.length > 0 ? partition : Array.from({ length: stream.partitions }, (_, n) => n);
      await checkSeek(this.#js, stream, polled, start, deadline);
    }
    const word = start === "latest" ? "latest" : "earliest";
    return this.#groups.join(consumerGroup, stream, { start: word, owner: this.#ownerOf(principal) }, deadline);
  }

  /** @throws ServiceError UNAVAILABLE when the service holds too much of answers, and callers do not take it soon. */
  async #hold(deadline: Deadline, signal: AbortSignal): Promise<Holding> {
    const until = Math.min(deadline, deadlineIn(ROOM_WAIT_MS));
    while (this.#answers.isFull) {
      if (msLeft(until) === 0 || signal.aborted) throw this.#answers.refusal("answers");
      await pause(ROOM_LOOK_MS, until);
    }
    return this.#answers.hold();
  }

  #readBytes(principal: Principal, { name }: StreamRecord, asked: number): number {
    return this.#quotas?.readBytes(principal, name, asked) ?? asked;
  }

  #delivered(principal: Principal, { name }: StreamRecord, events: readonly StoredEvent[]): void {
    this.#traffic.delivered(name, events);
    traceDelivery(name, events);
    this.#quotas?.delivered(principal, name, events);
  }

  /**
   * Sends events as they come, until the caller goes; a group's member leaves with it.
   *
   * @throws ServiceError.
   */
  async *subscribe(
    request: SubscribeRequest,
    deadline: Deadline,
    signal: AbortSignal,
    principal: Principal,
  ): AsyncGenerator<Delivery> {
    const filter = this.#filter(request.filter);
    const stream = await this.#catalog.find(request.streamName, deadline);
    const partitions = request.partition.length > 0 ? request.partition : undefined;
    for (const index of partitions ?? [])
      if (index >= stream.partitions) throw partitionNotFound(stream.name, index, stream.partitions);
    using _subscription = this.#quotas?.subscribe(principal, stream.name);
    const wake = new Wake();
    const opening: Promise<Source> =
      request.consumerGroup === undefined
        ? SoloSource.open(this.#js, this.#catalog, stream, this.#tails, wake, {
            ...startsOf(request),
            partitions,
            deadline,
          })
        : this.#groupSource(request.consumerGroup, request, stream, partitions, wake, deadline, principal);
    // Awaited in any case: what it holds is let go by disposing it.
    const source = await opening.catch(async (error: unknown) => {
      throw await this.#catalog.explain(stream, error);
    });
    const deliveries = subscribe(this.#catalog, stream, source, wake, {
      filter,
      limit: request.limit ?? DEFAULT_SUBSCRIBE_LIMIT,
      maxBytes: this.#readBytes(principal, stream, request.maxBytes ?? DEFAULT_SUBSCRIBE_BYTES),
      heartbeatMs: request.heartbeat ?? DEFAULT_HEARTBEAT_MS,
      pacer: this.#quotas?.pacer(principal, stream.name),
      signal,
      draining: this.#draining,
    });
    const kind = request.consumerGroup === undefined ? "soloSubscriptions" : "groupSubscriptions";
    this.#traffic[kind]++;
    try {
      for await (const delivery of deliveries) {
        this.#delivered(principal, stream, delivery.events);
        yield delivery;
      }
    } finally {
      this.#traffic[kind]--;
    }
  }

  async #groupSource(
    name: string,
    request: SubscribeRequest,
    stream: StreamRecord,
    partitions: readonly number[] | undefined,
    wake: Wake,
    deadline: Deadline,
    principal: Principal,
  ): Promise<Source> {
    checkGroupName("consumerGroup", name);
    if (request.consumerId !== undefined) checkGroupName("consumerId", request.consumerId);
    if (request.starts.length > 0) throw invalidArgument("starts", "is for reading without a group; seek the group");
    if (request.resumeToken) throw invalidArgument("resumeToken", "is for reading without a group");
    const start = request.offset || "earliest";
    if (start !== "earliest" && start !== "latest")
      throw invalidArgument("offset", "must be earliest or latest with a group; seek moves it elsewhere");
    const group = await this.#groups.join(name, stream, { start, owner: this.#ownerOf(principal) }, deadline);
    return GroupSource.open(this.#catalog, this.#groups, group, this.#tails, wake, {
      consumerId: request.consumerId ?? `sub-${randomBytes(6).toString("hex")}`,
      partitions,
      autoCommit: request.autoCommit,
      maxUncommitted: request.maxUncommitted ?? DEFAULT_MAX_UNCOMMITTED,
      keepMembership: request.keepMembership,
    });
  }

  /** Reads one partition without a group. @throws ServiceError. */
  async readPartition(
    request: ReadPartitionRequest,
    deadline: Deadline,
    signal: AbortSignal,
    principal: Principal,
  ): Promise<ReadResult> {
    const from = parseOffset(request.offset);
    const filter = this.#filter(request.filter);
    const stream = await this.#catalog.find(request.streamName, deadline);
    this.#quotas?.read(stream.name);
    return this.#catalog.during(stream, async () => {
      using holding = await this.#hold(deadline, signal);
      const result = await readPartition(this.#js, stream, request.partition, {
        from,
        limit: request.limit ?? DEFAULT_POLL_LIMIT,
        maxBytes: this.#readBytes(principal, stream, request.maxBytes ?? DEFAULT_POLL_BYTES),
        filter,
        holding,
        deadline,
        signal,
      });
      this.#delivered(principal, stream, result.events);
      return result;
    });
  }

  /** Stores what a group has processed. @throws ServiceError. */
  async commit(group: string, entries: readonly EventPlace[], by: Committer, deadline: Deadline): Promise<void> {
    checkGroupName("consumerGroup", group);
    if (by.memberId !== undefined) checkGroupName("consumerId", by.memberId);
    await this.#inStreams(entries, deadline, () => commit(this.#catalog, this.#groups, group, entries, by, deadline));
  }

  /** Takes back what a group could not process. @throws ServiceError. */
  async nack(group: string, entries: readonly EventPlace[], options: NackOptions): Promise<Nacked[]> {
    checkGroupName("consumerGroup", group);
    if (options.by.memberId !== undefined) checkGroupName("consumerId", options.by.memberId);
    return this.#inStreams(entries, options.deadline, () => nack(this.#catalog, this.#groups, group, entries, options));
  }

  /** Runs a call on events of several streams. @throws ServiceError STREAM_NOT_FOUND where one is, or is deleted meanwhile. */
  async #inStreams<T>(entries: readonly EventPlace[], deadline: Deadline, call: () => Promise<T>): Promise<T> {
    const names = new Set(entries.map(({ stream }) => stream));
    const streams = await Promise.all([...names].map((name) => this.#catalog.find(name, deadline)));
    return streams.reduce((task, stream) => () => this.#catalog.during(stream, task), call)();
  }

  #filter(text: string | undefined): Filter | undefined {
    if (text === undefined || text === "") return undefined;
    let filter = this.#filters.get(text);
    if (!filter) {
      filter = compileFilter(text);
      if (this.#filters.size >= KEPT_FILTERS) this.#filters.delete(this.#filters.keys().next().value!);
      this.#filters.set(text, filter);
    }
    return filter;
  }
}

/** @throws ServiceError INVALID_OFFSET for what is neither a word nor a whole number below 2^53. */
function parseOffset(text: string | undefined): StartOffset {
  if (text === undefined || text === "") return "earliest";
  const position = positionOf(text);
  if (position === undefined || typeof position === "object")
    throw invalidOffset(`offset "${text}" is not earliest, latest or a whole number below 2^53`);
  return position;
}

/** Where a subscription without a group begins. @throws ServiceError INVALID_ARGUMENT, INVALID_OFFSET. */
function startsOf(request: SubscribeRequest): { start: Position; starts: Map<number, Position> } {
  for (const field of ["consumerId", "autoCommit", "maxUncommitted", "keepMembership"] as const)
    if (request[field]) throw invalidArgument(field, "goes with consumerGroup");
  const starts = new Map<number, Position>();
  for (const [index, { partition, offset }] of request.starts.entries()) {
    if (starts.has(partition)) throw invalidArgument(`starts[${index}]`, `names partition ${partition} twice`);
    starts.set(partition, parsePosition(offset));
  }
  if (!request.resumeToken) return { start: request.offset ? parsePosition(request.offset) : "earliest", starts };
  // What the token does not name was added since it was given.
  for (const [partition, next] of parseResumeToken(request.resumeToken, "resumeToken")) starts.set(partition, next);
  return { start: "earliest", starts };
}

/** @throws ServiceError INVALID_ARGUMENT for a name of a group or member that can't be one. */
export function checkGroupName(field: string, name: string): void {
  const fault = groupNameFault(name);
  if (fault) throw invalidArgument(field, fault);
}
