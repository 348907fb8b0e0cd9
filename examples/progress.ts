import cliProgress from "cli-progress";

/** Shows how far a piece of work has come. */
export interface Progress extends Disposable {
  advance(count: number): void;
}

/** A bar on a terminal; elsewhere a line at each quarter. */
export function showProgress(label: string, total: number): Progress {
  return process.stdout.isTTY ? bar(label, total) : lines(label, total);
}

function bar(label: string, total: number): Progress {
  const shown = new cliProgress.SingleBar(
    { format: `${label.padEnd(10)} {bar} {percentage}% | {value}/{total} events | {duration_formatted}` },
    cliProgress.Presets.shades_classic,
  );
  shown.start(total, 0);
  return {
    advance: (count) => shown.increment(count),
    [Symbol.dispose]: () => shown.stop(),
  };
}

function lines(label: string, total: number): Progress {
  let done = 0;
  return {
    advance(count) {
      const quarter = Math.floor((4 * done) / total);
      done += count;
      if (Math.floor((4 * done) / total) > quarter) console.log(`${label.padEnd(10)} ${done}/${total} events`);
    },
    [Symbol.dispose]() {},
  };
}
