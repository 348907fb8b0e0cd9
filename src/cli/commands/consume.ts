import { Command, Option } from "commander";
import { type Event, PayloadFormat, type SubscribeResponse } from "../../../gen/millrace/v1/events_pb.js";
import { parsePosition } from "../../domain/position.ts";
import { Committer } from "../committer.ts";
import { type Context, contextOf } from "../context.ts";
import { eventJson, eventLine, valueText } from "../event-text.ts";
import { failureOf, failureText, isInterrupted, usage } from "../failure.ts";
import { note } from "../output.ts";
import { each, wholeNumber } from "../values.ts";

const EXAMPLES = `
Without --group you read for yourself and change nothing. With it you are a member of the group and get your share of the
partitions; --commit stores what was written out, so that the group goes on there. What is not committed comes again.
Without --follow the command ends when it has all that there is. Ctrl-C ends --follow; what was written is committed.

Examples:
  $ millrace consume orders                                      all events, then end
  $ millrace consume orders --follow --from latest               what comes from now on
  $ millrace consume orders --from 2026-01-31T12:00:00Z --max 10
  $ millrace consume orders --partition 3 --from 1200            one partition, from one offset
  $ millrace consume orders --follow --group billing --commit    start it twice to share the work
  $ millrace consume orders --filter 'value.amount > 100.0' --values | jq .user
`;

/** Pauses before a subscription that broke is opened again, in milliseconds; the last one holds on. */
const PAUSES_MS = [100, 500, 1000, 2000, 5000];
/** A member that does not follow ends when nothing came for so long, such as one that has no partition. */
const QUIET_MS = 1000;
/** Most events of one answer. */
const ANSWER_EVENTS = 500;
/** Without commits nothing but the service's bound would end the events. */
const MAX_UNCOMMITTED = 1_000_000;

interface Options {
  readonly group?: string;
  readonly consumerId?: string;
  readonly follow?: boolean;
  readonly commit?: boolean;
  readonly from?: string;
  readonly partition?: number[];
  readonly max?: number;
  readonly filter?: string;
  readonly values?: boolean;
}

/** `millrace consume`. */
export function consumeCommand(): Command {
  return new Command("consume")
    .description("read events: what there is, or live")
    .argument("<stream>")
    .option("-f, --follow", "go on with events as they come, until Ctrl-C")
    .option("--from <position>", "earliest, latest, an offset or an RFC 3339 time (default: earliest)")
    .option("-g, --group <name>", "read as a member of this consumer group")
    .addOption(new Option("--commit", "store the group's progress behind what was written out"))
    .option("--consumer-id <name>", "the member's name (default: one of its own)")
    .option("--partition <n>", "only this one; may be given again", each(wholeNumber(0, 999)))
    .option("--max <n>", "end after so many events", wholeNumber(1))
    .option("--filter <expression>", "only events for which this CEL expression is true")
    .option("--values", "write the values alone, one a line")
    .addHelpText("after", EXAMPLES)
    .action(consume);
}

async function consume(stream: string, options: Options, command: Command): Promise<void> {
  check(options);
  const context = contextOf(command);
  const { interruption } = context;
  const reader = new Reader(context, stream, options);
  let failures = 0;
  for (;;) {
    try {
      await reader.read(() => {
        failures = 0;
      });
      break;
    } catch (error) {
      if (interruption.happened) {
        // A last commit may have failed.
        if (failureOf(error).exitCode !== interruption.exitCode) throw error;
        break;
      }
      // Before the first answer a wrong address would be tried for ever.
      if (!options.follow || !reader.wasConnected || !isInterrupted(error)) throw error;
      note(`${failureText(failureOf(error))}; connecting again`);
      await interruption.pause(PAUSES_MS[Math.min(failures++, PAUSES_MS.length - 1)]!);
      if (interruption.happened) break;
    }
  }
  // Without --follow there was an end to come.
  if (interruption.happened && !options.follow) process.exitCode = interruption.exitCode;
}

function check({ group, commit, consumerId, from }: Options): void {
  if (group === undefined && commit) throw usage("--commit goes with --group");
  if (group === undefined && consumerId !== undefined) throw usage("--consumer-id goes with --group");
  if (from === undefined) return;
  let position: unknown;
  try {
    position = parsePosition(from);
  } catch (error) {
    throw usage(`--from: ${(error as Error).message}`);
  }
  if (group !== undefined && typeof position !== "string")
    throw usage(`--from ${from} can't move a group: use millrace groups seek ${group} <stream> --to ${from}`);
}

/** Reads a stream, over several subscriptions if need be, and goes on where the one before ended. */
class Reader {
  /** Whether the service has answered. */
  wasConnected = false;
  readonly #context: Context;
  readonly #stream: string;
  readonly #options: Options;
  readonly #committer: Committer | undefined;
  readonly #text: (event: Event) => string;
  #left: number;
  #resumeToken: string | undefined;

  constructor(context: Context, stream: string, options: Options) {
    this.#context = context;
    this.#stream = stream;
    this.#options = options;
    this.#left = options.max ?? Number.POSITIVE_INFINITY;
    if (options.group !== undefined && options.commit)
      this.#committer = new Committer(context.api, options.group, stream);
    this.#text = options.values ? valueText : context.out.isJson ? eventJson : eventLine;
  }

  /**
   * Reads until there is no more, `--max` is reached or the user interrupts; then commits what is written.
   *
   * @param connected is called with every answer.
   */
  async read(connected: () => void): Promise<void> {
    this.#committer?.forget();
    const stop = new AbortController();
    const answers = this.#context.api.events.subscribe(this.#request(), { signal: stop.signal });
    const iterator = answers[Symbol.asyncIterator]();
    try {
      for (;;) {
        const next = await this.#orInterrupted(iterator.next());
        if (next === undefined || next.done) break;
        this.wasConnected = true;
        connected();
        if (await this.#take(next.value)) break;
      }
      // Before the subscription ends, which gives the partitions away.
      await this.#committer?.commit();
    } finally {
      stop.abort(ENDED);
      await iterator.return?.().catch(() => {});
    }
  }

  /** Writes an answer's events. @returns whether that was all. */
  async #take(answer: SubscribeResponse): Promise<boolean> {
    if (answer.assignment) this.#committer?.assigned(answer.assignment);
    const events = answer.events.slice(0, this.#left);
    if (events.length > 0) await this.#context.out.write(`${events.map(this.#text).join("\n")}\n`);
    this.#left -= events.length;
    this.#resumeToken = answer.resumeToken ?? this.#resumeToken;
    this.#committer?.wrote(events);
    if (this.#left === 0) return true;
    if (!this.#options.follow && (answer.caughtUp || answer.heartbeat)) return true;
    if (events.length > 0) await this.#committer?.commitNowAndThen();
    else await this.#committer?.commit();
    return false;
  }

  #request() {
    const { group, consumerId, from, partition, filter, follow, commit } = this.#options;
    const start =
      this.#resumeToken === undefined
        ? { ...(from === undefined ? {} : { offset: from }) }
        : { resumeToken: this.#resumeToken };
    return {
      streamName: this.#stream,
      ...start,
      ...(group === undefined ? {} : { consumerGroup: group }),
      ...(consumerId === undefined ? {} : { consumerId }),
      ...(filter === undefined ? {} : { filter }),
      partition: partition ?? [],
      limit: Math.min(this.#left, ANSWER_EVENTS),
      payload: PayloadFormat.DATA,
      ...(group === undefined || commit ? {} : { maxUncommitted: MAX_UNCOMMITTED }),
      ...(group !== undefined && (commit || !follow) ? { heartbeat: QUIET_MS } : {}),
    };
  }

  /** What is waited for; undefined when the user interrupts first. */
  async #orInterrupted<T>(promise: Promise<T>): Promise<T | undefined> {
    const { signal } = this.#context.interruption;
    promise.catch(() => {}); // it may be left alone
    if (signal.aborted) return undefined;
    const { promise: interrupted, resolve } = Promise.withResolvers<undefined>();
    const onAbort = () => resolve(undefined);
    signal.addEventListener("abort", onAbort, { once: true });
    try {
      return await Promise.race([promise, interrupted]);
    } finally {
      signal.removeEventListener("abort", onAbort);
    }
  }
}

const ENDED = new Error("the reader has ended");
