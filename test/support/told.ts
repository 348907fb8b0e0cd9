import { ConnectError, createClient, type Transport } from "@connectrpc/connect";
import { ErrorInfoSchema } from "../../gen/google/rpc/error_details_pb.js";
import { EventService } from "../../gen/millrace/v1/events_pb.js";

/** What a subscription is asked for, in every protocol. */
export interface SubscribeRequest {
  consumerGroup?: string;
  consumerId?: string;
  offset?: string;
  resumeToken?: string;
  partition?: number[];
  filter?: string;
  autoCommit?: boolean;
  limit?: number;
  maxUncommitted?: number;
  heartbeat?: number;
  keepMembership?: boolean;
}

/** One thing that a subscription told; over HTTP each event comes by itself. */
export interface Told {
  events: { partition: number; offset: number; value: unknown }[];
  assignment?: { consumerId: string; generation: number; partitions: number[] };
  caughtUp?: boolean;
  heartbeat?: boolean;
  resumeToken?: string;
}

/** How a subscription was ended by the service. */
export class SubscriptionFailure extends Error {
  readonly code: number;
  constructor(code: number, message: string) {
    super(`${code}: ${message}`);
    this.code = code;
  }
}

/** Subscribes over Connect, gRPC or gRPC-Web, whichever the transport speaks; in Node and in a browser. */
export async function* toldByRpc(
  transport: Transport,
  streamName: string,
  request: SubscribeRequest,
  signal: AbortSignal,
): AsyncGenerator<Told> {
  try {
    const answers = createClient(EventService, transport).subscribe({ streamName, ...request }, { signal });
    for await (const { events, assignment, caughtUp, heartbeat, resumeToken } of answers)
      yield {
        events: events.map(({ partition, offset, payload }) => ({
          partition,
          offset: Number(offset),
          value: payload.case === "value" ? plain(payload.value) : payload.value,
        })),
        caughtUp,
        heartbeat,
        ...(resumeToken === undefined ? {} : { resumeToken }),
        ...(assignment
          ? {
              assignment: {
                consumerId: assignment.consumerId,
                generation: Number(assignment.generation),
                partitions: assignment.partitions,
              },
            }
          : {}),
      };
  } catch (error) {
    if (signal.aborted) return;
    throw new SubscriptionFailure(failedWith(error), String(error));
  }
}

/** The code of a failed RPC; 0: it has none. */
export function failedWith(error: unknown): number {
  const [info] = ConnectError.from(error).findDetails(ErrorInfoSchema);
  return Number(info?.metadata.code ?? 0);
}

function plain({ kind }: { kind: { case: string | undefined; value?: unknown } }): unknown {
  return kind.case === "nullValue" ? null : kind.value;
}

/** An error body of the REST API. */
export function failureOf(body: object): SubscriptionFailure {
  const { code, description } = (body as { error: { code: number; description: string } }).error;
  return new SubscriptionFailure(code, description);
}
