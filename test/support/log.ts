import { pino } from "pino";
import type { Owner } from "../../src/domain/quota.ts";
import { connectJetStream, type JetStream } from "../../src/jetstream/connection.ts";
import { Appender } from "../../src/log/append.ts";
import { Catalog } from "../../src/log/catalog.ts";
import { Groups } from "../../src/log/groups.ts";

/** Whose everything is here. */
export const TESTER: Owner = { id: "tester" };

const logger = pino({ level: "silent" });

/** A gateway's log, without a listener. Disposing it says goodbye, as a gateway does that drains. */
export interface Log extends AsyncDisposable {
  readonly js: JetStream;
  readonly groups: Groups;
  readonly catalog: Catalog;
  readonly appender: Appender;
}

export async function openLog(url: string, ackWaitMs = 30_000): Promise<Log> {
  const js = await connectJetStream({ url, log: logger });
  const appender = new Appender(js);
  const groups: Groups = await Groups.open(js, {
    replicas: 1,
    defaults: { ackWaitMs, sessionTimeoutMs: 30_000 },
    log: logger,
    hasStream: (name, id) => catalog.known(name)?.id === id,
    deadLetters: { appender, findStream: (name, deadline) => catalog.find(name, deadline) },
  });
  const catalog: Catalog = await Catalog.open(js, 1, groups.gateways, (stream, deadline) =>
    groups.forgetStream(stream, deadline),
  );
  return {
    js,
    groups,
    catalog,
    appender,
    async [Symbol.asyncDispose]() {
      await catalog[Symbol.asyncDispose]();
      await groups[Symbol.asyncDispose]();
      await js[Symbol.asyncDispose]();
    },
  };
}
