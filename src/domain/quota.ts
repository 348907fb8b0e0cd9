import { quotaExceeded } from "./errors.ts";

/** What may go one way in a second. */
export interface Rates {
  readonly requestsPerSecond?: number;
  readonly bytesPerSecond?: number;
  /** Seconds of both rates that may come at once. */
  readonly burstSeconds: number;
}

/** `in`: what is sent to the service; `out`: events read from it. */
export type Direction = "in" | "out";
export type Limits = { readonly [D in Direction]?: Rates };

export const MAXIMA = ["streams", "partitions", "groups", "processors", "subscriptions"] as const;
/** What a principal may have a number of. */
export type Countable = (typeof MAXIMA)[number];
/** The most of each; one that is left out has no bound. */
export type Maxima = { readonly [What in Countable]?: number };

export interface PrincipalLimits extends Limits {
  readonly max?: Maxima;
}

/** The quotas by names and patterns of names. */
export interface QuotaOptions {
  readonly principals: ReadonlyMap<string, PrincipalLimits>;
  readonly streams: ReadonlyMap<string, Limits>;
}

/** Whose a new thing is. */
export interface Owner {
  /** Id of a principal. */
  readonly id: string;
  readonly max?: Maxima | undefined;
  /** Is told when a maximum refuses something. */
  readonly refused?: ((what: Countable) => void) | undefined;
}

/** Nobody frees a place by waiting, but it is soon enough to look again. */
const LOOK_AGAIN_MS = 10_000;

/** @throws ServiceError QUOTA_EXCEEDED when the owner would have more of something than it may. */
export function checkMaximum({ id, max, refused }: Owner, what: Countable, count: number, most = max?.[what]): void {
  if (most === undefined || count <= most) return;
  refused?.(what);
  throw quotaExceeded(
    `principal:${id}`,
    `principal "${id}" may have at most ${max![what]} ${what}; delete or end some first`,
    LOOK_AGAIN_MS,
  );
}

/** Places that are held while what takes them is being made, so that calls at the same time don't pass a maximum together. */
export class Places {
  readonly #held = new Map<string, Map<string, number>>();

  /**
   * @param weight how much it counts once it is made.
   * @param present what the owner has, by name, with weights; asked for only when there is a maximum.
   * @returns gives the place back, made or not.
   * @throws ServiceError QUOTA_EXCEEDED.
   */
  hold(
    owner: Owner,
    what: Countable,
    name: string,
    weight: number,
    present: () => ReadonlyMap<string, number>,
  ): Disposable {
    if (owner.max?.[what] === undefined) return NOTHING;
    const key = `${what} ${owner.id}`;
    const held = this.#held.get(key) ?? new Map<string, number>();
    const all = new Map(present());
    if ((all.get(name) ?? 0) >= weight) return NOTHING;
    for (const [each, its] of [...held, [name, weight] as const]) all.set(each, Math.max(its, all.get(each) ?? 0));
    checkMaximum(
      owner,
      what,
      [...all.values()].reduce((sum, each) => sum + each, 0),
    );
    this.#held.set(key, held.set(name, weight));
    return {
      [Symbol.dispose]: () => {
        held.delete(name);
        if (held.size === 0 && this.#held.get(key) === held) this.#held.delete(key);
      },
    };
  }
}

const NOTHING: Disposable = { [Symbol.dispose]: () => {} };
