import type { JsonObject } from "@bufbuild/protobuf";
import { Command, Option } from "commander";
import {
  CreateProcessorRequestSchema,
  DeleteProcessorResponseSchema,
  type GetProcessorMetricsResponse,
  GetProcessorMetricsResponseSchema,
  type Operation,
  OperationSchema,
  type Processor,
  type ProcessorPartition,
  ProcessorSchema,
  ProcessorStatusSchema,
  StartPosition,
  type WindowMetrics,
} from "../../../gen/millrace/v1/processors_pb.js";
import { enumWord, toRestJson } from "../../transport/json.ts";
import { confirm } from "../confirm.ts";
import { allPages, type Context, contextOf } from "../context.ts";
import { CliError, Exit } from "../failure.ts";
import { time } from "../format.ts";
import { requestFrom } from "../request-file.ts";
import { type Column, pairs, span, table } from "../table.ts";
import { wholeNumber } from "../values.ts";
import { stateCommands } from "./processor-state.ts";

const CREATE_EXAMPLES = `
The file holds what POST /api/v1/processors takes, for example:
  {
    "name": "spending",
    "source": "orders",
    "operations": [
      {"type": "filter", "predicate": "value.amount > 10.0"},
      {"type": "window", "windowType": "tumbling", "duration": 60000},
      {"type": "aggregate", "aggregation": "sum", "field": "amount", "groupBy": "userId", "as": "total"}
    ],
    "sink": "spending-by-minute"
  }

Examples:
  $ millrace processors create --file spending.json
  $ jq '.source = "orders-eu"' spending.json | millrace processors create -f -
`;

/** `millrace processors`: what reads one stream and writes another. */
export function processorsCommand(): Command {
  const processors = new Command("processors").description(
    "list, create, describe, pause, resume, reset and delete processors; their metrics, savepoints and side events; dry runs",
  );
  processors.command("list").description("all processors, with their rates and lag").action(list);
  processors
    .command("create")
    .description("create a processor from a file and start it")
    .requiredOption("-f, --file <path>", "JSON; - is standard input")
    .addHelpText("after", CREATE_EXAMPLES)
    .action(create);
  processors.command("describe").description("one processor with its operations").argument("<id>").action(describe);
  processors
    .command("pause")
    .description("stop a processor at a checkpoint, until it is resumed")
    .argument("<id>")
    .action((processorId: string, _options: object, command: Command) =>
      show(command, ({ api, call }) => api.processors.pauseProcessor({ processorId }, call)),
    );
  processors
    .command("resume")
    .description("go on where a processor was paused, or have one that failed try again")
    .argument("<id>")
    .action((processorId: string, _options: object, command: Command) =>
      show(command, ({ api, call }) => api.processors.resumeProcessor({ processorId }, call)),
    );
  processors
    .command("reset")
    .description("forget state and position and start anew; results are written again")
    .argument("<id>")
    .addOption(new Option("--from <position>", "where to begin").choices(["earliest", "latest"]).default("earliest"))
    .option("-y, --yes", "do not ask")
    .action(reset);
  processors
    .command("delete")
    .description("stop a processor for good and delete its state; its streams stay")
    .argument("<id>")
    .option("-y, --yes", "do not ask")
    .action(remove);
  processors
    .command("metrics")
    .description("what a processor has done, how far it is behind, its windows")
    .argument("<id>")
    .option("-w, --watch", "again and again, until Ctrl-C")
    .option("--interval <seconds>", "time between two looks", wholeNumber(1, 60), 1)
    .action(metrics);
  for (const command of stateCommands()) processors.addCommand(command);
  return processors;
}

async function list(_options: object, command: Command): Promise<void> {
  const context = contextOf(command);
  await context.out.list(ProcessorSchema, await listProcessors(context), PROCESSOR_COLUMNS, "There are no processors.");
}

/** Every processor. */
export function listProcessors({ api, call }: Context): Promise<Processor[]> {
  return allPages(async (pageToken) => {
    const page = { pageSize: 1000, ...(pageToken === undefined ? {} : { pageToken }) };
    const answer = await api.processors.listProcessors(page, call);
    return { items: answer.processors, next: answer.nextPageToken };
  });
}

/** A processor in a list. */
export const PROCESSOR_COLUMNS: readonly Column<Processor>[] = [
  { title: "PROCESSOR", of: ({ processorId }) => processorId },
  { title: "NAME", of: ({ name }) => name },
  { title: "STATUS", of: ({ status }) => statusWord(status) },
  { title: "SOURCE", of: ({ source }) => source },
  { title: "SINK", of: ({ sink }) => sink },
  { title: "PROCESSED", of: ({ metrics }) => metrics?.eventsProcessed ?? 0 },
  { title: "PROCESSED/S", of: ({ metrics }) => tenths(metrics?.throughput) },
  { title: "LAG", of: ({ metrics }) => metrics?.lag ?? 0 },
];

async function create({ file }: { file: string }, command: Command): Promise<void> {
  const request = await requestFrom(CreateProcessorRequestSchema, file);
  await show(command, ({ api, call }) => api.processors.createProcessor(request, call));
}

async function describe(processorId: string, _options: object, command: Command): Promise<void> {
  await show(command, ({ api, call }) => api.processors.getProcessor({ processorId }, call));
}

async function reset(processorId: string, options: { from: string; yes?: boolean }, command: Command): Promise<void> {
  const start = options.from === "latest" ? StartPosition.LATEST : StartPosition.EARLIEST;
  await show(command, async ({ api, call, interruption }) => {
    await confirm(`Start processor "${processorId}" anew, from ${options.from}?`, options.yes, interruption.signal);
    return api.processors.resetProcessor({ processorId, start }, call);
  });
}

async function remove(processorId: string, { yes }: { yes?: boolean }, command: Command): Promise<void> {
  const { api, call, out, interruption } = contextOf(command);
  await confirm(`Delete processor "${processorId}" with its state?`, yes, interruption.signal);
  const answer = await api.processors.deleteProcessor({ processorId }, call);
  await out.one(DeleteProcessorResponseSchema, answer, () => `Deleted processor "${processorId}".\n`);
}

async function metrics(processorId: string, options: { watch?: boolean; interval: number }, command: Command) {
  const { api, call, out, interruption } = contextOf(command);
  if (!options.watch) {
    const answer = await api.processors.getProcessorMetrics({ processorId }, call);
    return out.one(GetProcessorMetricsResponseSchema, answer, metricsText);
  }
  try {
    const request = { processorId, interval: options.interval * 1000 };
    for await (const { metrics } of api.processors.watchMetrics(request, { signal: interruption.signal }))
      await out.one(GetProcessorMetricsResponseSchema, metrics!, (one) => `${metricsText(one)}\n`);
    // Only the service ends a watch without an error: when it stops.
    if (!interruption.happened) throw new CliError("the service ended the watch: try again", Exit.UNAVAILABLE);
  } catch (error) {
    if (!interruption.happened) throw error;
  }
}

/** Makes a call that answers a processor, and shows it. */
async function show(
  command: Command,
  call: (context: Context) => Promise<{ processor?: Processor | undefined }>,
): Promise<void> {
  const context = contextOf(command);
  const { processor } = await call(context);
  await context.out.one(ProcessorSchema, processor!, processorText);
}

const statusWord = (status: number): string => String(enumWord(ProcessorStatusSchema, status));
const tenths = (value: number | undefined): number => Math.round((value ?? 0) * 10) / 10;

function processorText(processor: Processor): string {
  const { config, metrics } = processor;
  return `${pairs([
    ["Processor", processor.processorId],
    ["Name", processor.name],
    ["Status", statusWord(processor.status)],
    ["Reason", processor.statusReason],
    ["Source", processor.source],
    ...processor.operations.map((operation, at) => [`Operation ${at + 1}`, operationText(operation)] as const),
    ["Sink", processor.sink],
    ["Parallelism", config?.parallelism],
    ["Checkpoints", config?.checkpointInterval === undefined ? undefined : `every ${span(config.checkpointInterval)}`],
    ["Generation", processor.generation],
    ["Created", time(processor.createdAt)],
    ["Processed", metrics?.eventsProcessed],
    ["Lag", metrics?.lag],
  ])}`;
}

/** An operation's fields, its type first: `filter predicate="value.amount > 10.0"`. */
function operationText(operation: Operation): string {
  const { type, ...fields } = toRestJson(OperationSchema, operation) as JsonObject;
  const rest = Object.entries(fields).map(([name, value]) => `${name}=${JSON.stringify(value)}`);
  return [...(type === undefined ? [] : [type]), ...rest].join(" ");
}

function metricsText(answer: GetProcessorMetricsResponse): string {
  const { metrics, counters } = answer;
  const head = pairs([
    ["Processor", answer.processorId],
    ["Status", statusWord(answer.status)],
    ["Reason", answer.statusReason],
    ["Processed", metrics?.eventsProcessed],
    ["Processed/s", tenths(metrics?.throughput)],
    ["Latency", `${tenths(metrics?.avgLatency)} ms`],
    ["Lag", metrics?.lag],
    ["Error rate", `${((metrics?.errorRate ?? 0) * 100).toFixed(1)} %`],
    ["Filtered", counters?.filtered],
    ["Errors", counters?.errors],
    ["Dead letters", counters?.deadLetters],
    ["Late", counters?.late],
    ["Emitted", counters?.emitted],
  ]);
  const windows = answer.windows.length > 0 ? `\n${table(answer.windows, WINDOW_COLUMNS)}` : "";
  return `${head}\n${table(answer.partitions, PARTITION_COLUMNS)}${windows}`;
}

const PARTITION_COLUMNS: readonly Column<ProcessorPartition>[] = [
  { title: "PARTITION", of: ({ partition }) => partition },
  { title: "NEXT", of: ({ nextOffset }) => nextOffset },
  { title: "LAG", of: ({ lag }) => lag },
  { title: "WATERMARK", of: ({ watermark }) => time(watermark) },
  { title: "IDLE", of: ({ idle }) => (idle ? "idle" : "") },
  { title: "WINDOWS", of: ({ holdsWatermark }) => (holdsWatermark ? "wait for it" : "") },
];

const WINDOW_COLUMNS: readonly Column<WindowMetrics>[] = [
  { title: "WINDOW", of: ({ windowStart }) => time(windowStart) },
  { title: "END", of: ({ windowEnd }) => time(windowEnd) },
  { title: "EVENTS", of: ({ eventsCount }) => eventsCount },
  { title: "STATE", of: ({ closed }) => (closed ? "closed" : "open") },
];
