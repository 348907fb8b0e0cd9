import type { HandlerContext } from "@connectrpc/connect";
import { type Deadline, deadlineIn } from "../domain/deadline.ts";
import { DEFAULT_CALL_TIMEOUT_MS } from "../domain/limits.ts";

/** A little before the caller's own, so that it gets this service's answer and not only its own time-out. */
const MARGIN_MS = 50;

/** The caller's deadline when it names one that is earlier, else `defaultMs` from now. */
export function deadlineOf(context: HandlerContext, defaultMs = DEFAULT_CALL_TIMEOUT_MS): Deadline {
  const callerMs = context.timeoutMs();
  if (callerMs === undefined) return deadlineIn(defaultMs);
  return deadlineIn(Math.min(defaultMs, callerMs > 4 * MARGIN_MS ? callerMs - MARGIN_MS : callerMs * 0.75));
}
