import { buffer } from "node:stream/consumers";
import { create } from "@bufbuild/protobuf";
import { Command, Option } from "commander";
import { ErrorCode } from "../../../gen/millrace/v1/errors_pb.js";
import { type PublishEvent, type PublishResult, PublishResultSchema } from "../../../gen/millrace/v1/events_pb.js";
import { toRestJson } from "../../transport/json.ts";
import { type Context, contextOf } from "../context.ts";
import { CliError, Exit, exitOfCode, failureOf, failureText, isPassing, usage } from "../failure.ts";
import { chunksOfFile, linesOfFile, nameOfFile, sizeOfFiles } from "../input.ts";
import { batchesOf } from "../lines.ts";
import { type EventShape, eventOfBytes, eventOfText } from "../new-event.ts";
import { note } from "../output.ts";
import { type Progress, progressBar } from "../progress-bar.ts";
import { count, printable } from "../table.ts";
import { each, header, wholeNumber } from "../values.ts";

const EXAMPLES = `
Each value is JSON. Values come as arguments, or one a line from files and standard input. What fails is told with its line,
and the others go on. Events get ids, so an answer that is lost is asked for again without storing anything twice.

Examples:
  $ millrace publish orders '{"user":"u1","amount":42}' --key u1
  $ millrace publish orders --file orders.jsonl --key-field user.id      the key is in the value
  $ millrace publish orders -f a.jsonl -f b.jsonl --id-field orderId     safe to run again
  $ tail -f app.log | millrace publish logs --text --header source=app
  $ millrace publish pictures --bytes -f cat.png --content-type image/png
  $ millrace consume orders | millrace publish copy --events             key, headers and id come along
`;

/** Bytes of payload after which a batch goes out. */
const BATCH_BYTES = 4 * 1024 * 1024;
/** How long a batch waits for more input after its first event. */
const LINGER_MS = 20;
const CALL_TIMEOUT_MS = 15_000;
/** What failed in passing is sent again after these, in milliseconds. */
const PAUSES_MS = [200, 500, 1000, 2000, 4000];

interface Options extends EventShape {
  readonly file?: readonly string[];
  readonly bytes?: boolean;
  readonly contentType: string;
  readonly batchSize: number;
}

/** `millrace publish`. */
export function publishCommand(): Command {
  return new Command("publish")
    .description("publish events from arguments, files and standard input")
    .argument("<stream>")
    .argument("[values...]", "JSON, one event each")
    .option("-f, --file <path>", "a file with one event a line, - is standard input; may be given again", each(String))
    .option("--key <text>", "key of every event; events with one key stay in order")
    .option("--key-field <path>", "the member of the value that is its key, such as user.id")
    .option("--id-field <path>", "the member of the value that is its id: the same again is stored once")
    .option("--partition-key <text>", "chooses the partition in place of the key")
    .option("--partition <n>", "the partition itself", wholeNumber(0, 999))
    .option("--header <name=value>", "a header of every event; may be given again", each(header))
    .addOption(
      new Option("--text", "each value or line is a string, not JSON").conflicts([
        "events",
        "bytes",
        "keyField",
        "idField",
      ]),
    )
    .addOption(
      new Option("--events", "each is a whole event: {key, value, headers, ...}").conflicts([
        "bytes",
        "keyField",
        "idField",
      ]),
    )
    .addOption(new Option("--bytes", "each file is one event, as it is").conflicts(["keyField", "idField"]))
    .option("--content-type <type>", "media type of --bytes", "application/octet-stream")
    .option("--batch-size <n>", "most events of one request", wholeNumber(1, 10_000), 500)
    .addHelpText("after", EXAMPLES)
    .action(publish);
}

/** An event to be, or why it can't be one. */
interface Item {
  /** Where it was written, for people. */
  readonly at: string;
  readonly event: PublishEvent | undefined;
  readonly fault: string | undefined;
  readonly bytes: number;
}

async function publish(stream: string, values: readonly string[], options: Options, command: Command): Promise<void> {
  if (options.key !== undefined && options.keyField !== undefined)
    throw usage("--key and --key-field exclude each other");
  if (options.bytes && values.length > 0) throw usage("--bytes goes with --file");
  const context = contextOf(command);
  const files = options.file ?? (values.length > 0 ? [] : ["-"]);
  if (files.includes("-") && process.stdin.isTTY) note("reading events from the terminal, one a line; Ctrl-D ends");
  const sums = new Sums(context, files.length > 0 ? progressBar("publishing", await sizeOfFiles(files)) : undefined);
  const batches = batchesOf(items(values, files, options, context.interruption.signal), {
    limit: options.batchSize,
    maxBytes: BATCH_BYTES,
    lingerMs: LINGER_MS,
    sizeOf: ({ bytes }) => bytes,
  });
  try {
    for await (const batch of batches) {
      await sums.add(batch, await publishBatch(context, stream, batch));
      if (context.interruption.happened) break;
    }
  } catch (error) {
    if (!context.interruption.happened) {
      await sums.tell(stream);
      throw error;
    }
  }
  await sums.tell(stream);
}

async function* items(
  values: readonly string[],
  files: readonly string[],
  options: Options,
  signal: AbortSignal,
): AsyncGenerator<Item> {
  for (const [index, value] of values.entries())
    yield itemOf(`value ${index + 1}`, Buffer.from(value), (text) => eventOfText(text, options));
  for (const file of files) {
    if (options.bytes) {
      const data = await buffer(chunksOfFile(file, signal));
      yield itemOf(nameOfFile(file), data, (bytes) => eventOfBytes(bytes, options.contentType, options));
    } else
      for await (const { at, text } of linesOfFile(file, signal))
        yield itemOf(at, text, (bytes) => eventOfText(bytes, options));
  }
}

function itemOf(at: string, text: Buffer, read: (text: Buffer) => PublishEvent): Item {
  // The line's end counts too.
  const bytes = text.length + 1;
  try {
    return { at, event: read(text), fault: undefined, bytes };
  } catch (error) {
    if (!(error instanceof CliError)) throw error;
    return { at, event: undefined, fault: error.message, bytes };
  }
}

/**
 * Sends the events of a batch, and again those that failed in passing.
 *
 * @returns what became of each item that is an event.
 * @throws what the service refuses the batch with as a whole.
 */
async function publishBatch(
  { api, interruption }: Context,
  streamName: string,
  batch: readonly Item[],
): Promise<ReadonlyMap<Item, PublishResult>> {
  const results = new Map<Item, PublishResult>();
  let left = batch.filter(({ event }) => event !== undefined);
  for (let attempt = 0; left.length > 0; attempt++) {
    const canRepeat = attempt < PAUSES_MS.length && !interruption.happened;
    let why: string | undefined;
    try {
      const events = left.map(({ event }) => event!);
      // What is under way is seen to its end, also when the user interrupts: its outcome would be unknown.
      const answer = await api.events.publishBatch({ streamName, events }, { timeoutMs: CALL_TIMEOUT_MS });
      for (const [index, item] of left.entries()) results.set(item, answer.results[index]!);
      left = left.filter((item) => isPassingCode(results.get(item)?.error?.code));
      why = left.length > 0 ? results.get(left[0]!)!.error!.description : undefined;
    } catch (error) {
      if (!canRepeat || !isPassing(error)) throw error;
      why = failureText(failureOf(error));
    }
    if (why === undefined || !canRepeat) break;
    note(`${why}; trying again`);
    await interruption.pause(PAUSES_MS[attempt]!);
  }
  return results;
}

const isPassingCode = (code: number | undefined): boolean =>
  code !== undefined && exitOfCode(code) === Exit.UNAVAILABLE;

/** Counts what became of the events, and tells it. */
class Sums {
  readonly #context: Context;
  readonly #progress: Progress | undefined;
  readonly #startedAt = performance.now();
  #stored = 0;
  #duplicates = 0;
  #failed = 0;
  #bytes = 0;
  #last: PublishResult | undefined;
  #exitCode: number = Exit.DONE;

  constructor(context: Context, progress: Progress | undefined) {
    this.#context = context;
    this.#progress = progress;
  }

  async add(batch: readonly Item[], results: ReadonlyMap<Item, PublishResult>): Promise<void> {
    let lines = "";
    for (const item of batch) {
      const result = results.get(item) ?? unreadable(item);
      this.#bytes += item.bytes;
      if (result.error) this.#fail(item, result);
      else {
        this.#stored++;
        if (result.duplicate) this.#duplicates++;
        this.#last = result;
      }
      if (this.#context.out.isJson) {
        const json = toRestJson(PublishResultSchema, result) as object;
        lines += `${JSON.stringify(result.error ? { at: item.at, ...json } : json)}\n`;
      }
    }
    this.#progress?.show(this.#bytes, this.#stored);
    if (lines !== "") await this.#context.out.write(lines);
  }

  #fail({ at }: Item, { error }: PublishResult): void {
    this.#failed++;
    if (this.#exitCode === Exit.DONE) this.#exitCode = exitOfCode(error!.code);
    if (this.#context.out.isJson) return;
    const { message, code, description } = error!;
    note(`${printable(at)}: ${printable(failureText({ exitCode: 0, code, message, description }))}`);
  }

  /** The closing words and the exit code. */
  async tell(stream: string): Promise<void> {
    this.#progress?.stop();
    if (this.#stored + this.#failed === 0) return;
    const { out, interruption } = this.#context;
    if (!out.isJson && this.#stored === 1 && this.#last) {
      const { partition, offset, eventId, duplicate } = this.#last;
      const was = duplicate ? "was there already" : "is stored";
      await out.line(`Event ${eventId} ${was} in ${stream}, partition ${partition}, offset ${offset}.`);
    } else if (!out.isJson) {
      const seconds = (performance.now() - this.#startedAt) / 1000;
      const known = this.#duplicates > 0 ? `, ${count(this.#duplicates)} of them before` : "";
      const failed = this.#failed > 0 ? `, ${count(this.#failed)} failed` : "";
      await out.line(
        `${count(this.#stored)} events are stored in ${stream}${known}${failed}, in ${seconds.toFixed(1)} s.`,
      );
    }
    if (this.#failed > 0) process.exitCode = this.#stored > 0 ? Exit.PARTLY : this.#exitCode;
    if (interruption.happened) process.exitCode = interruption.exitCode;
  }
}

/** What became of a text that is no event. */
const unreadable = ({ fault }: Item): PublishResult =>
  create(PublishResultSchema, {
    error: {
      code: ErrorCode.SERIALIZATION_ERROR,
      message: ErrorCode[ErrorCode.SERIALIZATION_ERROR],
      description: fault ?? "it was not sent",
    },
  });
