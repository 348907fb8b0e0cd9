import { type ClientHttp2Session, connect } from "node:http2";

const WINDOW_BYTES = 64 * 1024 * 1024;
const PREFIX_BYTES = 5;

/** One HTTP/2 connection for unary gRPC calls with messages that are bytes already. */
export class GrpcConnection {
  readonly #session: ClientHttp2Session;

  private constructor(session: ClientHttp2Session) {
    this.#session = session;
  }

  static async open(url: string): Promise<GrpcConnection> {
    const session = connect(url, { settings: { enablePush: false, initialWindowSize: WINDOW_BYTES } });
    await new Promise<void>((resolve, reject) => {
      session.once("connect", () => resolve());
      session.once("error", reject);
    });
    session.setLocalWindowSize(WINDOW_BYTES);
    session.on("error", () => {});
    return new GrpcConnection(session);
  }

  /**
   * One unary call.
   *
   * @param frame a message with its gRPC prefix, see {@link grpcFrame}.
   * @returns the answer's message. @throws Error when the status is not 0.
   */
  call(path: string, frame: Uint8Array): Promise<Buffer> {
    const { promise, resolve, reject } = Promise.withResolvers<Buffer>();
    const stream = this.#session.request({
      ":method": "POST",
      ":path": path,
      "content-type": "application/grpc+proto",
      te: "trailers",
    });
    const chunks: Buffer[] = [];
    let status: unknown;
    let message: unknown;
    const readStatus = (headers: Record<string, unknown>) => {
      status ??= headers["grpc-status"];
      message ??= headers["grpc-message"];
    };
    stream.on("response", readStatus);
    stream.on("trailers", readStatus);
    stream.on("data", (chunk: Buffer) => chunks.push(chunk));
    stream.on("error", reject);
    stream.on("end", () => {
      if (status !== "0") return reject(new Error(`grpc-status ${status} ${message ?? ""}`));
      const bytes = chunks.length === 1 ? chunks[0]! : Buffer.concat(chunks);
      if (bytes.length < PREFIX_BYTES || bytes[0] !== 0 || bytes.readUInt32BE(1) !== bytes.length - PREFIX_BYTES)
        return reject(new Error("not one plain gRPC message"));
      resolve(bytes.subarray(PREFIX_BYTES));
    });
    stream.end(frame);
    return promise;
  }

  close(): void {
    this.#session.destroy();
  }
}

/** A message with its gRPC prefix. */
export function grpcFrame(message: Uint8Array): Buffer {
  const frame = Buffer.allocUnsafe(PREFIX_BYTES + message.length);
  frame[0] = 0;
  frame.writeUInt32BE(message.length, 1);
  frame.set(message, PREFIX_BYTES);
  return frame;
}
