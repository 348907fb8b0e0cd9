/** How windows lie in time; spans in milliseconds. */
export type WindowSpec =
  | { readonly type: "tumbling"; readonly durationMs: number }
  | { readonly type: "hopping"; readonly durationMs: number; readonly advanceMs: number }
  | { readonly type: "session"; readonly gapMs: number };

/** Most hopping windows that one event may fall into. */
export const MAX_WINDOWS_PER_EVENT = 1000;

/** How far one window's start is from the next one's; undefined for sessions, which begin anywhere. */
export function stepOf(spec: WindowSpec): number | undefined {
  if (spec.type === "session") return undefined;
  return spec.type === "hopping" ? spec.advanceMs : spec.durationMs;
}

/** Start of the last window that holds `timeMs`. Windows are half-open, `[start, end)`, and aligned to 1970. */
export function lastStart(spec: Exclude<WindowSpec, { type: "session" }>, timeMs: number): number {
  const step = stepOf(spec)!;
  return Math.floor(timeMs / step) * step;
}

/** Starts of all windows that hold `timeMs`, latest first. */
export function windowStarts(spec: Exclude<WindowSpec, { type: "session" }>, timeMs: number): number[] {
  const step = stepOf(spec)!;
  const starts: number[] = [];
  for (let start = lastStart(spec, timeMs); start > timeMs - spec.durationMs; start -= step) starts.push(start);
  return starts;
}

/**
 * Number of the last window end, counted from some fixed one, that is at or before `timeMs`: it grows exactly when a window
 * can close. Undefined for sessions, which can end at any time.
 */
export function endNumber(spec: WindowSpec, timeMs: number): number | undefined {
  if (spec.type === "session") return undefined;
  return Math.floor((timeMs - spec.durationMs) / stepOf(spec)!);
}

/** The first window end after `timeMs`. */
export function nextEnd(spec: Exclude<WindowSpec, { type: "session" }>, timeMs: number): number {
  return (endNumber(spec, timeMs)! + 1) * stepOf(spec)! + spec.durationMs;
}
