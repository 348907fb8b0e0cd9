import type { JsonValue } from "@bufbuild/protobuf";
import { Command } from "commander";
import { type NewRow, NewRowSchema, type Row, RowSchema } from "../../../gen/millrace/v1/tables_pb.js";
import { fromRestJson, toRestJson } from "../../transport/json.ts";
import { confirm } from "../confirm.ts";
import { type Context, contextOf } from "../context.ts";
import { usage } from "../failure.ts";
import { time } from "../format.ts";
import { linesOfFile, sizeOfFiles } from "../input.ts";
import { batchesOf } from "../lines.ts";
import { fieldText, isObject } from "../new-event.ts";
import { note } from "../output.ts";
import { progressBar } from "../progress-bar.ts";
import { type Column, count, pairs, printable, table } from "../table.ts";
import { each } from "../values.ts";

const PUT_EXAMPLES = `
A row takes the place of one with its key. Lines of files are rows {"key": ..., "value": ...}, as "tables list" writes them.

Examples:
  $ millrace tables put users u1 '{"name":"Ann","tier":"gold"}'
  $ millrace tables put users --file users.jsonl                    {"key":"u1","value":{"name":"Ann"}} a line
  $ millrace tables put users --file users.jsonl --key-field id     {"id":"u1","name":"Ann"} a line
  $ millrace tables list users | millrace tables put copy -f -
`;

/** Rows and bytes of one request; the service takes 10,000 rows and 32 MiB. */
const BATCH_ROWS = 1000;
const BATCH_BYTES = 4 * 1024 * 1024;
/** How long a request waits for more input after its first row. */
const LINGER_MS = 20;
const PAGE_SIZE = 1000;

interface PutOptions {
  readonly file?: readonly string[];
  readonly keyField?: string;
}

/** `millrace tables`: what lookups of processors find. */
export function tablesCommand(): Command {
  const tables = new Command("tables").description("list, get, put and delete the rows that lookups find");
  tables.command("list").description("all rows of a table").argument("<table>").action(list);
  tables.command("get").description("one row").argument("<table>").argument("<key>").action(get);
  tables
    .command("put")
    .description("store one row, or those of files")
    .argument("<table>")
    .argument("[key]")
    .argument("[value]", "JSON")
    .option("-f, --file <path>", "a file with one row a line, - is standard input; may be given again", each(String))
    .option("--key-field <path>", "each line is a value, whose member at the path is its key")
    .addHelpText("after", PUT_EXAMPLES)
    .action(put);
  tables
    .command("delete")
    .description("delete one row")
    .argument("<table>")
    .argument("<key>")
    .option("-y, --yes", "do not ask")
    .action(remove);
  return tables;
}

async function list(name: string, _options: object, command: Command): Promise<void> {
  const { api, call, out } = contextOf(command);
  let pageToken: string | undefined;
  let seen = 0;
  do {
    const page = { table: name, pageSize: PAGE_SIZE, ...(pageToken === undefined ? {} : { pageToken }) };
    const { rows, nextPageToken } = await api.tables.listRows(page, call);
    // A table may be large: each page is written as it comes.
    if (out.isJson) for (const row of rows) await out.json(toRestJson(RowSchema, row));
    else if (rows.length > 0) await out.write(table(rows, COLUMNS));
    seen += rows.length;
    pageToken = nextPageToken || undefined;
  } while (pageToken !== undefined);
  if (seen === 0 && !out.isJson) await out.line(`Table "${printable(name)}" has no rows.`);
}

async function get(name: string, key: string, _options: object, command: Command): Promise<void> {
  const { api, call, out } = contextOf(command);
  const { row } = await api.tables.getRow({ table: name, key }, call);
  await out.one(RowSchema, row!, rowText);
}

async function put(
  name: string,
  key: string | undefined,
  value: string | undefined,
  options: PutOptions,
  command: Command,
): Promise<void> {
  const files = options.file ?? [];
  if ((key === undefined) === (files.length === 0)) throw usage("give a key and its value, or --file");
  if (key !== undefined && value === undefined) throw usage("the row's value is missing");
  if (options.keyField !== undefined && files.length === 0) throw usage("--key-field goes with --file");
  const context = contextOf(command);
  if (files.length > 0) return putFiles(name, files, options.keyField, context);
  const { api, call, out } = context;
  const row = readAt("the value", () => newRow(key!, JSON.parse(value!) as JsonValue));
  const answer = await api.tables.putRow({ table: name, key: row.key, value: row.value! }, call);
  await out.one(RowSchema, answer.row!, rowText);
}

async function putFiles(
  name: string,
  files: readonly string[],
  keyField: string | undefined,
  { api, call, out, interruption }: Context,
): Promise<void> {
  const progress = progressBar("storing", await sizeOfFiles(files), "rows");
  const limits = { limit: BATCH_ROWS, maxBytes: BATCH_BYTES, lingerMs: LINGER_MS, sizeOf: (row: ReadRow) => row.bytes };
  let stored = 0;
  let bytes = 0;
  try {
    for await (const batch of batchesOf(rowsOf(files, keyField, interruption.signal), limits)) {
      await api.tables.putRows({ table: name, rows: batch.map(({ row }) => row) }, call);
      stored += batch.length;
      bytes += batch.reduce((sum, row) => sum + row.bytes, 0);
      progress.show(bytes, stored);
    }
  } catch (error) {
    progress.stop();
    note(`${count(stored)} rows are stored in ${printable(name)}; the same again stores the others`);
    throw error;
  }
  progress.stop();
  if (out.isJson) await out.json({ table: name, rowCount: stored });
  else await out.line(`${count(stored)} rows are stored in ${printable(name)}.`);
}

async function remove(name: string, key: string, { yes }: { yes?: boolean }, command: Command): Promise<void> {
  const { api, call, out, interruption } = contextOf(command);
  await confirm(`Delete row "${key}" of table "${name}"?`, yes, interruption.signal);
  await api.tables.deleteRow({ table: name, key }, call);
  if (!out.isJson) await out.line(`Deleted row "${printable(key)}" of table "${printable(name)}".`);
}

interface ReadRow {
  readonly row: NewRow;
  /** Of its line. */
  readonly bytes: number;
}

async function* rowsOf(
  files: readonly string[],
  keyField: string | undefined,
  signal: AbortSignal,
): AsyncGenerator<ReadRow> {
  for (const file of files)
    for await (const { at, text } of linesOfFile(file, signal))
      yield { row: readAt(at, () => rowOf(text.toString(), keyField)), bytes: text.length + 1 };
}

/** @throws CliError that names the place. */
function readAt<T>(place: string, read: () => T): T {
  try {
    return read();
  } catch (error) {
    throw usage(`${place}: ${(error as Error).message}`);
  }
}

/** @throws Error that says what is wrong with the text. */
function rowOf(text: string, keyField: string | undefined): NewRow {
  const json = JSON.parse(text) as JsonValue;
  if (keyField !== undefined) return newRow(fieldText(json, keyField), json);
  if (!isObject(json) || typeof json.key !== "string" || json.value === undefined)
    throw new Error('it is no row {"key": text, "value": JSON}; --key-field takes the key out of the value');
  return newRow(json.key, json.value);
}

const newRow = (key: string, value: JsonValue): NewRow => fromRestJson(NewRowSchema, { key, value }) as NewRow;

const valueText = (row: Row): string => JSON.stringify((toRestJson(RowSchema, row) as { value: JsonValue }).value);

const rowText = (row: Row): string =>
  pairs([
    ["Key", row.key],
    ["Value", valueText(row)],
    ["Updated", row.updatedAt && time(row.updatedAt)],
  ]);

const COLUMNS: readonly Column<Row>[] = [
  { title: "KEY", of: ({ key }) => key },
  { title: "VALUE", of: valueText },
  { title: "UPDATED", of: ({ updatedAt }) => (updatedAt ? time(updatedAt) : "") },
];
