import { setTimeout as after } from "node:timers/promises";
import { expect, test } from "vitest";
import { mapLimit } from "../../src/domain/map-limit.ts";
import { protocols } from "../support/clients.ts";
import type { Observation } from "../support/member-model.ts";
import { startNats } from "../support/nats.ts";
import { type ServiceProcess, startServiceProcess } from "../support/process.ts";
import { seededRandom } from "../support/random.ts";
import { type Gateway, runHistory } from "./member-history.ts";

/** Histories of a run; MEMBER_SEED with MEMBER_HISTORIES=1 makes the one of a printed seed again. */
const HISTORIES = Number(process.env.MEMBER_HISTORIES ?? 500);
const SEED = Number(process.env.MEMBER_SEED ?? Math.floor(Math.random() * 2 ** 30));
const AT_ONCE = 24;
const SESSION_TIMEOUT_MS = 400;
const SETTINGS = { MILLRACE_SESSION_TIMEOUT_MS: String(SESSION_TIMEOUT_MS), MILLRACE_ACK_WAIT_MS: "300" };
const SPOKEN = protocols.filter(({ name }) => ["REST over HTTP/1.1", "gRPC"].includes(name));

/** A gateway that can be killed and comes back at the same address. */
class MortalGateway implements Gateway, AsyncDisposable {
  readonly url: string;
  readonly apis: Gateway["apis"];
  readonly #env: Record<string, string>;
  #process: ServiceProcess;

  private constructor(env: Record<string, string>, process: ServiceProcess) {
    this.url = process.url;
    this.#env = { ...env, PORT: new URL(process.url).port };
    this.#process = process;
    this.apis = SPOKEN.map(({ connect }) => connect(process.url));
  }

  static async start(natsUrl: string): Promise<MortalGateway> {
    const env = { ...SETTINGS, NATS_URL: natsUrl, MILLRACE_ROLE: "gateway" };
    return new MortalGateway(env, await startServiceProcess(env));
  }

  async kill(): Promise<void> {
    this.#process.kill("SIGKILL");
    await this.#process.exited;
  }

  async restart(): Promise<void> {
    this.#process = await startServiceProcess(this.#env);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const api of this.apis) await api[Symbol.asyncDispose]();
    await this.#process[Symbol.asyncDispose]();
  }
}

/** An observation on a line. */
function told(seen: Observation): string {
  const line = `${seen.from}-${seen.to} ${seen.member} ${seen.kind}`;
  if (seen.kind === "poll lost") return line;
  if (seen.kind === "leave") return `${line} ${seen.outcome}`;
  if (seen.kind === "commit") return `${line} ${seen.partition}/${seen.offset} in ${seen.generation}: ${seen.outcome}`;
  const events = seen.events.map(({ partition, offset }) => `${partition}/${offset}`);
  return `${line} in ${seen.generation} of [${seen.assignment}]: ${events.join(" ")}`;
}

test(`${HISTORIES} histories of members on two gateways that are killed keep to the model, from seed ${SEED}`, {
  timeout: 900_000,
}, async () => {
  await using nats = await startNats();
  await using one = await MortalGateway.start(nats.url);
  await using two = await MortalGateway.start(nats.url);
  const gateways = [one, two];
  let running = true;
  let kills = 0;
  const killing = (async () => {
    const random = seededRandom(SEED);
    while (running) {
      await after(500 + random() * 2000); // the moment of a fault is the input here, not a wait for anything
      const gateway = gateways[Math.floor(random() * 2)]!;
      await gateway.kill();
      kills++;
      await after(random() * SESSION_TIMEOUT_MS);
      await gateway.restart();
    }
  })();
  const seeds = Array.from({ length: HISTORIES }, (_, i) => SEED + i);
  const counts = { polls: 0, accepted: 0, refused: 0, lost: 0 };
  const broken = await mapLimit(seeds, AT_ONCE, async (seed) => {
    const { violations, seen } = await runHistory(seed, { gateways, sessionTimeoutMs: SESSION_TIMEOUT_MS }).catch(
      (error: unknown) => ({ violations: [String(error)], seen: [] }),
    );
    for (const each of seen) {
      if (each.kind === "poll") counts.polls++;
      else if (each.kind === "poll lost") counts.lost++;
      else if (each.kind === "commit" && each.outcome !== "unknown") counts[each.outcome]++;
    }
    if (violations.length === 0) return [];
    console.log(`${seed}\n${seen.map(told).join("\n")}`);
    return violations.map((violation) => `MEMBER_SEED=${seed} MEMBER_HISTORIES=1: ${violation}`);
  });
  running = false;
  await killing;
  console.log(`seed ${SEED}: ${HISTORIES} histories, ${kills} kills, ${JSON.stringify(counts)}`);
  expect(broken.flat()).toEqual([]);
  expect(counts.refused).toBeGreaterThan(0);
});
