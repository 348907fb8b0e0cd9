import { CliError, Exit } from "./failure.ts";

/** The user's wish to stop: SIGINT or SIGTERM. A second signal ends the process at once. */
export class Interruption {
  readonly #stop = new AbortController();
  #exitCode: number = Exit.SIGINT;

  /** Aborted by the first signal. */
  get signal(): AbortSignal {
    return this.#stop.signal;
  }

  get happened(): boolean {
    return this.#stop.signal.aborted;
  }

  /** What a command ends with that was interrupted before it was done. */
  get exitCode(): number {
    return this.#exitCode;
  }

  /** Begins to listen; without it a signal ends the process as usual. */
  listen(): void {
    for (const [signal, exitCode] of [
      ["SIGINT", Exit.SIGINT],
      ["SIGTERM", Exit.SIGTERM],
    ] as const)
      process.on(signal, () => {
        if (this.happened) process.exit(exitCode);
        this.#exitCode = exitCode;
        this.#stop.abort(new CliError("interrupted", exitCode));
      });
  }

  /** Resolves after a time, or as soon as the user wants to stop. */
  pause(ms: number): Promise<void> {
    if (this.happened) return Promise.resolve();
    return new Promise((resolve) => {
      const over = () => {
        clearTimeout(timer);
        this.signal.removeEventListener("abort", over);
        resolve();
      };
      const timer = setTimeout(over, ms);
      this.signal.addEventListener("abort", over, { once: true });
    });
  }
}
