import { setTimeout as span } from "node:timers/promises";
import { describe, expect, onTestFinished, test } from "vitest";
import type { Observation } from "../support/member-model.ts";
import { seededRandom } from "../support/random.ts";
import { freshName } from "../support/service.ts";
import type { Told } from "../support/told.ts";
import { eventually } from "../support/wait.ts";
import { type Outcome, runHistory } from "./member-history.ts";
import { TwoGateways } from "./two-gateways.ts";

/** MEMBER_HISTORIES more or fewer; MEMBER_SEED repeats a run: history n has the seed of the run and n. */
const HISTORIES = Number(process.env.MEMBER_HISTORIES ?? 500);
const SEED = Number(process.env.MEMBER_SEED ?? Math.floor(Math.random() * 2 ** 31));
/** Histories at once. */
const AT_ONCE = 20;
const SHOWN = 3;

describe(`members of a group over two gateways, seed ${SEED}`, () => {
  test(`${HISTORIES} random histories under kill -9 keep the contract`, {
    timeout: 120_000 + HISTORIES * 1200,
  }, async () => {
    const gateways = await TwoGateways.start();
    onTestFinished(() => gateways[Symbol.asyncDispose]());
    const outcomes: Outcome[] = [];
    let started = 0;
    let running = true;
    const lanes = Array.from({ length: AT_ONCE }, async () => {
      while (started < HISTORIES) outcomes.push(await runHistory(gateways, SEED + started++));
    });
    const random = seededRandom(SEED);
    let kills = 0;
    const killing = (async () => {
      for (;;) {
        await span(500 + random() * 2500); // the moment of a fault is the input here
        if (!running) return;
        const gateway = random() < 0.5 ? 0 : 1;
        await gateways.kill(gateway);
        kills++;
        await gateways.restart(gateway);
      }
    })();
    await Promise.all(lanes);
    running = false;
    await killing;
    const seen = outcomes.flatMap(({ history }) => history);
    const count = (is: (each: Observation) => boolean) => seen.filter(is).length;
    console.log(
      `${outcomes.length} histories, ${kills} kills: ${count(({ kind }) => kind === "poll")} answers, ` +
        `${count(({ kind }) => kind === "poll lost")} lost, commits ` +
        ["accepted", "refused", "unknown"]
          .map((outcome) => `${count((each) => each.kind === "commit" && each.outcome === outcome)} ${outcome}`)
          .join(", "),
    );
    const failed = outcomes.filter(({ violations }) => violations.length > 0);
    for (const { seed, violations, history } of failed.slice(0, SHOWN)) {
      const lines = history.map((each) => JSON.stringify(each));
      console.log([`history of MEMBER_SEED=${seed} MEMBER_HISTORIES=1:`, ...violations, ...lines].join("\n"));
    }
    expect(failed.map(({ seed, violations }) => `MEMBER_SEED=${seed} MEMBER_HISTORIES=1: ${violations[0]}`)).toEqual(
      [],
    );
  });

  test("the partitions of a killed gateway's streams go to a member at the other within the session timeout", async () => {
    const sessionTimeout = 10_000;
    const partitions = 6;
    const gateways = await TwoGateways.start();
    onTestFinished(() => gateways[Symbol.asyncDispose]());
    const api = gateways.api(1);
    const [stream, group] = [freshName(), freshName("g")];
    await api.createStream({ name: stream, partitions });
    await api.createConsumerGroup(group, stream, { config: { sessionTimeout } });
    const over = new AbortController();
    onTestFinished(() => over.abort());
    const live = (gateway: number, way: number, consumerId: string) => {
      const told: Told[] = [];
      void (async () => {
        const request = { consumerGroup: group, consumerId };
        for await (const each of gateways.subscribe(gateway, way, stream, request, over.signal)) told.push(each);
      })().catch(() => {});
      const assigned = () => told.findLast(({ assignment }) => assignment)?.assignment?.partitions ?? [];
      return { consumerId, assigned, events: () => told.flatMap(({ events }) => events) };
    };
    const members = [live(0, 0, "by SSE"), live(0, 1, "by gRPC"), live(1, 1, "stays")] as const;
    await eventually("an even share each", () => members.every(({ assigned }) => assigned().length === 2));
    const events = Array.from({ length: 10 * partitions }, (_, i) => ({ value: i, partition: i % partitions }));
    expect((await api.publishBatch(stream, events)).failureCount).toBe(0);
    await eventually("all events", () => members.every((member) => member.events().length === 20));
    for (const { consumerId, assigned } of members)
      await api.commit(
        group,
        assigned().map((partition) => ({ stream, partition, offset: 3 + (partition % 3) })),
        { consumerId },
      );

    const stays = members[2];
    const own = stays.assigned();
    await gateways.kill(0);
    await eventually("all partitions", () => stays.assigned().length === partitions, sessionTimeout);
    const moved = Array.from({ length: partitions }, (_, index) => index).filter((index) => !own.includes(index));
    for (const partition of moved) {
      const offsets = () => stays.events().flatMap((event) => (event.partition === partition ? [event.offset] : []));
      await eventually(`the rest of partition ${partition}`, () => offsets().length >= 6 - (partition % 3));
      expect(offsets()).toEqual(Array.from({ length: 6 - (partition % 3) }, (_, i) => 4 + (partition % 3) + i));
    }
    const all = Array.from({ length: partitions }, (_, partition) => ({ stream, partition, offset: 9 }));
    await api.commit(group, all, { consumerId: stays.consumerId });
    expect(await api.getConsumerGroup(group, stream)).toMatchObject({ lag: 0, state: "stable" });
  });
});
