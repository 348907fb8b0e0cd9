/** What a plain computation in memory makes of events: the rows that a processor must write. */

export interface OracleEvent {
  readonly timeMs: number;
  readonly amount: number;
  readonly group: string;
}

export type OracleWindow =
  | { readonly windowType: "tumbling"; readonly duration: number }
  | { readonly windowType: "hopping"; readonly duration: number; readonly advance: number }
  | { readonly windowType: "session"; readonly gap: number };

/** Rows as texts: window, group, count and sum of the amounts. */
export function expectedRows(events: readonly OracleEvent[], window: OracleWindow): string[] {
  const byGroup = Map.groupBy(events, ({ group }) => group);
  return [...byGroup].flatMap(([group, own]) => windowsOf(own, window).map((each) => rowText(group, each))).sort();
}

export const rowText = (group: string, { start, end, count, sum }: Window): string =>
  `${new Date(start).toISOString()} ${new Date(end).toISOString()} ${group} ${count} ${sum}`;

export interface Window {
  readonly start: number;
  readonly end: number;
  count: number;
  sum: number;
}

function windowsOf(events: readonly OracleEvent[], window: OracleWindow): Window[] {
  if (window.windowType === "session") return sessionsOf(events, window.gap);
  const step = window.windowType === "hopping" ? window.advance : window.duration;
  const found = new Map<number, Window>();
  for (const { timeMs, amount } of events)
    for (let start = Math.floor(timeMs / step) * step; start > timeMs - window.duration; start -= step) {
      const known = found.get(start) ?? { start, end: start + window.duration, count: 0, sum: 0 };
      known.count++;
      known.sum += amount;
      found.set(start, known);
    }
  return [...found.values()];
}

function sessionsOf(events: readonly OracleEvent[], gap: number): Window[] {
  const sessions: { start: number; end: number; count: number; sum: number }[] = [];
  for (const { timeMs, amount } of events.toSorted((a, b) => a.timeMs - b.timeMs)) {
    const last = sessions.at(-1);
    if (last && timeMs < last.end) {
      last.end = timeMs + gap;
      last.count++;
      last.sum += amount;
    } else sessions.push({ start: timeMs, end: timeMs + gap, count: 1, sum: amount });
  }
  return sessions;
}
