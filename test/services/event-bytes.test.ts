import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { expect, test } from "vitest";
import { EventSchema, PayloadFormat, PollResponseSchema } from "../../gen/millrace/v1/events_pb.js";
import type { StoredEvent } from "../../src/domain/event.ts";
import { eventsField } from "../../src/services/event-bytes.ts";
import { messageOf } from "../../src/services/events.ts";
import { seededRandom } from "../support/random.ts";

const SEED = Number(process.env.SEED ?? Math.floor(Math.random() * 2 ** 31));

/** Events at the edges of every field, and others at random. */
function events(): StoredEvent[] {
  const random = seededRandom(SEED);
  const pick = <T>(items: readonly T[]): T => items[Math.floor(random() * items.length)]!;
  const texts = ["", "k", "ü", "日本語", "x".repeat(127), "x".repeat(128), "ü".repeat(600), "𝄞".repeat(30)];
  return Array.from({ length: 500 }, () => ({
    eventId: pick(texts),
    partition: pick([0, 1, 127, 128, 999]),
    offset: pick([0, 1, 127, 128, 2 ** 31, 2 ** 32 + 5, 2 ** 53 - 1]),
    timestampMs: pick([0, 999, 1000, 1_795_471_317_239, 4_102_444_800_000]),
    key: pick([undefined, ...texts]),
    headers: pick([undefined, [], [["a", ""]], texts.map((text, i) => [`${i}${text}`, text] as const)]),
    payload: Buffer.alloc(pick([0, 1, 127, 128, 5000, 300_000]), 7),
    contentType: pick(["application/json", "text/plain"]),
    deliveryAttempt: pick([undefined, 2, 127, 128, 2 ** 31 - 1]),
  }));
}

test(`encodes events as the schema does, seed ${SEED}`, () => {
  const stored = events();
  const expected = stored.map((event) => messageOf(event, PayloadFormat.DATA));
  const answer = create(PollResponseSchema, { metadata: { lag: 3n } });
  answer.$unknown = eventsField(stored);
  const bytes = toBinary(PollResponseSchema, answer);
  const decoded = fromBinary(PollResponseSchema, bytes);
  expect(decoded.metadata?.lag).toBe(3n);
  expect(decoded.events.length).toBe(expected.length);
  for (const [i, event] of decoded.events.entries())
    expect(Buffer.from(toBinary(EventSchema, event)).equals(toBinary(EventSchema, expected[i]!))).toBe(true);
});

test("encodes no events as none", () => {
  expect(eventsField([])).toEqual([]);
});
