import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { expect, test } from "vitest";
import { PublishBatchResponseSchema } from "../../gen/millrace/v1/events_pb.js";
import { invalidArgument, notSerializable } from "../../src/domain/errors.ts";
import type { Outcome } from "../../src/log/append.ts";
import { resultOf, resultsField } from "../../src/services/publish-results.ts";
import { seededRandom } from "../support/random.ts";

const SEED = Number(process.env.SEED ?? Math.floor(Math.random() * 2 ** 31));

/** Outcomes at the edges of every field, at random. */
function outcomes(): Outcome[] {
  const random = seededRandom(SEED);
  const pick = <T>(items: readonly T[]): T => items[Math.floor(random() * items.length)]!;
  const ids = [
    "i",
    "i".repeat(32),
    "i".repeat(33),
    "i".repeat(64),
    "i".repeat(128),
    "ü".repeat(32),
    "日本語".repeat(14),
  ];
  return Array.from({ length: 500 }, () => {
    if (random() < 0.1)
      return {
        eventId: pick([undefined, ...ids]),
        error: pick([invalidArgument("key", "is too long"), notSerializable("x")]),
      };
    return {
      eventId: pick(ids),
      partition: pick([0, 1, 127, 128, 999]),
      offset: pick([0, 1, 127, 128, 2 ** 31, 2 ** 32 + 5, 2 ** 53 - 1]),
      duplicate: random() < 0.2,
    };
  });
}

test(`encodes results as the schema does, seed ${SEED}`, () => {
  const given = outcomes();
  const answer = create(PublishBatchResponseSchema, { batchId: "b", totalEvents: given.length });
  answer.$unknown = resultsField(given);
  const decoded = fromBinary(PublishBatchResponseSchema, toBinary(PublishBatchResponseSchema, answer));
  const expected = { batchId: "b", totalEvents: given.length, results: given.map(resultOf) };
  expect(decoded).toEqual(create(PublishBatchResponseSchema, expected));
});
