import { generateKeyPairSync } from "node:crypto";
import { expect, onTestFinished, test } from "vitest";
import { failureOf, protocols } from "../support/clients.ts";
import { freshName, useService } from "../support/service.ts";
import { useTokens } from "../support/tokens.ts";

const tokens = useTokens();
const stranger = generateKeyPairSync("ec", { namedCurve: "P-256" }).privateKey;
const ofAnotherKind = generateKeyPairSync("rsa", { modulusLength: 2048 }).privateKey;
const service = useService(tokens.env);

test.each(protocols)("tokens over $name", async ({ connect }) => {
  const api = connect(service.url);
  onTestFinished(() => api[Symbol.asyncDispose]());
  const good = { headers: await tokens.headers("openid millrace:manage:a-* millrace:publish:a-*") };
  const name = freshName("a");
  await api.createStream({ name }, good);
  await api.publish(name, { value: 1 }, good);
  expect(await failureOf(api.poll(name, "g", {}, good))).toMatchObject({ code: 1106 });
  for (const fields of [
    { issuer: "https://other.example" },
    { audience: "another" },
    { expires: "-1h" },
    { key: stranger },
    { key: ofAnotherKind, algorithm: "RS256" },
    { subject: "" },
  ])
    expect(
      await failureOf(api.getStream(name, { headers: await tokens.headers("millrace:admin", fields) })),
    ).toMatchObject({ code: 1105 });
  expect(await failureOf(api.getStream(name, { headers: await tokens.headers("admin") }))).toMatchObject({
    code: 1106,
  });
});
