// One line for each check, and their counts.

import { isDeepStrictEqual } from "node:util";

const counts = { passed: 0, failed: 0, skipped: 0 };

export function pass(name) {
  counts.passed++;
  console.log(`ok    ${name}`);
}

export function fail(name, reason) {
  counts.failed++;
  console.log(`FAIL  ${name}: ${oneLine(reason)}`);
}

export function skip(name, reason) {
  counts.skipped++;
  console.log(`skip  ${name}: ${oneLine(reason)}`);
}

/** Runs one check: it passes unless it throws. */
export async function check(name, run) {
  try {
    await run();
    pass(name);
  } catch (error) {
    fail(name, error.message);
  }
}

export function equal(got, wanted, what = "value") {
  if (!isDeepStrictEqual(got, wanted))
    throw new Error(`${what} is ${JSON.stringify(got)}, not ${JSON.stringify(wanted)}`);
}

/** Prints the closing line. @returns whether nothing failed. */
export function close() {
  console.log(`${counts.passed} passed, ${counts.failed} failed, ${counts.skipped} skipped`);
  return counts.failed === 0;
}

const oneLine = (text) => String(text).replace(/\s+/g, " ").trim().slice(0, 600);
