import type { JsonObject } from "@bufbuild/protobuf";
import { Command } from "commander";
import type { ConsumerGroupStream } from "../../../gen/millrace/v1/consumers_pb.js";
import { type Processor, ProcessorSchema } from "../../../gen/millrace/v1/processors_pb.js";
import type { Stream } from "../../../gen/millrace/v1/streams_pb.js";
import { ErrorCode } from "../../domain/errors.ts";
import { mapLimit } from "../../domain/map-limit.ts";
import { toRestJson } from "../../transport/json.ts";
import { type Context, contextOf } from "../context.ts";
import { errorCodeOf } from "../failure.ts";
import { bytes, type Column, span, table } from "../table.ts";
import { wholeNumber } from "../values.ts";
import { listGroups, stateWord } from "./groups.ts";
import { listProcessors, PROCESSOR_COLUMNS } from "./processors.ts";
import { listStreams } from "./streams.ts";

const EXAMPLES = `
PUBLISHED/S and READ/S are events per second since the look before. LAG counts what a group has not committed, BEHIND is the
age of the oldest of it. Ctrl-C ends.

Examples:
  $ millrace top
  $ millrace top --stream orders --interval 1
  $ millrace top --count 2 --json | tail -1 | jq '.groups[] | select(.lag > 1000)'
`;

const PARALLEL = 16;
/** Homes the cursor and clears what is below it. */
const CLEAR = "\x1b[H\x1b[J";
/** The terminal's second screen, and back. */
const ENTER = "\x1b[?1049h\x1b[?25l";
const LEAVE = "\x1b[?25h\x1b[?1049l";

interface Options {
  readonly stream?: string;
  readonly interval: number;
  readonly count?: number;
}

/** `millrace top`. */
export function topCommand(): Command {
  return new Command("top")
    .description("streams, groups and processors with their rates and lag, live")
    .option("--stream <name>", "only this stream and what reads or writes it")
    .option("--interval <seconds>", "time between two looks", wholeNumber(1, 3600), 2)
    .option("--count <n>", "end after so many looks", wholeNumber(1))
    .addHelpText("after", EXAMPLES)
    .action(top);
}

async function top(options: Options, command: Command): Promise<void> {
  const context = contextOf(command);
  const { out, interruption } = context;
  const isScreen = !out.isJson && out.isTerminal;
  let before: Look | undefined;
  if (isScreen) await out.write(ENTER);
  try {
    for (let looks = 1; ; looks++) {
      const now = await look(context, options.stream);
      const rows = { streams: streamRows(now, before), groups: groupRows(now, before) };
      const { processors } = now;
      if (out.isJson)
        await out.json({ time: new Date(now.atMs).toISOString(), ...rows, processors: processors.map(processorJson) });
      else await out.write(`${isScreen ? CLEAR : ""}${screen(rows.streams, rows.groups, processors)}`);
      before = now;
      if (looks === options.count) return;
      await interruption.pause(options.interval * 1000);
      if (interruption.happened) return;
    }
  } catch (error) {
    if (!interruption.happened) throw error;
  } finally {
    if (isScreen) await out.write(LEAVE);
  }
}

/** What there was at one moment. */
interface Look {
  readonly atMs: number;
  readonly streams: readonly Stream[];
  readonly groups: readonly { readonly name: string; readonly part: ConsumerGroupStream }[];
  readonly processors: readonly Processor[];
}

async function look(context: Context, stream: string | undefined): Promise<Look> {
  const { api, call } = context;
  const names = stream === undefined ? (await listStreams(context, undefined)).map(({ name }) => name) : [stream];
  const streams = await mapLimit(names, PARALLEL, (streamName) =>
    api.streams.getStream({ streamName }, call).catch(stream === undefined ? unlessGone : fail),
  );
  const only = stream === undefined ? {} : { stream };
  const summaries = await listGroups(context, only);
  const groups = await mapLimit(summaries, PARALLEL, ({ consumerGroup }) =>
    api.groups.getConsumerGroup({ consumerGroup, ...only }, call).catch(unlessGone),
  );
  // Who may read streams need not have the right to see processors.
  const processors = await listProcessors(context).catch((error: unknown) => {
    if (errorCodeOf(error) !== ErrorCode.PERMISSION_DENIED) throw error;
    return [];
  });
  return {
    atMs: Date.now(),
    processors: processors.filter(({ source, sink }) => stream === undefined || [source, sink].includes(stream)),
    streams: streams.flatMap((answer) => answer?.stream ?? []),
    groups: groups.flatMap((answer) =>
      (answer?.group?.streams ?? []).map((part) => ({ name: answer!.group!.consumerGroup, part })),
    ),
  };
}

const GONE: readonly number[] = [ErrorCode.STREAM_NOT_FOUND, ErrorCode.CONSUMER_GROUP_NOT_FOUND];

/** What was deleted since it was listed is left out. */
function unlessGone(error: unknown): undefined {
  if (!GONE.includes(errorCodeOf(error))) throw error;
}

function fail(error: unknown): never {
  throw error;
}

interface StreamRow {
  readonly stream: string;
  readonly partitions: number;
  readonly events: number;
  readonly bytes: number;
  /** Events per second since the look before; absent in the first. */
  readonly publishedPerSecond?: number;
}

interface GroupRow {
  readonly group: string;
  readonly stream: string;
  readonly state: string;
  readonly members: number;
  readonly lag: number;
  readonly lagSeconds: number;
  /** Events handed out per second since the look before, redelivered ones left out; absent in the first. */
  readonly readPerSecond?: number;
}

function streamRows(now: Look, before: Look | undefined): StreamRow[] {
  const end = (stream: Stream) => stream.partitionDetails.reduce((sum, { endOffset }) => sum + Number(endOffset), 0);
  return now.streams.map((stream) => {
    const old = before?.streams.find(({ name }) => name === stream.name);
    return {
      stream: stream.name,
      partitions: stream.partitions,
      events: Number(stream.totalMessages),
      bytes: Number(stream.totalSize),
      ...(old ? { publishedPerSecond: rate(end(stream) - end(old), now, before!) } : {}),
    };
  });
}

function groupRows(now: Look, before: Look | undefined): GroupRow[] {
  const place = (part: ConsumerGroupStream) => part.partitions.reduce((sum, { position }) => sum + Number(position), 0);
  return now.groups.map(({ name, part }) => {
    const old = before?.groups.find((other) => other.name === name && other.part.stream === part.stream);
    return {
      group: name,
      stream: part.stream,
      state: stateWord(part.state),
      members: part.members.length,
      lag: Number(part.lag),
      lagSeconds: Math.max(0, ...part.partitions.map(({ lagSeconds }) => lagSeconds)),
      ...(old ? { readPerSecond: rate(place(part) - place(old.part), now, before!) } : {}),
    };
  });
}

/** Per second, to one decimal; what went backwards (a seek, a new stream of the same name) is 0. */
const rate = (change: number, now: Look, before: Look): number =>
  Math.max(0, Math.round((change / Math.max(1, now.atMs - before.atMs)) * 10_000) / 10);

/** A processor without what it is made of. */
function processorJson(processor: Processor) {
  const { operations: _, config: __, ...rest } = toRestJson(ProcessorSchema, processor) as JsonObject;
  return rest;
}

function screen(streams: readonly StreamRow[], groups: readonly GroupRow[], processors: readonly Processor[]): string {
  const parts = [
    streams.length > 0 ? table(streams, STREAM_COLUMNS) : "There are no streams.\n",
    groups.length > 0 ? table(groups, GROUP_COLUMNS) : "There are no consumer groups.\n",
    ...(processors.length > 0 ? [table(processors, PROCESSOR_COLUMNS)] : []),
  ];
  return `${parts.join("\n")}\n`;
}

const STREAM_COLUMNS: readonly Column<StreamRow>[] = [
  { title: "STREAM", of: ({ stream }) => stream },
  { title: "PARTITIONS", of: ({ partitions }) => partitions },
  { title: "EVENTS", of: ({ events }) => events },
  { title: "SIZE", of: (row) => bytes(row.bytes) },
  { title: "PUBLISHED/S", of: ({ publishedPerSecond }) => publishedPerSecond ?? "-" },
];

const GROUP_COLUMNS: readonly Column<GroupRow>[] = [
  { title: "GROUP", of: ({ group }) => group },
  { title: "STREAM", of: ({ stream }) => stream },
  { title: "STATE", of: ({ state }) => state },
  { title: "MEMBERS", of: ({ members }) => members },
  { title: "LAG", of: ({ lag }) => lag },
  { title: "BEHIND", of: ({ lagSeconds }) => (lagSeconds > 0 ? span(lagSeconds * 1000) : "") },
  { title: "READ/S", of: ({ readPerSecond }) => readPerSecond ?? "-" },
];
