import { create, type JsonObject } from "@bufbuild/protobuf";
import { Command, Option } from "commander";
import {
  DryRunRequestSchema,
  type DryRunResponse,
  DryRunResponseSchema,
  type DryRunStep,
  DryRunStepSchema,
  ProcessorSchema,
  type Savepoint,
  SavepointSchema,
  type SideEvent,
  SideEventSchema,
  SideKind,
} from "../../../gen/millrace/v1/processors_pb.js";
import { toRestJson } from "../../transport/json.ts";
import { confirm } from "../confirm.ts";
import { allPages, contextOf } from "../context.ts";
import { usage } from "../failure.ts";
import { time } from "../format.ts";
import { requestFrom } from "../request-file.ts";
import { bytes, type Column, pairs, printable } from "../table.ts";
import { wholeNumber } from "../values.ts";

const DRY_RUN_EXAMPLES = `
The file holds what POST /api/v1/processors:dryRun takes: operations with events, or with a piece of a stream.

Examples:
  $ millrace processors dry-run --file try.json
  $ echo '{"operations":[{"predicate":"value.n > 1"}],"events":[{"value":{"n":2}}]}' | millrace processors dry-run -f -
  $ millrace processors dry-run --processor proc_0123456789abcdef --offset 100 --limit 5
`;

/** Commands of `millrace processors` that try operations out, show what was set aside, and keep states. */
export function stateCommands(): Command[] {
  const dryRun = new Command("dry-run")
    .description("show what operations make of events, step by step; nothing is written")
    .option("-f, --file <path>", "JSON; - is standard input")
    .option("--processor <id>", "the operations of this processor, on a piece of its source")
    .option("--partition <number>", "the piece's partition", wholeNumber(0, 999), 0)
    .option("--offset <offset>", "the piece's first event: earliest or an offset", "earliest")
    .option("--limit <count>", "the piece's most events", wholeNumber(1, 1000), 10)
    .addHelpText("after", DRY_RUN_EXAMPLES)
    .action(tryOut);
  const side = new Command("side-events")
    .description("late and failed events, with reason and origin")
    .argument("<id>")
    .addOption(new Option("--kind <kind>", "only these").choices(["dlq", "late"]))
    .option("--limit <count>", "most events", wholeNumber(1, 1_000_000), 1000)
    .option("--follow", "wait for more, until Ctrl-C or the limit")
    .action(sideEvents);
  const savepoint = new Command("savepoint")
    .description("copy a processor's state, positions and windows, under a name")
    .argument("<id>")
    .argument("<name>")
    .action(makeSavepoint);
  const savepoints = new Command("savepoints")
    .description("all savepoints, those of deleted processors too")
    .option("--processor <id>", "only those of this one")
    .action(listSavepoints);
  const drop = new Command("delete-savepoint")
    .description("delete a savepoint; processors that were restored from it go on")
    .argument("<name>")
    .option("-y, --yes", "do not ask")
    .action(deleteSavepoint);
  const restore = new Command("restore")
    .description("take a processor back to a savepoint; results since then are written again")
    .argument("<id>")
    .argument("<savepoint>")
    .option("-y, --yes", "do not ask")
    .action(restoreTo);
  return [dryRun, side, savepoint, savepoints, drop, restore];
}

interface TryOptions {
  readonly file?: string;
  readonly processor?: string;
  readonly partition: number;
  readonly offset: string;
  readonly limit: number;
}

async function tryOut({ file, processor, ...source }: TryOptions, command: Command): Promise<void> {
  const { api, call, out } = contextOf(command);
  if ((file === undefined) === (processor === undefined)) throw usage("give either --file or --processor");
  const request =
    file === undefined
      ? create(DryRunRequestSchema, { processorId: processor!, source })
      : await requestFrom(DryRunRequestSchema, file);
  await out.one(DryRunResponseSchema, await api.processors.dryRun(request, call), dryRunText);
}

function dryRunText({ events, results, incomplete }: DryRunResponse): string {
  const lines: string[] = [];
  for (const { partition, offset, steps } of events)
    lines.push(`event ${partition}:${offset}`, ...steps.map((step) => `  ${stepText(step)}`));
  for (const { windowStart, windowEnd, eventsCount, value, steps } of results) {
    lines.push(`result of ${time(windowStart)} to ${time(windowEnd)}, ${eventsCount} events`);
    lines.push(`  ${JSON.stringify(toPlain(value))}`, ...steps.map((step) => `  ${stepText(step)}`));
  }
  if (incomplete !== undefined) lines.push(`incomplete: ${incomplete}`);
  return lines.map((line) => `${printable(line)}\n`).join("");
}

function stepText(step: DryRunStep): string {
  const { operation, outcome, value, error, windows, ...others } = toRestJson(DryRunStepSchema, step) as JsonObject;
  const more = step.windows.length > 0 ? { ...others, windows } : others;
  const rest = Object.keys(more).length > 0 ? ` ${JSON.stringify(more)}` : "";
  return `${operation} ${outcome}${value === undefined ? "" : ` ${JSON.stringify(value)}`}${error ? ` ${error}` : ""}${rest}`;
}

const toPlain = (value: unknown): unknown =>
  value === undefined
    ? null
    : (toRestJson(DryRunStepSchema, create(DryRunStepSchema, { value: value as never })) as JsonObject).value;

interface SideOptions {
  readonly kind?: "dlq" | "late";
  readonly limit: number;
  readonly follow?: boolean;
}

async function sideEvents(processorId: string, { kind, limit, follow }: SideOptions, command: Command): Promise<void> {
  const { api, call, out, interruption } = contextOf(command);
  const wanted = kind === "late" ? SideKind.LATE : kind === "dlq" ? SideKind.DLQ : SideKind.UNSPECIFIED;
  let pageToken = "0";
  try {
    for (let left = limit; left > 0; ) {
      const page = { pageSize: Math.min(left, 1000), pageToken, timeout: follow ? 30_000 : 0 };
      const answer = await api.processors.listSideEvents({ processorId, kind: wanted, ...page }, call);
      for (const event of answer.events) await out.one(SideEventSchema, event, sideText);
      if (answer.events.length === 0 && !follow) break;
      left -= answer.events.length;
      pageToken = answer.nextPageToken;
    }
  } catch (error) {
    if (!follow || !interruption.happened) throw error;
  }
}

function sideText(event: SideEvent): string {
  const origin =
    event.offset === undefined ? "result of a window" : `${event.stream} ${event.partition}:${event.offset}`;
  const { value, data } = toRestJson(SideEventSchema, event) as JsonObject;
  const kind = event.kind === SideKind.LATE ? "late" : "dlq";
  const payload = value === undefined ? `base64 ${String(data)}` : JSON.stringify(value);
  return `${printable(`${time(event.setAsideAt)}  ${kind}  ${origin}  operation ${event.operation}: ${event.reason}  ${payload}`)}\n`;
}

async function makeSavepoint(processorId: string, name: string, _options: object, command: Command): Promise<void> {
  const { api, call, out } = contextOf(command);
  const { savepoint } = await api.processors.createSavepoint({ processorId, name }, call);
  await out.one(SavepointSchema, savepoint!, savepointText);
}

async function listSavepoints({ processor }: { processor?: string }, command: Command): Promise<void> {
  const { api, call, out } = contextOf(command);
  const all = await allPages(async (pageToken) => {
    const request = {
      pageSize: 1000,
      ...(processor === undefined ? {} : { processorId: processor }),
      ...(pageToken === undefined ? {} : { pageToken }),
    };
    const answer = await api.processors.listSavepoints(request, call);
    return { items: answer.savepoints, next: answer.nextPageToken };
  });
  await out.list(SavepointSchema, all, SAVEPOINT_COLUMNS, "There are no savepoints.");
}

async function deleteSavepoint(name: string, { yes }: { yes?: boolean }, command: Command): Promise<void> {
  const { api, call, out, interruption } = contextOf(command);
  await confirm(`Delete savepoint "${name}"?`, yes, interruption.signal);
  await api.processors.deleteSavepoint({ name }, call);
  if (!out.isJson) await out.line(`Deleted savepoint "${printable(name)}".`);
}

async function restoreTo(
  processorId: string,
  savepoint: string,
  { yes }: { yes?: boolean },
  command: Command,
): Promise<void> {
  const { api, call, out, interruption } = contextOf(command);
  await confirm(`Take processor "${processorId}" back to "${savepoint}"?`, yes, interruption.signal);
  const { processor } = await api.processors.restoreProcessor({ processorId, savepoint }, call);
  await out.one(ProcessorSchema, processor!, () => `Restored processor "${printable(processorId)}".\n`);
}

function savepointText(savepoint: Savepoint): string {
  return pairs([
    ["Savepoint", savepoint.name],
    ["Processor", savepoint.processorId],
    ["Source", savepoint.source],
    ["Parallelism", savepoint.parallelism],
    ["State", bytes(savepoint.size)],
    ["Made", time(savepoint.createdAt)],
    ...savepoint.partitions.map(
      ({ partition, nextOffset }) => [`Partition ${partition}`, `goes on at ${nextOffset}`] as const,
    ),
  ]);
}

const SAVEPOINT_COLUMNS: readonly Column<Savepoint>[] = [
  { title: "SAVEPOINT", of: ({ name }) => name },
  { title: "PROCESSOR", of: ({ processorId }) => processorId },
  { title: "SOURCE", of: ({ source }) => source },
  { title: "STATE", of: ({ size }) => bytes(size) },
  { title: "MADE", of: ({ createdAt }) => time(createdAt) },
];
