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
  try {
    const answer = await terminal.question(`${question} [y/N] `, { signal });
    if (!/^y(es)?$/i.test(answer.trim())) throw new CliError("nothing was changed", Exit.FAILED);
  } finally {
    terminal.close();
  }
}
