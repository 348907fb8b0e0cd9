import { Buffer, isUtf8 } from "node:buffer";
import { MAX_JSON_DEPTH } from "./limits.ts";

/**
 * Most containers a {@link JsonScanner} follows inside each other before it gives the document up. It lies far above
 * {@link MAX_JSON_DEPTH}, so that a value that is only too deep to be stored can still be skipped to its end.
 */
export const MAX_SCAN_DEPTH = 10_000;

const TAB = 0x09;
const LINE_FEED = 0x0a;
const CARRIAGE_RETURN = 0x0d;
const SPACE = 0x20;
export const QUOTE = 0x22;
const PLUS = 0x2b;
const COMMA = 0x2c;
const MINUS = 0x2d;
const DOT = 0x2e;
const DIGIT_0 = 0x30;
const DIGIT_9 = 0x39;
const COLON = 0x3a;
export const OPEN_BRACKET = 0x5b;
const BACKSLASH = 0x5c;
const CLOSE_BRACKET = 0x5d;
const LETTER_A = 0x61;
const LETTER_E = 0x65;
export const LETTER_F = 0x66;
export const LETTER_N = 0x6e;
export const LETTER_T = 0x74;
const LETTER_U = 0x75;
export const OPEN_BRACE = 0x7b;
const CLOSE_BRACE = 0x7d;

/** What reading past the end gives: no rule of JSON admits a NUL byte, so it ends every loop and fails every check. */
const END = 0;

/** 1 for the bytes that end a run of plain characters inside a string: quote, backslash and the control characters. */
const STRING_STOP = new Uint8Array(256).fill(1, 0, SPACE);
STRING_STOP[QUOTE] = 1;
STRING_STOP[BACKSLASH] = 1;

const SIMPLE_ESCAPE = new Uint8Array(256);
for (const char of '"\\/bfnrt') SIMPLE_ESCAPE[char.charCodeAt(0)] = 1;

/** Per nesting level of the value being skipped: 1 for an object, 0 for an array. Skipping is never re-entrant. */
const levels = new Uint8Array(MAX_SCAN_DEPTH + 1);

/** A text that is not JSON (RFC 8259), or is nested too deeply. */
export class JsonError extends Error {
  override readonly name = "JsonError";
  /** Where the text stops being acceptable, in bytes from the start of the scanned array. */
  readonly offset: number;

  constructor(problem: string, offset: number) {
    super(`${problem} at byte ${offset}`);
    this.offset = offset;
  }
}

/**
 * A strict RFC 8259 reader over bytes, driven by a caller that knows what it expects next. Nothing is decoded until a
 * text is asked for, and values can be skipped while being checked completely.
 *
 * The caller has checked that the bytes are UTF-8. Every method throws {@link JsonError} at the first byte that cannot
 * belong to a JSON text; the scanner is of no use afterwards.
 */
export class JsonScanner {
  readonly bytes: Buffer;
  readonly end: number;
  /** Offset of the next unread byte. */
  pos = 0;
  /** First byte of the value skipped last, or of the string taken last (behind its quote). */
  tokenStart = 0;
  /** One past the last byte of the value skipped last, or of the string taken last (its closing quote). */
  tokenEnd = 0;
  /** Whether the string taken last holds a backslash. */
  escaped = false;
  /** Whether white space stood between the tokens of the value skipped last. */
  spaced = false;
  /** Containers inside each other in the value skipped last: 0 for a scalar, 1 for `[]`. */
  depth = 0;

  constructor(bytes: Buffer) {
    this.bytes = bytes;
    this.end = bytes.length;
  }

  /** Skips white space and gives the next byte without taking it, 0 at the end. */
  peek(): number {
    const { bytes, end } = this;
    let pos = this.pos;
    let byte = pos < end ? bytes[pos]! : END;
    while (byte <= SPACE && isSpace(byte)) byte = ++pos < end ? bytes[pos]! : END;
    this.pos = pos;
    return byte;
  }

  /** Skips white space, of which nothing but the end may follow. */
  finish(): void {
    this.peek();
    if (this.pos < this.end) throw unexpected(this.bytes, this.pos, this.end);
  }

  /** Takes an opening brace and, unless the object is empty, its first member's name. @returns whether there is one. */
  enterObject(): boolean {
    this.take(OPEN_BRACE);
    if (this.peek() === CLOSE_BRACE) {
      this.pos++;
      return false;
    }
    this.scanName();
    return true;
  }

  /** After a member's value, takes the next member's name or the closing brace. @returns whether there is a next one. */
  nextMember(): boolean {
    const byte = this.peek();
    if (byte === COMMA) {
      this.pos++;
      this.scanName();
      return true;
    }
    this.take(CLOSE_BRACE);
    return false;
  }

  /** Takes an opening bracket, and the closing one of an empty array. @returns whether an element follows. */
  enterArray(): boolean {
    this.take(OPEN_BRACKET);
    if (this.peek() !== CLOSE_BRACKET) return true;
    this.pos++;
    return false;
  }

  /** After an element, takes the comma or the closing bracket. @returns whether another element follows. */
  nextElement(): boolean {
    if (this.peek() === COMMA) {
      this.pos++;
      return true;
    }
    this.take(CLOSE_BRACKET);
    return false;
  }

  /** Takes a string; {@link tokenText} gives its text. */
  scanString(): void {
    this.take(QUOTE);
    const { bytes, end } = this;
    const start = this.pos;
    let pos = start;
    while (pos < end && STRING_STOP[bytes[pos]!] === 0) pos++;
    this.escaped = pos < end && bytes[pos] === BACKSLASH;
    pos = skipString(bytes, pos, end);
    this.tokenStart = start;
    this.tokenEnd = pos - 1;
    this.pos = pos;
  }

  /** The text of the string taken last. A lone surrogate that was sent as an escape stays one: not well-formed text. */
  tokenText(): string {
    const { bytes, tokenStart, tokenEnd } = this;
    if (this.escaped) return JSON.parse(bytes.toString("utf8", tokenStart - 1, tokenEnd + 1));
    return bytes.toString("utf8", tokenStart, tokenEnd);
  }

  /** The value skipped last as it was sent, quotes of a string included; numbers of any size keep all their digits. */
  rawText(): string {
    return this.bytes.toString("utf8", this.tokenStart, this.tokenEnd);
  }

  /**
   * Takes any value and checks all of it; sets {@link tokenStart}, {@link tokenEnd}, {@link spaced}, {@link depth}.
   *
   * @throws JsonError also where containers are nested deeper than {@link MAX_SCAN_DEPTH}.
   */
  skipValue(): void {
    let byte = this.peek();
    const { bytes, end } = this;
    let pos = this.pos;
    let depth = 0;
    let deepest = 0;
    let spaced = false;
    let inObject = false;
    this.tokenStart = pos;

    // One turn takes one value, or the opening of one, and goes on to where the next one starts.
    for (;;) {
      let opened = false;
      if (byte === QUOTE) {
        pos = skipString(bytes, pos + 1, end);
      } else if (byte === OPEN_BRACE || byte === OPEN_BRACKET) {
        if (depth === MAX_SCAN_DEPTH) throw new JsonError(`nested deeper than ${MAX_SCAN_DEPTH} levels`, pos);
        opened = true;
        inObject = byte === OPEN_BRACE;
        levels[++depth] = inObject ? 1 : 0;
        if (depth > deepest) deepest = depth;
        pos++;
      } else {
        pos = skipScalar(bytes, pos, end, byte);
      }

      for (;;) {
        if (depth === 0) {
          this.pos = pos;
          this.tokenEnd = pos;
          this.spaced = spaced;
          this.depth = deepest;
          return;
        }
        byte = pos < end ? bytes[pos]! : END;
        if (byte <= SPACE) {
          spaced = true;
          pos = skipSpace(bytes, pos, end);
          byte = pos < end ? bytes[pos]! : END;
        }
        if (byte !== (inObject ? CLOSE_BRACE : CLOSE_BRACKET)) break;
        pos++;
        depth--;
        inObject = levels[depth] === 1;
        opened = false;
      }

      if (!opened) {
        if (byte !== COMMA) throw unexpected(bytes, pos, end);
        byte = ++pos < end ? bytes[pos]! : END;
        if (byte <= SPACE) {
          spaced = true;
          pos = skipSpace(bytes, pos, end);
          byte = pos < end ? bytes[pos]! : END;
        }
      }
      if (!inObject) continue;

      if (byte !== QUOTE) throw unexpected(bytes, pos, end);
      pos = skipString(bytes, pos + 1, end);
      byte = pos < end ? bytes[pos]! : END;
      if (byte <= SPACE) {
        spaced = true;
        pos = skipSpace(bytes, pos, end);
        byte = pos < end ? bytes[pos]! : END;
      }
      if (byte !== COLON) throw unexpected(bytes, pos, end);
      byte = ++pos < end ? bytes[pos]! : END;
      if (byte <= SPACE) {
        spaced = true;
        pos = skipSpace(bytes, pos, end);
        byte = pos < end ? bytes[pos]! : END;
      }
    }
  }

  private scanName(): void {
    this.scanString();
    this.take(COLON);
  }

  private take(expected: number): void {
    if (this.peek() !== expected) throw unexpected(this.bytes, this.pos, this.end);
    this.pos++;
  }
}

/**
 * Checks one whole JSON text, white space around it included.
 *
 * @returns `compact`: whether it holds no white space outside its strings.
 * @throws JsonError when it is not UTF-8, not JSON, or nested deeper than {@link MAX_JSON_DEPTH}.
 */
export function validateJson(bytes: Uint8Array): { compact: boolean } {
  const scanner = scanDocument(bytes);
  return { compact: !scanner.spaced && scanner.tokenEnd - scanner.tokenStart === bytes.length };
}

/**
 * Checks one whole JSON text and removes the white space around and inside it; everything else stays as it was sent.
 *
 * @returns `bytes` or a view of them when there is no white space inside, else a copy.
 * @throws JsonError as {@link validateJson} does.
 */
export function toCompactJson(bytes: Uint8Array): Uint8Array {
  const { spaced, tokenStart, tokenEnd } = scanDocument(bytes);
  if (spaced) return compactJson(bytes, tokenStart, tokenEnd);
  return tokenEnd - tokenStart === bytes.length ? bytes : bytes.subarray(tokenStart, tokenEnd);
}

/** Copies the valid JSON in `[start, end)` without the white space outside its strings. */
export function compactJson(bytes: Uint8Array, start: number, end: number): Uint8Array {
  const compact = Buffer.allocUnsafe(end - start);
  let length = 0;
  let pos = start;
  while (pos < end) {
    const byte = bytes[pos++]!;
    if (byte <= SPACE) continue;
    compact[length++] = byte;
    if (byte !== QUOTE) continue;
    for (let inner = 0; inner !== QUOTE; ) {
      inner = bytes[pos++]!;
      compact[length++] = inner;
      // An escaped quote does not end the string.
      if (inner === BACKSLASH) compact[length++] = bytes[pos++]!;
    }
  }
  return compact.subarray(0, length);
}

function scanDocument(bytes: Uint8Array): JsonScanner {
  if (!isUtf8(bytes)) throw new JsonError("not UTF-8", 0);
  const scanner = new JsonScanner(
    bytes instanceof Buffer ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength),
  );
  scanner.skipValue();
  scanner.finish();
  if (scanner.depth > MAX_JSON_DEPTH) {
    throw new JsonError(`value nested deeper than ${MAX_JSON_DEPTH} levels`, scanner.tokenStart);
  }
  return scanner;
}

function isSpace(byte: number): boolean {
  return byte === SPACE || byte === LINE_FEED || byte === TAB || byte === CARRIAGE_RETURN;
}

function skipSpace(bytes: Uint8Array, pos: number, end: number): number {
  while (pos < end && isSpace(bytes[pos]!)) pos++;
  return pos;
}

/** @param pos behind the opening quote. @returns the offset behind the closing one. */
function skipString(bytes: Buffer, pos: number, end: number): number {
  for (;;) {
    while (pos < end && STRING_STOP[bytes[pos]!] === 0) pos++;
    if (pos >= end || bytes[pos]! < SPACE) throw unexpected(bytes, pos, end);
    if (bytes[pos] === QUOTE) return pos + 1;
    pos = skipEscape(bytes, pos + 1, end);
  }
}

/** @param pos behind the backslash. */
function skipEscape(bytes: Buffer, pos: number, end: number): number {
  const byte = pos < end ? bytes[pos]! : END;
  if (SIMPLE_ESCAPE[byte] === 1) return pos + 1;
  if (byte !== LETTER_U) throw unexpected(bytes, pos, end);
  for (const last = pos + 4; pos < last; ) {
    pos++;
    if (pos >= end || !isHexDigit(bytes[pos]!)) throw unexpected(bytes, pos, end);
  }
  return pos + 1;
}

function skipScalar(bytes: Buffer, pos: number, end: number, byte: number): number {
  if (byte === LETTER_T) return skipLiteral(bytes, pos, end, TRUE);
  if (byte === LETTER_F) return skipLiteral(bytes, pos, end, FALSE);
  if (byte === LETTER_N) return skipLiteral(bytes, pos, end, NULL);
  return skipNumber(bytes, pos, end);
}

const TRUE = Buffer.from("true");
const FALSE = Buffer.from("false");
const NULL = Buffer.from("null");

function skipLiteral(bytes: Buffer, pos: number, end: number, literal: Buffer): number {
  for (let i = 0; i < literal.length; i++, pos++) {
    if (pos >= end || bytes[pos] !== literal[i]) throw unexpected(bytes, pos, end);
  }
  return pos;
}

function skipNumber(bytes: Buffer, pos: number, end: number): number {
  if (pos < end && bytes[pos] === MINUS) pos++;
  // A leading zero stands alone: what follows it is refused as the next token.
  if (pos < end && bytes[pos] === DIGIT_0) pos++;
  else pos = skipDigits(bytes, pos, end);
  if (pos < end && bytes[pos] === DOT) pos = skipDigits(bytes, pos + 1, end);
  if (pos < end && (bytes[pos]! | 0x20) === LETTER_E) {
    pos++;
    if (pos < end && (bytes[pos] === PLUS || bytes[pos] === MINUS)) pos++;
    pos = skipDigits(bytes, pos, end);
  }
  return pos;
}

/** Skips one digit or more. */
function skipDigits(bytes: Buffer, pos: number, end: number): number {
  const start = pos;
  while (pos < end && isDigit(bytes[pos]!)) pos++;
  if (pos === start) throw unexpected(bytes, pos, end);
  return pos;
}

function isDigit(byte: number): boolean {
  return byte >= DIGIT_0 && byte <= DIGIT_9;
}

function isHexDigit(byte: number): boolean {
  const lower = byte | 0x20;
  return isDigit(byte) || (lower >= LETTER_A && lower <= LETTER_F);
}

function unexpected(bytes: Uint8Array, pos: number, end: number): JsonError {
  if (pos >= end) return new JsonError("unexpected end of JSON", end);
  const byte = bytes[pos]!;
  const printable = byte > SPACE && byte < 0x7f;
  return new JsonError(
    `unexpected ${printable ? `character '${String.fromCharCode(byte)}'` : `byte 0x${byte.toString(16).padStart(2, "0")}`}`,
    pos,
  );
}
