const SECONDS = 10;

/** Events and their latency over the last ten seconds. */
export class RateMeter {
  readonly #counts = new Array<number>(SECONDS).fill(0);
  readonly #sums = new Array<number>(SECONDS).fill(0);
  #second = Math.floor(performance.now() / 1000);
  #since = performance.now();

  add(latencyMs: number): void {
    const slot = this.#turn();
    this.#counts[slot]!++;
    this.#sums[slot]! += Math.max(0, latencyMs);
  }

  /** Events per second and mean latency in milliseconds. */
  read(): { perSecond: number; latencyMs: number; atMs: number } {
    this.#turn();
    const count = this.#counts.reduce((sum, each) => sum + each, 0);
    const total = this.#sums.reduce((sum, each) => sum + each, 0);
    const seconds = Math.min(SECONDS, Math.max(1, (performance.now() - this.#since) / 1000));
    return { perSecond: count / seconds, latencyMs: count === 0 ? 0 : total / count, atMs: Date.now() };
  }

  #turn(): number {
    const now = Math.floor(performance.now() / 1000);
    if (now - this.#second > SECONDS) this.#since = performance.now();
    for (let passed = Math.min(SECONDS, now - this.#second); passed > 0; passed--) {
      const slot = (now - passed + 1) % SECONDS;
      this.#counts[slot] = 0;
      this.#sums[slot] = 0;
    }
    this.#second = now;
    return now % SECONDS;
  }
}
