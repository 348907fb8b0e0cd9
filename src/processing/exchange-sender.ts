import type { JournalWrite } from "../jetstream/journal.ts";
import type { JournalNames } from "./checkpoint.ts";
import type { ExchangeMessage } from "./exchange.ts";
import type { LocalWindows } from "./local-windows.ts";
import type { PartitionPart } from "./partition-part.ts";
import type { ProcessorRecord } from "./record.ts";

/** Makes the messages that a lane's commits send to the lanes that hold the groups. */
export class ExchangeSender {
  readonly #record: ProcessorRecord;
  readonly #names: JournalNames;
  readonly #lane: number;
  readonly #epoch: number;
  readonly #local: LocalWindows | undefined;
  readonly #parts: ReadonlyMap<number, PartitionPart>;
  readonly #sent: number[];
  #count = 0;
  #told: string | undefined;

  /**
   * @param local undefined without windows: then there is nothing to exchange.
   * @param sent what earlier owners have sent, by lane.
   */
  constructor(
    record: ProcessorRecord,
    names: JournalNames,
    lane: number,
    epoch: number,
    local: LocalWindows | undefined,
    parts: ReadonlyMap<number, PartitionPart>,
    sent: readonly number[],
  ) {
    this.#record = record;
    this.#names = names;
    this.#lane = lane;
    this.#epoch = epoch;
    this.#local = local;
    this.#parts = parts;
    this.#sent = [...sent];
  }

  /** Messages sent up to now, by lane. */
  get sent(): number[] {
    return [...this.#sent];
  }

  /** Whether others have not been told yet of something that may close windows. */
  get isBehind(): boolean {
    return this.#local !== undefined && this.#signature() !== this.#told;
  }

  /** Partial results, and the marks of the partitions to all lanes where they are behind or `tellAll`. */
  drain(tellAll: boolean): JournalWrite[] {
    if (!this.#local) return [];
    const signature = this.#signature();
    const toAll = tellAll || signature !== this.#told;
    this.#told = signature;
    const { incarnation, lanes } = this.#record;
    const marks = [...this.#parts.values()].map((part) => part.mark);
    const writes: JournalWrite[] = [];
    for (const [to, messages] of this.#local.drain(incarnation, this.#lane, lanes)) {
      if (messages.length === 0 && toAll) messages.push({ i: incarnation, g: this.#lane });
      for (const [index, message] of messages.entries()) {
        const isLast = index === messages.length - 1;
        const n = this.#sent[to] ?? 0;
        this.#sent[to] = n + 1;
        const whole: ExchangeMessage = isLast ? { ...message, n, w: marks } : { ...message, n };
        writes.push({
          subject: this.#names.exchange(to, this.#lane, this.#epoch, this.#count++),
          payload: Buffer.from(JSON.stringify(whole)),
        });
      }
    }
    return writes;
  }

  #signature(): string {
    let text = "";
    for (const part of this.#parts.values()) text += `${part.signature};`;
    return text;
  }
}
