import { ErrorCode, ServiceError } from "./errors.ts";
import { type Rights, rightsOf } from "./rights.ts";

/** Who calls, and what that caller may do. */
export interface Principal {
  /** Such as `key:0123456789abcdef`, `jwt:alice`, `tls:billing`; never a secret. */
  readonly id: string;
  readonly rights: Rights;
  /** Milliseconds since 1970 at which the credentials stop being valid; undefined: never. */
  readonly expiresAtMs: number | undefined;
  /** Is aborted when the credentials are revoked; undefined: they can't be. */
  readonly revoked: AbortSignal | undefined;
}

/** Every caller of a service that does not ask who calls. */
export const ANYONE: Principal = {
  id: "anonymous",
  rights: rightsOf(["admin"]),
  expiresAtMs: undefined,
  revoked: undefined,
};

export const unauthenticated = (description: string): ServiceError =>
  new ServiceError(ErrorCode.UNAUTHENTICATED, description);

export const permissionDenied = (description: string): ServiceError =>
  new ServiceError(ErrorCode.PERMISSION_DENIED, description);

/** Node's timers take no longer span. */
const MAX_TIMER_MS = 2 ** 31 - 1;

/**
 * Calls `over` once, when the principal's credentials are revoked or expire.
 *
 * @returns stops that.
 */
export function onEnd({ revoked, expiresAtMs }: Principal, over: () => void): () => void {
  let timer: NodeJS.Timeout | undefined;
  const stop = () => {
    clearTimeout(timer);
    revoked?.removeEventListener("abort", end);
  };
  const end = () => {
    stop();
    over();
  };
  const arm = () => {
    const leftMs = expiresAtMs! - Date.now();
    if (leftMs <= 0) end();
    else timer = setTimeout(arm, Math.min(leftMs, MAX_TIMER_MS)).unref();
  };
  revoked?.addEventListener("abort", end);
  if (revoked?.aborted) end();
  else if (expiresAtMs !== undefined) arm();
  return stop;
}

/** What a source gives, until it ends or the principal's credentials do. @throws ServiceError UNAUTHENTICATED then. */
export async function* whileValid<T>(source: AsyncIterable<T>, principal: Principal): AsyncGenerator<T> {
  if (principal.revoked === undefined && principal.expiresAtMs === undefined) return yield* source;
  const items = source[Symbol.asyncIterator]();
  let isOver = false;
  let refuse: ((reason: unknown) => void) | undefined;
  const failure = () => unauthenticated("the credentials of this call are no longer valid");
  const stop = onEnd(principal, () => {
    isOver = true;
    refuse?.(failure());
  });
  try {
    for (;;) {
      if (isOver) throw failure();
      const next = await new Promise<IteratorResult<T>>((resolve, reject) => {
        refuse = reject;
        items.next().then(resolve, reject);
      });
      if (next.done) return;
      yield next.value;
    }
  } finally {
    stop();
    // Not waited for: it takes its turn after a step that may wait long.
    void items.return?.(undefined).catch(() => {});
  }
}
