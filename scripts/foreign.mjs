// Clients that are not this project's own against the real service: node scripts/foreign.mjs
//
// A Python program with code generated from proto/, curl over HTTP/1.1 and HTTP/2, grpcurl, buf curl, grpc-health-probe,
// schemathesis over the OpenAPI document, and the README's snippets as pasted. Prints a line for each check; exit code 1 when
// one failed. Runs on Node 20, and needs Python 3.10 with venv, curl with HTTP/2, bash, and for grpcurl and
// grpc-health-probe either themselves or Go. What it installs goes to the cache folder.

import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { checkCurl } from "../test/foreign/curl.mjs";
import { checkDescription } from "../test/foreign/description.mjs";
import { checkGrpcurl, ensureGrpcurl } from "../test/foreign/grpcurl.mjs";
import { checkPython, preparePython } from "../test/foreign/python.mjs";
import { checkReadme } from "../test/foreign/readme.mjs";
import { check, close, equal, fail } from "../test/foreign/report.mjs";
import { startService } from "../test/foreign/service.mjs";
import { cacheFolder } from "./nats-server.mjs";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
// nats-server has a folder for its version in a folder of its own there.
const cache = dirname(dirname(cacheFolder(process.env)));
const temp = mkdtempSync(join(tmpdir(), "millrace-foreign-"));
for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, () => process.exit(1));
process.once("exit", () => rmSync(temp, { recursive: true, force: true }));

try {
  mkdirSync(cache, { recursive: true });
  const prepared = await preparePython({ root, cache, temp });
  const grpcurl = await ensureGrpcurl(cache);
  const service = await startService(root, join(temp, "data"));
  try {
    if (prepared) await checkPython(prepared, service);
    await checkCurl({ root, temp, service });
    if (grpcurl) await checkGrpcurl(grpcurl, { root, service });
    await checkReadme(grpcurl, { root, service });
    // Last: it leaves streams of all kinds behind.
    await checkDescription(grpcurl, { root, cache, temp, service });
    await check("the service logged no error", () => equal(service.errors(), [], "its log"));
  } finally {
    await check("the service ends with 0 on SIGTERM", async () => equal(await service.stop(), 0, "its exit code"));
  }
} catch (error) {
  fail("foreign", error.message);
}
process.exitCode = close() ? 0 : 1;
