// The README's code, run as pasted but for the port.

import { spawn } from "node:child_process";
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { delimiter, dirname, join } from "node:path";
import { setTimeout as wait } from "node:timers/promises";
import { run } from "./command.mjs";
import { check, equal, fail, skip } from "./report.mjs";

/** In front of a pasted block: curl also tells its status, which it does not turn into an exit code. */
const TELL_STATUS = String.raw`
curl() { command curl -sS --max-time 30 $FOREIGN_CURL_FLAGS -w '\n~~~ %{http_code} %{http_version}\n' "$@"; }
set -e
`;

const LIVE_LIMIT_MS = 10_000;

/** @param grpcurl the program, or undefined. */
export async function checkReadme(grpcurl, { root, service }) {
  const text = readFileSync(join(root, "README.md"), "utf8");
  const shell = async (code, env = {}) => {
    const path = [...(grpcurl ? [dirname(grpcurl)] : []), process.env.PATH].join(delimiter);
    const script = `${TELL_STATUS}${withPort(code, service)}`;
    const {
      code: status,
      stdout,
      stderr,
    } = await run("bash", ["-c", script], {
      cwd: root,
      env: { ...process.env, ...env, PATH: path },
    });
    if (status !== 0) throw new Error(`it ended with ${status}: ${stderr || stdout}`);
    return stdout;
  };

  /** Runs `run` for each block of a language in a section; a section without one is a failure. */
  async function each(heading, language, run) {
    const blocks = blocksOf(text, heading, language);
    if (blocks.length === 0) fail(`README: ${heading}`, `there is no block of ${language} under this heading`);
    for (const [index, code] of blocks.entries()) {
      const name = blocks.length > 1 ? `${heading}, block ${index + 1}` : heading;
      await run(code, `README: ${name}`);
    }
  }

  await check("README: Watch events live", async () => {
    const [watch, publish] = blocksOf(text, "Watch events live", "sh");
    if (!publish) throw new Error("there is no block that watches and one that publishes");
    // A process group of its own: ending the shell alone would leave its curl behind.
    const reader = spawn("bash", ["-c", withPort(watch, service)], {
      cwd: root,
      detached: true,
      stdio: ["ignore", "pipe", "ignore"],
    });
    let seen = "";
    reader.stdout.setEncoding("utf8").on("data", (part) => {
      seen += part;
    });
    const shows = async (words) => {
      const end = Date.now() + LIVE_LIMIT_MS;
      while (!seen.includes(words)) {
        if (Date.now() > end) throw new Error(`it does not show ${words}: ${seen}`);
        await wait(20);
      }
    };
    try {
      await shows("event: caughtUp");
      await shell(publish);
      await shows('"key":"user-123","value":{"amount":42}');
    } finally {
      process.kill(-reader.pid, "SIGKILL");
    }
  });
  await each("Command line", "sh", (code, name) =>
    check(name, async () => {
      const output = await shell(code);
      for (const part of [
        '"name":"clicks"',
        '"offset":1',
        '"value":{"page":"/cart"}',
        '"consumerGroup":"counter"',
        '"lag":0',
      ])
        if (!output.includes(part)) throw new Error(`${part} is missing: ${output}`);
    }),
  );
  const everyCallSucceeds = async (code, name) => {
    for (const [label, flags, version] of [
      ["as pasted", "", "1.1"],
      ["with --http2-prior-knowledge", "--http2-prior-knowledge", "2"],
    ])
      await check(`${name}, ${label}`, async () => {
        const output = await shell(code, { FOREIGN_CURL_FLAGS: flags });
        const outcomes = [...output.matchAll(/^~~~ (\d+) ([\d.]+)$/gm)];
        const calls = code.match(/^curl /gm) ?? [];
        equal(outcomes.length, calls.length, "number of answers");
        if (outcomes.some(([, status, spoken]) => !status.startsWith("2") || spoken !== version))
          throw new Error(output);
      });
  };
  await each("First events", "sh", everyCallSucceeds);
  await each("Processors", "sh", everyCallSucceeds);
  await each("gRPC", "sh", async (code, name) => {
    if (!grpcurl) return skip(name, "there is no grpcurl");
    await check(name, async () => {
      const output = await shell(code);
      for (const part of ['"PUBLISH_STATUS_PUBLISHED"', '"events"', '"metadata"'])
        if (!output.includes(part)) throw new Error(`${part} is missing: ${output}`);
    });
  });
  await each("Connect-Web", "ts", (code, name) =>
    check(name, async () => {
      const file = `snippet-${process.pid}.ts`;
      try {
        writeFileSync(join(root, file), withPort(code, service));
        const { code: status, stdout, stderr } = await run("npx", ["node", file], { cwd: root });
        if (status !== 0) throw new Error(`it ended with ${status}: ${stderr}`);
        // What it prints: partition, offset, number of events.
        if (!/^\d+ \d+n? [1-9]\d*\n$/.test(stdout)) throw new Error(`it printed ${stdout}`);
      } finally {
        rmSync(join(root, file), { force: true });
      }
    }),
  );
}

/** The code blocks of a language under a heading, up to the next heading. */
function blocksOf(text, heading, language) {
  const blocks = [];
  let isIn = false;
  let block;
  for (const line of text.split("\n")) {
    if (block) {
      if (line.startsWith("```")) {
        if (isIn && block.language === language) blocks.push(block.lines.join("\n"));
        block = undefined;
      } else block.lines.push(line);
    } else if (line.startsWith("```")) block = { language: line.slice(3).trim(), lines: [] };
    else if (/^#+ /.test(line)) isIn = line.replace(/^#+ /, "").trim() === heading;
  }
  return blocks;
}

function withPort(code, service) {
  if (!code.includes("127.0.0.1:8080")) throw new Error("the snippet does not name 127.0.0.1:8080");
  return code.replaceAll("127.0.0.1:8080", service.host);
}
