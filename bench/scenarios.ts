import type { Load, Worker } from "./load.ts";
import { median, type Sample } from "./measure.ts";

/** Who does the work: two ways into the service, and the floors below it. */
export const CONTENDERS = ["REST", "gRPC", "bare floor", "raw NATS"] as const;
export type Contender = (typeof CONTENDERS)[number];

/** What `--only` names. */
export const PARTS = ["a", "b", "c", "d", "live", "memory", "processors", "flood"] as const;
export type Part = (typeof PARTS)[number];

export interface Scenario {
  readonly part: Part;
  readonly title: string;
  readonly reads: boolean;
  open(load: Load, stream: string, groups: string): Promise<Worker[]>;
  readonly targets: readonly Target[];
}

/** A bound for the ratio of two contenders' figures. */
export interface Target {
  readonly part: Part;
  readonly of: Contender;
  readonly to: Contender;
  readonly figure: "eventsPerSecond" | "serverUs";
  /** At least this share for events, at most this for CPU. */
  readonly bound: number;
}

/** All samples of a scenario: one list a contender, one sample a round. */
export type Samples = ReadonlyMap<Contender, readonly Sample[]>;

const BATCH_CALLERS = 8;
const grpcAtLeastRest: Target = { part: "d", of: "gRPC", to: "REST", figure: "eventsPerSecond", bound: 1 };

export const SCENARIOS: readonly Scenario[] = [
  {
    part: "a",
    title: "publish, one event a request, 64 callers",
    reads: false,
    open: (load, stream) => load.publishers(stream, 64),
    targets: [{ part: "a", of: "REST", to: "bare floor", figure: "eventsPerSecond", bound: 0.8 }],
  },
  {
    part: "b",
    title: `publish, batches of 100, ${BATCH_CALLERS} callers`,
    reads: false,
    open: (load, stream) => load.batchers(stream, 100, BATCH_CALLERS),
    targets: [grpcAtLeastRest],
  },
  {
    part: "b",
    title: `publish, batches of 1000, ${BATCH_CALLERS} callers`,
    reads: false,
    open: (load, stream) => load.batchers(stream, 1000, BATCH_CALLERS),
    targets: [{ part: "b", of: "REST", to: "raw NATS", figure: "eventsPerSecond", bound: 0.6 }, grpcAtLeastRest],
  },
  {
    part: "c",
    title: "poll of 500 and its commit, 4 groups",
    reads: true,
    open: (load, stream, groups) => load.pollers(stream, groups, 4),
    targets: [
      { part: "c", of: "REST", to: "raw NATS", figure: "eventsPerSecond", bound: 0.45 },
      { part: "c", of: "REST", to: "bare floor", figure: "serverUs", bound: 1 },
      grpcAtLeastRest,
    ],
  },
];

/** Who takes part when only some parts are wanted: `d` compares the service's two ways, the others look at REST. */
export function contendersOf(scenario: Scenario, parts: ReadonlySet<Part>): Contender[] {
  const own = parts.has(scenario.part);
  const grpc = parts.has("d");
  return CONTENDERS.filter((name) => (name === "REST" ? own || grpc : name === "gRPC" ? grpc : own));
}

/** Middle of the rounds' ratios: the two of a round ran close together, so that both saw the same machine. */
export function ratioOf({ of, to, figure }: Target, samples: Samples): number | undefined {
  const below = samples.get(to) ?? [];
  return median(
    (samples.get(of) ?? []).map((sample, round) => {
      const top = sample[figure];
      const bottom = below[round]?.[figure];
      return top === undefined || bottom === undefined ? undefined : top / bottom;
    }),
  );
}

export const isMet = ({ figure, bound }: Target, ratio: number): boolean =>
  figure === "serverUs" ? ratio <= bound : ratio >= bound;
