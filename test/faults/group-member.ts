import { setTimeout as span } from "node:timers/promises";
import type { PollAnswer } from "../support/clients.ts";
import type { CommitSeen, Observation } from "../support/member-model.ts";
import type { Told } from "../support/told.ts";
import { type Failure, failureOfKill, type TwoGateways, WAY_COUNT } from "./two-gateways.ts";

/** The group in the stream that the members of a history read, and what they have seen of it. */
export interface Scene {
  readonly gateways: TwoGateways;
  readonly stream: string;
  readonly group: string;
  readonly sessionTimeoutMs: number;
  /** In the order of the answers. */
  readonly history: Observation[];
  readonly tick: () => number;
}

/** Where a member is in a partition. */
interface Place {
  /** One behind the last event that it processed. */
  next: number;
  /** The last offset known to be committed. */
  committed: number;
  /** The least offset that it may commit: a commit of unknown outcome may be stored. */
  least: number;
  /** It knows where the partition stands in the present generation. */
  known: boolean;
}

/** What is not {@link Observation | observed} but thrown: an answer that no fault explains. */
type Outcome<T> = { readonly answer: T } | { readonly failure: Failure };

/** A careful client of a group: it processes events in order and does not commit past what a lost answer may have held. */
export class GroupMember {
  readonly id: string;
  readonly #scene: Scene;
  readonly #random: () => number;
  readonly #places = new Map<number, Place>();
  #generation = 0;

  constructor(id: string, scene: Scene, random: () => number) {
    this.id = id;
    this.#scene = scene;
    this.#random = random;
  }

  async poll(limit: number, timeout: number): Promise<number> {
    const { stream, group } = this.#scene;
    const [outcome, times] = await this.#call((api) =>
      api.poll(stream, group, { consumerId: this.id, limit, timeout }),
    );
    if ("answer" in outcome) {
      const { answer } = outcome;
      const { generation, partitions: assignment } = answer.metadata.assignment!;
      this.#see({ kind: "poll", generation, assignment, events: answer.events.map(placeOf), ...times });
      this.#takePolled(answer);
      return answer.events.length;
    }
    if (outcome.failure !== "not sent") this.#see({ kind: "poll lost", ...times });
    return 0;
  }

  /** Commits what it has processed, or a part of it, in some of its partitions. */
  async commit(all = false): Promise<void> {
    const { stream, group } = this.#scene;
    const due = [...this.#places].filter(
      ([, place]) => place.known && place.next - 1 > place.committed && (all || this.#random() < 0.8),
    );
    if (due.length === 0) return;
    const offsets = due.map(([partition, { next, committed, least }]) => {
      const from = Math.max(committed + 1, least);
      const offset = all ? next - 1 : from + Math.floor(this.#random() * (next - from));
      return { stream, partition, offset };
    });
    const generation = this.#generation;
    const [outcome, times] = await this.#call((api) => api.commit(group, offsets, { consumerId: this.id, generation }));
    if ("failure" in outcome && outcome.failure === "not sent") return;
    // Of several partitions some may be stored when another passes on meanwhile.
    const isRefused = "failure" in outcome && outcome.failure === "refused" && offsets.length === 1;
    const result: CommitSeen["outcome"] = "answer" in outcome ? "accepted" : isRefused ? "refused" : "unknown";
    for (const { partition, offset } of offsets) {
      this.#see({ kind: "commit", generation, partition, offset, outcome: result, ...times });
      const place = this.#places.get(partition);
      if (!place) continue;
      place.least = Math.max(place.least, offset);
      if (result === "accepted") place.committed = Math.max(place.committed, offset);
    }
    if ("failure" in outcome && outcome.failure === "refused") this.forget();
  }

  async leave(): Promise<void> {
    const { stream, group } = this.#scene;
    const [outcome, times] = await this.#call((api) => api.leave(group, this.id, stream));
    if ("answer" in outcome) this.#see({ kind: "leave", outcome: "accepted", ...times });
    else if (outcome.failure !== "not sent") this.#see({ kind: "leave", outcome: "unknown", ...times });
  }

  /** Calls nothing for longer than its lease can last. */
  async stayAway(): Promise<void> {
    const { sessionTimeoutMs, tick } = this.#scene;
    const from = tick();
    await span(sessionTimeoutMs + Math.max(20, sessionTimeoutMs / 8) + 10);
    this.#see({ kind: "away", from, to: tick() });
  }

  /** Its process ends, and another goes on under its name. */
  forget(): void {
    this.#places.clear();
  }

  /** Reads live and commits for some time, or until the gateway is killed. */
  async subscribe(forMs: number): Promise<void> {
    const { gateways, stream, group, tick } = this.#scene;
    this.forget();
    const from = tick();
    this.#see({ kind: "stream", from, to: tick() });
    const over = new AbortController();
    let ended = false;
    const request = { consumerGroup: group, consumerId: this.id };
    const told = gateways.subscribe(this.#gateway(), this.#way(), stream, request, over.signal);
    const reading = (async () => {
      try {
        for await (const each of told) this.#takeTold(each, from);
      } catch (error) {
        failureOfKill(error);
      } finally {
        ended = true;
      }
    })();
    reading.catch(() => {}); // it is awaited below
    const end = performance.now() + forMs;
    while (!ended && performance.now() < end) {
      await span(10 + this.#random() * 60);
      if (!ended) await this.commit();
    }
    over.abort();
    await reading;
    this.#told = undefined;
    this.#see({ kind: "stream", from, to: tick() });
    this.forget();
  }

  #told: { readonly generation: number; readonly assignment: readonly number[] } | undefined;

  #takePolled({ events, metadata }: PollAnswer): void {
    const { generation, partitions: assignment } = metadata.assignment!;
    this.#generation = generation;
    for (const partition of [...this.#places.keys()])
      if (!assignment.includes(partition)) this.#places.delete(partition);
    for (const { partition, committedOffset = -1 } of metadata.partitions) {
      const place = this.#place(partition, committedOffset + 1);
      place.known = true;
      if (committedOffset > place.committed) place.committed = committedOffset;
      place.next = Math.max(place.next, committedOffset + 1);
    }
    for (const { partition, offset } of events) {
      const place = this.#places.get(partition)!;
      // What is ahead was preceded by a lost answer: it comes again.
      if (offset === place.next) place.next++;
    }
  }

  #takeTold({ events, assignment }: Told, from: number): void {
    if (assignment) {
      this.#told = { generation: assignment.generation, assignment: assignment.partitions };
      this.#generation = assignment.generation;
      for (const [partition, place] of this.#places) {
        place.known = false;
        if (!assignment.partitions.includes(partition)) this.#places.delete(partition);
      }
    }
    if (events.length === 0 && !assignment) return;
    this.#see({ kind: "poll", ...this.#told!, events: events.map(placeOf), from, to: this.#scene.tick() });
    for (const { partition, offset } of events) {
      const place = this.#place(partition, offset);
      place.known = true;
      // A stream loses nothing: what lies before was committed by an owner in between.
      if (offset > place.next) place.committed = offset - 1;
      place.next = Math.max(place.next, offset + 1);
    }
  }

  #place(partition: number, next: number): Place {
    let place = this.#places.get(partition);
    if (!place) {
      place = { next, committed: next - 1, least: 0, known: true };
      this.#places.set(partition, place);
    }
    return place;
  }

  #gateway = (): number => (this.#random() < 0.5 ? 0 : 1);
  #way = (): number => Math.floor(this.#random() * WAY_COUNT);

  async #call<T>(
    call: (api: ReturnType<TwoGateways["api"]>) => Promise<T>,
  ): Promise<[Outcome<T>, { from: number; to: number }]> {
    const { gateways, tick } = this.#scene;
    const from = tick();
    let outcome: Outcome<T>;
    try {
      outcome = { answer: await call(gateways.api(this.#gateway(), this.#way())) };
    } catch (error) {
      outcome = { failure: failureOfKill(error) };
    }
    return [outcome, { from, to: tick() }];
  }

  #see(seen: Observation extends infer O ? (O extends Observation ? Omit<O, "member"> : never) : never): void {
    this.#scene.history.push({ member: this.id, ...seen } as Observation);
  }
}

const placeOf = ({ partition, offset }: { partition: number; offset: number }) => ({ partition, offset });
