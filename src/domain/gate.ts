/** Lets so many tasks run at a time; the others wait for their turn, in the order they came. */
export class Gate {
  readonly #limit: number;
  readonly #patienceMs: number;
  readonly #waiting: (() => void)[] = [];
  #running = 0;

  /**
   * @param limit from 1.
   * @param patienceMs a task that takes longer gives up its place, and goes on.
   */
  constructor(limit: number, patienceMs = Number.POSITIVE_INFINITY) {
    this.#limit = limit;
    this.#patienceMs = patienceMs;
  }

  async run<T>(task: () => Promise<T>): Promise<T> {
    // Whoever leaves hands its place on, so that nobody comes in between.
    if (this.#running >= this.#limit) await new Promise<void>((resolve) => this.#waiting.push(resolve));
    else this.#running++;
    let isOut = false;
    const leave = () => {
      if (isOut) return;
      isOut = true;
      const next = this.#waiting.shift();
      if (next) next();
      else this.#running--;
    };
    const timer = this.#patienceMs < Number.POSITIVE_INFINITY ? setTimeout(leave, this.#patienceMs) : undefined;
    try {
      return await task();
    } finally {
      clearTimeout(timer);
      leave();
    }
  }
}
