import { describe, expect, test } from "vitest";
import { type Api, protocols } from "./clients.ts";
import { type FileService, freshName } from "./service.ts";
import type { Subscriber } from "./subscribers.ts";
import type { SubscribeRequest, SubscriptionFailure, Told } from "./told.ts";
import { eventually } from "./wait.ts";

const rest = protocols[0]!;

/** The settings of the service that {@link describeSubscribing} needs. */
export const SUBSCRIBING_ENV = { MILLRACE_ACK_WAIT_MS: "700", MILLRACE_SESSION_TIMEOUT_MS: "30000" };

export async function newStream(api: Api, partitions: number, events: number): Promise<string> {
  const name = freshName();
  await api.createStream({ name, partitions });
  if (events > 0) await publish(api, name, partitions, 0, events);
  return name;
}

/** Events with the values `from` to `to`, exclusive, dealt to the partitions in turn. */
export async function publish(api: Api, stream: string, partitions: number, from: number, to: number): Promise<void> {
  const events = Array.from({ length: to - from }, (_, i) => ({ value: from + i, partition: (from + i) % partitions }));
  const { failureCount } = await api.publishBatch(stream, events);
  expect(failureCount).toBe(0);
}

/** A subscription that is read in the background. */
export class Reading implements AsyncDisposable {
  readonly told: Told[] = [];
  failure: unknown;
  readonly #over = new AbortController();
  readonly #done: Promise<void>;

  constructor(by: Subscriber, url: string, stream: string, request: SubscribeRequest) {
    this.#done = (async () => {
      try {
        for await (const each of by.subscribe(url, stream, request, this.#over.signal)) this.told.push(each);
      } catch (error) {
        this.failure = error;
      }
    })();
  }

  get events() {
    return this.told.flatMap(({ events }) => events);
  }

  get values(): unknown[] {
    return this.events.map(({ value }) => value);
  }

  get assigned(): number[] | undefined {
    return this.told.findLast(({ assignment }) => assignment)?.assignment?.partitions;
  }

  get resumeToken(): string {
    return this.told.findLast(({ resumeToken }) => resumeToken)!.resumeToken!;
  }

  /** Waits until a condition holds of it. @throws what the service ended it with. */
  until(what: string, condition: (reading: this) => boolean): Promise<boolean> {
    return eventually(what, () => {
      if (this.failure) throw this.failure;
      return condition(this);
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#over.abort();
    await this.#done;
  }
}

const numbers = (from: number, to: number): number[] => Array.from({ length: to - from }, (_, i) => from + i);
const sorted = (values: unknown[]): unknown[] => [...values].sort((a, b) => Number(a) - Number(b));

/** What a subscription does, however it is made. */
export function describeSubscribing(subscribers: readonly Subscriber[], service: FileService): void {
  describe.each(subscribers)("subscribing by $name", (by) => {
    test("gives what is stored, says that it has caught up, and goes on live, in order", async () => {
      await using api = rest.connect(service.url);
      const stream = await newStream(api, 2, 30);
      await using reading = new Reading(by, service.url, stream, { heartbeat: 200 });
      await reading.until("caught up", ({ told }) => told.some(({ caughtUp }) => caughtUp));
      expect(sorted(reading.values)).toEqual(numbers(0, 30));
      if (by.seesHeartbeats !== false)
        await reading.until("a heartbeat", ({ told }) => told.some(({ heartbeat }) => heartbeat));
      await publish(api, stream, 2, 30, 40);
      await reading.until("live events", ({ events }) => events.length === 40);
      for (const partition of [0, 1])
        expect(reading.events.filter((event) => event.partition === partition).map(({ offset }) => offset)).toEqual(
          numbers(0, 20),
        );
    });

    test("begins at the latest, at an offset, and at a time; a filter leaves out", async () => {
      await using api = rest.connect(service.url);
      const stream = await newStream(api, 1, 3);
      const { events } = await api.readPartition(stream, 0);
      await using latest = new Reading(by, service.url, stream, { offset: "latest" });
      await using offset = new Reading(by, service.url, stream, { offset: "2" });
      await using time = new Reading(by, service.url, stream, { offset: events[0]!.timestamp });
      await using future = new Reading(by, service.url, stream, { offset: "2999-01-01T00:00:00Z" });
      await using filtered = new Reading(by, service.url, stream, { filter: "value > 3" });
      for (const reading of [latest, offset, time, future, filtered])
        await reading.until("caught up", ({ told }) => told.some(({ caughtUp }) => caughtUp));
      await publish(api, stream, 1, 3, 5);
      await latest.until("latest", ({ values }) => values.length === 2);
      await offset.until("offset", ({ values }) => values.length === 3);
      await time.until("time", ({ values }) => values.length === 5);
      await future.until("a time to come", ({ values }) => values.length >= 2);
      await filtered.until("filtered", ({ values }) => values.length === 1);
      expect([latest.values, offset.values, future.values, filtered.values]).toEqual([[3, 4], [2, 3, 4], [3, 4], [4]]);
    });

    test("goes on behind a resume token without loss or repeat", async () => {
      await using api = rest.connect(service.url);
      const stream = await newStream(api, 3, 20);
      const first = new Reading(by, service.url, stream, { limit: 4 });
      await first.until("caught up", ({ told }) => told.some(({ caughtUp, resumeToken }) => caughtUp && resumeToken));
      await first[Symbol.asyncDispose]();
      const seen = [...first.values];
      await publish(api, stream, 3, 20, 50);
      await using second = new Reading(by, service.url, stream, { resumeToken: first.resumeToken });
      await second.until("the rest", ({ values }) => values.length >= 50 - seen.length);
      expect(sorted([...seen, ...second.values])).toEqual(numbers(0, 50));
    });

    test("shares a group's partitions, and a closed stream frees its own at once", async () => {
      await using api = rest.connect(service.url);
      const stream = await newStream(api, 4, 0);
      const consumerGroup = freshName();
      await using a = new Reading(by, service.url, stream, { consumerGroup, consumerId: "a" });
      await a.until("all partitions", ({ assigned }) => assigned?.length === 4);
      const b = new Reading(by, service.url, stream, { consumerGroup });
      await b.until("its share", ({ assigned }) => assigned?.length === 2);
      await a.until("the rest", ({ assigned }) => assigned?.length === 2);
      await publish(api, stream, 4, 0, 40);
      await eventually("every event", () => a.values.length + b.values.length === 40);
      expect(sorted([...a.values, ...b.values])).toEqual(numbers(0, 40));
      const taken = a.assigned!;
      expect(a.events.every(({ partition }) => taken.includes(partition))).toBe(true);
      await b[Symbol.asyncDispose]();
      await a.until("all partitions again", ({ assigned }) => assigned?.length === 4);
      // What b was sent and nobody committed comes to a.
      await a.until("all events", ({ values }) => new Set(values).size === 40);
    });

    test("sends again after ackWait what is not committed, and goes on behind what is", async () => {
      await using api = rest.connect(service.url);
      const stream = await newStream(api, 1, 6);
      const consumerGroup = freshName();
      await using reading = new Reading(by, service.url, stream, { consumerGroup, consumerId: "c", maxUncommitted: 4 });
      await reading.until("as many as may be uncommitted", ({ values }) => values.length === 4);
      await api.commit(consumerGroup, [{ stream, partition: 0, offset: 1 }], { consumerId: "c" });
      await reading.until("more for the commit", ({ values }) => values.length >= 6);
      expect(reading.values.slice(0, 6)).toEqual(numbers(0, 6));
      await reading.until("what is not committed", ({ values }) => values.length >= 10);
      expect(reading.values.slice(6, 10)).toEqual(numbers(2, 6));
      await api.commit(consumerGroup, [{ stream, partition: 0, offset: 5 }], { consumerId: "c" });
      const group = await api.getConsumerGroup(consumerGroup);
      expect(group).toMatchObject({ lag: 0, state: "stable" });
    });

    test("counts as uncommitted what it was sent, not what a filter left out", async () => {
      await using api = rest.connect(service.url);
      const stream = await newStream(api, 1, 2500);
      const consumerGroup = freshName();
      const request = { consumerGroup, consumerId: "c", maxUncommitted: 3, filter: "value > 2495.0" };
      await using reading = new Reading(by, service.url, stream, request);
      await reading.until("as many as may be uncommitted", ({ values }) => values.length === 3);
      await api.commit(consumerGroup, [{ stream, partition: 0, offset: 2497 }], { consumerId: "c" });
      await reading.until("the last", ({ values }) => values.includes(2499));
      expect(sorted([...new Set(reading.values)])).toEqual(numbers(2496, 2500));
    });

    test("commits what it has sent when asked to", async () => {
      await using api = rest.connect(service.url);
      const stream = await newStream(api, 2, 10);
      const consumerGroup = freshName();
      await using reading = new Reading(by, service.url, stream, { consumerGroup, autoCommit: true });
      await reading.until("all", ({ values }) => values.length === 10);
      await eventually("the commit", async () => (await api.getConsumerGroup(consumerGroup)).lag === 0);
    });

    test("gives added partitions, and ends with STREAM_NOT_FOUND when the stream is deleted", async () => {
      await using api = rest.connect(service.url);
      const stream = await newStream(api, 1, 1);
      const consumerGroup = freshName();
      await using alone = new Reading(by, service.url, stream, {});
      await using member = new Reading(by, service.url, stream, { consumerGroup });
      for (const reading of [alone, member]) await reading.until("the first", ({ values }) => values.length === 1);
      await api.updateStream(stream, { partitions: 2 });
      await api.publish(stream, { partition: 1, value: "added" });
      for (const reading of [alone, member]) await reading.until("the added", ({ values }) => values.includes("added"));
      await api.deleteStream(stream);
      for (const reading of [alone, member]) await eventually("the end", () => reading.failure !== undefined);
      for (const reading of [alone, member]) expect((reading.failure as SubscriptionFailure).code).toBe(1001);
    });

    test("ends when its member is taken out by name", async () => {
      await using api = rest.connect(service.url);
      const stream = await newStream(api, 1, 0);
      const consumerGroup = freshName();
      await using reading = new Reading(by, service.url, stream, { consumerGroup, consumerId: "a" });
      await reading.until("its share", ({ assigned }) => assigned?.length === 1);
      expect(await api.leave(consumerGroup, "a")).toEqual({ streams: [stream] });
      await eventually("the end", () => reading.failure !== undefined);
      expect((reading.failure as SubscriptionFailure).code).toBe(1103);
      expect(await api.getConsumerGroup(consumerGroup)).toMatchObject({ state: "empty" });
    });

    test("refuses what can't be read", async () => {
      await using api = rest.connect(service.url);
      const stream = await newStream(api, 1, 1);
      const refused = async (name: string, request: SubscribeRequest) => {
        await using reading = new Reading(by, service.url, name, request);
        await eventually("a refusal", () => reading.failure !== undefined);
        return (reading.failure as SubscriptionFailure).code;
      };
      if (by.seesRefusals === false) {
        for (const request of [{ offset: "9" }, { resumeToken: "x" }]) expect(await refused(stream, request)).toBe(0);
        return;
      }
      expect(await refused("nowhere", {})).toBe(1001);
      expect(await refused(stream, { offset: "9" })).toBe(1002);
      expect(await refused(stream, { offset: "soon" })).toBe(1002);
      expect(await refused(stream, { resumeToken: "x" })).toBe(1100);
      expect(await refused(stream, { autoCommit: true })).toBe(1100);
      expect(await refused(stream, { partition: [4] })).toBe(1100);
      expect(await refused(stream, { filter: "value >" })).toBe(1100);
    });
  });
}
