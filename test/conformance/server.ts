/**
 * The server that connectconformance starts, once for each set of properties: our listener and our RPC plugin, with the
 * suite's service in place of ours. It reads one request on stdin, answers it on stdout, and runs until it is ended.
 */
import type { AddressInfo } from "node:net";
import { create, createRegistry, fromBinary, toBinary } from "@bufbuild/protobuf";
import fastify from "fastify";
import { createListener, type ListenerTls, type RequestHandler } from "../../src/transport/listener.ts";
import { rpcPlugin } from "../../src/transport/rpc.ts";
import {
  type ServerCompatRequest,
  ServerCompatRequestSchema,
  ServerCompatResponseSchema,
} from "./gen/connectrpc/conformance/v1/server_compat_pb.js";
import { file_connectrpc_conformance_v1_service } from "./gen/connectrpc/conformance/v1/service_pb.js";
import { conformanceRoutes } from "./service.ts";

const request = fromBinary(ServerCompatRequestSchema, await readDelimited());
const tls = tlsOf(request);
const app = fastify({
  serverFactory: (handler) => {
    // Long, because the suite sends on connections that were idle without a second try: in the moment of the server's
    // own closing that is an error, on a busy machine one in thousands of cases.
    const times = { keepAliveTimeoutMs: 60_000, headersTimeoutMs: 60_000, requestTimeoutMs: 60_000 };
    return createListener(handler as RequestHandler, tls ? { ...times, tls } : times);
  },
  routerOptions: { maxParamLength: 1024 },
});
await app.register(rpcPlugin, {
  routes: conformanceRoutes,
  jsonOptions: { registry: createRegistry(file_connectrpc_conformance_v1_service) }, // for the requests said back in Any
  ...(request.messageReceiveLimit === 0 ? {} : { readMaxBytes: request.messageReceiveLimit }),
});
await app.listen({ host: "127.0.0.1", port: 0 });

const { port } = app.server.address() as AddressInfo;
const response = create(ServerCompatResponseSchema, { host: "127.0.0.1", port });
if (tls) response.pemCert = tls.cert as Buffer;
const bytes = toBinary(ServerCompatResponseSchema, response);
const size = Buffer.alloc(4);
size.writeUInt32BE(bytes.length);
process.stdout.write(Buffer.concat([size, bytes]));

/** One message with its size in front of it, four bytes, big-endian. */
async function readDelimited(): Promise<Buffer> {
  let held: Buffer = Buffer.alloc(0);
  for await (const chunk of process.stdin) {
    held = Buffer.concat([held, chunk]);
    if (held.length >= 4 && held.length >= 4 + held.readUInt32BE()) return held.subarray(4, 4 + held.readUInt32BE());
  }
  throw new Error("stdin ended before the request was complete");
}

function tlsOf({ useTls, serverCreds, clientTlsCert }: ServerCompatRequest): ListenerTls | undefined {
  if (!useTls || !serverCreds) return undefined;
  const [key, cert] = [Buffer.from(serverCreds.key), Buffer.from(serverCreds.cert)];
  return clientTlsCert.length === 0 ? { key, cert } : { key, cert, clientCa: Buffer.from(clientTlsCert) };
}
