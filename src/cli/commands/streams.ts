import { Command, Option } from "commander";
import {
  CompressionType,
  CompressionTypeSchema,
  DeleteStreamResponseSchema,
  type PartitionDetail,
  type Stream,
  type StreamConfig,
  StreamSchema,
  type StreamSummary,
  StreamSummarySchema,
} from "../../../gen/millrace/v1/streams_pb.js";
import { enumWord } from "../../transport/json.ts";
import { confirm } from "../confirm.ts";
import { allPages, type Context, contextOf } from "../context.ts";
import { usage } from "../failure.ts";
import { time } from "../format.ts";
import { bytes, type Column, count, pairs, span, table } from "../table.ts";
import { duration, size, wholeNumber } from "../values.ts";

/** `millrace streams`: what there is to publish to. */
export function streamsCommand(): Command {
  const streams = new Command("streams").description("list, create, describe, update and delete streams");
  streams
    .command("list")
    .description("all streams, by name")
    .option("--prefix <text>", "only names that begin so")
    .action(list);
  withSettings(
    streams
      .command("create")
      .description("create a stream; the same again changes nothing")
      .argument("<name>", "letters, digits, _ and -, at most 128")
      .option("--partitions <n>", "1 to 1000 (default: 1)", wholeNumber(1, 1000))
      .option("--replication <n>", "servers for each partition: 1, 3 or 5 (default: 1)", wholeNumber(1, 5)),
  )
    .addHelpText(
      "after",
      `
Examples:
  $ millrace streams create orders --partitions 4
  $ millrace streams create audit --retention 90d --compression gzip --max-bytes 10GiB
`,
    )
    .action(create);
  streams
    .command("describe")
    .description("one stream with its partitions, their leaders and offsets")
    .argument("<name>")
    .action(describe);
  withSettings(
    streams
      .command("update")
      .description("change what is named and leave the rest")
      .argument("<name>")
      .option("--partitions <n>", "more than there are; keys may then go elsewhere", wholeNumber(1, 1000))
      .option("--replication <n>", "servers for each partition: 1, 3 or 5", wholeNumber(1, 5)),
  )
    .addHelpText("after", "\nExample:\n  $ millrace streams update orders --partitions 8 --retention 30d\n")
    .action(update);
  streams
    .command("delete")
    .description("delete a stream with its events and all groups' positions in it")
    .argument("<name>")
    .option("-y, --yes", "do not ask")
    .action(remove);
  return streams;
}

interface Settings {
  readonly partitions?: number;
  readonly replication?: number;
  readonly retention?: number;
  readonly compression?: "none" | "gzip" | "s2";
  readonly maxMessageBytes?: number;
  readonly maxBytes?: number;
  readonly duplicateWindow?: number;
}

function withSettings(command: Command): Command {
  return command
    .option("--retention <span>", "how long events are kept, such as 7d", duration)
    .addOption(new Option("--compression <how>", "how payloads are stored").choices(["none", "gzip", "s2"]))
    .option("--max-message-bytes <size>", "largest payload of one event, such as 512KiB", size)
    .option("--max-bytes <size>", "most that each partition keeps; the oldest goes, such as 10GiB", size)
    .option("--duplicate-window <span>", "how long event ids are remembered, such as 10m", duration);
}

function configOf(settings: Settings) {
  const { retention, compression, maxMessageBytes, maxBytes, duplicateWindow } = settings;
  const word = compression?.toUpperCase() as "NONE" | "GZIP" | "S2" | undefined;
  return {
    ...(retention === undefined ? {} : { retentionMs: BigInt(retention) }),
    ...(word === undefined ? {} : { compressionType: CompressionType[word] }),
    ...(maxMessageBytes === undefined ? {} : { maxMessageBytes }),
    ...(maxBytes === undefined ? {} : { maxBytes: BigInt(maxBytes) }),
    ...(duplicateWindow === undefined ? {} : { duplicateWindowMs: BigInt(duplicateWindow) }),
  };
}

const sizesOf = ({ partitions, replication }: Settings) => ({
  ...(partitions === undefined ? {} : { partitions }),
  ...(replication === undefined ? {} : { replicationFactor: replication }),
});

async function list({ prefix }: { prefix?: string }, command: Command): Promise<void> {
  const context = contextOf(command);
  await context.out.list(StreamSummarySchema, await listStreams(context, prefix), COLUMNS, "There are no streams.");
}

/** Every stream whose name begins so. */
export function listStreams({ api, call }: Context, prefix: string | undefined): Promise<StreamSummary[]> {
  return allPages(async (pageToken) => {
    const answer = await api.streams.listStreams(
      {
        pageSize: 1000,
        ...(prefix === undefined ? {} : { prefix }),
        ...(pageToken === undefined ? {} : { pageToken }),
      },
      call,
    );
    return { items: answer.streams, next: answer.nextPageToken };
  });
}

const COLUMNS: readonly Column<StreamSummary>[] = [
  { title: "STREAM", of: ({ name }) => name },
  { title: "PARTITIONS", of: ({ partitions }) => partitions },
  { title: "REPLICAS", of: ({ replicationFactor }) => replicationFactor },
  { title: "EVENTS", of: ({ totalMessages }) => totalMessages },
  { title: "SIZE", of: ({ totalSize }) => bytes(totalSize) },
  { title: "KEPT", of: ({ config }) => retention(config) },
];

async function create(name: string, settings: Settings, command: Command): Promise<void> {
  const { api, call, out } = contextOf(command);
  const { stream } = await api.streams.createStream({ name, ...sizesOf(settings), config: configOf(settings) }, call);
  await out.one(StreamSchema, stream!, streamText);
}

async function describe(streamName: string, _options: object, command: Command): Promise<void> {
  const { api, call, out } = contextOf(command);
  const { stream } = await api.streams.getStream({ streamName }, call);
  await out.one(StreamSchema, stream!, streamText);
}

async function update(streamName: string, settings: Settings, command: Command): Promise<void> {
  if (Object.keys(settings).length === 0)
    throw usage("nothing to change was named: see millrace streams update --help");
  const { api, call, out } = contextOf(command);
  const { stream } = await api.streams.updateStream(
    { streamName, ...sizesOf(settings), config: configOf(settings) },
    call,
  );
  await out.one(StreamSchema, stream!, streamText);
}

async function remove(streamName: string, { yes }: { yes?: boolean }, command: Command): Promise<void> {
  const { api, call, out, interruption } = contextOf(command);
  const { stream } = await api.streams.getStream({ streamName }, call);
  const what = `stream "${streamName}" with its ${count(stream!.totalMessages)} events`;
  await confirm(`Delete ${what}?`, yes, interruption.signal);
  const answer = await api.streams.deleteStream({ streamName }, call);
  await out.one(DeleteStreamResponseSchema, answer, () => `Deleted ${what}.\n`);
}

const retention = (config: StreamConfig | undefined): string =>
  config?.retentionMs === undefined ? "always" : span(config.retentionMs);

function streamText(stream: Stream): string {
  const { config } = stream;
  const settings = pairs([
    ["Stream", stream.name],
    ["Events", stream.totalMessages],
    ["Size", bytes(stream.totalSize)],
    ["Partitions", stream.partitions],
    ["Replication", stream.replicationFactor],
    ["Events kept", retention(config)],
    ["Compression", String(enumWord(CompressionTypeSchema, config?.compressionType ?? CompressionType.NONE))],
    ["Largest event", config?.maxMessageBytes === undefined ? undefined : bytes(config.maxMessageBytes)],
    ["Partition bound", config?.maxBytes === undefined ? undefined : bytes(config.maxBytes)],
    ["Duplicate window", config?.duplicateWindowMs === undefined ? undefined : span(config.duplicateWindowMs)],
    ["Created", time(stream.createdAt)],
  ]);
  return `${settings}\n${table(stream.partitionDetails, PARTITION_COLUMNS)}`;
}

const PARTITION_COLUMNS: readonly Column<PartitionDetail>[] = [
  { title: "PARTITION", of: ({ partition }) => partition },
  { title: "LEADER", of: ({ leader }) => leader ?? "none" },
  { title: "REPLICAS", of: ({ replicas }) => replicas.join(",") },
  { title: "FIRST", of: ({ startOffset }) => startOffset },
  { title: "END", of: ({ endOffset }) => endOffset },
  { title: "EVENTS", of: ({ startOffset, endOffset }) => endOffset - startOffset },
];
