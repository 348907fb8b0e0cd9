import cliProgress from "cli-progress";
import { bytes, count } from "./table.ts";

/** How far a piece of work has come. */
export interface Progress {
  /** @param doneBytes of the input so far; `done`: how many things of it. */
  show(doneBytes: number, done: number): void;
  stop(): void;
}

const NONE: Progress = { show: () => {}, stop: () => {} };

/**
 * A bar on standard error, if that is a terminal.
 *
 * @param totalBytes of the input; undefined when nobody knows, and only counts are shown.
 */
export function progressBar(label: string, totalBytes: number | undefined, things = "events"): Progress {
  if (!process.stderr.isTTY) return NONE;
  const known = totalBytes !== undefined;
  const bar = new cliProgress.SingleBar(
    {
      format: known
        ? `${label} {bar} {percentage}% | {size} | {count} ${things} | {duration_formatted}`
        : `${label} {count} ${things} | {size} | {duration_formatted}`,
      stream: process.stderr,
      clearOnComplete: true,
      hideCursor: true,
      // A signal ends the work; the cursor is brought back by stop().
      gracefulExit: false,
    },
    cliProgress.Presets.shades_classic,
  );
  bar.start(totalBytes ?? 1, 0, { count: "0", size: "0 B" });
  return {
    show: (doneBytes, done) =>
      bar.update(known ? Math.min(doneBytes, totalBytes) : 0, { count: count(done), size: bytes(doneBytes) }),
    stop: () => bar.stop(),
  };
}
