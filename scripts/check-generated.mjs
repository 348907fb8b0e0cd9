// Fails when gen/ is not what proto/ generates, when the proto files are not formatted, or when they break the wire
// contract of the last commit on the main branch. Needs no network.
import { execFileSync, spawnSync } from "node:child_process";

const run = (command, ...args) => {
  const { status } = spawnSync(command, args, { stdio: "inherit", shell: process.platform === "win32" });
  if (status !== 0) process.exit(status ?? 1);
};
const git = (...args) => execFileSync("git", args, { encoding: "utf8" }).trim();

run("buf", "format", "--diff", "--exit-code", "--path", "proto/millrace");
run("buf", "generate");
run("node", "scripts/comments.mjs");
const changed = git("status", "--porcelain", "--", "gen");
if (changed) {
  console.error(`gen/ is not what proto/ generates; run "npm run generate" and commit:\n${changed}`);
  process.exit(1);
}

// What a change may break is what stood before it: the branch's last commit, or on that commit itself its parent.
const base = process.env.BUF_BREAKING_AGAINST ?? (git("rev-list", "--count", "HEAD") === "1" ? "HEAD" : "HEAD~1");
const hasProto = spawnSync("git", ["cat-file", "-e", `${base}:proto/millrace/v1`], { stdio: "ignore" }).status === 0;
if (hasProto) run("buf", "breaking", "--against", `.git#ref=${git("rev-parse", base)}`);
else console.log(`buf breaking: ${base} has no proto files to compare with`);
