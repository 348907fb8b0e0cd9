/** Lengths are written once they are known; room for four bytes holds any below 256 MiB. */
const LENGTH_ROOM = 4;
/** Text of so many UTF-16 units has at most 126 bytes, and one byte holds its length. */
const SHORT_TEXT = 42;

/** Writes protobuf's wire format into one buffer, whose size its user bounds beforehand. Tags are of one byte. */
export class ProtoWriter {
  readonly #out: Buffer;
  #at = 0;

  constructor(size: number) {
    this.#out = Buffer.allocUnsafe(size);
  }

  bytes(): Uint8Array {
    return this.#out.subarray(0, this.#at);
  }

  byte(value: number): void {
    this.#out[this.#at++] = value;
  }

  varint(value: number): void {
    let rest = value;
    for (; rest > 0x7f; rest = Math.floor(rest / 128)) this.#out[this.#at++] = (rest % 128) | 0x80;
    this.#out[this.#at++] = rest;
  }

  /** A number that is left out when it is 0, as one without presence is. */
  number(tag: number, value: number): void {
    if (value === 0) return;
    this.byte(tag);
    this.varint(value);
  }

  text(tag: number, text: string): void {
    this.byte(tag);
    if (text.length <= SHORT_TEXT) {
      const length = this.#out.write(text, this.#at + 1, "utf8");
      this.byte(length);
      this.#at += length;
    } else {
      this.varint(Buffer.byteLength(text));
      this.#at += this.#out.write(text, this.#at, "utf8");
    }
  }

  raw(bytes: Uint8Array): void {
    this.#out.set(bytes, this.#at);
    this.#at += bytes.length;
  }

  /** What `write` writes, behind its length, which one byte holds. */
  short(write: () => void): void {
    const start = this.#at++;
    write();
    this.#out[start] = this.#at - start - 1;
  }

  /** What `write` writes, behind its length. */
  message(write: () => void): void {
    const start = this.#at;
    this.#at += LENGTH_ROOM;
    write();
    const length = this.#at - start - LENGTH_ROOM;
    // A varint may be longer than it needs to be: all but the last byte say that more follows.
    this.#out[start] = (length & 0x7f) | 0x80;
    this.#out[start + 1] = ((length >>> 7) & 0x7f) | 0x80;
    this.#out[start + 2] = ((length >>> 14) & 0x7f) | 0x80;
    this.#out[start + 3] = length >>> 21;
  }
}
