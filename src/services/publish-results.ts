import { create, toBinary, type UnknownField } from "@bufbuild/protobuf";
import { WireType } from "@bufbuild/protobuf/wire";
import { type PublishResult, PublishResultSchema } from "../../gen/millrace/v1/events_pb.js";
import { errorRule, type ServiceError } from "../domain/errors.ts";
import type { Ack } from "../domain/event.ts";
import type { Outcome } from "../log/append.ts";
import { ProtoWriter } from "./proto-writer.ts";

/** One outcome as a message. */
export function resultOf(outcome: Outcome): PublishResult {
  if (!("error" in outcome)) {
    const { eventId, partition, offset, duplicate } = outcome;
    return create(PublishResultSchema, {
      eventId,
      partition,
      offset: BigInt(offset),
      ...(duplicate ? { duplicate } : {}),
    });
  }
  const { eventId, error } = outcome;
  return create(PublishResultSchema, { ...(eventId === undefined ? {} : { eventId }), error: errorMessage(error) });
}

function errorMessage(error: ServiceError) {
  return {
    code: error.code,
    message: errorRule(error.code).name,
    description: error.message,
    details: error.details.map(({ field, description, endOffset }) => ({
      description,
      ...(field === undefined ? {} : { field }),
      ...(endOffset === undefined ? {} : { endOffset: BigInt(endOffset) }),
    })),
  };
}

/** Numbers of `PublishBatchResponse.results` and of the fields of `PublishResult`; a test holds them equal to the schema. */
const RESULTS = 5;
const RESULTS_TAG = (RESULTS << 3) | WireType.LengthDelimited;
const Tag = {
  EVENT_ID: (1 << 3) | WireType.LengthDelimited,
  PARTITION: (2 << 3) | WireType.Varint,
  OFFSET: (3 << 3) | WireType.Varint,
  DUPLICATE: (4 << 3) | WireType.Varint,
} as const;

/** More than a result needs beside its id: tags, lengths, numbers. */
const FIXED_BYTES = 32;

/**
 * The `results` of an answer as the bytes of their field: a message whose `$unknown` holds it is written like one that
 * holds the results, at a third of the cost.
 */
export function resultsField(outcomes: readonly Outcome[]): UnknownField[] {
  const refusals = new Map<Outcome, Uint8Array>();
  let size = 0;
  for (const outcome of outcomes)
    if ("error" in outcome) {
      const bytes = toBinary(PublishResultSchema, resultOf(outcome));
      refusals.set(outcome, bytes);
      size += FIXED_BYTES + bytes.length;
    } else size += FIXED_BYTES + 3 * outcome.eventId.length;
  const out = new ProtoWriter(size);
  for (let i = 0; i < outcomes.length; i++) {
    const outcome = outcomes[i]!;
    // The writer of unknown fields puts the first tag itself.
    if (i > 0) out.byte(RESULTS_TAG);
    if ("error" in outcome) {
      const bytes = refusals.get(outcome)!;
      out.varint(bytes.length);
      out.raw(bytes);
    } else writeAck(out, outcome);
  }
  return [{ no: RESULTS, wireType: WireType.LengthDelimited, data: out.bytes() }];
}

/** An id of at most so many UTF-16 units leaves a result shorter than 128 bytes. */
const SHORT_ID = 32;

function writeAck(out: ProtoWriter, ack: Ack): void {
  if (ack.eventId.length <= SHORT_ID) out.short(() => writeFields(out, ack));
  else out.message(() => writeFields(out, ack));
}

function writeFields(out: ProtoWriter, { eventId, partition, offset, duplicate }: Ack): void {
  out.text(Tag.EVENT_ID, eventId);
  out.byte(Tag.PARTITION);
  out.varint(partition);
  out.byte(Tag.OFFSET);
  out.varint(offset);
  if (duplicate) {
    out.byte(Tag.DUPLICATE);
    out.byte(1);
  }
}
