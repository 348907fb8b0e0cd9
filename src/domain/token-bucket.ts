/**
 * An allowance that fills at a steady rate up to a bound. More than the bound may be taken at once when it is full: it is
 * then in debt, and nothing more is to be taken until the rate has paid that off, so on average the rate holds.
 *
 * Time comes in as an argument, in milliseconds of a clock that only goes forward. A `share` from above 0 to 1 is the part
 * of rate and bound that counts here; it may change from call to call.
 */
export class TokenBucket {
  readonly #perMs: number;
  readonly #burst: number;
  #level: number;
  #atMs: number;

  /** @param perSecond above 0. @param burst the bound, above 0: so much is there at first. */
  constructor(perSecond: number, burst: number, nowMs: number) {
    this.#perMs = perSecond / 1000;
    this.#burst = burst;
    this.#level = burst;
    this.#atMs = nowMs;
  }

  /** Milliseconds until so much may be taken; 0: now. A cost of 0 waits for the end of a debt. */
  waitMs(cost: number, nowMs: number, share = 1): number {
    this.#fill(nowMs, share);
    const missing = Math.min(cost, this.#burst * share) - this.#level;
    // Sums of many small parts are not exact.
    return missing <= this.#burst * 1e-9 ? 0 : missing / (this.#perMs * share);
  }

  /** Takes, whether it is there or not. */
  take(cost: number, nowMs: number, share = 1): void {
    this.#fill(nowMs, share);
    this.#level -= cost;
  }

  /** Whether nothing is lost by forgetting it. */
  isFull(nowMs: number, share = 1): boolean {
    this.#fill(nowMs, share);
    return this.#level >= this.#burst * share;
  }

  #fill(nowMs: number, share: number): void {
    const passedMs = Math.max(0, nowMs - this.#atMs);
    this.#level = Math.min(this.#burst * share, this.#level + passedMs * this.#perMs * share);
    this.#atMs = Math.max(this.#atMs, nowMs);
  }
}
