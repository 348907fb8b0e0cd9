import { Command, Option } from "commander";
import { duration, wholeNumber } from "../values.ts";

/** Options of `serve` and the settings that they stand for. */
const SETTINGS: readonly { readonly option: Option; readonly variable: string }[] = [
  { option: new Option("--port <n>", "0 takes any free one").argParser(wholeNumber(0, 65_535)), variable: "PORT" },
  { option: new Option("--host <address>", "address to listen on"), variable: "HOST" },
  { option: new Option("--nats <urls>", "NATS servers to use instead of the embedded one"), variable: "NATS_URL" },
  { option: new Option("--data-dir <path>", "where the embedded store is kept"), variable: "MILLRACE_DATA_DIR" },
  { option: new Option("--fsync <when>", "always, or a span such as 1s"), variable: "MILLRACE_FSYNC" },
  {
    option: new Option("--drain <span>", "how long calls may take to end after SIGTERM").argParser(duration),
    variable: "MILLRACE_DRAIN_MS",
  },
  { option: new Option("--tls-cert <file>", "PEM file"), variable: "MILLRACE_TLS_CERT" },
  { option: new Option("--tls-key <file>", "PEM file"), variable: "MILLRACE_TLS_KEY" },
  { option: new Option("--log-level <level>", "fatal to trace, or silent"), variable: "MILLRACE_LOG_LEVEL" },
];

/** `millrace serve`: the service in this process, until a signal ends it. */
export function serveCommand(): Command {
  const serve = new Command("serve").description(
    "run the service, with storage of its own unless --nats names another",
  );
  for (const { option } of SETTINGS) serve.addOption(option);
  return serve
    .addHelpText(
      "after",
      `
Every setting can be given in the environment too, and an option comes before it: ${SETTINGS.map(({ variable }) => variable).join(", ")}.
The README has the table. SIGTERM and SIGINT let calls end and then exit with 0; a second signal ends at once.

Examples:
  $ millrace serve
  $ millrace serve --port 9000 --data-dir /var/lib/millrace --fsync always
  $ millrace serve --nats nats://a:4222,nats://b:4222,nats://c:4222
`,
    )
    .action(async (options: Record<string, string | number>) => {
      for (const { option, variable } of SETTINGS) {
        const value = options[option.attributeName()];
        if (value !== undefined) process.env[variable] = String(value);
      }
      // Loaded here alone: no other command needs what the service imports.
      await import("../../main.ts");
    });
}
