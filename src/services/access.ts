import type { DescMethod } from "@bufbuild/protobuf";
import { createContextKey } from "@connectrpc/connect";
import { ConsumerGroupService } from "../../gen/millrace/v1/consumers_pb.js";
import { EventService } from "../../gen/millrace/v1/events_pb.js";
import { FunctionService } from "../../gen/millrace/v1/functions_pb.js";
import { KeyService } from "../../gen/millrace/v1/keys_pb.js";
import { ProcessorService } from "../../gen/millrace/v1/processors_pb.js";
import { StreamService } from "../../gen/millrace/v1/streams_pb.js";
import { TableService } from "../../gen/millrace/v1/tables_pb.js";
import { ANYONE, type Principal, permissionDenied } from "../domain/principal.ts";
import type { Rights, StreamRight } from "../domain/rights.ts";

/** Who makes a call. */
export const principalKey = createContextKey<Principal>(ANYONE, { description: "principal" });

/** What a request names, as far as rights depend on it. */
export interface Named {
  readonly name?: string;
  readonly streamName?: string;
  readonly stream?: string | undefined;
  readonly consumerGroup?: string | undefined;
  readonly offsets?: readonly { readonly stream: string }[];
  readonly events?: readonly object[];
  readonly source?: string;
  readonly sink?: string | undefined;
  readonly config?: object | undefined;
}

/** Which callers may make a call. What is refused is refused before anything is looked up, so it tells nothing of what exists. */
interface Rule {
  /** Whether the caller may make such a call at all; asked before the request is read. */
  readonly ever: (rights: Rights) => boolean;
  /** What of the request is not allowed, if anything. */
  readonly refusal?: (rights: Rights, request: Named) => string | undefined;
}

const anyone: Rule = { ever: () => true };
const admin: Rule = { ever: (rights) => rights.isAdmin };
const processors: Rule = { ever: (rights) => rights.processors };

const quoted = (kind: string, name: string) => `${kind} "${name.slice(0, 128)}"`;

/** Any of these rights on a stream. */
const onStream = (rights: readonly StreamRight[], field: "name" | "streamName"): Rule => ({
  ever: (own) => rights.some((right) => own.hasAny(right)),
  refusal: (own, request) => {
    const name = request[field] ?? "";
    return rights.some((right) => own[right](name)) ? undefined : `${rights.join(" or ")} ${quoted("stream", name)}`;
  },
});

/** Any of these rights on every stream that is named, and the group. */
const onGroup = (
  rights: readonly StreamRight[],
  streams: (request: Named) => readonly (string | undefined)[],
): Rule => ({
  ever: (own) => rights.some((right) => own.hasAny(right)),
  refusal: (own, request) => {
    for (const name of streams(request))
      if (name !== undefined && !rights.some((right) => own[right](name)))
        return `${rights.join(" or ")} ${quoted("stream", name)}`;
    const { consumerGroup } = request;
    return consumerGroup === undefined || own.group(consumerGroup)
      ? undefined
      : `use ${quoted("consumer group", consumerGroup)}`;
  },
});

const ofStream = ({ stream }: Named) => [stream];
const READ: readonly StreamRight[] = ["consume"];
const RUN: readonly StreamRight[] = ["consume", "manage"];
const reading = onGroup(READ, ({ streamName }) => [streamName]);
const creatingGroup = onGroup(RUN, ofStream);

/** The right that each RPC needs: the one table for every protocol. */
const RULES: ReadonlyMap<DescMethod, Rule> = new Map<DescMethod, Rule>([
  [StreamService.method.createStream, onStream(["manage"], "name")],
  [StreamService.method.getStream, onStream(["publish", "consume", "manage"], "streamName")],
  [StreamService.method.listStreams, anyone],
  [StreamService.method.updateStream, onStream(["manage"], "streamName")],
  [StreamService.method.deleteStream, onStream(["manage"], "streamName")],
  [EventService.method.publish, onStream(["publish"], "streamName")],
  [EventService.method.publishBatch, onStream(["publish"], "streamName")],
  // Each message that names a stream is checked by itself.
  [EventService.method.publishStream, onStream(["publish"], "streamName")],
  [EventService.method.poll, reading],
  [EventService.method.subscribe, reading],
  [EventService.method.readPartition, reading],
  [
    ConsumerGroupService.method.createConsumerGroup,
    {
      ...creatingGroup,
      refusal: (own, request) => {
        const to = (request.config as { deadLetterStream?: string } | undefined)?.deadLetterStream;
        if (to !== undefined && !own.publish(to)) return `publish ${quoted("stream", to)}`;
        return creatingGroup.refusal!(own, request);
      },
    },
  ],
  [ConsumerGroupService.method.listConsumerGroups, anyone],
  [ConsumerGroupService.method.getConsumerGroup, onGroup(RUN, ofStream)],
  [ConsumerGroupService.method.deleteConsumerGroup, onGroup(RUN, ofStream)],
  [ConsumerGroupService.method.seek, onGroup(RUN, ofStream)],
  [ConsumerGroupService.method.heartbeat, onGroup(READ, ofStream)],
  [ConsumerGroupService.method.leave, onGroup(READ, ofStream)],
  [ConsumerGroupService.method.commit, onGroup(READ, ({ offsets = [] }) => offsets.map(({ stream }) => stream))],
  [
    ConsumerGroupService.method.nack,
    onGroup(READ, ({ events = [] }) => events.map((each) => (each as { stream: string }).stream)),
  ],
  [
    ProcessorService.method.createProcessor,
    {
      ever: (own) => own.processors && own.hasAny("consume") && own.hasAny("publish"),
      refusal: (own, { source = "", sink = "" }) =>
        own.consume(source)
          ? own.publish(sink)
            ? undefined
            : `publish ${quoted("stream", sink)}`
          : `consume ${quoted("stream", source)}`,
    },
  ],
  [
    ProcessorService.method.updateProcessor,
    {
      ever: (own) => own.processors,
      refusal: (own, { sink }) =>
        sink === undefined || own.publish(sink) ? undefined : `publish ${quoted("stream", sink)}`,
    },
  ],
  // Those that name a processor by its id are told of it only as far as they may see it: see mayUseProcessor.
  [ProcessorService.method.getProcessor, processors],
  [ProcessorService.method.listProcessors, processors],
  [ProcessorService.method.deleteProcessor, processors],
  [ProcessorService.method.pauseProcessor, processors],
  [ProcessorService.method.resumeProcessor, processors],
  [ProcessorService.method.resetProcessor, processors],
  [ProcessorService.method.getProcessorMetrics, processors],
  [ProcessorService.method.watchMetrics, processors],
  [ProcessorService.method.getWindow, processors],
  [
    ProcessorService.method.dryRun,
    {
      ever: (own) => own.processors,
      refusal: (own, request) => {
        const stream = (request as { source?: { stream?: string } }).source?.stream;
        return stream === undefined || own.consume(stream) ? undefined : `consume ${quoted("stream", stream)}`;
      },
    },
  ],
  // Side events and savepoints hold what a processor has read: they are shown to those who may use it.
  [ProcessorService.method.listSideEvents, processors],
  [ProcessorService.method.createSavepoint, processors],
  [ProcessorService.method.getSavepoint, processors],
  [ProcessorService.method.listSavepoints, processors],
  [ProcessorService.method.deleteSavepoint, processors],
  [ProcessorService.method.restoreProcessor, processors],
  // Functions are shared by all processors.
  [FunctionService.method.putFunction, admin],
  [FunctionService.method.deleteFunction, admin],
  [FunctionService.method.getFunction, processors],
  [FunctionService.method.listFunctions, processors],
  [TableService.method.putRow, processors],
  [TableService.method.putRows, processors],
  [TableService.method.getRow, processors],
  [TableService.method.listRows, processors],
  [TableService.method.deleteRow, processors],
  [KeyService.method.createApiKey, admin],
  [KeyService.method.listApiKeys, admin],
  [KeyService.method.getApiKey, admin],
  [KeyService.method.revokeApiKey, admin],
]);

/** Services that are open to everybody: they say nothing of what is stored. */
const OPEN_PACKAGES = ["grpc.health.", "grpc.reflection."];

/** Whether a service answers callers without credentials. */
export const isOpenService = (typeName: string): boolean => OPEN_PACKAGES.some((prefix) => typeName.startsWith(prefix));

/** Whether an RPC has a rule or is open to everybody. */
export const hasRule = (method: DescMethod): boolean => RULES.has(method) || isOpenService(method.parent.typeName);

/** @throws ServiceError PERMISSION_DENIED when the caller may never make such a call. Asked before its request is read. */
export function authorizeMethod(method: DescMethod, { rights }: Principal): void {
  if (rights.isAdmin || isOpenService(method.parent.typeName)) return;
  if (!(RULES.get(method) ?? admin).ever(rights)) throw permissionDenied(`you have no right to call ${method.name}`);
}

/** @throws ServiceError PERMISSION_DENIED when the caller may not do what the request asks. */
export function authorize(method: DescMethod, principal: Principal, request: Named): void {
  const { rights } = principal;
  if (rights.isAdmin) return;
  authorizeMethod(method, principal);
  const refusal = RULES.get(method)?.refusal?.(rights, request);
  if (refusal !== undefined) throw permissionDenied(`you have no right to ${refusal}`);
}

/** Whether a stream is shown to the caller. */
export const maySeeStream = ({ publish, consume, manage }: Rights, name: string): boolean =>
  publish(name) || consume(name) || manage(name);

/** Whether a group's place in a stream is shown to the caller. */
export const maySeeGroup = (rights: Rights, group: string, stream: string): boolean =>
  rights.group(group) && (rights.consume(stream) || rights.manage(stream));

/** Whether a processor is shown to the caller, who may then change it too. */
export const mayUseProcessor = (rights: Rights, { source, sink }: { source: string; sink: string }): boolean =>
  rights.processors && rights.consume(source) && rights.publish(sink);
