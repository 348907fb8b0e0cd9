import "./tick-shape.ts";
import { once } from "node:events";
import { type Logger, pino } from "pino";
import { type Config, loadConfig, SettingsError } from "./config.ts";
import { startServer } from "./server.ts";

/** The process: settings in, the service up, SIGTERM and SIGINT drain it; a second signal ends at once. */
async function main(): Promise<void> {
  const config = readConfig();
  const logger = pino({ level: config.logLevel }, pino.destination({ dest: 2, sync: true }));
  const stop = new AbortController();
  for (const signal of ["SIGTERM", "SIGINT"] as const)
    process.on(signal, () => {
      if (stop.signal.aborted) process.exit(1);
      logger.info({ signal }, "draining");
      stop.abort();
    });

  // A fault of Millrace's own, which must not end everybody's calls.
  process.on("unhandledRejection", (error) => logger.error({ err: error }, "a failure that nothing waited for"));

  try {
    const server = await startServer(config, logger, process.env, stop.signal);
    console.log(`Millrace listens on ${server.url}`);
    if (!stop.signal.aborted) await once(stop.signal, "abort");
    await server[Symbol.asyncDispose]();
    process.exit(0);
  } catch (error) {
    // It was told to end before it was up.
    if (error === stop.signal.reason) process.exit(0);
    fail(error as Error, logger);
  }
}

function readConfig(): Config {
  try {
    return loadConfig(process.env);
  } catch (error) {
    console.error((error as Error).message);
    process.exit(2);
  }
}

function fail(error: Error, logger: Logger): never {
  if (error instanceof SettingsError) {
    console.error(error.message);
    process.exit(2);
  }
  // A port that is taken and the like are told in words; where in the code it was found out is for those who look for it.
  logger.fatal(error.message);
  logger.debug({ err: error }, "the failure in full");
  process.exit(1);
}

await main();
