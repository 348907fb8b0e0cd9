/** A request's body as Connect reads it, with the two things Node's own iterator lacks: a deadline and a polite end. */
import type { IncomingMessage } from "node:http";
import { constants, Http2ServerRequest } from "node:http2";
import { Code, ConnectError } from "@connectrpc/connect";
import { takeBodyBytes } from "./body-budget.ts";
import { toConnectError } from "./errors.ts";

const gone = new ConnectError("the caller went away", Code.Canceled);
const END = { done: true, value: undefined } as const;

export interface DiscardLimits {
  /** Bytes read and dropped before the caller is cut off. */
  bytes: number;
  /** Longest time spent on that. */
  ms: number;
}

/**
 * Iterates over the bytes of a request once. Unlike `for await` over the request, leaving the loop does not destroy the
 * connection, so the caller still gets its answer. Throws CANCELED when the caller goes away before the end, and
 * DEADLINE_EXCEEDED when the body is not complete `timeoutMs` after the first wait for it (0: no such limit).
 */
export class RequestBody implements AsyncIterableIterator<Uint8Array> {
  readonly #req: IncomingMessage;
  readonly #timeoutMs: number;
  #timer: NodeJS.Timeout | undefined;
  #started = false;
  #over = false;
  #failure: ConnectError | undefined;
  #waiting: PromiseWithResolvers<IteratorResult<Uint8Array>> | undefined;

  constructor(req: IncomingMessage, timeoutMs = 0) {
    this.#req = req;
    this.#timeoutMs = timeoutMs;
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  async next(): Promise<IteratorResult<Uint8Array>> {
    if (!this.#started) this.#start();
    const ready = this.#take();
    if (ready) return ready;
    if (this.#timeoutMs > 0) this.#timer ??= setTimeout(this.#expire, this.#timeoutMs);
    this.#waiting ??= Promise.withResolvers();
    return this.#waiting.promise;
  }

  async return(): Promise<IteratorResult<Uint8Array>> {
    this.#stop();
    this.#waiting?.resolve(END);
    return END;
  }

  /**
   * Reads on without keeping anything, for an answer given before the request's end: a caller that first sends all, then
   * reads, would never see the answer otherwise. Beyond `limits` it is cut off. Does nothing after a complete request.
   */
  discard(limits: DiscardLimits): void {
    const req = this.#req;
    this.#stop();
    if (req.readableEnded || req.destroyed) return;
    let left = limits.bytes;
    const cut = () => {
      if (req instanceof Http2ServerRequest) req.stream.close(constants.NGHTTP2_NO_ERROR);
      else req.socket.destroy();
    };
    const timer = setTimeout(cut, limits.ms);
    const over = () => clearTimeout(timer);
    req.on("data", (chunk: Buffer) => {
      left -= chunk.length;
      if (left < 0) cut();
    });
    req.once("end", over);
    req.once("close", over);
    req.resume();
  }

  #start(): void {
    this.#started = true;
    const req = this.#req;
    req.on("readable", this.#wake);
    req.on("end", this.#wake);
    req.on("close", this.#wake);
    req.on("error", this.#wake);
  }

  #stop(): void {
    clearTimeout(this.#timer);
    this.#over = true;
    if (!this.#started) return;
    const req = this.#req;
    req.off("readable", this.#wake);
    req.off("end", this.#wake);
    req.off("close", this.#wake);
    // "error" stays listened to: a caller that goes away later must not end the process.
  }

  #take(): IteratorResult<Uint8Array> | undefined {
    if (this.#failure) throw this.#failure;
    if (this.#over) return END;
    const req = this.#req;
    const chunk = req.read() as Buffer | null;
    if (chunk !== null) {
      // What a stream sends is taken as it comes, and flow control bounds it.
      const refusal = this.#timeoutMs > 0 ? takeBodyBytes(req, chunk.length) : undefined;
      if (!refusal) return { done: false, value: chunk };
      this.#failure = toConnectError(refusal);
    } else if (req.aborted || req.errored || isReset(req)) this.#failure = gone;
    else if (req.readableEnded) this.#over = true;
    else if (req.destroyed || req.closed) this.#failure = gone;
    else return undefined;
    this.#stop();
    if (this.#failure) throw this.#failure;
    return END;
  }

  readonly #wake = (): void => {
    const waiting = this.#waiting;
    if (!waiting) return;
    try {
      const ready = this.#take();
      if (!ready) return;
      this.#waiting = undefined;
      waiting.resolve(ready);
    } catch (error) {
      this.#waiting = undefined;
      waiting.reject(error);
    }
  };

  readonly #expire = (): void => {
    this.#failure = new ConnectError(
      `the request was not complete after ${this.#timeoutMs / 1000} s`,
      Code.DeadlineExceeded,
    );
    this.#wake();
  };
}

/** Over HTTP/2 a stream that is cut off "ends" too: taken for an end, half a request would pass for a whole one. */
function isReset(req: IncomingMessage): boolean {
  if (!(req instanceof Http2ServerRequest)) return false;
  const { stream } = req;
  return stream.destroyed || stream.aborted || stream.rstCode !== constants.NGHTTP2_NO_ERROR;
}
