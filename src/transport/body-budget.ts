import type { IncomingMessage } from "node:http";
import type { FastifyInstance } from "fastify";
import { ByteBudget, Holding } from "../domain/byte-budget.ts";
import type { ServiceError } from "../domain/errors.ts";
import { MAX_REQUEST_BYTES } from "../domain/limits.ts";

const BUDGET = Symbol("budget");

/** A request that may have a body. Kept on it: a map of all of them would cost more than all else that is done here. */
type Budgeted = IncomingMessage & { [BUDGET]?: RequestBudget };

/** What one request holds of a {@link BodyBudget}. */
class RequestBudget extends Holding {
  readonly #of: BodyBudget;
  counted: ((bytes: number) => void) | undefined;

  constructor(of: BodyBudget) {
    super(of);
    this.#of = of;
  }

  /** @returns why the bytes must not be kept, if so. */
  tryTake(bytes: number): ServiceError | undefined {
    if (this.#of.heldBytes + bytes > this.#of.maxBytes) return this.#of.refusal("requests");
    this.take(bytes);
    this.counted?.(bytes);
    return undefined;
  }
}

/**
 * Bounds the bytes of request bodies that the service holds at once, from when they are read until the answer is out. What
 * goes beyond is refused as UNAVAILABLE while there still is memory to say so.
 */
export class BodyBudget extends ByteBudget {
  /** Follows every request of `app` that may have a body; one that says its length is refused before it is read. */
  attach(app: FastifyInstance): void {
    app.addHook("onRequest", (req, _reply, done) => {
      if (req.method === "GET" || req.method === "HEAD") return done();
      const declared = Number(req.headers["content-length"] ?? 0);
      // A length that no body may have is refused for itself, whatever is held.
      const least = declared > 0 && declared <= MAX_REQUEST_BYTES ? declared : 1;
      if (this.heldBytes + least > this.maxBytes) return done(this.refusal("requests"));
      (req.raw as Budgeted)[BUDGET] = new RequestBudget(this);
      done();
    });
  }

  /** To be called when the connection is done with a request. */
  end(req: IncomingMessage): void {
    (req as Budgeted)[BUDGET]?.[Symbol.dispose]();
  }
}

/** Counts bytes of a body that are kept. @returns why they must not be, if so. */
export function takeBodyBytes(req: IncomingMessage, bytes: number): ServiceError | undefined {
  return (req as Budgeted)[BUDGET]?.tryTake(bytes);
}

/** Tells `count` of the bytes of a request's body as they are taken. */
export function countBodyBytes(req: IncomingMessage, count: (bytes: number) => void): void {
  const budget = (req as Budgeted)[BUDGET];
  if (budget) budget.counted = count;
}
