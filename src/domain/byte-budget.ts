import { type ServiceError, unavailable } from "./errors.ts";

/** Counts bytes that are held at once against a bound, which may be passed by what was begun before it was reached. */
export class ByteBudget {
  readonly maxBytes: number;
  heldBytes = 0;
  /** Calls refused since the process began. */
  refused = 0;

  constructor(maxBytes: number) {
    this.maxBytes = maxBytes;
  }

  get isFull(): boolean {
    return this.heldBytes >= this.maxBytes;
  }

  /** To be disposed of when nothing is held any more. */
  hold(): Holding {
    return new Holding(this);
  }

  /** To be thrown to who is refused. */
  refusal(what: string): ServiceError {
    this.refused++;
    return unavailable(`the service holds as many ${what} as it may; try again`);
  }
}

/** What one call holds of a {@link ByteBudget}. */
export class Holding implements Disposable {
  readonly #of: ByteBudget;
  #bytes = 0;

  constructor(of: ByteBudget) {
    this.#of = of;
  }

  /** @param bytes below 0: so many are held no more. */
  take(bytes: number): void {
    this.#bytes += bytes;
    this.#of.heldBytes += bytes;
  }

  /** Whether nobody should hold more. */
  get isFull(): boolean {
    return this.#of.isFull;
  }

  [Symbol.dispose](): void {
    this.#of.heldBytes -= this.#bytes;
    this.#bytes = 0;
  }
}
