import { spawn } from "node:child_process";
import { once } from "node:events";
import { readdirSync } from "node:fs";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { text } from "node:stream/consumers";
import { pipeline } from "node:stream/promises";
import { fileURLToPath } from "node:url";
import { describe, expect, onTestFinished, test } from "vitest";
import { ServiceProcess } from "../../examples/service-process.ts";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));

interface Outcome {
  readonly code: number | null;
  readonly output: string;
  readonly errors: string;
}

/** Runs the example as `npm run example` does. */
async function runExample(args: readonly string[], env: NodeJS.ProcessEnv = {}): Promise<Outcome> {
  const child = startExample(args, env);
  const [output, errors, [code]] = await Promise.all([text(child.stdout), text(child.stderr), once(child, "exit")]);
  return { code, output, errors };
}

function startExample(args: readonly string[], env: NodeJS.ProcessEnv = {}) {
  const { MILLRACE_URL: _, ...inherited } = process.env;
  const child = spawn(process.execPath, ["examples/flights.ts", ...args], {
    cwd: ROOT,
    env: { ...inherited, ...env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  onTestFinished(() => void child.kill("SIGTERM"));
  return child;
}

const leftFolders = () => readdirSync(tmpdir()).filter((name) => name.startsWith("millrace-example-"));

describe("example flights", () => {
  test("reads back with both groups what it has published", async () => {
    const before = leftFolders();
    const { code, output, errors } = await runExample(["--rows", "5000"]);
    expect(errors).toBe("");
    expect(output).not.toContain("DIFFERS");
    expect(output).toMatch(/^publish +5000 events in 10 batches, /m);
    expect(output).toMatch(/^dashboard +5000 events in \d+ pages, /m);
    expect(output).toMatch(/^archive +stopped after 2500 events in 5 pages, 500 more not committed$/m);
    expect(output).toMatch(/^service +started again at http:/m);
    expect(output).toMatch(/^archive +resumed with 2500 events in \d+ pages, /m);
    expect(output).toContain("ok       archive: committed events that came again: 0\n");
    expect(output).toContain("ok       archive: uncommitted events that came again: 500\n");
    expect(output).toContain("ok       archive: events: 5000\n");
    expect(output).toMatch(/^live +5000 events published and read, /m);
    expect(output).toMatch(/^ +anna +\d+ events, \d+ more not committed, then cut off$/m);
    expect(output).toContain("ok       live: anna died with events that she had not committed: true\n");
    expect(output).toContain("ok       live: events: 5000\n");
    expect(output).toMatch(/^delays +5000 events processed, /m);
    expect(output).toMatch(/^ +\d+ delayed flights from .+, .+ [A-Z]{2}$/m);
    expect(output).toContain("ok       delays: flights processed: 5000\n");
    expect(output).toContain("ok       delays: failed and late flights: 0\n");
    expect(output).toMatch(/ok {7}delays: results by airport and week: all \d+\n/);
    expect(output).toMatch(/^All \d+ checks hold\.$/m);
    expect(code).toBe(0);
    expect(leftFolders()).toEqual(before);
  });

  test("uses a service that runs, and leaves nothing there", async () => {
    const url = await runningService();
    const { code, output } = await runExample(["--rows", "1"], { MILLRACE_URL: url });
    expect(output).toContain(`used at ${url}`);
    expect(output).toMatch(/^All \d+ checks hold\.$/m);
    expect(code).toBe(0);
    const streams = (await (await fetch(`${url}/api/v1/streams`)).json()) as { streams?: unknown[] };
    expect(streams.streams ?? []).toEqual([]);
    const left = async (path: string) => (await fetch(`${url}/api/v1/${path}`)).json();
    expect(await left("processors")).toEqual({ processors: [] });
    expect(JSON.stringify(await left("functions"))).not.toContain('"installed"');
  });

  test("fails and says what differs when one event comes back changed", async () => {
    const url = await runningService();
    let polls = 0;
    const falsifying = await proxy(url, (path, answer) =>
      path.includes("consumerGroup=dashboard") && ++polls === 2
        ? answer.replace('"distance":', '"distance":1')
        : answer,
    );
    const { code, output } = await runExample(["--rows", "1200"], { MILLRACE_URL: falsifying });
    expect(output).toContain("DIFFERS  dashboard: miles\n");
    expect(output).toMatch(/flight-\d+ at offset \d+ of partition \d differs from row \d+ of the file/);
    expect(output).toMatch(/^2 of \d+ checks do not hold: /m);
    expect(code).toBe(1);
  });

  test("names the address where no service answers", async () => {
    const address = await closedAddress();
    const { code, errors } = await runExample([], { MILLRACE_URL: `http://${address}` });
    expect(errors).toContain(address);
    expect(code).toBe(1);
  });

  test("gives the service's last words when it does not start", async () => {
    const { code, errors } = await runExample([], { MILLRACE_FSYNC: "never" });
    expect(errors).toContain("ended with 2 before it listened");
    expect(errors).toContain("MILLRACE_FSYNC must be");
    expect(code).toBe(1);
  });

  test("refuses a number of rows that is none", async () => {
    const { code, errors } = await runExample(["--rows", "many"]);
    expect(errors).toContain('not "many"');
    expect(code).toBe(1);
  });

  test.skipIf(process.platform === "win32")("ends its service and removes its data when interrupted", async () => {
    const before = leftFolders();
    const child = startExample([]);
    let output = "";
    child.stdout.setEncoding("utf8").on("data", (chunk: string) => {
      output += chunk;
      if (/^publish/m.test(output)) child.kill("SIGINT");
    });
    const [errors, [code]] = await Promise.all([text(child.stderr), once(child, "exit")]);
    expect(errors).toContain("interrupted by SIGINT");
    expect(code).toBe(1);
    const [, url] = /started at (\S+)/.exec(output) ?? [];
    await expect(fetch(url!)).rejects.toThrow();
    expect(leftFolders()).toEqual(before);
  });
});

async function runningService(): Promise<string> {
  const service = await ServiceProcess.start(AbortSignal.timeout(30_000));
  onTestFinished(() => service[Symbol.asyncDispose]());
  return service.url;
}

async function closedAddress(): Promise<string> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, "close");
  return `127.0.0.1:${port}`;
}

/** A server that passes everything on, and every answer through `change`. */
async function proxy(target: string, change: (path: string, answer: string) => string): Promise<string> {
  const server: Server = createServer(async (req, res) => {
    const body = await text(req);
    const gone = new AbortController();
    res.on("close", () => gone.abort());
    const answer = await fetch(`${target}${req.url}`, {
      method: req.method!,
      signal: gone.signal,
      headers: { accept: req.headers.accept ?? "*/*" },
      ...(body ? { body, headers: { "content-type": "application/json" } } : {}),
    });
    if (req.url!.includes("/events/stream?")) {
      res.writeHead(answer.status, { "content-type": answer.headers.get("content-type")! });
      // Either side may go; the other then goes too.
      await pipeline(answer.body!, res).catch(() => {});
      return;
    }
    const changed = change(req.url!, await answer.text());
    res.writeHead(answer.status, { "content-type": "application/json" }).end(changed);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  onTestFinished(() => {
    server.close();
    server.closeAllConnections();
  });
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}
