/** A signal that aborts when the process is told to end, so that it can clean up; told a second time, it just ends. */
export function interruption(): Disposable & { readonly signal: AbortSignal } {
  const controller = new AbortController();
  const names = ["SIGINT", "SIGTERM", "SIGHUP"] as const;
  const listeners = names.map((name) => () => controller.abort(new Error(`interrupted by ${name}`)));
  for (const [i, name] of names.entries()) process.once(name, listeners[i]!);
  return {
    signal: controller.signal,
    [Symbol.dispose]() {
      for (const [i, name] of names.entries()) process.off(name, listeners[i]!);
    },
  };
}
