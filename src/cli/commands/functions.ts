import type { JsonObject } from "@bufbuild/protobuf";
import { Command } from "commander";
import {
  FunctionOriginSchema,
  type NamedFunction,
  NamedFunctionSchema,
  PutFunctionRequestSchema,
} from "../../../gen/millrace/v1/functions_pb.js";
import { enumWord, toRestJson } from "../../transport/json.ts";
import { confirm } from "../confirm.ts";
import { allPages, contextOf } from "../context.ts";
import { time } from "../format.ts";
import { requestFrom } from "../request-file.ts";
import { type Column, pairs, printable } from "../table.ts";

const PUT_EXAMPLES = `
The file holds what PUT /api/v1/functions/{name} takes.

Examples:
  $ echo '{"cel":{"merge":{"total":"value.price * value.amount"}}}' | millrace functions put withTotal -f -
  $ echo '{"lookup":{"table":"users","key":"userId","into":"user","onMissing":"null"}}' | millrace functions put withUser -f -
`;

/** `millrace functions`: what the maps of processors call by name. */
export function functionsCommand(): Command {
  const functions = new Command("functions").description("list, describe, put and delete named functions");
  functions.command("list").description("all functions: shipped, installed, and modules").action(list);
  functions.command("describe").description("one function").argument("<name>").action(describe);
  functions
    .command("put")
    .description("install a function; processors take it when they are created or updated")
    .argument("<name>")
    .requiredOption("-f, --file <path>", "JSON; - is standard input")
    .addHelpText("after", PUT_EXAMPLES)
    .action(put);
  functions
    .command("delete")
    .description("delete an installed function; processors keep the version that they have")
    .argument("<name>")
    .option("-y, --yes", "do not ask")
    .action(remove);
  return functions;
}

async function list(_options: object, command: Command): Promise<void> {
  const { api, call, out } = contextOf(command);
  const all = await allPages(async (pageToken) => {
    const page = { pageSize: 1000, ...(pageToken === undefined ? {} : { pageToken }) };
    const answer = await api.functions.listFunctions(page, call);
    return { items: answer.functions, next: answer.nextPageToken };
  });
  await out.list(NamedFunctionSchema, all, COLUMNS, "There are no functions.");
}

async function describe(name: string, _options: object, command: Command): Promise<void> {
  const { api, call, out } = contextOf(command);
  const answer = await api.functions.getFunction({ name }, call);
  await out.one(NamedFunctionSchema, answer.function!, functionText);
}

async function put(name: string, { file }: { file: string }, command: Command): Promise<void> {
  const { api, call, out } = contextOf(command);
  const request = await requestFrom(PutFunctionRequestSchema, file, { name });
  const answer = await api.functions.putFunction(request, call);
  await out.one(NamedFunctionSchema, answer.function!, functionText);
}

async function remove(name: string, { yes }: { yes?: boolean }, command: Command): Promise<void> {
  const { api, call, out, interruption } = contextOf(command);
  await confirm(`Delete function "${name}"?`, yes, interruption.signal);
  await api.functions.deleteFunction({ name }, call);
  if (!out.isJson) await out.line(`Deleted function "${printable(name)}".`);
}

const originWord = ({ origin }: NamedFunction): string => String(enumWord(FunctionOriginSchema, origin));

function functionText(known: NamedFunction): string {
  const json = toRestJson(NamedFunctionSchema, known) as JsonObject;
  const kind = known.body.case ?? "cel";
  return pairs([
    ["Function", known.name],
    ["Version", known.version],
    ["Origin", originWord(known)],
    ["Kind", kind],
    ["Body", JSON.stringify(json[kind])],
    ["Installed", known.installedAt && time(known.installedAt)],
  ]);
}

const COLUMNS: readonly Column<NamedFunction>[] = [
  { title: "FUNCTION", of: ({ name }) => name },
  { title: "KIND", of: ({ body }) => body.case ?? "" },
  { title: "ORIGIN", of: originWord },
  { title: "VERSION", of: ({ version }) => version },
];
