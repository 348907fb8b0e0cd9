import { createPublicKey } from "node:crypto";
import { createRemoteJWKSet, type JWTPayload, type JWTVerifyGetKey, jwtVerify } from "jose";
import { apiKeyId, isSameHash, secretHash } from "../domain/api-key.ts";
import { ServiceError, unavailable } from "../domain/errors.ts";
import { ANYONE, type Principal, unauthenticated } from "../domain/principal.ts";
import { rightsOf } from "../domain/rights.ts";
import type { ApiKeys } from "../log/api-keys.ts";

/** Who may call, by which credentials. */
export interface IdentityOptions {
  readonly adminKey: string | undefined;
  readonly jwt:
    | {
        /** URL of a key set, or a public key as PEM. */
        readonly keys: { readonly jwksUrl: string } | { readonly pem: string };
        readonly issuer: string;
        readonly audience: string;
      }
    | undefined;
  /** Rights by the name in a client's certificate. */
  readonly tlsNames: ReadonlyMap<string, readonly string[]> | undefined;
}

/** What a caller shows of itself. */
export interface Credentials {
  /** Value of the `authorization` header. */
  readonly authorization: string | undefined;
  /** Names in the certificate that TLS has checked. */
  readonly certificateNames: () => readonly string[];
}

/** Tokens that were found good, kept until they expire. */
const KEPT_TOKENS = 4096;
/** Asymmetric algorithms alone: a key set is public. */
const ALGORITHMS = [
  "RS256",
  "RS384",
  "RS512",
  "PS256",
  "PS384",
  "PS512",
  "ES256",
  "ES384",
  "ES512",
  "EdDSA",
  "Ed25519",
];
const SCOPE = "millrace:";

/** Finds out who calls. A key costs one hash; a token is checked once and then known by its hash. */
export class Identity {
  readonly #options: IdentityOptions | undefined;
  readonly #keys: ApiKeys;
  readonly #adminHash: Buffer | undefined;
  readonly #admin: Principal = { ...ANYONE, id: "admin" };
  readonly #jwtKey: JWTVerifyGetKey | undefined;
  readonly #tokens = new Map<string, Principal>();
  readonly #tlsPrincipals = new Map<string, Principal>();

  /** @param options undefined: nobody is asked, and everybody may do everything. */
  constructor(options: IdentityOptions | undefined, keys: ApiKeys) {
    this.#options = options;
    this.#keys = keys;
    if (options?.adminKey !== undefined) this.#adminHash = secretHash(options.adminKey);
    if (options?.jwt) this.#jwtKey = jwtKeyOf(options.jwt.keys);
    for (const [name, rights] of options?.tlsNames ?? [])
      this.#tlsPrincipals.set(name, { ...ANYONE, id: `tls:${name}`, rights: rightsOf(rights) });
  }

  /** Whether callers are asked who they are. */
  get isOn(): boolean {
    return this.#options !== undefined;
  }

  /** @throws ServiceError UNAUTHENTICATED; UNAVAILABLE while a key set is out of reach (as a rejection). */
  principalOf({ authorization, certificateNames }: Credentials): Principal | Promise<Principal> {
    if (!this.isOn) return ANYONE;
    if (authorization === undefined) {
      for (const name of this.#tlsPrincipals.size > 0 ? certificateNames() : []) {
        const known = this.#tlsPrincipals.get(name);
        if (known) return known;
      }
      throw unauthenticated("this call needs credentials: Authorization: Bearer <API key or token>");
    }
    const [, text] = /^bearer +(\S+) *$/i.exec(authorization) ?? [];
    if (text === undefined) throw unauthenticated("the authorization header must be: Bearer <API key or token>");
    const hash = secretHash(text);
    if (this.#adminHash && isSameHash(hash, this.#adminHash)) return this.#admin;
    const ofKey = this.#keys.principalOf(text, hash);
    if (ofKey) return ofKey;
    if (this.#jwtKey && apiKeyId(text) === undefined) return this.#ofToken(text, hash.toString("base64"));
    throw unauthenticated("the API key is not valid");
  }

  #ofToken(token: string, hash: string): Principal | Promise<Principal> {
    const known = this.#tokens.get(hash);
    if (!known) return this.#verify(token, hash);
    this.#tokens.delete(hash);
    if (known.expiresAtMs! <= Date.now()) throw unauthenticated("the token has expired");
    this.#tokens.set(hash, known); // the most recently used is last
    return known;
  }

  async #verify(token: string, hash: string): Promise<Principal> {
    const { issuer, audience } = this.#options!.jwt!;
    let payload: JWTPayload;
    try {
      ({ payload } = await jwtVerify(token, this.#jwtKey!, {
        issuer,
        audience,
        algorithms: ALGORITHMS,
        requiredClaims: ["exp", "sub"],
      }));
    } catch (error) {
      if (error instanceof ServiceError) throw error;
      throw unauthenticated(codeOf(error) === "ERR_JWT_EXPIRED" ? "the token has expired" : "the token is not valid");
    }
    // Quotas and owners go by it, so it must be a name.
    if (typeof payload.sub !== "string" || payload.sub === "") throw unauthenticated("the token is not valid");
    const principal: Principal = {
      id: `jwt:${payload.sub}`,
      rights: rightsOf(scopesOf(payload)),
      expiresAtMs: payload.exp! * 1000,
      revoked: undefined,
    };
    if (this.#tokens.size >= KEPT_TOKENS) this.#tokens.delete(this.#tokens.keys().next().value!);
    this.#tokens.set(hash, principal);
    return principal;
  }
}

const codeOf = (error: unknown): string => String((error as { code?: string }).code ?? "");

/** Of the failures to find a token's key those that are the token's; all others are the key set's. */
const FAULTS_OF_TOKENS = ["ERR_JWKS_NO_MATCHING_KEY", "ERR_JWKS_MULTIPLE_MATCHING_KEYS", "ERR_JOSE_NOT_SUPPORTED"];

function jwtKeyOf(keys: NonNullable<IdentityOptions["jwt"]>["keys"]): JWTVerifyGetKey {
  if ("jwksUrl" in keys) {
    const find = createRemoteJWKSet(new URL(keys.jwksUrl));
    return (header, token) =>
      find(header, token).catch((error: unknown) => {
        if (FAULTS_OF_TOKENS.includes(codeOf(error))) throw error;
        throw unavailable("the key set that checks tokens is out of reach", error);
      });
  }
  const key = createPublicKey(keys.pem);
  return async () => key;
}

/** The rights in a token: the words of `scope` (RFC 8693, 4.2) that begin with `millrace:`. */
function scopesOf({ scope }: JWTPayload): string[] {
  const words = typeof scope === "string" ? scope.split(" ") : [];
  return words.filter((word) => word.startsWith(SCOPE)).map((word) => word.slice(SCOPE.length));
}
