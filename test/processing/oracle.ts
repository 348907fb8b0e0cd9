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

export interface Span {
  readonly start: number;
  readonly end: number;
}

/** Rows as texts: window, group, count and sum of the amounts. */
export function expectedRows(events: readonly OracleEvent[], window: OracleWindow): string[] {
  const placed = events.map((event) => ({ ...event, spans: spansOf(event.timeMs, window) }));
  return [...Map.groupBy(placed, ({ group }) => group)]
    .flatMap(([group, own]) =>
      windowsOf(own, window).map(({ start, end, events: within }) =>
        rowText(group, { start, end, count: within.length, sum: within.reduce((sum, { amount }) => sum + amount, 0) }),
      ),
    )
    .sort();
}

export const rowText = (group: string, { start, end, count, sum }: Span & { count: number; sum: number }): string =>
  `${new Date(start).toISOString()} ${new Date(end).toISOString()} ${group} ${count} ${sum}`;

/** The windows that an event of this time falls into; of sessions, the one that it would be alone. */
export function spansOf(timeMs: number, window: OracleWindow): Span[] {
  if (window.windowType === "session") return [{ start: timeMs, end: timeMs + window.gap }];
  const step = window.windowType === "hopping" ? window.advance : window.duration;
  const spans: Span[] = [];
  for (let start = Math.floor(timeMs / step) * step; start > timeMs - window.duration; start -= step)
    spans.push({ start, end: start + window.duration });
  return spans;
}

/** Puts the events of one group into their windows; sessions that overlap become one. */
export function windowsOf<E extends { readonly spans: readonly Span[] }>(
  events: readonly E[],
  { windowType }: OracleWindow,
): (Span & { readonly events: E[] })[] {
  const windows: { start: number; end: number; events: E[] }[] = [];
  const placed = events.flatMap((event) => event.spans.map((span) => ({ ...span, event })));
  for (const { start, end, event } of placed.sort((a, b) => a.start - b.start)) {
    const last = windows.at(-1);
    const isIn = last && (windowType === "session" ? start < last.end : start === last.start);
    if (!isIn) windows.push({ start, end, events: [event] });
    else {
      last.end = end;
      last.events.push(event);
    }
  }
  return windows;
}
