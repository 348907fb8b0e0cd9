import type { Logger } from "pino";
import { deadlineIn } from "../domain/deadline.ts";
import { mapLimit } from "../domain/map-limit.ts";
import { partitionStates } from "../jetstream/partitions.ts";
import type { Catalog } from "../log/catalog.ts";
import type { Groups } from "../log/groups.ts";
import type { Processors, ProcessorView } from "../processing/processors.ts";

/** How far a group is behind in a stream: the events that it has not committed. */
export interface GroupLag {
  readonly group: string;
  readonly stream: string;
  readonly lag: number;
}

/** What the storage says, at one time, of groups and processors; the same behind every gateway. */
export interface SurveyResult {
  readonly groups: readonly GroupLag[];
  readonly processors: readonly ProcessorView[];
  /** Groups in a stream, and processors, that the bounds left out. */
  readonly groupsLeftOut: number;
  readonly processorsLeftOut: number;
  /** When it was made, as `Date.now()` gives it; 0: not yet. */
  readonly atMs: number;
}

/** Most groups in a stream, in the order of their names. */
export const MAX_SURVEYED_GROUPS = 500;
export const MAX_SURVEYED_PROCESSORS = 100;
/** A result is used again for so long. */
const FRESH_MS = 10_000;
/** Whoever asks waits for a new result only so long, and gets the last one then. */
const WAIT_MS = 2000;
const SURVEY_MS = 10_000;
const PARALLEL = 8;

/** Asks the storage at most once in {@link FRESH_MS}, however many ask for it. */
export class Survey {
  readonly #catalog: Catalog;
  readonly #groups: Groups;
  readonly #processors: Processors;
  readonly #log: Logger;
  #last: SurveyResult = { groups: [], processors: [], groupsLeftOut: 0, processorsLeftOut: 0, atMs: 0 };
  #running: Promise<void> | undefined;

  constructor(catalog: Catalog, groups: Groups, processors: Processors, log: Logger) {
    this.#catalog = catalog;
    this.#groups = groups;
    this.#processors = processors;
    this.#log = log;
  }

  /** The newest result; never rejects. An old one stays when the storage is out of reach, and `atMs` says how old. */
  async latest(): Promise<SurveyResult> {
    if (Date.now() - this.#last.atMs < FRESH_MS) return this.#last;
    this.#running ??= this.#make()
      .catch((error: unknown) => this.#log.warn({ err: error }, "groups and processors could not be surveyed"))
      .finally(() => {
        this.#running = undefined;
      });
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, WAIT_MS);
    });
    await Promise.race([this.#running, late]);
    clearTimeout(timer);
    return this.#last;
  }

  async #make(): Promise<void> {
    const deadline = deadlineIn(SURVEY_MS);
    const records = (await this.#groups.records(undefined, deadline)).sort(byName);
    const surveyed = records.slice(0, MAX_SURVEYED_GROUPS);
    const states = new Map<string, ReturnType<typeof partitionStates>>();
    const lags = await mapLimit(surveyed, PARALLEL, async (record): Promise<GroupLag | undefined> => {
      const stream = this.#catalog.known(record.stream);
      if (!stream) return undefined;
      let partitions = states.get(stream.id);
      if (!partitions) {
        partitions = partitionStates(this.#groups.js, stream, deadline);
        partitions.catch(() => {}); // whoever waits for it hears of it
        states.set(stream.id, partitions);
      }
      const next = await this.#groups.committed(record.group, stream.id, deadline);
      let lag = 0;
      for (const { partition, startOffset, endOffset } of await partitions) {
        const from = next.get(partition) ?? record.start[partition] ?? startOffset;
        lag += Math.max(0, endOffset - Math.max(from, startOffset));
      }
      return { group: record.group, stream: stream.name, lag };
    });
    const all = this.#processors.list("", MAX_SURVEYED_PROCESSORS + 1, () => true);
    const processors = await mapLimit(all.slice(0, MAX_SURVEYED_PROCESSORS), PARALLEL, (record) =>
      this.#processors.view(record, deadline).catch(() => undefined),
    );
    this.#last = {
      groups: lags.filter((each) => each !== undefined),
      processors: processors.filter((each) => each !== undefined),
      groupsLeftOut: records.length - surveyed.length,
      processorsLeftOut: Math.max(0, all.length - MAX_SURVEYED_PROCESSORS),
      atMs: Date.now(),
    };
  }
}

const byName = (a: { group: string; stream: string }, b: { group: string; stream: string }): number =>
  a.group < b.group ? -1 : a.group > b.group ? 1 : a.stream < b.stream ? -1 : 1;
