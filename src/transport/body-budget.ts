import type { IncomingMessage } from "node:http";
import type { FastifyInstance } from "fastify";
import type { ServiceError } from "../domain/errors.ts";
import { unavailable } from "../domain/errors.ts";
import { MAX_REQUEST_BYTES } from "../domain/limits.ts";

const BUDGET = Symbol("budget");

/** A request that may have a body. Kept on it: a map of all of them would cost more than all else that is done here. */
type Budgeted = IncomingMessage & { [BUDGET]?: RequestBudget };

/** What one request holds of a {@link BodyBudget}. */
class RequestBudget {
  readonly #of: BodyBudget;
  #bytes = 0;
  counted: ((bytes: number) => void) | undefined;

  constructor(of: BodyBudget) {
    this.#of = of;
  }

  take(bytes: number): ServiceError | undefined {
    if (this.#of.heldBytes + bytes > this.#of.maxBytes) return this.#of.refusal();
    this.#bytes += bytes;
    this.#of.heldBytes += bytes;
    this.counted?.(bytes);
    return undefined;
  }

  giveBack(): void {
    this.#of.heldBytes -= this.#bytes;
    this.#bytes = 0;
  }
}

/**
 * Bounds the bytes of request bodies that the service holds at once, from when they are read until the answer is out. What
 * goes beyond is refused as UNAVAILABLE while there still is memory to say so.
 */
export class BodyBudget {
  readonly maxBytes: number;
  heldBytes = 0;
  /** Requests refused since the process began. */
  refused = 0;

  /** @param maxBytes at least `MAX_REQUEST_BYTES`, or some requests could never be taken. */
  constructor(maxBytes: number) {
    this.maxBytes = maxBytes;
  }

  /** Follows every request of `app` that may have a body; one that says its length is refused before it is read. */
  attach(app: FastifyInstance): void {
    app.addHook("onRequest", (req, _reply, done) => {
      if (req.method === "GET" || req.method === "HEAD") return done();
      const declared = Number(req.headers["content-length"] ?? 0);
      // A length that no body may have is refused for itself, whatever is held.
      const least = declared > 0 && declared <= MAX_REQUEST_BYTES ? declared : 1;
      if (this.heldBytes + least > this.maxBytes) return done(this.refusal());
      (req.raw as Budgeted)[BUDGET] = new RequestBudget(this);
      done();
    });
  }

  /** To be called when the connection is done with a request. */
  end(req: IncomingMessage): void {
    (req as Budgeted)[BUDGET]?.giveBack();
  }

  refusal(): ServiceError {
    this.refused++;
    return unavailable("the service holds as many requests as it may; try again");
  }
}

/** Counts bytes of a body that are kept. @returns why they must not be, if so. */
export function takeBodyBytes(req: IncomingMessage, bytes: number): ServiceError | undefined {
  return (req as Budgeted)[BUDGET]?.take(bytes);
}

/** Tells `count` of the bytes of a request's body as they are taken. */
export function countBodyBytes(req: IncomingMessage, count: (bytes: number) => void): void {
  const budget = (req as Budgeted)[BUDGET];
  if (budget) budget.counted = count;
}
