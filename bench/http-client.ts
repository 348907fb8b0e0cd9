import { connect, type Socket } from "node:net";

/** An answer; `body` is good until the connection's next exchange. */
export interface HttpAnswer {
  readonly status: number;
  readonly body: Buffer;
}

const HEAD_END = Buffer.from("\r\n\r\n");
const LENGTH = /\r\ncontent-length: *(\d+)/i;

/**
 * A client of one HTTP/1.1 connection that does no more than a load needs: one exchange at a time, answers with a
 * content-length.
 */
export class HttpConnection {
  readonly #socket: Socket;
  #received = Buffer.allocUnsafe(256 * 1024);
  #length = 0;
  /** Where the body begins; 0 while the head is not complete. */
  #bodyAt = 0;
  #end = 0;
  #waiting: PromiseWithResolvers<HttpAnswer> | undefined;
  #failure: Error | undefined;

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.setNoDelay(true);
    socket.on("data", (chunk) => this.#take(chunk));
    socket.on("error", (error) => this.#fail(error));
    socket.on("close", () => this.#fail(new Error("the connection was closed")));
  }

  static async open(url: string): Promise<HttpConnection> {
    const { hostname, port } = new URL(url);
    const socket = connect(Number(port), hostname);
    await new Promise<void>((resolve, reject) => {
      socket.once("connect", resolve);
      socket.once("error", reject);
    });
    return new HttpConnection(socket);
  }

  /** Sends a whole request, head and body. @throws Error when the connection breaks or the answer is no plain one. */
  exchange(request: Uint8Array | string): Promise<HttpAnswer> {
    if (this.#failure) return Promise.reject(this.#failure);
    this.#length = 0;
    this.#bodyAt = 0;
    this.#waiting = Promise.withResolvers();
    this.#socket.write(request);
    return this.#waiting.promise;
  }

  close(): void {
    this.#failure = new Error("closed");
    this.#socket.destroy();
  }

  #take(chunk: Buffer): void {
    if (this.#length + chunk.length > this.#received.length) {
      const larger = Buffer.allocUnsafe(Math.max(this.#received.length * 2, this.#length + chunk.length));
      this.#received.copy(larger, 0, 0, this.#length);
      this.#received = larger;
    }
    this.#length += chunk.copy(this.#received, this.#length);
    if (this.#bodyAt === 0) this.#readHead();
    if (this.#bodyAt === 0 || this.#length < this.#end) return;
    const status = Number(this.#received.toString("latin1", 9, 12));
    const waiting = this.#waiting;
    this.#waiting = undefined;
    waiting?.resolve({ status, body: this.#received.subarray(this.#bodyAt, this.#end) });
  }

  #readHead(): void {
    const at = this.#received.subarray(0, this.#length).indexOf(HEAD_END);
    if (at < 0) return;
    const found = LENGTH.exec(this.#received.toString("latin1", 0, at));
    if (!found) {
      this.#fail(new Error("an answer without content-length"));
      return;
    }
    this.#bodyAt = at + HEAD_END.length;
    this.#end = this.#bodyAt + Number(found[1]);
  }

  #fail(error: Error): void {
    this.#failure ??= error;
    this.#waiting?.reject(error);
    this.#waiting = undefined;
  }
}

/** A whole request with a JSON body. @param headers more lines, each with its end. */
export function jsonRequest(path: string, body: string, headers = ""): Buffer {
  const bytes = Buffer.from(body);
  return Buffer.concat([
    Buffer.from(
      `POST ${path} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\ncontent-length: ${bytes.length}\r\n${headers}\r\n`,
    ),
    bytes,
  ]);
}

/** A whole request without a body. */
export const plainRequest = (method: string, path: string): Buffer =>
  Buffer.from(`${method} ${path} HTTP/1.1\r\nhost: bench\r\n\r\n`);
