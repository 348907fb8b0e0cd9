import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import * as https from "node:https";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { Code, ConnectError, createClient, type Transport } from "@connectrpc/connect";
import { createConnectTransport, createGrpcTransport, createGrpcWebTransport } from "@connectrpc/connect-node";
import * as grpc from "@grpc/grpc-js";
import { afterAll, describe, expect, test } from "vitest";
import { StreamService } from "../../gen/millrace/v1/streams_pb.js";
import { freshName, useService } from "../support/service.ts";

const file = (name: string) => fileURLToPath(new URL(`../transport/certs/${name}`, import.meta.url));
const pem = (name: string) => readFileSync(file(name));
const folder = mkdtempSync(join(tmpdir(), "millrace-names-"));
afterAll(() => rmSync(folder, { recursive: true }));
const names = join(folder, "names.json");
// `client` has this URI beside the common name `alice`; `server` has names that are not in the file.
writeFileSync(names, JSON.stringify({ "principal:alice": ["manage:own-*"] }));

const ADMIN = "an-admin-key-of-more-than-32-characters";
const service = useService({
  MILLRACE_TLS_CERT: file("server.pem"),
  MILLRACE_TLS_KEY: file("server.key"),
  MILLRACE_TLS_CLIENT_CA: file("ca.pem"),
  MILLRACE_TLS_NAMES_FILE: names,
  MILLRACE_ADMIN_KEY: ADMIN,
});

const credentials = (name: string) => ({ ca: pem("ca.pem"), cert: pem(`${name}.pem`), key: pem(`${name}.key`) });
type Create = (name: string, certificate: string, token?: string) => Promise<Code | "created">;

function overRpc(connect: (baseUrl: string, nodeOptions: object) => Transport): Create {
  return async (name, certificate, token) => {
    const client = createClient(StreamService, connect(service.url, credentials(certificate)));
    const headers = token === undefined ? {} : { authorization: `Bearer ${token}` };
    return client.createStream({ name }, { headers }).then(
      () => "created",
      (error: unknown) => ConnectError.from(error).code,
    );
  };
}

const STATUSES: Readonly<Record<number, Code | "created">> = {
  201: "created",
  401: Code.Unauthenticated,
  403: Code.PermissionDenied,
};

const overRest: Create = (name, certificate, token) =>
  new Promise((resolve, reject) => {
    const headers = { "content-type": "application/json", ...(token ? { authorization: `Bearer ${token}` } : {}) };
    const options = { ...credentials(certificate), method: "POST", headers };
    const request = https.request(`${service.url}/api/v1/streams`, options, (answer) => {
      answer.resume();
      resolve(STATUSES[answer.statusCode!]!);
    });
    request.on("error", reject);
    request.end(JSON.stringify({ name }));
  });

const overGrpcJs: Create = (name, certificate, token) =>
  new Promise((resolve) => {
    const { ca, cert, key } = credentials(certificate);
    const client = new grpc.Client(`localhost:${service.port}`, grpc.credentials.createSsl(ca, key, cert));
    const metadata = new grpc.Metadata();
    if (token) metadata.set("authorization", `Bearer ${token}`);
    client.makeUnaryRequest(
      "/millrace.v1.StreamService/CreateStream",
      () => Buffer.from([0x0a, name.length, ...Buffer.from(name)]),
      (bytes) => bytes,
      {},
      metadata,
      { deadline: Date.now() + 20_000 },
      (error) => {
        client.close();
        resolve(error ? (error.code as number as Code) : "created");
      },
    );
  });

describe.each<[string, Create]>([
  ["REST", overRest],
  [
    "Connect over HTTP/1.1",
    overRpc((baseUrl, nodeOptions) => createConnectTransport({ baseUrl, httpVersion: "1.1", nodeOptions })),
  ],
  [
    "Connect over HTTP/2",
    overRpc((baseUrl, nodeOptions) => createConnectTransport({ baseUrl, httpVersion: "2", nodeOptions })),
  ],
  ["gRPC", overRpc((baseUrl, nodeOptions) => createGrpcTransport({ baseUrl, nodeOptions }))],
  ["gRPC-Web", overRpc((baseUrl, nodeOptions) => createGrpcWebTransport({ baseUrl, httpVersion: "1.1", nodeOptions }))],
  ["gRPC by grpc-js", overGrpcJs],
])("certificates over %s", (_name, create) => {
  test("a name in the file has the rights there", async () => {
    expect(await create(freshName("own"), "client")).toBe("created");
    expect(await create(freshName("other"), "client")).toBe(Code.PermissionDenied);
  });

  test("a certificate without a name in the file is nobody's", async () => {
    expect(await create(freshName("own"), "server")).toBe(Code.Unauthenticated);
  });

  test("a key counts before the certificate", async () => {
    expect(await create(freshName("other"), "client", ADMIN)).toBe("created");
    expect(await create(freshName("own"), "client", "wrong")).toBe(Code.Unauthenticated);
  });
});
