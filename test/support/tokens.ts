import { generateKeyPairSync, type KeyObject } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { SignJWT } from "jose";
import { afterAll } from "vitest";

export const ISSUER = "https://issuer.example";
export const AUDIENCE = "millrace";

/** A token to be made; without more it is good for an hour. */
export interface TokenFields {
  readonly subject?: string;
  readonly issuer?: string;
  readonly audience?: string;
  /** Such as `1h`, `-1h` for one that has expired, or seconds since 1970. */
  readonly expires?: string | number;
  readonly key?: KeyObject;
  readonly keyId?: string;
  /** Default ES256. */
  readonly algorithm?: string;
}

/** The headers of a caller that shows a token. `scope` has rights that begin with `millrace:`. */
export async function bearerToken(scope: string, key: KeyObject, fields: TokenFields = {}) {
  const {
    subject = "alice",
    issuer = ISSUER,
    audience = AUDIENCE,
    expires = "1h",
    keyId,
    algorithm = "ES256",
  } = fields;
  const token = await new SignJWT({ scope })
    .setProtectedHeader({ alg: algorithm, ...(keyId === undefined ? {} : { kid: keyId }) })
    .setSubject(subject)
    .setIssuer(issuer)
    .setAudience(audience)
    .setExpirationTime(expires)
    .sign(fields.key ?? key);
  return { authorization: `Bearer ${token}` };
}

/** Settings of a service that takes tokens, and who signs them. Call it once at the top of a test file. */
export function useTokens() {
  const { publicKey, privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const folder = mkdtempSync(join(tmpdir(), "millrace-tokens-"));
  afterAll(() => rmSync(folder, { recursive: true }));
  const keyFile = join(folder, "public.pem");
  writeFileSync(keyFile, publicKey.export({ type: "spki", format: "pem" }));
  return {
    env: { MILLRACE_JWT_KEY_FILE: keyFile, MILLRACE_JWT_ISSUER: ISSUER, MILLRACE_JWT_AUDIENCE: AUDIENCE },
    headers: (scope: string, fields?: TokenFields) => bearerToken(scope, privateKey, fields),
  };
}
