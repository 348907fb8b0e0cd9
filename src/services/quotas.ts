import { deadlineIn, pauseUntil } from "../domain/deadline.ts";
import { quotaExceeded, type ServiceError } from "../domain/errors.ts";
import { mostSpecific } from "../domain/pattern.ts";
import type { Principal } from "../domain/principal.ts";
import {
  type Countable,
  checkMaximum,
  type Direction,
  type Limits,
  type Maxima,
  type Owner,
  type PrincipalLimits,
  type QuotaOptions,
  type Rates,
} from "../domain/quota.ts";
import { TokenBucket } from "../domain/token-bucket.ts";

/** What is left of one direction of one account. */
interface Side {
  readonly requests: TokenBucket | undefined;
  readonly bytes: TokenBucket | undefined;
  /** Most bytes at once, of all gateways together. */
  readonly burstBytes: number;
}

type Kind = "principal" | "stream";

/** What one principal or stream has used. */
interface Account {
  readonly kind: Kind;
  readonly name: string;
  readonly in: Side | undefined;
  readonly out: Side | undefined;
  readonly owner: Owner;
  subscriptions: number;
}

/** Gives the owner of what a principal makes. */
export type OwnerOf = (principal: Pick<Principal, "id">) => Owner;

/** Accounts kept of each kind; beyond, those that have used nothing lately are forgotten. */
const KEPT_ACCOUNTS = 10_000;
/** How long the number of gateways is taken for true. */
const COUNT_MS = 500;
/** The number of gateways may change meanwhile. */
const LONGEST_PAUSE_MS = 60_000;

/**
 * Holds callers and streams to their quotas. A caller of many gateways gets an equal part of its quota at each.
 *
 * Requests and the bytes of their bodies are refused by {@link admit} before they are read; what only the request itself
 * tells, by the services. Streams are slowed instead.
 */
export class Quotas {
  readonly #options: QuotaOptions;
  readonly #gateways: () => number;
  readonly #accounts: Record<Kind, Map<string, Account>> = { principal: new Map(), stream: new Map() };
  /** Refusals since the process began, by kind and reason, such as `principal` and `in_bytes` or `streams`. */
  readonly refusals = new Map<string, { readonly kind: Kind; readonly reason: string; count: number }>();
  /** How often a stream had to wait. */
  pauses = 0;
  #share = 1;
  #countAgainMs = 0;

  /** @param gateways how many there are now, this one among them. */
  constructor(options: QuotaOptions, gateways: () => number) {
    this.#options = options;
    this.#gateways = gateways;
  }

  /**
   * Takes one request of a principal, and the bytes that it says it has.
   *
   * @param isStream whether it is to be slowed rather than refused for the bytes before it.
   * @returns why it is refused, if it is; then nothing is taken.
   */
  admit({ id }: Principal, direction: Direction, bytes: number, isStream: boolean): ServiceError | undefined {
    const account = this.#account("principal", id);
    return account[direction] && this.#take(account, direction, isStream ? undefined : bytes);
  }

  /** Counts bytes that a principal sent without saying so before. */
  received({ id }: Principal, bytes: number): void {
    this.#account("principal", id).in?.bytes?.take(bytes, ...this.#now());
  }

  /** Takes a publish of so many payload bytes. @throws ServiceError QUOTA_EXCEEDED; then nothing is taken. */
  publish(stream: string, bytes: number): void {
    const refusal = this.#take(this.#account("stream", stream), "in", bytes);
    if (refusal) throw refusal;
  }

  /** Takes a reading request. @throws ServiceError QUOTA_EXCEEDED, also while earlier ones have read too much. */
  read(stream: string): void {
    const refusal = this.#take(this.#account("stream", stream), "out", 0);
    if (refusal) throw refusal;
  }

  /** Takes a subscription. @returns ends it. @throws ServiceError QUOTA_EXCEEDED. */
  subscribe({ id }: Principal, stream: string): Disposable {
    const refusal = this.#take(this.#account("stream", stream), "out", undefined);
    if (refusal) throw refusal;
    const account = this.#account("principal", id);
    const max = account.owner.max?.subscriptions;
    const most = max === undefined ? undefined : Math.ceil(max * this.#now()[1]);
    checkMaximum(account.owner, "subscriptions", account.subscriptions + 1, most);
    account.subscriptions++;
    return { [Symbol.dispose]: () => void account.subscriptions-- };
  }

  /** Counts events that were read. */
  delivered(principal: Principal, stream: string, events: readonly { readonly payload: Uint8Array }[]): void {
    let bytes = 0;
    for (const { payload } of events) bytes += payload.length;
    if (bytes === 0) return;
    for (const account of this.#both(principal, stream)) account.out?.bytes?.take(bytes, ...this.#now());
  }

  /** Most bytes that are to be read at once, so that no debt is long. */
  readBytes(principal: Principal, stream: string, asked: number): number {
    const [, share] = this.#now();
    const bursts = this.#both(principal, stream).map(
      ({ out }) => (out?.burstBytes ?? Number.POSITIVE_INFINITY) * share,
    );
    return Math.max(1, Math.floor(Math.min(asked, ...bursts)));
  }

  /** Waits until a stream may send one more event in, and counts it as a request; at most until a signal is aborted. */
  async paceIn(principal: Principal, stream: string, bytes: number, signal: AbortSignal): Promise<void> {
    const accounts = this.#both(principal, stream);
    for (let isFirst = true; !signal.aborted; isFirst = false) {
      const waits = accounts.flatMap(({ in: side }) => [
        side?.requests?.waitMs(1, ...this.#now()) ?? 0,
        side?.bytes?.waitMs(0, ...this.#now()) ?? 0,
      ]);
      const waitMs = Math.max(...waits);
      if (waitMs === 0) break;
      if (isFirst) this.pauses++;
      await pauseUntil(deadlineIn(Math.min(Math.max(1, waitMs), LONGEST_PAUSE_MS)), signal);
    }
    for (const account of accounts) {
      account.in?.requests?.take(1, ...this.#now());
      account.in?.bytes?.take(bytes, ...this.#now());
    }
  }

  /** Tells in how many milliseconds a stream that is read may go on; 0: now. */
  pacer(principal: Principal, stream: string): () => number {
    const accounts = this.#both(principal, stream);
    let isHeld = false;
    return () => {
      const waitMs = Math.max(...accounts.map(({ out }) => out?.bytes?.waitMs(0, ...this.#now()) ?? 0));
      if (waitMs > 0 && !isHeld) this.pauses++;
      isHeld = waitMs > 0;
      return waitMs;
    };
  }

  /** Whose things a principal makes are, with its maxima. */
  readonly ownerOf: OwnerOf = ({ id }) => this.#account("principal", id).owner;

  #both({ id }: Principal, stream: string): readonly Account[] {
    return [this.#account("principal", id), this.#account("stream", stream)];
  }

  /** @param bytes undefined: they are counted and waited for later. */
  #take(account: Account, direction: Direction, bytes: number | undefined): ServiceError | undefined {
    const side = account[direction];
    if (!side) return undefined;
    const [nowMs, share] = this.#now();
    const requestsMs = side.requests?.waitMs(1, nowMs, share) ?? 0;
    const bytesMs = bytes === undefined ? 0 : (side.bytes?.waitMs(bytes, nowMs, share) ?? 0);
    if (requestsMs > 0 || bytesMs > 0)
      return this.#refusal(account, direction, requestsMs >= bytesMs ? "requests" : "bytes", requestsMs, bytesMs);
    side.requests?.take(1, nowMs, share);
    if (bytes) side.bytes?.take(bytes, nowMs, share);
    return undefined;
  }

  #refusal(account: Account, direction: Direction, what: "requests" | "bytes", ...waitsMs: number[]): ServiceError {
    const { kind, name } = account;
    this.#count(kind, `${direction}_${what}`);
    const ms = Math.max(1, Math.ceil(Math.max(...waitsMs)));
    const description = `${direction}.${what}PerSecond of ${kind} "${name}" is used up; try again in ${ms} ms`;
    return quotaExceeded(`${kind}:${name}`, description, ms);
  }

  #count(kind: Kind, reason: string): void {
    const key = `${kind} ${reason}`;
    const known = this.refusals.get(key);
    if (known) known.count++;
    else this.refusals.set(key, { kind, reason, count: 1 });
  }

  /** The time, and this gateway's part of everything. */
  #now(): [nowMs: number, share: number] {
    const nowMs = performance.now();
    if (nowMs >= this.#countAgainMs) {
      this.#countAgainMs = nowMs + COUNT_MS;
      this.#share = 1 / Math.max(1, this.#gateways());
    }
    return [nowMs, this.#share];
  }

  #account(kind: Kind, name: string): Account {
    const accounts = this.#accounts[kind];
    const known = accounts.get(name);
    if (known) return known;
    if (accounts.size >= KEPT_ACCOUNTS && accounts.size % 1000 === 0) this.#forgetUnused(accounts);
    const limits: PrincipalLimits = mostSpecific<Limits>(this.#options[`${kind}s`], name) ?? {};
    const owner = {
      id: name,
      max: limits.max as Maxima | undefined,
      refused: (what: Countable) => this.#count(kind, what),
    };
    const account = { kind, name, in: sideOf(limits.in), out: sideOf(limits.out), owner, subscriptions: 0 };
    accounts.set(name, account);
    return account;
  }

  #forgetUnused(accounts: Map<string, Account>): void {
    const [nowMs, share] = this.#now();
    const isFull = (side: Side | undefined) =>
      (side?.requests?.isFull(nowMs, share) ?? true) && (side?.bytes?.isFull(nowMs, share) ?? true);
    for (const [name, account] of accounts)
      if (account.subscriptions === 0 && isFull(account.in) && isFull(account.out)) accounts.delete(name);
  }
}

function sideOf(rates: Rates | undefined): Side | undefined {
  if (!rates) return undefined;
  const { requestsPerSecond, bytesPerSecond, burstSeconds } = rates;
  const bucket = (perSecond: number | undefined) =>
    perSecond === undefined ? undefined : new TokenBucket(perSecond, perSecond * burstSeconds, performance.now());
  return {
    requests: bucket(requestsPerSecond),
    bytes: bucket(bytesPerSecond),
    burstBytes: bytesPerSecond === undefined ? Number.POSITIVE_INFINITY : bytesPerSecond * burstSeconds,
  };
}
