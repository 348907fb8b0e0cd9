import type { PollRequest, ReadPartitionRequest } from "../../gen/millrace/v1/events_pb.js";
import type { Deadline } from "../domain/deadline.ts";
import { invalidArgument, invalidOffset } from "../domain/errors.ts";
import type { StoredEvent } from "../domain/event.ts";
import { compileFilter } from "../domain/expression.ts";
import { DEFAULT_POLL_BYTES, DEFAULT_POLL_LIMIT, DEFAULT_POLL_TIMEOUT_MS } from "../domain/limits.ts";
import { groupNameFault } from "../domain/names.ts";
import { parsePosition } from "../domain/position.ts";
import type { JetStream } from "../jetstream/connection.ts";
import type { Catalog } from "../log/catalog.ts";
import { type CommitEntry, type Committer, commit } from "../log/commit.ts";
import type { Groups } from "../log/groups.ts";
import { type PollResult, poll } from "../log/poll.ts";
import { type ReadResult, readPartition, type StartOffset } from "../log/read.ts";

type Filter = (event: StoredEvent) => boolean;

/** Compiled filters kept, since a consumer sends the same one with every poll. */
const KEPT_FILTERS = 256;

/** Reads streams for groups and without, whichever protocol the request came by. */
export class Consumer {
  readonly #js: JetStream;
  readonly #catalog: Catalog;
  readonly #groups: Groups;
  readonly #draining: AbortSignal;
  readonly #filters = new Map<string, Filter>();

  /** @param draining ends the waits of polls, when the gateway is to stop. */
  constructor(js: JetStream, catalog: Catalog, groups: Groups, draining: AbortSignal) {
    this.#js = js;
    this.#catalog = catalog;
    this.#groups = groups;
    this.#draining = draining;
  }

  /**
   * Hands out a group's next events.
   *
   * @param deadline for everything but the wait for events.
   * @throws ServiceError.
   */
  async poll(request: PollRequest, deadline: Deadline, signal: AbortSignal): Promise<PollResult> {
    checkGroupName("consumerGroup", request.consumerGroup);
    const start = parseOffset(request.offset);
    if (request.consumerId !== undefined) checkGroupName("consumerId", request.consumerId);
    const filter = this.#filter(request.filter);
    const stream = await this.#catalog.find(request.streamName, deadline);
    const group = await this.#groups.join(
      request.consumerGroup,
      stream,
      { start: start === "latest" ? "latest" : "earliest" },
      deadline,
    );
    return poll(this.#groups, group, {
      reader: {
        ...(request.consumerId === undefined ? {} : { member: { id: request.consumerId } }),
        ...(request.partition.length > 0 ? { partitions: request.partition } : {}),
      },
      seekTo: typeof start === "number" ? start : undefined,
      limit: request.limit ?? DEFAULT_POLL_LIMIT,
      maxBytes: request.maxBytes ?? DEFAULT_POLL_BYTES,
      waitMs: request.timeout ?? DEFAULT_POLL_TIMEOUT_MS,
      filter,
      autoCommit: request.autoCommit,
      deadline,
      signal,
      draining: this.#draining,
    });
  }

  /** Reads one partition without a group. @throws ServiceError. */
  async readPartition(request: ReadPartitionRequest, deadline: Deadline, signal: AbortSignal): Promise<ReadResult> {
    const from = parseOffset(request.offset);
    const filter = this.#filter(request.filter);
    const stream = await this.#catalog.find(request.streamName, deadline);
    return readPartition(this.#js, stream, request.partition, {
      from,
      limit: request.limit ?? DEFAULT_POLL_LIMIT,
      maxBytes: request.maxBytes ?? DEFAULT_POLL_BYTES,
      filter,
      deadline,
      signal,
    });
  }

  /** Stores what a group has processed. @throws ServiceError. */
  async commit(group: string, entries: readonly CommitEntry[], by: Committer, deadline: Deadline): Promise<void> {
    checkGroupName("consumerGroup", group);
    if (by.memberId !== undefined) checkGroupName("consumerId", by.memberId);
    await commit(this.#catalog, this.#groups, group, entries, by, deadline);
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
  const position = parsePosition(text);
  if (typeof position === "object") throw invalidOffset(`offset "${text}" is not earliest, latest or a whole number`);
  return position;
}

/** @throws ServiceError INVALID_ARGUMENT for a name of a group or member that can't be one. */
export function checkGroupName(field: string, name: string): void {
  const fault = groupNameFault(name);
  if (fault) throw invalidArgument(field, fault);
}
