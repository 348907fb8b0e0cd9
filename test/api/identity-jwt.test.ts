import { generateKeyPairSync } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { SignJWT } from "jose";
import { afterAll, expect, onTestFinished, test } from "vitest";
import { failureOf, protocols } from "../support/clients.ts";
import { freshName, useService } from "../support/service.ts";

const folder = mkdtempSync(join(tmpdir(), "millrace-jwt-"));
afterAll(() => rmSync(folder, { recursive: true }));
const { publicKey, privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
const stranger = generateKeyPairSync("ec", { namedCurve: "P-256" }).privateKey;
const keyFile = join(folder, "public.pem");
writeFileSync(keyFile, publicKey.export({ type: "spki", format: "pem" }));

const service = useService({
  MILLRACE_JWT_KEY_FILE: keyFile,
  MILLRACE_JWT_ISSUER: "https://issuer.example",
  MILLRACE_JWT_AUDIENCE: "millrace",
});

async function bearer(scope: string, { issuer = "https://issuer.example", expires = "1h", key = privateKey } = {}) {
  const token = await new SignJWT({ scope })
    .setProtectedHeader({ alg: "ES256" })
    .setSubject("alice")
    .setIssuer(issuer)
    .setAudience("millrace")
    .setExpirationTime(expires)
    .sign(key);
  return { headers: { authorization: `Bearer ${token}` } };
}

test.each(protocols)("tokens over $name", async ({ connect }) => {
  const api = connect(service.url);
  onTestFinished(() => api[Symbol.asyncDispose]());
  const good = await bearer("openid millrace:manage:a-* millrace:publish:a-*");
  const name = freshName("a");
  await api.createStream({ name }, good);
  await api.publish(name, { value: 1 }, good);
  expect(await failureOf(api.poll(name, "g", {}, good))).toMatchObject({ code: 1106 });
  for (const bad of [
    await bearer("millrace:admin", { issuer: "https://other.example" }),
    await bearer("millrace:admin", { expires: "-1h" }),
    await bearer("millrace:admin", { key: stranger }),
  ])
    expect(await failureOf(api.getStream(name, bad))).toMatchObject({ code: 1105 });
  expect(await failureOf(api.getStream(name, await bearer("admin")))).toMatchObject({ code: 1106 });
});
