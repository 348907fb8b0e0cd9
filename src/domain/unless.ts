/**
 * A call's end, or a signal's reason as soon as one of the signals is aborted. What the call still does then, nobody
 * hears of.
 */
export async function unless<T>(signals: readonly AbortSignal[], call: () => Promise<T>): Promise<T> {
  for (const signal of signals) signal.throwIfAborted();
  const over = Promise.withResolvers<never>();
  const end = ({ target }: Event) => over.reject((target as AbortSignal).reason);
  for (const signal of signals) signal.addEventListener("abort", end, { once: true });
  try {
    return await Promise.race([call(), over.promise]);
  } finally {
    // A signal may outlive many calls.
    for (const signal of signals) signal.removeEventListener("abort", end);
  }
}
