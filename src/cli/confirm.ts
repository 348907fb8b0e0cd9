import { once } from "node:events";
import { createInterface } from "node:readline/promises";
import { CliError, Exit, usage } from "./failure.ts";

/**
 * Asks before something is destroyed. Without a terminal there is nobody to ask: `--yes` is needed.
 *
 * @throws CliError when the answer is not yes.
 */
export async function confirm(question: string, yes: boolean | undefined, signal: AbortSignal): Promise<void> {
  if (yes) return;
  if (!process.stdin.isTTY || !process.stderr.isTTY) throw usage(`${question} Say so with --yes.`);
  const terminal = createInterface({ input: process.stdin, output: process.stderr });
  // The terminal takes Ctrl-C for itself, and would close without an answer.
  terminal.on("SIGINT", () => process.kill(process.pid, "SIGINT"));
  const closed = once(terminal, "close").then(() => "");
  try {
    const answer = await Promise.race([terminal.question(`${question} [y/N] `, { signal }), closed]);
    if (!/^y(es)?$/i.test(answer.trim())) throw new CliError("nothing was changed", Exit.FAILED);
  } finally {
    terminal.close();
  }
}
