import { create, fromBinary, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { ValueSchema } from "@bufbuild/protobuf/wkt";
import { describe, expect, test } from "vitest";
import {
  PublishBatchRequestSchema,
  PublishEventSchema,
  PublishRequestSchema,
} from "../../gen/millrace/v1/events_pb.js";
import { fieldsOf } from "../../src/services/events.ts";
import { readBatch, readPublish } from "../../src/services/publish-requests.ts";
import { seededRandom } from "../support/random.ts";

const SEED = Number(process.env.SEED ?? Math.floor(Math.random() * 2 ** 31));

type EventInit = MessageInitShape<typeof PublishEventSchema>;

/** Requests at the edges of every field, at random. */
class Requests {
  readonly random = seededRandom(SEED);

  below(limit: number): number {
    return Math.floor(this.random() * limit);
  }

  pick<T>(items: readonly T[]): T {
    return items[this.below(items.length)]!;
  }

  event(): EventInit {
    const texts = ["", "k", "ü", "\u{feff}日本語", "x".repeat(127), "x".repeat(128), "𝄞".repeat(300), "__proto__", "7"];
    const maybe = <T>(items: readonly T[]): T | undefined => (this.below(3) === 0 ? this.pick(items) : undefined);
    const fields = {
      key: maybe(texts),
      contentType: maybe([...texts, "application/json", "application/jsox"]),
      partitionKey: maybe(texts),
      partition: maybe([0, 1, 127, 128, 2 ** 31 - 1]),
      eventId: maybe(texts),
      expectedOffset: maybe([0n, 127n, 128n, 2n ** 31n, 2n ** 32n + 5n, 2n ** 49n - 1n]),
    };
    const headers: Record<string, string> = {};
    for (let count = maybe([1, 2, 70]) ?? 0; count > 0; count--)
      Object.defineProperty(headers, `${this.pick(texts)}${this.below(9)}`.slice(0, 9), {
        value: this.pick(texts),
        enumerable: true,
        configurable: true,
      });
    const data = Buffer.alloc(this.pick([0, 1, 127, 128, 20_000]), this.below(256));
    return {
      ...Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)),
      headers,
      payload: this.pick([{ case: undefined }, { case: "data", value: data }, { case: "data", value: data }] as const),
    };
  }

  batch(): Uint8Array {
    const options = { compression: this.below(4), timeout: this.pick([0, 1, 120_000]), atomic: this.below(2) === 1 };
    return toBinary(
      PublishBatchRequestSchema,
      create(PublishBatchRequestSchema, {
        streamName: this.pick(["orders", ""]),
        events: Array.from({ length: this.below(4) }, () => this.event()),
        ...(this.below(2) === 1 ? { options } : {}),
      }),
    );
  }

  publish(): Uint8Array {
    return toBinary(PublishRequestSchema, create(PublishRequestSchema, { streamName: "orders", event: this.event() }));
  }

  /** Bytes cut off, changed, doubled or put in. */
  broken(bytes: Uint8Array): Uint8Array {
    const at = this.below(bytes.length + 1);
    const to = at + this.below(bytes.length + 1 - at);
    switch (this.below(4)) {
      case 0:
        return bytes.slice(0, at);
      case 1: {
        const changed = bytes.slice();
        // Most of a message's structure stands at its beginning.
        changed[this.below(Math.min(bytes.length, this.pick([20, 100_000])))] = this.below(256);
        return changed;
      }
      case 2:
        return Buffer.concat([bytes.subarray(0, to), bytes.subarray(at)]);
      default:
        return Buffer.concat([bytes.subarray(0, at), Buffer.from([this.below(256)]), bytes.subarray(at)]);
    }
  }
}

/** What the generic way makes of a batch, or undefined where it refuses it. */
function generic(bytes: Uint8Array) {
  try {
    const { streamName, events, options } = fromBinary(PublishBatchRequestSchema, bytes);
    const { compression = 0, timeout, atomic = false } = options ?? {};
    return { streamName, events: events.map(comparable), compression, timeout, atomic };
  } catch {
    return undefined;
  }
}

const comparable = (event: Parameters<typeof fieldsOf>[0]) => plain(fieldsOf(event));
const plain = ({ data, expectedOffset, ...rest }: ReturnType<typeof fieldsOf>) => ({
  ...rest,
  data: data && Buffer.from(data).toString("base64"),
  expectedOffset: expectedOffset === undefined ? undefined : BigInt(expectedOffset),
});

function direct(bytes: Uint8Array) {
  const batch = readBatch(bytes);
  return batch && { ...batch, events: batch.events.map((event) => plain(event as ReturnType<typeof fieldsOf>)) };
}

describe(`reads requests as protobuf's own decoder does, seed ${SEED}`, () => {
  test("batches as encoders write them", () => {
    const requests = new Requests();
    for (let i = 0; i < 500; i++) {
      const bytes = requests.batch();
      expect(direct(bytes)).toStrictEqual(generic(bytes));
    }
  });

  test("single publishes as encoders write them", () => {
    const requests = new Requests();
    for (let i = 0; i < 500; i++) {
      const bytes = requests.publish();
      const { streamName, event } = readPublish(bytes)!;
      expect(streamName).toBe("orders");
      expect(plain(event)).toStrictEqual(comparable(fromBinary(PublishRequestSchema, bytes).event!));
    }
  });

  test("or leaves them to it: batches with broken bytes", () => {
    const requests = new Requests();
    let read = 0;
    for (let i = 0; i < 20_000; i++) {
      let bytes = requests.batch();
      for (let times = requests.below(3); times >= 0; times--) bytes = requests.broken(bytes);
      const found = direct(bytes);
      if (!found) continue;
      read++;
      expect(found).toStrictEqual(generic(bytes));
    }
    expect(read).toBeGreaterThan(1000);
  });

  test("or leaves them to it: single publishes with broken bytes", () => {
    const requests = new Requests();
    for (let i = 0; i < 5000; i++) {
      const bytes = requests.broken(requests.publish());
      const found = readPublish(bytes);
      if (!found) continue;
      const { streamName, event } = fromBinary(PublishRequestSchema, bytes);
      expect({ streamName: found.streamName, event: plain(found.event) }).toStrictEqual({
        streamName,
        event: comparable(event!),
      });
    }
  });
});

describe("leaves to protobuf's own decoder", () => {
  const event = (...bytes: number[]) => Buffer.from([0x12, bytes.length, ...bytes]);
  const value = create(PublishEventSchema, { payload: { case: "value", value: create(ValueSchema) } });
  test.each([
    ["an event with a value", event(...toBinary(PublishEventSchema, value))],
    ["an unknown field", event(0x50, 0)],
    ["a known number of another wire type", event(0x08, 0)],
    ["text that is not UTF-8", event(0x0a, 1, 0xff)],
    ["a negative partition", event(0x38, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1)],
    ["an expected offset that may not be exact", event(0x48, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 1)],
    ["options given twice", Buffer.from([0x1a, 0, 0x1a, 0])],
    ["a length beyond the end", Buffer.from([0x12, 3, 0x0a, 0])],
    ["a field that goes beyond its message", Buffer.from([0x12, 2, 0x38, 0x80, 1])],
  ])("%s", (_title, bytes) => {
    expect(readBatch(bytes)).toBeUndefined();
  });

  test("a single publish without its event, or with two", () => {
    expect(readPublish(Buffer.from([0x0a, 1, 0x61]))).toBeUndefined();
    expect(readPublish(Buffer.concat([event(), event()]))).toBeUndefined();
  });
});

test("the last one of a field that is given twice holds", () => {
  const twice = Buffer.from([0x12, 6, 0x0a, 1, 0x61, 0x0a, 1, 0x62]);
  expect(readBatch(twice)?.events[0]).toMatchObject({ key: "b" });
  expect(direct(twice)).toStrictEqual(generic(twice));
});
