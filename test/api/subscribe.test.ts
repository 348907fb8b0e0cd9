import { expect, test } from "vitest";
import { protocols } from "../support/clients.ts";
import { freshName, startService, useService } from "../support/service.ts";
import { subscribers } from "../support/subscribers.ts";
import { describeSubscribing, newStream, Reading, SUBSCRIBING_ENV } from "../support/subscribing.ts";
import type { SubscriptionFailure } from "../support/told.ts";
import { eventually } from "../support/wait.ts";

const service = useService(SUBSCRIBING_ENV);
const rest = protocols[0]!;

describeSubscribing(subscribers, service);

test("a second stream of one name ends the first", async () => {
  await using api = rest.connect(service.url);
  const stream = await newStream(api, 2, 4);
  const consumerGroup = freshName();
  const request = { consumerGroup, consumerId: "same" };
  await using first = new Reading(subscribers[2]!, service.url, stream, request);
  await first.until("all", ({ values }) => values.length === 4);
  await using second = new Reading(subscribers[4]!, service.url, stream, request);
  await eventually("the end of the first", () => first.failure !== undefined);
  expect((first.failure as SubscriptionFailure).code).toBe(1103);
  await second.until("what was not committed", ({ values }) => values.length === 4);
});

test("a gateway that is killed or drained frees its streams' partitions for those of another", async () => {
  await using api = rest.connect(service.url);
  const stream = await newStream(api, 2, 0);
  const consumerGroup = freshName();
  const other = await startService(service.nats.url);
  await using here = new Reading(subscribers[2]!, service.url, stream, { consumerGroup });
  await here.until("both", ({ assigned }) => assigned?.length === 2);
  await using there = new Reading(subscribers[2]!, other.url, stream, { consumerGroup });
  await there.until("one", ({ assigned }) => assigned?.length === 1);
  await other[Symbol.asyncDispose]();
  expect((there.failure as SubscriptionFailure).code).toBe(1107);
  await here.until("both again", ({ assigned }) => assigned?.length === 2);
});
