import { generateKeyPairSync } from "node:crypto";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { exportJWK } from "jose";
import { expect, onTestFinished, test } from "vitest";
import { failureOf, protocols } from "../support/clients.ts";
import { startNats } from "../support/nats.ts";
import { freshName, startService } from "../support/service.ts";
import { AUDIENCE, bearerToken, ISSUER } from "../support/tokens.ts";

const first = generateKeyPairSync("ec", { namedCurve: "P-256" });
const second = generateKeyPairSync("ec", { namedCurve: "P-256" });

/** A key set on the network. */
async function startKeySet(keys: () => Promise<object[]>) {
  let requests = 0;
  const server = createServer((_req, res) => {
    requests++;
    void keys().then((found) => res.end(JSON.stringify({ keys: found })));
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  onTestFinished(() => void server.close());
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/jwks.json`,
    requests: () => requests,
    close: () => new Promise((resolve) => server.close(resolve)),
  };
}

const published = async () => [{ ...(await exportJWK(first.publicKey)), kid: "one", alg: "ES256", use: "sig" }];
const settings = (url: string) => ({
  MILLRACE_JWT_JWKS_URL: url,
  MILLRACE_JWT_ISSUER: ISSUER,
  MILLRACE_JWT_AUDIENCE: AUDIENCE,
});

test("tokens are checked by a key set, over every protocol", async () => {
  await using nats = await startNats();
  const keySet = await startKeySet(published);
  await using service = await startService(nats.url, settings(keySet.url));
  const good = await bearerToken("millrace:manage:*", first.privateKey, { keyId: "one" });
  const bad = [
    await bearerToken("millrace:admin", second.privateKey, { keyId: "two" }),
    await bearerToken("millrace:admin", second.privateKey, { keyId: "one" }),
    await bearerToken("millrace:admin", first.privateKey, { keyId: "one", expires: "-1h" }),
    { authorization: "Bearer not.a.token" },
  ];
  for (const { connect } of protocols) {
    await using api = connect(service.url);
    const name = freshName();
    expect(await api.createStream({ name }, { headers: good })).toMatchObject({ name });
    for (const headers of bad) expect(await failureOf(api.getStream(name, { headers }))).toMatchObject({ code: 1105 });
  }
  // Tokens and keys are remembered.
  expect(keySet.requests()).toBeLessThanOrEqual(2);
  expect(service.errors).toEqual([]);
});

test("while the key set is out of reach, new tokens are UNAVAILABLE", async () => {
  await using nats = await startNats();
  const keySet = await startKeySet(published);
  await using service = await startService(nats.url, settings(keySet.url));
  await keySet.close();
  const headers = await bearerToken("millrace:manage:*", first.privateKey, { keyId: "one" });
  for (const { connect } of protocols) {
    await using api = connect(service.url, headers);
    expect(await failureOf(api.getStream("x"))).toMatchObject({ code: 1107 });
  }
});

test.each([
  ["a status that is none of a key set", 503, JSON.stringify({ keys: [] })],
  ["no JSON", 200, "<html>"],
  ["JSON that is no key set", 200, "{}"],
])("while the key set answers %s, new tokens are UNAVAILABLE", async (_what, status, body) => {
  await using nats = await startNats();
  const server = createServer((_req, res) => res.writeHead(status).end(body));
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  onTestFinished(() => void server.close());
  await using service = await startService(
    nats.url,
    settings(`http://127.0.0.1:${(server.address() as AddressInfo).port}/jwks.json`),
  );
  const headers = await bearerToken("millrace:manage:*", first.privateKey, { keyId: "one" });
  for (const { connect } of protocols) {
    await using api = connect(service.url, headers);
    expect(await failureOf(api.getStream("x"))).toMatchObject({ code: 1107 });
  }
});
