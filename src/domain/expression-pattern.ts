import { RE2JS } from "@bufbuild/re2";

/** Longest pattern in UTF-16 units: `x{1000}` eighty times is compiled in some tens of milliseconds. */
export const MAX_PATTERN_LENGTH = 512;
/** Most instructions of all patterns of one expression; a counted repetition takes its body that many times. */
export const MAX_PATTERN_INSTRUCTIONS = 1000;

/** Text after which what a pattern has learned is dropped: one state more for each new character at the very worst. */
const MAX_LEARNED_LENGTH = 256 * 1024;
const MAX_STATES = 1000;

/** A regular expression of RE2: its time grows with the text's length times its instructions, whatever the two are. */
export class Pattern {
  readonly instructions: number;
  readonly #text: string;
  #regex: RE2JS;
  #learnedLength = 0;

  /** @throws Error when the pattern is malformed or too long. */
  constructor(text: string) {
    if (text.length > MAX_PATTERN_LENGTH) throw new Error(`longer than ${MAX_PATTERN_LENGTH} characters`);
    this.#text = text;
    this.#regex = compile(text);
    this.instructions = this.#regex.re2().prog.numInst();
  }

  /** Whether it matches anywhere in the text. */
  test(text: string): boolean {
    this.#learnedLength += text.length;
    if (this.#learnedLength > MAX_LEARNED_LENGTH) {
      this.#regex = compile(this.#text);
      this.#learnedLength = text.length;
    }
    return this.#regex.test(text);
  }
}

function compile(text: string): RE2JS {
  const regex = RE2JS.compile(text);
  // A state weighs a kilobyte and more, and the engine goes on without them when there are too many.
  regex.re2().dfa.stateLimit = MAX_STATES;
  return regex;
}
