import type { ContextValues } from "@connectrpc/connect";
import { type Deadline, deadlineIn } from "../domain/deadline.ts";
import { DEFAULT_CALL_TIMEOUT_MS } from "../domain/limits.ts";

/** What the services need of a call; Connect's HandlerContext is one. */
export interface CallContext {
  /** Milliseconds until the caller's deadline, if it names one. */
  timeoutMs(): number | undefined;
  readonly requestHeader: { get(name: string): string | null };
  /** Is aborted when the caller goes away or its deadline passes. */
  readonly signal: AbortSignal;
  /** What is known beside the request: who calls. */
  readonly values: Pick<ContextValues, "get">;
}

/** A little before the caller's own, so that it gets this service's answer and not only its own time-out. */
const MARGIN_MS = 50;

/** The caller's deadline when it names one that is earlier, else `defaultMs` from now. */
export function deadlineOf(context: CallContext, defaultMs = DEFAULT_CALL_TIMEOUT_MS): Deadline {
  const callerMs = context.timeoutMs();
  if (callerMs === undefined) return deadlineIn(defaultMs);
  return deadlineIn(Math.min(defaultMs, callerMs > 4 * MARGIN_MS ? callerMs - MARGIN_MS : callerMs * 0.75));
}
