/** Something opened once for all who use it at the same time. */
interface Shared {
  users: number;
  readonly opened: Promise<AsyncDisposable>;
}

/** Resources that are opened for their first user and disposed of with their last. */
export class SharedResources<K> {
  readonly #shared = new Map<K, Shared>();

  /**
   * The resource of a key, opened unless it is open.
   *
   * @returns gives it back; to be disposed of once.
   * @throws what `open` throws, to all who wait for it; the next call opens it anew.
   */
  async acquire(key: K, open: () => Promise<AsyncDisposable>): Promise<AsyncDisposable> {
    const shared = this.#shared.get(key) ?? { users: 0, opened: open() };
    this.#shared.set(key, shared);
    shared.users++;
    const forget = () => {
      if (this.#shared.get(key) === shared) this.#shared.delete(key);
    };
    try {
      const resource = await shared.opened;
      return {
        [Symbol.asyncDispose]: async () => {
          if (--shared.users > 0) return;
          forget();
          await resource[Symbol.asyncDispose]();
        },
      };
    } catch (error) {
      forget();
      throw error;
    }
  }
}
