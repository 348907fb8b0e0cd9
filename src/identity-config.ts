import { createPublicKey } from "node:crypto";
import { readFileSync } from "node:fs";
import { rightFault } from "./domain/rights.ts";
import type { IdentityOptions } from "./services/identity.ts";

/** Characters of an admin key: 32 of base64 are 192 bits. */
const MIN_ADMIN_KEY = 32;

/** Reads who may call. @param faults is added to for every setting that is wrong. @returns undefined when nothing is set. */
export function loadIdentity(env: NodeJS.ProcessEnv, faults: string[]): IdentityOptions | undefined {
  const text = (name: string) => env[name]?.trim() || undefined;
  const adminKey = text("MILLRACE_ADMIN_KEY");
  if (adminKey !== undefined && (adminKey.length < MIN_ADMIN_KEY || /\s/.test(adminKey)))
    faults.push(`MILLRACE_ADMIN_KEY must have at least ${MIN_ADMIN_KEY} characters and no spaces`);
  const jwt = jwtOf(text, faults);
  const namesFile = text("MILLRACE_TLS_NAMES_FILE");
  if (namesFile !== undefined && !text("MILLRACE_TLS_CLIENT_CA"))
    faults.push("MILLRACE_TLS_NAMES_FILE needs MILLRACE_TLS_CLIENT_CA");
  const tlsNames = namesFile === undefined ? undefined : tlsNamesOf(namesFile, faults);
  return adminKey === undefined && !jwt && !tlsNames ? undefined : { adminKey, jwt, tlsNames };
}

function jwtOf(text: (name: string) => string | undefined, faults: string[]): IdentityOptions["jwt"] {
  const jwksUrl = text("MILLRACE_JWT_JWKS_URL");
  const keyFile = text("MILLRACE_JWT_KEY_FILE");
  const issuer = text("MILLRACE_JWT_ISSUER");
  const audience = text("MILLRACE_JWT_AUDIENCE");
  if (!jwksUrl && !keyFile && !issuer && !audience) return undefined;
  if (Boolean(jwksUrl) === Boolean(keyFile) || !issuer || !audience) {
    faults.push(
      "MILLRACE_JWT_ISSUER, MILLRACE_JWT_AUDIENCE and one of MILLRACE_JWT_JWKS_URL and MILLRACE_JWT_KEY_FILE go together",
    );
    return undefined;
  }
  if (jwksUrl) {
    if (!/^https?:\/\//.test(jwksUrl) || !URL.canParse(jwksUrl))
      faults.push("MILLRACE_JWT_JWKS_URL must be an http or https URL");
    return { keys: { jwksUrl }, issuer, audience };
  }
  try {
    const pem = readFileSync(keyFile!, "utf8");
    createPublicKey(pem);
    return { keys: { pem }, issuer, audience };
  } catch (error) {
    faults.push(`MILLRACE_JWT_KEY_FILE must name a public key as PEM: ${(error as Error).message}`);
    return undefined;
  }
}

/** A JSON object with the rights of each name. */
function tlsNamesOf(file: string, faults: string[]): IdentityOptions["tlsNames"] {
  try {
    const parsed: unknown = JSON.parse(readFileSync(file, "utf8"));
    if (typeof parsed !== "object" || parsed === null || Array.isArray(parsed)) throw new Error("it is no JSON object");
    for (const [name, rights] of Object.entries(parsed)) {
      if (!Array.isArray(rights)) throw new Error(`"${name}" has no array of rights`);
      for (const right of rights) {
        const fault = typeof right === "string" ? rightFault(right) : "must be a text";
        if (fault !== undefined) throw new Error(`"${name}": ${JSON.stringify(right)} ${fault}`);
      }
    }
    return new Map(Object.entries(parsed));
  } catch (error) {
    faults.push(`MILLRACE_TLS_NAMES_FILE: ${(error as Error).message}`);
    return undefined;
  }
}
