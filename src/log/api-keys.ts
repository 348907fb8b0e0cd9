import { apiKeyId, isSameHash, newApiKey, secretHash } from "../domain/api-key.ts";
import type { Deadline } from "../domain/deadline.ts";
import { resourceNotFound } from "../domain/errors.ts";
import type { Principal } from "../domain/principal.ts";
import { rightsOf } from "../domain/rights.ts";
import type { JetStream } from "../jetstream/connection.ts";
import { type Bucket, openBucket } from "../jetstream/kv.ts";
import { KEYS_BUCKET } from "../jetstream/names.ts";

/** A key as it is stored. */
export interface ApiKeyRecord {
  readonly id: string;
  readonly name: string;
  /** SHA-256 of the key's text, hexadecimal. */
  readonly hash: string;
  readonly rights: readonly string[];
  readonly createdAtMs: number;
  readonly expiresAtMs?: number;
}

interface Known {
  readonly record: ApiKeyRecord;
  readonly hash: Buffer;
  readonly principal: Principal;
  readonly revocation: AbortController;
}

/** Reports of what was revoked so many revocations ago are in long since. */
const KEPT_REVOKED = 10_000;

/** The API keys there are. Any gateway may make and revoke; all learn of it by a watch. */
export class ApiKeys implements AsyncDisposable {
  readonly #bucket: Bucket<ApiKeyRecord>;
  readonly #known = new Map<string, Known>();
  /** Ids are never used again, so a late report of a key that was revoked is told from a new key; the last so many. */
  readonly #revoked = new Set<string>();
  #watch: AsyncDisposable | undefined;

  private constructor(bucket: Bucket<ApiKeyRecord>) {
    this.#bucket = bucket;
  }

  static async open(js: JetStream, replicas: number): Promise<ApiKeys> {
    const keys = new ApiKeys(await openBucket<ApiKeyRecord>(js, KEYS_BUCKET, replicas));
    keys.#watch = await keys.#bucket.watch(">", ({ key, value }) => {
      if (value) keys.#learn(value);
      else keys.#forget(key);
    });
    return keys;
  }

  /** Whose key a text is, whose hash is given too; undefined for none that is valid now. No I/O. */
  principalOf(text: string, hash: Uint8Array): Principal | undefined {
    const known = this.#known.get(apiKeyId(text) ?? "");
    if (!known || !isSameHash(hash, known.hash)) return undefined;
    const { expiresAtMs } = known.record;
    return expiresAtMs !== undefined && expiresAtMs <= Date.now() ? undefined : known.principal;
  }

  /** @returns the record, and the text that is known to nobody else. */
  async create(
    fields: Pick<ApiKeyRecord, "name" | "rights" | "expiresAtMs">,
    deadline: Deadline,
  ): Promise<{ record: ApiKeyRecord; text: string }> {
    const { id, text } = newApiKey();
    const record = { id, ...fields, hash: secretHash(text).toString("hex"), createdAtMs: Date.now() };
    await this.#bucket.set(id, record, deadline);
    this.#learn(record);
    return { record, text };
  }

  /** Keys whose ids come after `after`, by id. */
  list(after: string, limit: number): ApiKeyRecord[] {
    return [...this.#known.values()]
      .map(({ record }) => record)
      .filter(({ id }) => id > after)
      .sort((a, b) => (a.id < b.id ? -1 : 1))
      .slice(0, limit);
  }

  /** @throws ServiceError RESOURCE_NOT_FOUND. */
  async get(id: string, deadline: Deadline): Promise<ApiKeyRecord> {
    const { value } = await this.#bucket.get(id, deadline);
    if (!value) throw resourceNotFound(`there is no key "${id}"`);
    this.#learn(value);
    return value;
  }

  /** Once it returns, this gateway takes the key no more; others learn of it soon. @throws ServiceError RESOURCE_NOT_FOUND. */
  async revoke(id: string, deadline: Deadline): Promise<void> {
    await this.get(id, deadline);
    await this.#bucket.delete(id, deadline);
    this.#forget(id);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#watch?.[Symbol.asyncDispose]();
  }

  #learn(record: ApiKeyRecord): void {
    if (this.#known.has(record.id) || this.#revoked.has(record.id)) return;
    const revocation = new AbortController();
    this.#known.set(record.id, {
      record,
      hash: Buffer.from(record.hash, "hex"),
      revocation,
      principal: {
        id: `key:${record.id}`,
        rights: rightsOf(record.rights),
        expiresAtMs: record.expiresAtMs,
        revoked: revocation.signal,
      },
    });
  }

  #forget(id: string): void {
    this.#revoked.add(id);
    if (this.#revoked.size > KEPT_REVOKED) this.#revoked.delete(this.#revoked.values().next().value!);
    this.#known.get(id)?.revocation.abort();
    this.#known.delete(id);
  }
}
