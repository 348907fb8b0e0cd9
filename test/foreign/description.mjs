// Tools that know nothing of Millrace but what it says of itself: reflection, health, OpenAPI.

import { mkdtempSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { findProgram, run, runOk } from "./command.mjs";
import { ensureGoTool } from "./go-tool.mjs";
import { pythonEnvironment } from "./python.mjs";
import { check, equal } from "./report.mjs";

const REQUIREMENTS = fileURLToPath(new URL("schemathesis/requirements.txt", import.meta.url));
const SCHEMATHESIS_TIMEOUT_MS = 300_000;
/** Every answer is one that the document describes, and none is a failure of the service. */
const CHECKS = [
  "not_a_server_error",
  "status_code_conformance",
  "content_type_conformance",
  "response_headers_conformance",
  "response_schema_conformance",
];
const POLL = "/api/v1/streams/{streamName}/events";
const LIVE = `${POLL}/stream`;

/** @param grpcurl the program, or undefined. */
export async function checkDescription(grpcurl, { root, cache, temp, service }) {
  if (grpcurl) await checkGrpcurlReflection(grpcurl, service);
  await checkBufCurl(root, service);
  await checkHealthProbe(cache, service);
  await check("schemathesis: every answer is described, none is a failure of the service", async () => {
    const python = await pythonEnvironment(join(cache, "schemathesis"), REQUIREMENTS, "schemathesis");
    const send = (least, ...choice) => schemathesis(python, { temp, service, least, choice });
    await deleteStreams(service);
    // First, while no stream exists: schemathesis would read a live one for ever.
    await send(20, "--include-path", LIVE);
    // Polls mostly wait.
    await Promise.all([send(20, "--include-path", POLL), send(1000, "--exclude-path", LIVE, "--exclude-path", POLL)]);
  });
}

async function deleteStreams({ url }) {
  const streams = `${url}/api/v1/streams`;
  for (const { name } of (await (await fetch(`${streams}?pageSize=1000`)).json()).streams)
    equal((await fetch(`${streams}/${name}`, { method: "DELETE" })).status, 200, "status");
}

/** Sends requests that it makes up for some paths, at least so many. @throws Error with the failures that it found. */
async function schemathesis(python, { temp, service, least, choice }) {
  const limits = ["--max-examples", "25", "--request-timeout", "40", "--seed", "1"];
  const { code, stdout, stderr } = await run(
    python,
    [
      "-m",
      "schemathesis.cli",
      "run",
      `${service.url}/openapi.json`,
      "--checks",
      CHECKS.join(","),
      ...limits,
      ...choice,
    ],
    {
      cwd: mkdtempSync(join(temp, "schemathesis-")),
      timeoutMs: SCHEMATHESIS_TIMEOUT_MS,
      env: { ...process.env, NO_COLOR: "1" },
    },
  );
  if (code !== 0) throw new Error((stderr || stdout).split(/=+ FAILURES =+/).at(-1));
  const [, count] = /(\d+) generated/.exec(stdout) ?? [];
  if (!(Number(count) >= least)) throw new Error(`it sent ${count} requests only: ${stdout.slice(-500)}`);
}

async function checkGrpcurlReflection(grpcurl, { host }) {
  const call = (...args) => runOk(grpcurl, ["-plaintext", "-max-time", "20", ...args]);
  await check("grpcurl: list and describe through reflection", async () => {
    const services = (await call(host, "list")).trim().split("\n");
    for (const name of ["millrace.v1.EventService", "millrace.v1.StreamService", "grpc.health.v1.Health"])
      if (!services.includes(name)) throw new Error(`${name} is missing: ${services}`);
    for (const service of services) {
      const methods = (await call(host, "list", service)).trim().split("\n");
      for (const symbol of [service, ...methods]) {
        const text = await call(host, "describe", symbol);
        if (!text.startsWith(`${symbol} is a `)) throw new Error(`${symbol}: ${text}`);
      }
    }
    const message = await call(host, "describe", "millrace.v1.PollRequest");
    if (!message.includes("string consumer_group = 2")) throw new Error(message);
  });
  await check("grpcurl: a call and an error's details through reflection", async () => {
    const name = "described";
    await call("-d", JSON.stringify({ name }), host, "millrace.v1.StreamService/CreateStream");
    const event = { stream_name: name, event: { value: { a: [1, "b"] } } };
    const ack = JSON.parse(await call("-d", JSON.stringify(event), host, "millrace.v1.EventService/Publish"));
    equal(ack.status, "PUBLISH_STATUS_PUBLISHED", "status");
    const request = JSON.stringify({ stream_name: "nothing" });
    const failed = await run(grpcurl, ["-plaintext", "-d", request, host, "millrace.v1.StreamService/GetStream"]);
    equal(failed.code, 64 + 5, "exit code");
    if (!failed.stderr.includes('"reason": "STREAM_NOT_FOUND"')) throw new Error(failed.stderr);
  });
  await check("grpcurl: grpc.health.v1", async () => {
    const { status } = JSON.parse(await call(host, "grpc.health.v1.Health/Check"));
    equal(status, "SERVING", "status");
  });
}

async function checkBufCurl(root, { url }) {
  const buf = findProgram("buf", join(root, "node_modules", ".bin"));
  for (const protocol of ["grpc", "grpcweb", "connect"])
    await check(`buf curl: a call through reflection, over ${protocol}`, async () => {
      const args = ["curl", "--http2-prior-knowledge", "--protocol", protocol];
      const name = `buf-${protocol}`;
      const method = `${url}/millrace.v1.StreamService/CreateStream`;
      const answer = await runOk(buf, [...args, "-d", JSON.stringify({ name }), method], { cwd: root });
      equal(JSON.parse(answer).stream.name, name, "name");
    });
  await check("buf curl: lists the methods", async () => {
    const text = await runOk(buf, ["curl", "--http2-prior-knowledge", "--protocol", "grpc", "--list-methods", url]);
    if (!text.includes("millrace.v1.EventService/PublishBatch")) throw new Error(text);
  });
}

async function checkHealthProbe(cache, { host }) {
  const path = "github.com/grpc-ecosystem/grpc-health-probe";
  const probe = await ensureGoTool(cache, "grpc-health-probe", path, "v0.4.61");
  if (!probe) return;
  await check("grpc-health-probe: the gateway and a service serve, an unknown one is not found", async () => {
    const ask = (...args) => run(probe, [`-addr=${host}`, ...args]);
    equal((await ask()).code, 0, "exit code");
    equal((await ask("-service=millrace.v1.EventService")).code, 0, "exit code");
    // 4: the RPC was answered with another status than SERVING; 3: it failed.
    const unknown = await ask("-service=nothing");
    if (unknown.code === 0) throw new Error("an unknown service serves");
  });
}
