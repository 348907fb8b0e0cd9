/** Most milliseconds between commits while events come; while they don't, the least. */
const BUSY_COMMIT_MS = 1000;
const REST_COMMIT_MS = 50;
const STATE_COMMIT_MS = 500;
/** Commits take at most about a fifth of the time. */
const COMMIT_SHARE = 4;
/** Longest sleep without another look. */
const MAX_SLEEP_MS = 1000;

/** When a lane commits: soon when others wait for it, seldom while events come, and never more than its share of the time. */
export class CommitPace {
  #events = false;
  #state = false;
  #committedAt = 0;
  #commitMs = 5;
  #wake: (() => void) | undefined;
  /** How many commits were stored, and how long they were on their way together. */
  readonly total = { commits: 0, commitMs: 0 };
  /** Everything that the source holds is processed. */
  atEnd = false;

  /** Something is to be committed: progress in the source, or in the window state. */
  note(what: "events" | "state"): void {
    if (what === "state") this.#state = true;
    else this.#events = true;
    this.wake();
  }

  wake(): void {
    this.#wake?.();
  }

  /** Milliseconds until a commit is worth its while; infinite when nothing is to be committed. @param urgent others wait for it. */
  dueInMs(urgent: boolean): number {
    const since = performance.now() - this.#committedAt;
    const rest = (ms: number) => Math.max(0, Math.max(ms, this.#commitMs * COMMIT_SHARE) - since);
    if (urgent) return rest(0);
    if (this.#events) return rest(this.atEnd ? REST_COMMIT_MS : BUSY_COMMIT_MS);
    return this.#state ? rest(STATE_COMMIT_MS) : Number.POSITIVE_INFINITY;
  }

  /** Waits so long, or until woken. */
  async sleep(ms: number): Promise<void> {
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, Math.min(ms, MAX_SLEEP_MS));
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
    this.#wake = undefined;
  }

  /** A commit begins; what is noted from here on is for the next. @returns to be called when it is stored. */
  begin(): () => void {
    const began = performance.now();
    this.#events = false;
    this.#state = false;
    return () => {
      this.#committedAt = performance.now();
      this.#commitMs = this.#committedAt - began;
      this.total.commits++;
      this.total.commitMs += this.#commitMs;
    };
  }
}
