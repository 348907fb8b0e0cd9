import { median, type Sample } from "./measure.ts";
import { type Contender, isMet, type Part, ratioOf, type Samples, type Scenario } from "./scenarios.ts";

const COLUMNS: readonly (readonly [head: string, text: (samples: readonly Sample[]) => string])[] = [
  ["events/s", (samples) => whole(middle(samples, "eventsPerSecond"))],
  ["p50 ms", (samples) => fixed(middle(samples, "p50Ms"), 2)],
  ["p99 ms", (samples) => fixed(middle(samples, "p99Ms"), 2)],
  ["CPU µs", (samples) => fixed(middle(samples, "serverUs"), 1)],
  ["nats µs", (samples) => fixed(middle(samples, "natsUs"), 1)],
  ["load µs", (samples) => fixed(middle(samples, "loadUs"), 1)],
  ["RSS MiB", (samples) => whole(middle(samples, "rssMiB"))],
];
const NAME_WIDTH = 12;
const WIDTH = 10;
/** More for other programs disturbs the figures; CPU an event less than events/s. */
const QUIET_SHARE = 0.05;

/** The medians of a scenario's rounds as a table, and its targets with what came of them. */
export function scenarioText(scenario: Scenario, samples: Samples, parts: ReadonlySet<Part>): string {
  const lines = [scenario.title, `  ${"".padEnd(NAME_WIDTH)}${COLUMNS.map(([head]) => head.padStart(WIDTH)).join("")}`];
  for (const [name, own] of samples)
    lines.push(`  ${name.padEnd(NAME_WIDTH)}${COLUMNS.map(([, text]) => text(own).padStart(WIDTH)).join("")}`);
  const rest: Contender = "REST";
  const shares = [...samples.keys()].filter((name) => name !== rest);
  lines.push(
    `  ${rest} is ${shares
      .map((to) => [to, ratioOf({ part: "a", of: rest, to, figure: "eventsPerSecond", bound: 0 }, samples)] as const)
      .map(([to, ratio]) => `${percent(ratio)} of ${to}`)
      .join(", ")}`,
  );
  const others = [...samples.values()].flat().map((sample) => sample.othersShare ?? 0);
  if (Math.max(...others) > QUIET_SHARE)
    lines.push(
      `  not alone: other programs took ${percent(median(others))} of the CPUs, in one round ${percent(Math.max(...others))}`,
    );
  for (const target of scenario.targets) {
    const ratio = ratioOf(target, samples);
    if (!parts.has(target.part) || ratio === undefined) continue;
    const what = target.figure === "serverUs" ? "CPU an event" : "events/s";
    const bound = `${target.figure === "serverUs" ? "≤" : "≥"} ${percent(target.bound)}`;
    lines.push(
      `  target (${target.part}) ${what} of ${target.of} ${bound} of ${target.to}: ${percent(ratio, 1)} ${verdict(isMet(target, ratio))}`,
    );
  }
  return lines.join("\n");
}

export const verdict = (met: boolean): string => (met ? "met" : "MISSED");

function middle(samples: readonly Sample[], figure: keyof Sample): number | undefined {
  return median(samples.map((sample) => sample[figure]));
}

export const whole = (value: number | undefined): string =>
  value === undefined ? "-" : Math.round(value).toLocaleString("en-US");
export const fixed = (value: number | undefined, digits: number): string => value?.toFixed(digits) ?? "-";
export const percent = (ratio: number | undefined, digits = 0): string =>
  ratio === undefined ? "-" : `${(ratio * 100).toFixed(digits)} %`;
