import { execFileSync, spawnSync } from "node:child_process";
import * as http from "node:http";
import type { AddressInfo } from "node:net";
import { delimiter, join } from "node:path";
import { describe, expect, onTestFinished, test } from "vitest";
import { VERSION } from "../../src/version.ts";
import { BIN, millrace, shell, start } from "../support/cli.ts";
import { freshName, useService } from "../support/service.ts";
import { eventually } from "../support/wait.ts";

const service = useService();
const NOWHERE = "http://127.0.0.1:1";

describe("help", () => {
  const commands = ["serve", "streams", "publish", "consume", "groups", "processors", "top"];

  test("names every command, with examples and exit codes", async () => {
    const { code, stdout } = await millrace(NOWHERE, "--help");
    expect(code).toBe(0);
    for (const part of [...commands, "Examples:", "Exit codes:", "MILLRACE_URL", "MILLRACE_API_KEY"])
      expect(stdout).toContain(part);
    expect((await millrace(NOWHERE, "--version")).stdout).toBe(`${VERSION}\n`);
  });

  test.each(commands)("%s tells of itself, and of the options that all have", async (command) => {
    const { code, stdout } = await millrace(NOWHERE, command, "--help");
    expect([code, stdout]).toEqual([0, expect.stringMatching(/^Usage: millrace /)]);
    expect(stdout).toContain("--url <url>");
  });

  test("comes after a mistake, with exit code 2", async () => {
    const { code, stderr } = await millrace(NOWHERE, "stremas");
    expect([code, stderr]).toEqual([2, expect.stringContaining("Did you mean streams?")]);
    expect((await millrace(NOWHERE)).code).toBe(2);
    expect((await millrace(NOWHERE, "streams", "list", "--colour")).code).toBe(2);
  });
});

test.each([
  [["--json"], "a command is missing"],
  [["--json", "stremas"], "Did you mean streams?"],
  [["streams", "describe", "--json"], "missing required argument"],
  [["groups", "seek", "g", "s", "--json"], "--to <position>"],
  [["top", "--count", "x", "--json"], "whole number"],
  [["streams", "list", "--json", "--table"], "cannot be used with"],
])("with --json wrong usage is told as JSON too: %j", async (args, words) => {
  const { code, stdout, stderr } = await millrace(NOWHERE, ...args);
  expect([code, stdout]).toEqual([2, ""]);
  expect(JSON.parse(stderr)).toEqual({ error: { description: expect.stringContaining(words) } });
});

describe("the connection", () => {
  test("a service that is not there is exit code 6", async () => {
    const { code, stdout, stderr } = await millrace(NOWHERE, "streams", "list");
    expect([code, stdout, stderr]).toEqual([
      6,
      "",
      expect.stringMatching(/out of reach: .*ECONNREFUSED.*MILLRACE_URL/),
    ]);
  });

  test("a URL that is none is exit code 2", async () => {
    expect((await millrace("ftp://x", "streams", "list")).code).toBe(2);
  });

  test("a path where no Millrace is, is told with exit code 3", async () => {
    const { code, stderr } = await millrace(`${service.url}/elsewhere`, "streams", "list");
    expect([code, stderr]).toEqual([3, expect.stringMatching(/no Millrace answers there.*MILLRACE_URL/)]);
  });

  test("a URL in the environment that is set to nothing is not set", async () => {
    const { stderr } = await start(["streams", "list", "--url", service.url], { env: { MILLRACE_URL: "" } }).ended;
    expect(stderr).toBe("");
    const unset = await start(["streams", "list"], { env: { MILLRACE_URL: "" }, input: "" }).ended;
    expect(unset.code).not.toBe(2);
  });

  test("the API key goes along as a bearer token", async () => {
    const seen: (string | undefined)[] = [];
    const server = http.createServer((req, res) => {
      seen.push(req.headers.authorization);
      res.writeHead(401, { "content-type": "application/json" });
      res.end('{"code":"unauthenticated","message":"who are you?"}');
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    onTestFinished(() => void server.close());
    const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    const list = ["streams", "list"];
    const refused = await start(list, { url, env: { MILLRACE_API_KEY: "from-env" }, input: "" }).ended;
    expect([refused.code, refused.stderr]).toEqual([5, expect.stringContaining("who are you?")]);
    await start([...list, "--api-key", "given"], { url, env: { MILLRACE_API_KEY: "from-env" }, input: "" }).ended;
    await millrace(url, ...list);
    expect(seen).toEqual(["Bearer from-env", "Bearer given", undefined]);
  });

  test.each([
    ["a call that takes long", ["streams", "list"]],
    ["reading what there is", ["consume", "a"]],
  ])("%s is ended by Ctrl-C with 130", async (_name, args) => {
    const server = http.createServer(() => {});
    let asked = false;
    server.on("request", () => {
      asked = true;
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    onTestFinished(() => server.closeAllConnections());
    const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    const running = start(args, { url });
    await eventually("it asks", () => asked);
    running.kill("SIGINT");
    expect((await running.ended).code).toBe(130);
    server.close();
  });
});

describe("the terminal", () => {
  const hasScript = spawnSync("script", ["--version"]).status === 0;

  test.skipIf(!hasScript)("gets tables, and a progress bar for files", async () => {
    const name = freshName();
    const onTerminal = (line: string) =>
      shell(service.url, `script -qefc '"${process.execPath}" "${BIN}" ${line}' /dev/null`);
    expect((await onTerminal(`streams create ${name}`)).stdout).toMatch(new RegExp(`^Stream +${name}`));
    const lines = `seq 1 3000 > /tmp/${name}; trap 'rm -f /tmp/${name}' EXIT`;
    const published = await shell(
      service.url,
      `${lines}; script -qefc '"${process.execPath}" "${BIN}" publish ${name} -f /tmp/${name}' /dev/null`,
    );
    expect(published.stdout).toContain("publishing");
    expect(published.stdout).toContain("3,000 events are stored");
    expect((await onTerminal(`streams list --json --prefix ${name}`)).stdout).toMatch(/^\{"name"/);
  });
});

describe("serve", () => {
  test("runs the service by its options until SIGTERM", async () => {
    const running = start(["serve", "--port", "0", "--nats", service.nats.url, "--log-level", "warn"]);
    const url = await eventually("it listens", () => /listens on (\S+)/.exec(running.stdout)?.[1]);
    expect((await millrace(url, "streams", "list")).code).toBe(0);
    running.kill("SIGTERM");
    expect((await running.ended).code).toBe(0);
  });

  test("refuses a setting that is wrong with exit code 2", async () => {
    const { code, stderr } = await millrace(NOWHERE, "serve", "--log-level", "loud");
    expect([code, stderr]).toEqual([2, expect.stringContaining("MILLRACE_LOG_LEVEL")]);
  });
});

describe("an older Node", () => {
  const older = (process.env.PATH ?? "")
    .split(delimiter)
    .map((folder) => join(folder, "node"))
    .find((node) => /^v2[0-3]\./.test(spawnSync(node, ["--version"], { encoding: "utf8" }).stdout ?? ""));

  test.skipIf(!older)("runs the command by the Node of the packages, with its exit code and signals", async () => {
    const version = execFileSync(older!, [BIN, "--version"], { encoding: "utf8" });
    expect(version).toBe(`${VERSION}\n`);
    expect(spawnSync(older!, [BIN, "stremas"]).status).toBe(2);
    const stream = freshName();
    await millrace(service.url, "streams", "create", stream);
    await millrace(service.url, "publish", stream, "1");
    const running = start(["consume", stream, "--follow", "--values"], { url: service.url, node: older! });
    await eventually("the event comes", () => running.stdout === "1\n");
    running.kill("SIGINT");
    expect((await running.ended).code).toBe(0);
  });
});
