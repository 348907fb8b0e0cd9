/**
 * Waits until `condition` gives something other than false or undefined.
 *
 * @returns what it gave.
 * @throws Error with `what` after the limit, default 15 s; what `condition` throws.
 */
export async function eventually<T>(
  what: string,
  condition: () => T | Promise<T>,
  limitMs = 15_000,
): Promise<Exclude<T, false | undefined>> {
  const end = performance.now() + limitMs;
  for (;;) {
    const value = await condition();
    if (value !== false && value !== undefined) return value as Exclude<T, false | undefined>;
    if (performance.now() > end) throw new Error(`not within ${limitMs} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}
