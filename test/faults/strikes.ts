import { setTimeout as span } from "node:timers/promises";
import { Calls } from "../processing/calls.ts";
import type { TestNats } from "../support/nats.ts";
import { type SpawnedService, spawnService } from "../support/process.ts";
import type { Chance } from "../support/random.ts";
import { eventually } from "../support/wait.ts";

/** What befalls services. All but `SIGTERM` and `pause` are kills. */
export type Strike = "SIGKILL" | "SIGSTOP" | "nats" | "SIGTERM" | "pause";

const KINDS: readonly Strike[] = Object.entries({ SIGKILL: 9, SIGSTOP: 6, nats: 5, SIGTERM: 1, pause: 2 }).flatMap(
  ([kind, weight]) => Array<Strike>(weight).fill(kind as Strike),
);
const CALL_MS = 3000;
/** Pausing and resuming wait for a while until the processor is as it should be. */
const PAUSE_MS = 10_000;
const CALM_MS = 60_000;

/** A place for a service process: when that is gone another one is started at once. */
class Place {
  readonly #env: Record<string, string>;
  readonly spawned: SpawnedService[] = [];
  /** Undefined while it starts. */
  url: string | undefined;
  isAsleep = false;
  /** Ends that nothing had brought about. */
  readonly faults: string[] = [];

  constructor(env: Record<string, string>) {
    this.#env = env;
    this.start();
  }

  get service(): SpawnedService {
    return this.spawned.at(-1)!;
  }

  start(): void {
    const service = spawnService(this.#env);
    this.spawned.push(service);
    this.url = undefined;
    this.isAsleep = false;
    service.listening.then(
      (url) => {
        if (this.service === service) this.url = url;
      },
      // The storage may go away while it starts: whoever runs it starts it again.
      () => this.service === service && this.start(),
    );
    void service.exited.then((code) => {
      if (this.service === service && this.url !== undefined) this.faults.push(`a service ended by itself: ${code}`);
    });
  }
}

/** Two service processes over one nats-server, to be struck. Disposing it ends the processes. */
export class Victims implements AsyncDisposable {
  readonly #nats: TestNats;
  readonly #chance: Chance;
  readonly #places: readonly Place[];
  /** What strikes have begun and not ended. */
  readonly #open = new Map<Promise<void>, string>();
  readonly #paused = new Set<string>();
  readonly #faults: string[] = [];
  #natsIsDown = false;
  #turns = 0;
  readonly counts: Record<Strike, number> = { SIGKILL: 0, SIGSTOP: 0, nats: 0, SIGTERM: 0, pause: 0 };

  constructor(nats: TestNats, env: Record<string, string>, chance: Chance) {
    this.#nats = nats;
    this.#chance = chance;
    this.#places = [new Place(env), new Place(env)];
  }

  get kills(): number {
    return this.counts.SIGKILL + this.counts.SIGSTOP + this.counts.nats;
  }

  get #areUp(): boolean {
    return this.#places.every(({ url }) => url !== undefined);
  }

  /** What should not have happened, whatever was struck. */
  get faults(): string[] {
    return [...this.#faults, ...this.#places.flatMap(({ faults }) => faults)];
  }

  /** Makes a call at one service after the other until one answers. @throws Error of a refusal (4xx), or the last one. */
  async call<T>(work: (calls: Calls) => Promise<T>, callMs = CALL_MS): Promise<T> {
    let failure: unknown = new Error("no service is up");
    for (const end = performance.now() + CALM_MS; performance.now() < end; await span(50)) {
      const up = this.#places.filter(({ url, isAsleep }) => url !== undefined && !isAsleep);
      if (up.length === 0) continue;
      try {
        return await work(new Calls(up[this.#turns++ % up.length]!.url!, callMs));
      } catch (error) {
        if (/: 4\d\d /.test(String(error))) throw error;
        failure = error;
      }
    }
    throw failure;
  }

  /** Has one thing befall one service, nats-server or one of the processors; does not wait for the end of it. */
  async strike(processors: readonly string[]): Promise<void> {
    const chance = this.#chance;
    const place = chance.pick(this.#places);
    const processor = chance.pick(processors);
    // Some sleep for longer than others wait for them.
    const lengthMs = chance.in(0.3) ? 5500 + chance.below(4000) : chance.below(1500);
    // Mostly what is killed had something to do.
    const evenStarting = chance.in(0.2);
    const impossible: Partial<Record<Strike, boolean>> = {
      SIGSTOP: place.isAsleep,
      nats: this.#natsIsDown,
      pause: this.#paused.has(processor),
    };
    const kind = chance.pick(KINDS.filter((each) => !impossible[each]));
    if ((kind === "SIGKILL" || kind === "SIGTERM") && !evenStarting)
      await eventually("both services are up", () => this.#areUp, CALM_MS);
    this.counts[kind]++;
    if (kind === "SIGKILL") kill(place);
    else if (kind === "SIGSTOP") this.#follow(kind, sleep(place, lengthMs));
    else if (kind === "SIGTERM") this.#follow(kind, leave(place));
    else if (kind === "pause") this.#follow(kind, this.#pause(processor, lengthMs / 4));
    else this.#follow(kind, this.#stopNats(lengthMs / 4));
  }

  /** Waits until all that strikes have begun has ended, and both services are up. */
  async calm(): Promise<void> {
    await eventually("the end of all strikes", () => this.#open.size === 0 && this.#areUp, CALM_MS).catch(
      (error: Error) => {
        throw new Error(`${error.message}: ${[...this.#open.values(), ...this.faults].join(", ")}`);
      },
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const spawned = this.#places.flatMap((place) => place.spawned);
    for (const service of spawned.reverse()) service.kill("SIGKILL");
    await Promise.all(spawned.map(({ exited }) => exited));
  }

  #follow(kind: Strike, work: Promise<void>): void {
    const ended = work
      .catch((error) => void this.#faults.push(`${kind}: ${error}`))
      .then(() => void this.#open.delete(ended));
    this.#open.set(ended, kind);
  }

  async #pause(processor: string, lengthMs: number): Promise<void> {
    this.#paused.add(processor);
    await this.call((calls) => calls.ok("POST", `/processors/${processor}/pause`), PAUSE_MS);
    await span(lengthMs);
    await this.call((calls) => calls.ok("POST", `/processors/${processor}/resume`), PAUSE_MS);
    this.#paused.delete(processor);
  }

  async #stopNats(lengthMs: number): Promise<void> {
    this.#natsIsDown = true;
    await this.#nats.kill("SIGKILL");
    await span(lengthMs);
    await this.#nats.restart();
    this.#natsIsDown = false;
  }
}

function kill(place: Place): void {
  place.service.kill("SIGKILL");
  place.start();
}

async function sleep(place: Place, lengthMs: number): Promise<void> {
  const { service } = place;
  service.kill("SIGSTOP");
  place.isAsleep = true;
  await span(lengthMs);
  service.kill("SIGCONT");
  if (place.service === service) place.isAsleep = false;
}

/** A process that is told to go has another one beside it until it is gone. */
async function leave(place: Place): Promise<void> {
  const { service } = place;
  place.start();
  service.kill("SIGTERM");
  await service.exited;
}
