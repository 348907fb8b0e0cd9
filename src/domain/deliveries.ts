/**
 * What is remembered of a group's events in a partition that is not plainly "done below, not done above": events that
 * were passed over one by one, and events that were handed out in vain. Everything here is a pure step from one state to
 * the next.
 */
export interface Progress {
  /** Last event processed; absent before the first. */
  readonly committed?: number;
  /** First offset that is not done. */
  readonly resume: number;
  /** Offsets from `resume` on that are done all the same, ascending; absent: none. */
  readonly passed?: readonly number[] | undefined;
  /** Absent: none. */
  readonly failures?: Failures | undefined;
}

/**
 * How often events were handed out in vain: those below `upTo`, and not below the step before, `count` times. A partition
 * is always handed out again from its first event that is not done, so counts only fall.
 */
export type Failures = readonly (readonly [upTo: number, count: number])[];

/** How often an event was handed out in vain. */
export function failuresAt(failures: Failures | undefined, offset: number): number {
  return failures?.find(([upTo]) => offset < upTo)?.[1] ?? 0;
}

/** All from `resume` to `upTo`, which is not among them, were handed out once more in vain. */
export function failedUpTo<P extends Progress>(progress: P, upTo: number): P {
  const { resume, failures } = progress;
  if (upTo <= resume) return progress;
  const ends = [...new Set([...(failures ?? []).map(([end]) => end), upTo])].sort((a, b) => a - b);
  const counted = ends.map((end) => [end, failuresAt(failures, end - 1) + (end <= upTo ? 1 : 0)] as const);
  return { ...progress, failures: counted.filter(([, count], i) => counted[i + 1]?.[1] !== count) };
}

/** All below `resume` are done, and those right behind them that were passed over. */
export function doneUpTo<P extends Progress>(progress: P, resume: number): P {
  const passed = progress.passed ?? [];
  let next = resume;
  for (const offset of passed) if (offset === next) next++;
  return {
    ...progress,
    committed: next - 1,
    resume: next,
    passed: someOf(passed.filter((offset) => offset > next)),
    failures: someOf((progress.failures ?? []).filter(([upTo]) => upTo > next)),
  };
}

/** Whether an event was passed over by itself, and so is done wherever `resume` is. */
export const isPassed = ({ passed }: Progress, offset: number): boolean => passed?.includes(offset) ?? false;

/** Goes on at `resume`, wherever that is: what was known of single events is void. */
export function movedTo<P extends Progress>(progress: P, resume: number): P {
  return { ...progress, resume, passed: undefined, failures: undefined };
}

/** Single events are done, whatever lies before them. */
export function passOver<P extends Progress>(progress: P, offsets: readonly number[]): P {
  const all = new Set([...(progress.passed ?? []), ...offsets]);
  const passed = [...all].filter((offset) => offset >= progress.resume).sort((a, b) => a - b);
  const next = { ...progress, passed: someOf(passed) };
  return passed[0] === progress.resume ? doneUpTo(next, progress.resume) : next;
}

const someOf = <T>(list: readonly T[]): readonly T[] | undefined => (list.length > 0 ? list : undefined);
