/** A moment on the monotonic clock (`performance.now()`), in milliseconds, by which an operation must have ended. */
export type Deadline = number;

/** The moment `ms` from now. */
export const deadlineIn = (ms: number): Deadline => performance.now() + ms;

/** Milliseconds left, never below 0. */
export const msLeft = (deadline: Deadline): number => Math.max(0, deadline - performance.now());

/** Time to look, when a call has failed and its own time may be over, whether what it works on is still there; milliseconds. */
export const EXPLAIN_MS = 1000;

/** Waits `ms`, at most until the deadline. */
export function pause(ms: number, deadline: Deadline = Number.POSITIVE_INFINITY): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, Math.min(ms, msLeft(deadline))));
}

/** Waits until the deadline or until the signal is aborted. */
export async function pauseUntil(deadline: Deadline, signal: AbortSignal): Promise<void> {
  if (signal.aborted) return;
  const { promise, resolve } = Promise.withResolvers<void>();
  const over = () => resolve();
  const timer = setTimeout(over, msLeft(deadline));
  signal.addEventListener("abort", over, { once: true });
  await promise;
  clearTimeout(timer);
  // A signal may outlive many waits.
  signal.removeEventListener("abort", over);
}
