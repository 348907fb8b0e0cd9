import { Command, CommanderError, Option } from "commander";
import { VERSION } from "../version.ts";
import { consumeCommand } from "./commands/consume.ts";
import { functionsCommand } from "./commands/functions.ts";
import { groupsCommand } from "./commands/groups.ts";
import { keysCommand } from "./commands/keys.ts";
import { processorsCommand } from "./commands/processors.ts";
import { publishCommand } from "./commands/publish.ts";
import { serveCommand } from "./commands/serve.ts";
import { streamsCommand } from "./commands/streams.ts";
import { tablesCommand } from "./commands/tables.ts";
import { topCommand } from "./commands/top.ts";
import { Exit, failureOf, failureText } from "./failure.ts";
import { printable } from "./table.ts";

const EXAMPLES = `
Examples:
  $ millrace serve                                          start a service with its own storage
  $ millrace streams create orders --partitions 4
  $ millrace publish orders '{"user":"u1","amount":42}' --key u1
  $ millrace consume orders --follow                        watch events as they come
  $ millrace consume orders --group billing --commit        read on where the group was
  $ millrace groups describe billing                        how far behind it is
  $ millrace top                                            all of it, live

Results are tables on a terminal, and JSON lines in a pipe: millrace streams list | jq .name
"millrace help publish" and so on tell more of each command.

Exit codes:
  0 done  1 failed  2 wrong usage  3 not found  4 refused by the service  5 not allowed
  6 out of reach, busy or timed out: try again  7 some events failed  130 interrupted
`;

/** @param isJson leaves it to the caller to tell of wrong usage. */
function createProgram(isJson: boolean): Command {
  const program = new Command("millrace");
  program
    .description("Event streams over HTTP and gRPC, stored in NATS JetStream: the service and its command line.")
    .version(VERSION)
    .addOption(new Option("--url <url>", "where the service is").env("MILLRACE_URL").default("http://127.0.0.1:8080"))
    .addOption(new Option("--api-key <key>", "sent as a bearer token").env("MILLRACE_API_KEY"))
    .addOption(new Option("--json", "JSON lines, also on a terminal").conflicts("table"))
    .addOption(new Option("--table", "tables, also in a pipe"))
    .addHelpText("after", EXAMPLES)
    .showHelpAfterError("(add --help for options and examples)")
    .configureHelp({ showGlobalOptions: true });
  if (isJson) program.configureOutput({ writeErr: () => {} });
  for (const command of [
    serveCommand(),
    streamsCommand(),
    publishCommand(),
    consumeCommand(),
    groupsCommand(),
    processorsCommand(),
    functionsCommand(),
    tablesCommand(),
    keysCommand(),
    topCommand(),
  ])
    program.addCommand(command);
  for (const command of descendants(program)) {
    command.exitOverride().copyInheritedSettings(program);
  }
  return program;
}

function descendants(command: Command): Command[] {
  return [command, ...command.commands.flatMap(descendants)];
}

/** Runs one command. @returns the process's exit code. */
async function run(argv: readonly string[]): Promise<number> {
  // Before the options are read, for they may be what is wrong.
  const wantsJson = argv.includes("--json");
  const program = createProgram(wantsJson);
  try {
    await program.parseAsync(argv);
    return Number(process.exitCode ?? Exit.DONE);
  } catch (error) {
    if (error instanceof CommanderError) {
      if (error.exitCode === 0) return Exit.DONE;
      // Without --json commander has written its help or its complaint already.
      if (wantsJson) console.error(JSON.stringify({ error: { description: usageText(error) } }));
      return Exit.USAGE;
    }
    if (isClosedPipe(error)) return Exit.DONE;
    const failure = failureOf(error);
    const { exitCode, ...told } = failure;
    const isJson = program.opts<{ json?: boolean }>().json === true;
    console.error(isJson ? JSON.stringify({ error: told }) : `millrace: ${printable(failureText(failure))}`);
    return exitCode;
  }
}

const usageText = ({ code, message }: CommanderError): string =>
  code === "commander.help" ? "a command is missing: see --help" : message.replace(/^error: /, "").trim();

/** Whether the reader of the output has gone, as `head` does when it has enough. */
const isClosedPipe = (error: unknown): boolean => (error as NodeJS.ErrnoException | undefined)?.code === "EPIPE";

// Set to nothing is not set, as for the settings of the service.
if (process.env.MILLRACE_URL?.trim() === "") delete process.env.MILLRACE_URL;
// A write that fails says so to whoever waits for it; without a listener the stream would end the process.
for (const stream of [process.stdout, process.stderr]) stream.on("error", () => {});
process.exit(await run(process.argv));
