import type { MessageInitShape } from "@bufbuild/protobuf";
import {
  Aggregation,
  ErrorPolicy,
  type Operation,
  type OperationSchema,
  OperationType,
  type Projection as ProjectionMessage,
  WindowType,
} from "../../gen/millrace/v1/processors_pb.js";
import type { Projection } from "../domain/projection.ts";
import type { OperationFields } from "../domain/topology.ts";

/** Words of the schema's enums in the domain's spelling, both ways. */
function words<W extends string>(pairs: readonly (readonly [number, W])[]) {
  const toWord = new Map<number, W>(pairs);
  const toEnum = new Map<string, number>(pairs.map(([number, word]) => [word, number]));
  return {
    word: (number: number | undefined): W | undefined => toWord.get(number ?? 0),
    number: (word: W): number => toEnum.get(word)!,
  };
}

const TYPES = words([
  [OperationType.FILTER, "filter"],
  [OperationType.MAP, "map"],
  [OperationType.WINDOW, "window"],
  [OperationType.AGGREGATE, "aggregate"],
] as const);
const WINDOWS = words([
  [WindowType.TUMBLING, "tumbling"],
  [WindowType.HOPPING, "hopping"],
  [WindowType.SESSION, "session"],
] as const);
const AGGREGATIONS = words([
  [Aggregation.COUNT, "count"],
  [Aggregation.SUM, "sum"],
  [Aggregation.AVG, "avg"],
  [Aggregation.MIN, "min"],
  [Aggregation.MAX, "max"],
  [Aggregation.FIRST, "first"],
  [Aggregation.LAST, "last"],
  [Aggregation.DISTINCT_COUNT, "distinct_count"],
] as const);
const POLICIES = words([
  [ErrorPolicy.DLQ, "dlq"],
  [ErrorPolicy.SKIP, "skip"],
  [ErrorPolicy.FAIL, "fail"],
] as const);

/** One operation as the domain has it; what is not given is undefined. */
export function operationFields(operation: Operation): OperationFields {
  return {
    type: TYPES.word(operation.type),
    predicate: operation.predicate,
    function: operation.function,
    expression: operation.expression,
    windowType: WINDOWS.word(operation.windowType),
    duration: ms(operation.duration),
    advance: ms(operation.advance),
    gap: ms(operation.gap),
    grace: ms(operation.grace),
    timestampField: operation.timestampField,
    aggregation: AGGREGATIONS.word(operation.aggregation),
    groupBy: operation.groupBy,
    field: operation.field,
    as: operation.as,
    onError: POLICIES.word(operation.onError),
    project: operation.project && projectionFields(operation.project),
  };
}

/** Members of a projection; of none, the field counts as absent. */
export function projectionFields({ merge, replace }: Pick<ProjectionMessage, "merge" | "replace">): Projection {
  return { ...membersOf("merge", merge), ...membersOf("replace", replace) };
}

const membersOf = (name: "merge" | "replace", members: Record<string, string>) =>
  Object.keys(members).length === 0 ? {} : { [name]: { ...members } };

const ms = (value: bigint | undefined): number | undefined => (value === undefined ? undefined : Number(value));

/** The same as a message. */
export function operationMessage(fields: OperationFields): MessageInitShape<typeof OperationSchema> {
  const { type, windowType, aggregation, onError, duration, advance, gap, grace, project, ...texts } = fields;
  const spans = { duration, advance, gap, grace };
  return {
    ...Object.fromEntries(Object.entries(texts).filter(([, value]) => value !== undefined)),
    ...Object.fromEntries(
      Object.entries(spans).flatMap(([name, value]) => (value === undefined ? [] : [[name, BigInt(value)]])),
    ),
    ...(project ? { project: { merge: { ...project.merge }, replace: { ...project.replace } } } : {}),
    ...(type ? { type: TYPES.number(type) } : {}),
    ...(windowType ? { windowType: WINDOWS.number(windowType) } : {}),
    ...(aggregation ? { aggregation: AGGREGATIONS.number(aggregation) } : {}),
    ...(onError ? { onError: POLICIES.number(onError) } : {}),
  };
}
