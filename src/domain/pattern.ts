/** Whether a pattern fits a whole name; `*` stands for any text. Takes time linear in both for one `*`, never exponential. */
export function matchesPattern(pattern: string, name: string): boolean {
  const [head = "", ...rest] = pattern.split("*");
  if (rest.length === 0) return head === name;
  const tail = rest.pop()!;
  if (!name.startsWith(head) || name.length < head.length + tail.length || !name.endsWith(tail)) return false;
  const end = name.length - tail.length;
  let at = head.length;
  for (const part of rest) {
    const found = name.indexOf(part, at);
    if (found < 0 || found + part.length > end) return false;
    at = found + part.length;
  }
  return true;
}

/** What stands under the name itself, else under the longest pattern that fits it; of two as long, the first. */
export function mostSpecific<T>(entries: ReadonlyMap<string, T>, name: string): T | undefined {
  const own = entries.get(name);
  if (own !== undefined) return own;
  let best: string | undefined;
  for (const pattern of entries.keys())
    if (matchesPattern(pattern, name) && (best === undefined || pattern.length > best.length)) best = pattern;
  return best === undefined ? undefined : entries.get(best);
}
