import "./tick-shape.ts";
import { pino } from "pino";
import { type Config, loadConfig } from "./config.ts";
import { startServer } from "./server.ts";

/** The process: settings in, the service up, SIGTERM and SIGINT drain it; a second signal ends at once. */
async function main(): Promise<void> {
  let config: Config;
  try {
    config = loadConfig(process.env);
  } catch (error) {
    console.error((error as Error).message);
    process.exit(2);
  }
  const logger = pino({ level: config.logLevel }, pino.destination({ dest: 2, sync: true }));
  const stop = Promise.withResolvers<void>();
  let signals = 0;
  for (const signal of ["SIGTERM", "SIGINT"] as const)
    process.on(signal, () => {
      if (++signals > 1) process.exit(1);
      logger.info({ signal }, "draining");
      stop.resolve();
    });

  try {
    const server = await startServer(config, logger, process.env);
    console.log(`Millrace listens on ${server.url}`);
    await stop.promise;
    await server[Symbol.asyncDispose]();
    process.exit(0);
  } catch (error) {
    logger.fatal({ err: error }, (error as Error).message);
    process.exit(1);
  }
}

await main();
