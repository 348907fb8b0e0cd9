import { connect, type Socket } from "node:net";

/** A call that is open. */
interface Call {
  readonly id: number;
  readonly request: Uint8Array;
  /** Bytes of the request that are on their way. */
  sent: number;
  /** Bytes that the server still takes of this call. */
  window: number;
  /** The answer so far is the first `received` bytes. */
  answer: Buffer;
  received: number;
  status: string | undefined;
  readonly answered: (message: Buffer) => void;
  readonly reject: (error: Error) => void;
}

/** Of RFC 9113, what unary calls need. */
const Frame = { DATA: 0, HEADERS: 1, RST_STREAM: 3, SETTINGS: 4, PING: 6, GOAWAY: 7, WINDOW_UPDATE: 8 } as const;
const Flag = { END_STREAM: 1, ACK: 1, END_HEADERS: 4, PADDED: 8 } as const;
const Setting = { HEADER_TABLE_SIZE: 1, ENABLE_PUSH: 2, INITIAL_WINDOW_SIZE: 4, MAX_FRAME_SIZE: 5 } as const;
const PREFACE = Buffer.from("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "latin1");
const HEAD_BYTES = 9;
/** What every peer takes without having said so. */
const DEFAULT_FRAME_BYTES = 16 * 1024;
const DEFAULT_WINDOW_BYTES = 65_535;
/** Longer than any answer. */
const WINDOW_BYTES = 64 * 1024 * 1024;
const PREFIX_BYTES = 5;
const ANSWER_BYTES = 256 * 1024;
/** The name `grpc-status` in HPACK, with its length: as it is, and in the Huffman code, which node:http2 prefers. */
const STATUS_NAMES = [Buffer.from("\x0bgrpc-status", "latin1"), Buffer.from("889acac8b21234da8f", "hex")];

/**
 * A client of one HTTP/2 connection for unary gRPC calls with messages that are bytes already. It does no more than a
 * load needs, as the one for HTTP/1.1 does: of an answer's headers it reads the status only.
 */
export class GrpcConnection {
  readonly #socket: Socket;
  readonly #authority: string;
  readonly #headerBlocks = new Map<string, Buffer>();
  readonly #calls = new Map<number, Call>();
  /** Buffers of answers that were read: new ones for every call would keep the garbage collector busy. */
  readonly #spare: Buffer[] = [];
  #nextId = 1;
  /** Bytes that the server still takes of all calls together, and of a new one. */
  #window = DEFAULT_WINDOW_BYTES;
  #callWindow = DEFAULT_WINDOW_BYTES;
  #maxFrame = DEFAULT_FRAME_BYTES;
  /** Bytes received since the server was last given room for more. */
  #received = 0;
  /** The head of a frame, or what has come of it; then what the frame lacks of its content. */
  readonly #head = Buffer.alloc(HEAD_BYTES);
  #headLength = 0;
  #left = 0;
  #content: Buffer[] = [];
  readonly #ready = Promise.withResolvers<void>();
  #failure: Error | undefined;

  private constructor(socket: Socket, authority: string) {
    this.#socket = socket;
    this.#authority = authority;
    socket.setNoDelay(true);
    socket.on("data", (chunk) => this.#take(chunk));
    socket.on("error", (error) => this.#fail(error));
    socket.on("close", () => this.#fail(new Error("the connection was closed")));
    const settings = Buffer.alloc(18);
    // Without a table of earlier headers, equal answers have equal bytes.
    const wanted = [
      [Setting.HEADER_TABLE_SIZE, 0],
      [Setting.ENABLE_PUSH, 0],
      [Setting.INITIAL_WINDOW_SIZE, WINDOW_BYTES],
    ] as const;
    for (const [i, [setting, value]] of wanted.entries()) {
      settings.writeUInt16BE(setting, 6 * i);
      settings.writeUInt32BE(value, 6 * i + 2);
    }
    socket.write(Buffer.concat([PREFACE, frame(Frame.SETTINGS, 0, 0, settings), roomFor(WINDOW_BYTES)]));
  }

  /** @returns once the server has named its own settings. */
  static async open(url: string): Promise<GrpcConnection> {
    const { hostname, port, host } = new URL(url);
    const connection = new GrpcConnection(connect(Number(port), hostname), host);
    await connection.#ready.promise;
    return connection;
  }

  /**
   * One unary call.
   *
   * @param request a message with its gRPC prefix, see {@link grpcFrame}.
   * @param read takes what is wanted from the answer's message, which is good until it returns.
   * @throws Error when the status is not 0.
   */
  call<T>(path: string, request: Uint8Array, read: (message: Buffer) => T): Promise<T> {
    if (this.#failure) return Promise.reject(this.#failure);
    const { promise, resolve, reject } = Promise.withResolvers<T>();
    const id = this.#nextId;
    this.#nextId += 2;
    const call: Call = {
      id,
      request,
      sent: 0,
      window: this.#callWindow,
      answer: this.#spare.pop() ?? Buffer.allocUnsafe(ANSWER_BYTES),
      received: 0,
      status: undefined,
      answered: (message) => resolve(read(message)),
      reject,
    };
    this.#calls.set(id, call);
    let headers = this.#headerBlocks.get(path);
    if (!headers) {
      headers = headerBlock(this.#authority, path);
      this.#headerBlocks.set(path, headers);
    }
    this.#socket.cork();
    this.#socket.write(frame(Frame.HEADERS, Flag.END_HEADERS, id, headers));
    this.#send(call);
    this.#socket.uncork();
    return promise;
  }

  close(): void {
    this.#failure ??= new Error("closed");
    this.#socket.destroy();
  }

  /** Sends of a request what the server takes. */
  #send(call: Call): void {
    const { request } = call;
    while (call.sent < request.length) {
      const length = Math.min(request.length - call.sent, this.#maxFrame, call.window, this.#window);
      if (length <= 0) return; // goes on when there is room
      const part = request.subarray(call.sent, call.sent + length);
      call.sent += length;
      call.window -= length;
      this.#window -= length;
      this.#socket.write(frameHead(Frame.DATA, call.sent === request.length ? Flag.END_STREAM : 0, call.id, length));
      this.#socket.write(part);
    }
  }

  #take(chunk: Buffer): void {
    for (let at = 0; at < chunk.length; ) {
      if (this.#headLength < HEAD_BYTES) {
        const copied = chunk.copy(this.#head, this.#headLength, at, at + HEAD_BYTES - this.#headLength);
        this.#headLength += copied;
        at += copied;
        if (this.#headLength < HEAD_BYTES) return;
        this.#left = this.#head.readUIntBE(0, 3);
      }
      const part = chunk.subarray(at, at + this.#left);
      at += part.length;
      this.#left -= part.length;
      this.#content.push(part);
      if (this.#left > 0) return;
      const content = this.#content;
      this.#headLength = 0;
      this.#content = [];
      this.#frame(this.#head[3]!, this.#head[4]!, this.#head.readUInt32BE(5) & 0x7fffffff, content);
    }
  }

  #frame(type: number, flags: number, id: number, parts: Buffer[]): void {
    const call = this.#calls.get(id);
    if (type === Frame.DATA) {
      if (flags & Flag.PADDED) this.#fail(new Error("a padded frame"));
      for (const part of parts) {
        if (call) append(call, part);
        this.#received += part.length;
      }
      if (this.#received > WINDOW_BYTES / 2) {
        this.#socket.write(roomFor(this.#received));
        this.#received = 0;
      }
      if (flags & Flag.END_STREAM && call) this.#finish(call);
      return;
    }
    const content = parts.length === 1 ? parts[0]! : Buffer.concat(parts);
    switch (type) {
      case Frame.HEADERS:
        if (!(flags & Flag.END_HEADERS)) this.#fail(new Error("headers in several frames"));
        if (!call) return;
        call.status ??= statusOf(content);
        if (flags & Flag.END_STREAM) this.#finish(call);
        return;
      case Frame.RST_STREAM:
        if (this.#calls.delete(id)) call!.reject(new Error(`reset with code ${content.readUInt32BE(0)}`));
        return;
      case Frame.SETTINGS:
        if (flags & Flag.ACK) return;
        this.#settings(content);
        this.#socket.write(frame(Frame.SETTINGS, Flag.ACK, 0, Buffer.alloc(0)));
        this.#ready.resolve();
        return;
      case Frame.PING:
        if (!(flags & Flag.ACK)) this.#socket.write(frame(Frame.PING, Flag.ACK, 0, content));
        return;
      case Frame.GOAWAY:
        this.#fail(new Error("the server goes away"));
        return;
      case Frame.WINDOW_UPDATE:
        this.#moreRoom(call, id, content.readUInt32BE(0));
    }
  }

  #settings(content: Buffer): void {
    for (let at = 0; at < content.length; at += 6) {
      const setting = content.readUInt16BE(at);
      const value = content.readUInt32BE(at + 2);
      if (setting === Setting.MAX_FRAME_SIZE) this.#maxFrame = value;
      if (setting !== Setting.INITIAL_WINDOW_SIZE) continue;
      for (const call of this.#calls.values()) call.window += value - this.#callWindow;
      this.#callWindow = value;
    }
  }

  #moreRoom(call: Call | undefined, id: number, bytes: number): void {
    if (id === 0) this.#window += bytes;
    else if (call) call.window += bytes;
    for (const open of this.#calls.values()) this.#send(open);
  }

  #finish(call: Call): void {
    this.#calls.delete(call.id);
    const bytes = call.answer.subarray(0, call.received);
    const isWhole = bytes.length >= PREFIX_BYTES && bytes.readUInt32BE(1) === bytes.length - PREFIX_BYTES;
    try {
      if (call.status !== "0") throw new Error(`grpc-status ${call.status}`);
      if (!isWhole || bytes[0] !== 0) throw new Error("not one plain gRPC message");
      call.answered(bytes.subarray(PREFIX_BYTES));
    } catch (error) {
      call.reject(error as Error);
    }
    this.#spare.push(call.answer);
  }

  #fail(error: Error): void {
    this.#failure ??= error;
    this.#ready.reject(error);
    for (const call of this.#calls.values()) call.reject(error);
    this.#calls.clear();
  }
}

function append(call: Call, part: Buffer): void {
  const length = call.received + part.length;
  if (length > call.answer.length) {
    const larger = Buffer.allocUnsafe(Math.max(call.answer.length * 2, length));
    call.answer.copy(larger, 0, 0, call.received);
    call.answer = larger;
  }
  part.copy(call.answer, call.received);
  call.received = length;
}

/** A message with its gRPC prefix. */
export function grpcFrame(message: Uint8Array): Buffer {
  const bytes = Buffer.allocUnsafe(PREFIX_BYTES + message.length);
  bytes[0] = 0;
  bytes.writeUInt32BE(message.length, 1);
  bytes.set(message, PREFIX_BYTES);
  return bytes;
}

function frameHead(type: number, flags: number, id: number, length: number): Buffer {
  const head = Buffer.allocUnsafe(HEAD_BYTES);
  head.writeUIntBE(length, 0, 3);
  head[3] = type;
  head[4] = flags;
  head.writeUInt32BE(id, 5);
  return head;
}

const frame = (type: number, flags: number, id: number, content: Buffer): Buffer =>
  Buffer.concat([frameHead(type, flags, id, content.length), content]);

/** Lets the server send so many bytes more on the connection. */
function roomFor(bytes: number): Buffer {
  const content = Buffer.alloc(4);
  content.writeUInt32BE(bytes);
  return frame(Frame.WINDOW_UPDATE, 0, 0, content);
}

/** A call's headers in HPACK (RFC 7541): fields and names of its static table, and literals that no table keeps. */
function headerBlock(authority: string, path: string): Buffer {
  const text = (value: string) => Buffer.concat([Buffer.from([value.length]), Buffer.from(value, "latin1")]);
  return Buffer.concat([
    Buffer.from([0x83, 0x86, 0x04]), // :method POST, :scheme http, :path
    text(path),
    Buffer.from([0x01]), // :authority
    text(authority),
    Buffer.from([0x0f, 0x10]), // content-type
    text("application/grpc+proto"),
    Buffer.from([0x00]),
    text("te"),
    text("trailers"),
  ]);
}

/** The value of `grpc-status` in a block of headers: digits, which the Huffman code makes no shorter. */
function statusOf(block: Buffer): string | undefined {
  for (const name of STATUS_NAMES) {
    const at = block.indexOf(name);
    if (at < 0) continue;
    const from = at + name.length;
    return block.toString("latin1", from + 1, from + 1 + block[from]!);
  }
  return undefined;
}
