import { Buffer, isUtf8 } from "node:buffer";
import {
  compactJson,
  JsonError,
  JsonScanner,
  LETTER_F,
  LETTER_N,
  LETTER_T,
  OPEN_BRACE,
  OPEN_BRACKET,
  QUOTE,
} from "../domain/json.ts";
import { MAX_BATCH_EVENTS, MAX_HEADERS, MAX_JSON_DEPTH } from "../domain/limits.ts";

/**
 * An event as its request gives it. Types, encodings, the depth of the value and the number of headers are right; other
 * bounds are not checked, nor is Unicode: a lone surrogate that was sent as an escape stays in its string.
 */
export interface EventInput {
  readonly key?: string | undefined;
  /** The JSON value without white space around or inside it: a view of the body where it was sent like that. */
  readonly value?: Uint8Array | undefined;
  /** In the order sent; no name stands twice, and there are at most {@link MAX_HEADERS}. */
  readonly headers?: readonly (readonly [name: string, value: string])[] | undefined;
  readonly partitionKey?: string | undefined;
  /** -2^31 to 2^31-1: whether there is such a partition is not checked. */
  readonly partition?: number | undefined;
  readonly eventId?: string | undefined;
  /** Raw bytes in place of `value`; an event never has both. */
  readonly data?: Uint8Array | undefined;
  readonly contentType?: string | undefined;
  /** 0 to 2^63-1. */
  readonly expectedOffset?: bigint | undefined;
}

export type PublishBody = EventInput;

export interface BatchOptions {
  readonly compression?: string | undefined;
  /** Milliseconds, a whole number from 0 to 2^53-1. */
  readonly timeout?: number | undefined;
  readonly atomic?: boolean | undefined;
}

export interface BatchBody {
  /** In the order of the request, 0 to {@link MAX_BATCH_EVENTS}. */
  readonly events: readonly (EventInput | EventError)[];
  readonly options?: BatchOptions | undefined;
}

/** What is wrong with one field, by its path from the body: `events[3].headers.trace`; "" is the body itself. */
export interface FieldViolation {
  readonly field: string;
  readonly description: string;
}

/** One event of a batch that cannot be published as it was sent; the others are not concerned. */
export interface EventError {
  /** The client's id for the event, where it could be read. */
  readonly eventId: string | undefined;
  /** The first {@link MAX_VIOLATIONS} found, at least one. */
  readonly violations: readonly FieldViolation[];
  /** `encoding` when the first violation is a value nested too deeply or bytes that are not base64, else `field`. */
  readonly kind: "field" | "encoding";
}

/**
 * A request body that cannot be used at all. `syntax`: it is not JSON, and there are no violations; `field`: it names
 * unknown or wrong fields; `encoding`: the event of a single publish has that kind of {@link EventError}.
 */
export class BodyError extends Error {
  override readonly name = "BodyError";
  readonly kind: "syntax" | "field" | "encoding";
  readonly violations: readonly FieldViolation[];

  constructor(
    kind: BodyError["kind"],
    message: string,
    violations: readonly FieldViolation[] = [],
    options?: ErrorOptions,
  ) {
    super(message, options);
    this.kind = kind;
    this.violations = violations;
  }
}

/** Most violations collected for one event or one body: a hostile body must not buy an answer of its own size. */
export const MAX_VIOLATIONS = 8;

/** Most characters of a client's own name that a message repeats. */
const MAX_QUOTED_CHARS = 64;

const MAX_INT32 = 2n ** 31n - 1n;
const MAX_INT64 = 2n ** 63n - 1n;
const MAX_SAFE_INTEGER = BigInt(Number.MAX_SAFE_INTEGER);

export function isEventError(event: EventInput | EventError): event is EventError {
  return "violations" in event;
}

/**
 * Reads the body of a single publish.
 *
 * @returns the event; its `value` may be a view of `body`.
 * @throws BodyError when the body is not JSON, or the event is not usable as it was sent.
 */
export function parsePublishBody(body: Buffer): PublishBody {
  return readBody(body, (reader) => {
    const event = reader.readEvent();
    reader.finish();
    if (isEventError(event)) throw invalid(event.kind, event.violations);
    return event;
  });
}

/**
 * Reads the body of a batch. What is wrong inside one event stays that event's own error.
 *
 * @returns the events; their values may be views of `body`.
 * @throws BodyError when the body is not JSON, when a field outside of the events is unknown or wrong, when `events` is
 *   not there, or when it has more than {@link MAX_BATCH_EVENTS}.
 */
export function parseBatchBody(body: Buffer): BatchBody {
  return readBody(body, (reader) => reader.readBatch());
}

/** Runs one reader over a body; whatever breaks JSON's rules fails the body as a whole. */
function readBody<T>(body: Buffer, read: (reader: BodyReader) => T): T {
  if (!isUtf8(body)) throw new BodyError("syntax", "body is not UTF-8");
  try {
    return read(new BodyReader(body));
  } catch (error) {
    if (!(error instanceof JsonError)) throw error;
    throw new BodyError("syntax", `body is not valid JSON: ${error.message}`, [], { cause: error });
  }
}

function invalid(kind: BodyError["kind"], violations: readonly FieldViolation[]): BodyError {
  const message = violations.map(({ field, description }) => `${field || "body"} ${description}`).join("; ");
  return new BodyError(kind, message, violations);
}

type Draft<T> = { -readonly [K in keyof T]: T[K] };

/** The member names an object may have. A name is told by its bytes, so that known ones are never made into strings. */
class MemberTable<Name extends string> {
  private readonly byLength: Member<Name>[][] = [];
  private readonly byText = new Map<string, Member<Name>>();

  /** Each name also stands for its form with underscores, as protobuf's JSON form reads it. */
  constructor(names: readonly Name[]) {
    for (const [i, name] of names.entries()) {
      const snakeName = name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
      for (const text of new Set<string>([name, snakeName])) {
        const member = { name, bit: 1 << i, bytes: Buffer.from(text) };
        this.byText.set(text, member);
        this.byLength[text.length] = [...(this.byLength[text.length] ?? []), member];
      }
    }
  }

  /** The member whose name the scanner took last. */
  find(scanner: JsonScanner): Member<Name> | undefined {
    if (scanner.escaped) return this.byText.get(scanner.tokenText());
    const { bytes, tokenStart, tokenEnd } = scanner;
    const length = tokenEnd - tokenStart;
    const candidates = length < this.byLength.length ? this.byLength[length] : undefined;
    if (candidates === undefined) return undefined;
    next: for (const candidate of candidates) {
      const name = candidate.bytes;
      for (let i = 0; i < length; i++) if (bytes[tokenStart + i] !== name[i]) continue next;
      return candidate;
    }
    return undefined;
  }
}

interface Member<Name extends string> {
  readonly name: Name;
  /** One bit of its own among the members of its table. */
  readonly bit: number;
  readonly bytes: Buffer;
}

const EVENT_MEMBERS = new MemberTable([
  "key",
  "value",
  "headers",
  "partitionKey",
  "partition",
  "eventId",
  "data",
  "contentType",
  "expectedOffset",
]);
const BATCH_MEMBERS = new MemberTable(["events", "options"]);
const OPTION_MEMBERS = new MemberTable(["compression", "timeout", "atomic"]);

/** What was found wrong in one event, or in the body around the events. */
class Report {
  readonly violations: FieldViolation[] = [];
  kind: EventError["kind"] = "field";
  /** Place in the batch of the event the report is about; none for the body itself. */
  index: number | undefined;

  /** @param path names from the event, or the body, to the field. */
  add(path: readonly string[], description: string, kind: EventError["kind"] = "field"): void {
    if (this.violations.length === MAX_VIOLATIONS) return;
    if (this.violations.length === 0) this.kind = kind;
    const root = this.index === undefined ? "" : `events[${this.index}]`;
    this.violations.push({ field: path.reduce(joinPath, root), description });
  }
}

function joinPath(path: string, name: string): string {
  const short = name.length > MAX_QUOTED_CHARS ? `${name.slice(0, MAX_QUOTED_CHARS)}…` : name;
  return path === "" ? short.toWellFormed() : `${path}.${short.toWellFormed()}`;
}

/** Most bytes of a number that is read for its worth; none that is in bounds needs more. */
const MAX_NUMBER_BYTES = 64;

/** One pass over one body. Types and names that are wrong go to the report, and reading goes on behind them. */
class BodyReader {
  private readonly scanner: JsonScanner;
  private report = new Report();

  constructor(body: Buffer) {
    this.scanner = new JsonScanner(body);
  }

  finish(): void {
    this.scanner.finish();
  }

  readBatch(): BatchBody {
    const { scanner, report } = this;
    let events: BatchBody["events"] | undefined;
    let options: BatchOptions | undefined;
    if (this.isObject([])) {
      let seen = 0;
      for (let more = scanner.enterObject(); more; more = scanner.nextMember()) {
        const member = this.findMember(BATCH_MEMBERS, seen, []);
        if (member === undefined) continue;
        seen |= member.bit;
        if (member.name === "events") events = this.readEvents();
        else options = this.readOptions();
      }
      if (events === undefined) report.add(["events"], "is required");
    }
    scanner.finish();
    if (events === undefined || report.violations.length > 0) throw invalid("field", report.violations);
    return { events, options };
  }

  /** @returns the elements, none when it is no array. */
  private readEvents(): BatchBody["events"] {
    const { scanner, report: bodyReport } = this;
    const events: (EventInput | EventError)[] = [];
    if (scanner.peek() !== OPEN_BRACKET) {
      this.refuse(["events"], "must be an array");
      return events;
    }
    let report = new Report();
    for (let more = scanner.enterArray(); more; more = scanner.nextElement()) {
      if (events.length === MAX_BATCH_EVENTS) {
        throw invalid("field", [{ field: "events", description: `must be at most ${MAX_BATCH_EVENTS}` }]);
      }
      if (report.violations.length > 0) report = new Report();
      report.index = events.length;
      this.report = report;
      events.push(this.readEvent());
    }
    this.report = bodyReport;
    return events;
  }

  readEvent(): EventInput | EventError {
    const { scanner, report } = this;
    // Every event has the same fields in the same order, so that code behind this sees one shape.
    const event: Draft<EventInput> = {
      key: undefined,
      value: undefined,
      headers: undefined,
      partitionKey: undefined,
      partition: undefined,
      eventId: undefined,
      data: undefined,
      contentType: undefined,
      expectedOffset: undefined,
    };
    if (this.isObject([])) {
      let seen = 0;
      for (let more = scanner.enterObject(); more; more = scanner.nextMember()) {
        const member = this.findMember(EVENT_MEMBERS, seen, []);
        if (member === undefined) continue;
        seen |= member.bit;
        this.readEventMember(event, member.name);
      }
      if (event.value !== undefined && event.data !== undefined) {
        report.add(["data"], "must not be given together with value");
      }
    }
    const { violations, kind } = report;
    return violations.length === 0 ? event : { eventId: event.eventId, violations, kind };
  }

  private readEventMember(event: Draft<EventInput>, name: keyof EventInput): void {
    switch (name) {
      case "key":
        event.key = this.readText(["key"]);
        break;
      case "value":
        event.value = this.readValue();
        break;
      case "headers":
        event.headers = this.readHeaders();
        break;
      case "partitionKey":
        event.partitionKey = this.readText(["partitionKey"]);
        break;
      case "partition": {
        const partition = this.readInteger(["partition"], -MAX_INT32 - 1n, MAX_INT32);
        if (partition !== undefined) event.partition = Number(partition);
        break;
      }
      case "eventId":
        event.eventId = this.readText(["eventId"]);
        break;
      case "data":
        event.data = this.readData();
        break;
      case "contentType":
        event.contentType = this.readText(["contentType"]);
        break;
      case "expectedOffset":
        event.expectedOffset = this.readInteger(["expectedOffset"], 0n, MAX_INT64);
        break;
    }
  }

  private readOptions(): BatchOptions | undefined {
    const { scanner } = this;
    if (this.isNull() || !this.isObject(["options"])) return undefined;
    const options: Draft<BatchOptions> = {};
    let seen = 0;
    for (let more = scanner.enterObject(); more; more = scanner.nextMember()) {
      const member = this.findMember(OPTION_MEMBERS, seen, ["options"]);
      if (member === undefined) continue;
      seen |= member.bit;
      const path = ["options", member.name];
      if (member.name === "compression") {
        options.compression = this.readText(path);
      } else if (member.name === "timeout") {
        const timeoutMs = this.readInteger(path, 0n, MAX_SAFE_INTEGER);
        if (timeoutMs !== undefined) options.timeout = Number(timeoutMs);
      } else {
        options.atomic = this.readFlag(path);
      }
    }
    return options;
  }

  private readValue(): Uint8Array | undefined {
    const { scanner } = this;
    scanner.skipValue();
    const { bytes, tokenStart, tokenEnd } = scanner;
    if (scanner.depth > MAX_JSON_DEPTH) {
      this.report.add(["value"], `must not be nested deeper than ${MAX_JSON_DEPTH} levels`, "encoding");
      return undefined;
    }
    if (scanner.spaced) return compactJson(bytes, tokenStart, tokenEnd);
    // A third cheaper than Buffer's subarray.
    return new Uint8Array(bytes.buffer, bytes.byteOffset + tokenStart, tokenEnd - tokenStart);
  }

  private readHeaders(): EventInput["headers"] {
    const { scanner, report } = this;
    if (this.isNull() || !this.isObject(["headers"])) return undefined;
    const headers: [name: string, value: string][] = [];
    let count = 0;
    for (let more = scanner.enterObject(); more; more = scanner.nextMember()) {
      if (++count > MAX_HEADERS) {
        if (count === MAX_HEADERS + 1) report.add(["headers"], `must be at most ${MAX_HEADERS}`);
        scanner.skipValue();
        continue;
      }
      const name = scanner.tokenText();
      if (scanner.peek() !== QUOTE) {
        this.refuse(["headers", name], "must be a string");
        continue;
      }
      scanner.scanString();
      if (headers.some((header) => header[0] === name)) report.add(["headers", name], "is given twice");
      else headers.push([name, scanner.tokenText()]);
    }
    return headers;
  }

  private readData(): Uint8Array | undefined {
    const text = this.readText(["data"]);
    if (text === undefined) return undefined;
    const data = decodeBase64(text);
    if (data === undefined) this.report.add(["data"], "must be base64", "encoding");
    return data;
  }

  private readText(path: readonly string[]): string | undefined {
    const { scanner } = this;
    if (scanner.peek() === QUOTE) {
      scanner.scanString();
      return scanner.tokenText();
    }
    if (!this.isNull()) this.refuse(path, "must be a string");
    return undefined;
  }

  private readFlag(path: readonly string[]): boolean | undefined {
    const first = this.scanner.peek();
    if (first === LETTER_T || first === LETTER_F) {
      this.scanner.skipValue();
      return first === LETTER_T;
    }
    if (!this.isNull()) this.refuse(path, "must be true or false");
    return undefined;
  }

  /** Reads a number, or the string of one. Exact at any size: it never goes through floating point. */
  private readInteger(path: readonly string[], min: bigint, max: bigint): bigint | undefined {
    const { scanner } = this;
    if (this.isNull()) return undefined;
    const quoted = scanner.peek() === QUOTE;
    if (quoted) scanner.scanString();
    else scanner.skipValue();
    const readable = scanner.tokenEnd - scanner.tokenStart <= MAX_NUMBER_BYTES;
    const integer = readable ? parseInteger(quoted ? scanner.tokenText() : scanner.rawText()) : undefined;
    if (integer !== undefined && integer >= min && integer <= max) return integer;
    const bounds = min === 0n ? `≥ 0 and at most ${max}` : `from ${min} to ${max}`;
    this.report.add(path, `must be a whole number ${bounds}`);
    return undefined;
  }

  /** Takes a null, if that is what comes next. */
  private isNull(): boolean {
    if (this.scanner.peek() !== LETTER_N) return false;
    this.scanner.skipValue();
    return true;
  }

  /** Whether an object comes next; anything else is refused. */
  private isObject(path: readonly string[]): boolean {
    if (this.scanner.peek() === OPEN_BRACE) return true;
    this.refuse(path, "must be an object");
    return false;
  }

  /** Tells which member was entered; one that is unknown or came before is refused, and skipped. */
  private findMember<Name extends string>(
    table: MemberTable<Name>,
    seen: number,
    path: readonly string[],
  ): Member<Name> | undefined {
    const member = table.find(this.scanner);
    if (member === undefined) this.refuse([...path, this.scanner.tokenText()], "is not a known field");
    else if ((seen & member.bit) !== 0) this.refuse([...path, member.name], "is given twice");
    else return member;
    return undefined;
  }

  /** Reports the value that comes next, and skips it. */
  private refuse(path: readonly string[], description: string): void {
    this.report.add(path, description);
    this.scanner.skipValue();
  }
}

/** An integer in JSON's number grammar, `1.0` and `10e-1` included. @returns undefined when it is none, or ≥ 10^19. */
function parseInteger(text: string): bigint | undefined {
  const match = /^(-?)(0|[1-9]\d*)(?:\.(\d+))?(?:[eE]([+-]?\d+))?$/.exec(text);
  if (match === null) return undefined;
  const [, sign, whole = "", fraction = "", exponent = "0"] = match;
  const digits = (whole + fraction).replace(/^0+/, "");
  if (digits === "") return 0n;
  const significant = digits.replace(/0+$/, "");
  const zeros = Number(exponent) - fraction.length + (digits.length - significant.length);
  if (zeros < 0 || significant.length + zeros > 19) return undefined;
  return BigInt(sign + significant + "0".repeat(zeros));
}

/**
 * Standard or URL-safe alphabet, with all of its padding or with none (the JSON form of protobuf). Bits behind the last
 * byte are not looked at.
 */
function decodeBase64(text: string): Uint8Array | undefined {
  const padding = text.endsWith("==") ? 2 : text.endsWith("=") ? 1 : 0;
  const wellSized = padding === 0 ? text.length % 4 !== 1 : text.length % 4 === 0;
  if (!wellSized || !/^[A-Za-z0-9+/_-]*={0,2}$/.test(text)) return undefined;
  return Buffer.from(text, "base64");
}
