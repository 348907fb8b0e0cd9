/**
 * One TCP port for HTTP/1.1 and HTTP/2, in cleartext (h2c with prior knowledge) or over TLS (ALPN).
 *
 * The server is a real `http.Server`, so that everything Node does for one works: header and request timeouts, idle
 * tracking, `close()`, `clientError`. Only its `connection` listener is wrapped: a connection that opens with the HTTP/2
 * preface goes to an http2 server that never listens itself, and one that opens with neither version's is closed.
 */
import * as http from "node:http";
import * as http2 from "node:http2";
import type { Socket } from "node:net";
import * as tls from "node:tls";
import { ByteBudget } from "../domain/byte-budget.ts";
import { http1Answers, http2Answers } from "./every-answer.ts";
import { type Http2Limits, http2ServerOptions, openSessions } from "./http2-sessions.ts";

/** Takes a request of either HTTP version; HTTP/2 comes through Node's compatibility classes, which look the same. */
export type RequestHandler = (req: http.IncomingMessage, res: http.ServerResponse) => void;

export interface ListenerTls {
  key: string | Buffer;
  cert: string | Buffer;
  /** Certificate authorities for client certificates, PEM; without it none is asked for. */
  clientCa?: string | Buffer;
  /** With `clientCa`: refuse a caller without a certificate from it. Default true; false only asks. */
  requireClientCert?: boolean;
}

export interface ListenerOptions {
  /** With it the port speaks TLS (1.2 or later) only. */
  tls?: ListenerTls;
  /** Longest time for the first bytes, a TLS handshake, or a request's headers. Default 10,000. */
  headersTimeoutMs?: number;
  /**
   * Longest time for a whole request, headers included; not less than `headersTimeoutMs`. Answered with 408. Over HTTP/2
   * it does not hold for the content types of RPC streams, which may go on for days. As long a whole answer may wait
   * while its caller takes nothing of it. Default 30,000.
   */
  requestTimeoutMs?: number;
  /** How long an idle HTTP/1.1 connection is kept. Default 5,000. */
  keepAliveTimeoutMs?: number;
  /** How long an HTTP/2 connection without a stream is kept while nothing arrives on it. Default 300,000. */
  http2IdleTimeoutMs?: number;
  /** Bound on a request's headers together: 431 above it over HTTP/1.1; announced over HTTP/2. Default {@link MAX_HEADER_BYTES}. */
  maxHeaderBytes?: number;
  /** Connections open at once; one more is closed unanswered. Default 10,000. */
  maxConnections?: number;
  http2?: Http2Limits;
  /** Holds what is unread of whole answers. */
  unreadAnswers?: ByteBudget;
}

export interface OnePortServer extends http.Server {
  /** Sends GOAWAY on every HTTP/2 connection: streams in flight finish, new ones are refused. Fastify calls it on close. */
  closeHttp2Sessions(): void;
  /** Ends every HTTP/2 connection now, with the streams on it. */
  destroyHttp2Sessions(): void;
  readonly http2SessionCount: number;
  /**
   * Accepts nothing more, lets requests in flight finish, and after `graceMs` cuts what is left. Never rejects and never
   * takes much longer than `graceMs`; called again it only shortens the time. Disposing drains with 0.
   */
  drain(graceMs: number): Promise<void>;
  /** New connections get this certificate; running ones keep theirs. @throws when the port speaks cleartext. */
  replaceCertificate(certificate: ListenerTls): void;
}

const PREFACE = Buffer.from("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "latin1");
/** "PRI " is enough to tell: no HTTP/1 method starts so, and node:http2 checks the rest. */
const DECIDING_BYTES = 4;
/** A first line that is longer is left to the parser of HTTP/1. */
const FIRST_LINE_BYTES = 1024;
/** Of a request together. */
export const MAX_HEADER_BYTES = 16 * 1024;
const METHODS = new Set(http.METHODS);
const IDLE_SWEEP_MS = 50;

/** Creates the server, which then listens like any `http.Server`. @throws RangeError on timeouts Node refuses. */
export function createListener(handler: RequestHandler, options: ListenerOptions = {}): OnePortServer {
  const headersTimeoutMs = options.headersTimeoutMs ?? 10_000;
  const requestTimeoutMs = options.requestTimeoutMs ?? 30_000;
  const maxHeaderBytes = options.maxHeaderBytes ?? MAX_HEADER_BYTES;
  const unread = {
    timeoutMs: requestTimeoutMs,
    held: options.unreadAnswers ?? new ByteBudget(Number.POSITIVE_INFINITY),
  };
  const server: http.Server = http.createServer(
    {
      headersTimeout: headersTimeoutMs,
      requestTimeout: requestTimeoutMs,
      keepAliveTimeout: options.keepAliveTimeoutMs ?? 5_000,
      maxHeaderSize: maxHeaderBytes,
      // Node looks for overdue requests once in this time, so it is how late a timeout may be.
      connectionsCheckingInterval: Math.min(5_000, Math.ceil(headersTimeoutMs / 4)),
      keepAlive: true, // TCP's own: finds peers that vanished while a stream waits
      keepAliveInitialDelay: 30_000,
      requireHostHeader: false, // refused by the handler, in the form of its other refusals
      ServerResponse: http1Answers(unread, () => !server.listening) as typeof http.ServerResponse,
    },
    handler,
  );
  server.maxConnections = options.maxConnections ?? 10_000;
  // Of an expectation that is not 100-continue a server need not know (RFC 9110, 10.1.1); Node would answer without a word.
  server.on("checkExpectation", (req, res) => server.emit("request", req, res));

  const h2 = http2.createServer(
    {
      ...http2ServerOptions(options.http2, maxHeaderBytes),
      Http2ServerResponse: http2Answers(unread) as never,
    },
    handler as never,
  );
  const sessions = openSessions(h2, {
    ...options.http2,
    headersTimeoutMs,
    requestTimeoutMs,
    idleTimeoutMs: options.http2IdleTimeoutMs ?? 300_000,
    isClosing: () => !server.listening,
  });

  const [toHttp1] = server.listeners("connection") as [(socket: Socket) => void];
  server.removeListener("connection", toHttp1);
  const toHttp2 = (socket: Socket) => sessions.accept(socket);

  const sockets = new Set<Socket>();
  const undecided = new Set<Socket>();
  const emptied = new Set<() => void>();
  server.on("connection", (socket: Socket) => {
    sockets.add(socket);
    socket.once("close", () => {
      sockets.delete(socket);
      if (sockets.size === 0) for (const tell of emptied) tell();
    });
  });

  const sniff = (socket: Socket) => {
    const quit = () => socket.destroy();
    // Not the socket's idle timeout: that starts anew with every byte of a slow caller.
    const timer = setTimeout(quit, headersTimeoutMs);
    undecided.add(socket);
    const forget = () => {
      clearTimeout(timer);
      undecided.delete(socket);
    };
    socket.once("close", forget);
    socket.on("error", quit);
    socket.on("end", quit);
    let held: Buffer = Buffer.alloc(0);
    const onReadable = () => {
      const chunk = socket.read() as Buffer | null;
      if (chunk === null) return; // end of input, or a spurious wake-up
      // Held here and not unshifted until it is enough: unshift() would wake this listener again at once, for ever.
      held = held.length === 0 ? chunk : Buffer.concat([held, chunk]);
      const open = held.length < DECIDING_BYTES && PREFACE.subarray(0, held.length).equals(held);
      if (open) return;
      forget();
      socket.removeListener("close", forget);
      socket.removeListener("readable", onReadable);
      socket.removeListener("error", quit);
      socket.removeListener("end", quit);
      socket.unshift(held);
      const isHttp2 = PREFACE.subarray(0, DECIDING_BYTES).equals(held.subarray(0, DECIDING_BYTES));
      if (!isHttp2 && isNoRequest(held)) return void socket.destroy();
      (isHttp2 ? toHttp2 : toHttp1).call(server, socket);
    };
    socket.on("readable", onReadable);
  };

  let secure: tls.Server | undefined;
  if (options.tls) {
    secure = tls.createServer({
      ...secureContext(options.tls),
      ALPNProtocols: ["h2", "http/1.1"],
      handshakeTimeout: headersTimeoutMs,
      requestCert: options.tls.clientCa !== undefined,
      rejectUnauthorized: options.tls.clientCa !== undefined && options.tls.requireClientCert !== false,
    });
    secure.on("tlsClientError", (_error, socket) => socket.destroy());
    secure.on("secureConnection", (socket) => {
      if (socket.alpnProtocol === "h2") return toHttp2(socket);
      toHttp1.call(server, socket);
      // Without a listener Node's parser is fed by the TLS layer itself, which goes on doing so while the parser is paused:
      // the connection broke off where a request of two records came in one packet before the last answer was written.
      socket.on("data", () => {});
    });
    server.on("connection", (socket) => secure?.emit("connection", socket));
  } else {
    server.on("connection", sniff);
  }

  const closeIdleConnections = server.closeIdleConnections.bind(server);
  const closeIdle = () => {
    closeIdleConnections();
    for (const socket of undecided) socket.destroy();
  };
  const drain = (graceMs: number) =>
    new Promise<void>((resolve) => {
      const sweep = setInterval(closeIdle, IDLE_SWEEP_MS);
      const cut = setTimeout(() => {
        sessions.destroyAll();
        for (const socket of sockets) socket.destroy();
      }, graceMs);
      const over = () => {
        if (sockets.size > 0) return;
        emptied.delete(over);
        clearInterval(sweep);
        clearTimeout(cut);
        resolve();
      };
      emptied.add(over);
      server.close(over); // calls back with an error where it is closed already
      sessions.closeAll();
    });

  Object.defineProperty(server, "http2SessionCount", { get: () => sessions.count() });
  return Object.assign(server, {
    closeIdleConnections: closeIdle,
    closeHttp2Sessions: sessions.closeAll,
    destroyHttp2Sessions: sessions.destroyAll,
    drain,
    replaceCertificate: (certificate: ListenerTls) => {
      if (!secure) throw new Error("this port speaks cleartext");
      secure.setSecureContext(secureContext(certificate));
    },
    [Symbol.asyncDispose]: () => drain(0),
  }) as OnePortServer;
}

/**
 * Whether a connection's first bytes hold a whole line that is no start of an HTTP/1 request: it names neither a method nor
 * a version. To a port of both versions that is an invalid HTTP/2 preface, whose connection is closed (RFC 9113, 3.4); an
 * answer over HTTP/1 is owed only to what appears to be a request (RFC 9112, 2.2).
 */
function isNoRequest(bytes: Buffer): boolean {
  const [, line] = /^(?:\r?\n)*([^\n]+)\n/.exec(bytes.subarray(0, FIRST_LINE_BYTES).toString("latin1")) ?? [];
  if (line === undefined) return false;
  return !METHODS.has(line.slice(0, line.indexOf(" "))) && !/ HTTP\/\d(\.\d)?\r?$/.test(line);
}

function secureContext({ key, cert, clientCa }: ListenerTls): tls.SecureContextOptions {
  return { key, cert, minVersion: "TLSv1.2", ...(clientCa === undefined ? {} : { ca: clientCa }) };
}
