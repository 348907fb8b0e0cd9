import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as after } from "node:timers/promises";
import { describe, expect, test } from "vitest";
import { startNats } from "../support/nats.ts";
import { startServiceProcess } from "../support/process.ts";
import { seededRandom } from "../support/random.ts";
import { consume, createStream, produceBatches, produceSingly, type Target } from "./clients.ts";
import { History } from "./history.ts";

/** Kills per run; set FAULT_KILLS for a longer one and FAULT_SEED to repeat one. */
const KILLS = Number(process.env.FAULT_KILLS ?? 12);
const SEED = Number(process.env.FAULT_SEED ?? Math.floor(Math.random() * 2 ** 31));

/** Runs producers and a consumer while `kill` strikes at random moments, then checks what they saw. */
async function run(seed: number, target: Target, kill: (random: () => number) => Promise<void>): Promise<void> {
  const random = seededRandom(seed);
  const history = new History();
  let running = true;
  const isRunning = () => running;
  await createStream(target, "faults", 3);
  const producers = [
    produceSingly(target, "faults", "a", history, isRunning),
    produceSingly(target, "faults", "b", history, isRunning),
    produceBatches(target, "faults", "c", history, isRunning),
    produceBatches(target, "faults", "d", history, isRunning),
  ];
  let producing = true;
  const consumer = consume(target, "faults", "readers", history, () => !producing);
  for (let i = 0; i < KILLS; i++) {
    await after(100 + random() * 900); // the moment of a fault is the input here, not a wait for anything
    await kill(random);
  }
  running = false;
  await Promise.all(producers);
  // Not before: what is on its way at the end may be acknowledged when the reader has seen all there was.
  producing = false;
  await consumer;
  console.log(
    `seed ${seed}: ${history.acked.size} acknowledged, ${history.consumed.size} consumed, ${history.repeats} handed out again`,
  );
  expect(history.violations).toEqual([]);
  expect(history.lost()).toEqual([]);
  expect(history.acked.size).toBeGreaterThan(KILLS);
}

describe(`kill -9 at random moments, seed ${SEED}`, { timeout: 300_000 }, () => {
  test("of the service with its embedded nats-server: nothing acknowledged is lost, nothing committed comes again", async () => {
    const dataDir = await mkdtemp(join(tmpdir(), "millrace-faults-"));
    let service = await startServiceProcess({ MILLRACE_DATA_DIR: dataDir });
    try {
      const target = { url: service.url };
      await run(SEED, target, async () => {
        service.kill("SIGKILL");
        await service.exited;
        service = await startServiceProcess({ MILLRACE_DATA_DIR: dataDir });
        target.url = service.url;
      });
    } finally {
      await service[Symbol.asyncDispose]();
      await rm(dataDir, { recursive: true, force: true });
    }
  });

  test("of a gateway on an outside nats-server, or of that server: the same", async () => {
    await using nats = await startNats();
    let service = await startServiceProcess({ NATS_URL: nats.url });
    try {
      const target = { url: service.url };
      await run(SEED + 1, target, async (random) => {
        if (random() < 0.5) {
          service.kill("SIGKILL");
          await service.exited;
          service = await startServiceProcess({ NATS_URL: nats.url });
          target.url = service.url;
        } else {
          await nats.kill("SIGKILL");
          await after(random() * 500);
          await nats.restart();
        }
      });
    } finally {
      await service[Symbol.asyncDispose]();
    }
  });

  test("of one of two gateways that callers use in turn: the same", async () => {
    await using nats = await startNats();
    const services = [
      await startServiceProcess({ NATS_URL: nats.url }),
      await startServiceProcess({ NATS_URL: nats.url }),
    ];
    try {
      let turn = 0;
      const target: Target = {
        get url() {
          return services[turn++ % services.length]!.url;
        },
      };
      await run(SEED + 2, target, async (random) => {
        const index = random() < 0.5 ? 0 : 1;
        services[index]!.kill("SIGKILL");
        await services[index]!.exited;
        services[index] = await startServiceProcess({ NATS_URL: nats.url });
      });
    } finally {
      await Promise.all(services.map((service) => service[Symbol.asyncDispose]()));
    }
  });
});
