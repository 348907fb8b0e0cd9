/** The HTTP/2 connections of the one port: their limits, their timeouts, and their end. */
import * as http2 from "node:http2";
import type { Socket } from "node:net";

export interface Http2Limits {
  /** Streams a caller may have open at once on one connection. Default 1000. */
  maxConcurrentStreams?: number;
  /** Bytes of one stream that may be under way or unread. Default 1 MiB. */
  initialWindowBytes?: number;
  /** The same for a connection's streams together: bounds what one caller can make us hold. Default 4 MiB. */
  connectionWindowBytes?: number;
  /** Memory of one connection, in MB of 10^6 bytes; above it new streams are refused. Default 64. */
  maxSessionMemoryMb?: number;
  /** Entries of one SETTINGS frame; a longer one ends the connection. Default 32. */
  maxSettings?: number;
  /** Streams a caller may reset at once, and per second after that, before it is cut. Default 1000 and 33. */
  resetBurst?: number;
  resetsPerSecond?: number;
}

interface SessionTimes {
  connectionWindowBytes?: number;
  headersTimeoutMs: number;
  requestTimeoutMs: number;
  idleTimeoutMs: number;
  isClosing: () => boolean;
}

/** Of one DATA frame that a caller may send; what is read at once is less. */
const MAX_FRAME_BYTES = 256 * 1024;
/** How long a closing connection without streams waits for its peer to close its side. */
const LAST_BYTES_MS = 1_000;
/** Request bodies without a natural end: their silence is no fault. */
const STREAMED = /^application\/(grpc|connect\+)/i;

/** Limits as `node:http2` wants them. */
export function http2ServerOptions(limits: Http2Limits = {}, maxHeaderBytes: number): http2.ServerOptions {
  return {
    maxSessionMemory: limits.maxSessionMemoryMb ?? 64,
    maxSettings: limits.maxSettings ?? 32,
    maxSessionInvalidFrames: 100,
    streamResetBurst: limits.resetBurst ?? 1000,
    streamResetRate: limits.resetsPerSecond ?? 33,
    settings: {
      maxConcurrentStreams: limits.maxConcurrentStreams ?? 1000,
      // A body then comes in as many pieces as the socket gives, not one for each 16 KiB.
      maxFrameSize: MAX_FRAME_BYTES,
      initialWindowSize: limits.initialWindowBytes ?? 1024 * 1024,
      maxHeaderListSize: maxHeaderBytes,
      enablePush: false,
    },
  };
}

/** Serves sockets by `server`, which does not listen itself, and keeps the connections that came of them. */
export function openSessions(server: http2.Http2Server, times: SessionTimes) {
  const sessions = new Map<http2.ServerHttp2Session, () => void>();
  server.on("sessionError", () => {}); // ends its connection, nothing else
  server.prependListener("request", (req, res) => limitRequest(req, res, times.requestTimeoutMs));

  const opened = (session: http2.ServerHttp2Session, socket: Socket) => {
    let streams = 0;
    let cut: NodeJS.Timeout | undefined;
    // A closing session waits for its peer to close too, and for a stream whose headers never come whole.
    const close = () => {
      session.close();
      if (streams > 0) return;
      cut ??= setTimeout(() => {
        cut = undefined;
        if (streams === 0) socket.destroy();
      }, LAST_BYTES_MS);
    };
    session.on("stream", (stream) => {
      streams++;
      stream.once("close", () => {
        streams--;
        if (session.closed) close();
      });
    });
    const noSettings = setTimeout(() => session.destroy(), times.headersTimeoutMs);
    session.once("remoteSettings", () => clearTimeout(noSettings));
    session.setTimeout(times.idleTimeoutMs);
    session.on("timeout", () => {
      if (streams === 0) close();
      else session.setTimeout(times.idleTimeoutMs);
    });
    socket.once("close", () => {
      sessions.delete(session);
      clearTimeout(noSettings);
      clearTimeout(cut);
    });
    sessions.set(session, close);
    // RFC 9113 gives a connection 64 KiB whatever its streams are allowed: one upload would wait for it all the time.
    session.setLocalWindowSize(times.connectionWindowBytes ?? 4 * 1024 * 1024);
    if (times.isClosing()) close();
  };

  return {
    accept(socket: Socket): void {
      // An http.Server's sockets stay half open when the peer closes: right for HTTP/1, a leak here.
      socket.allowHalfOpen = false;
      const once = (session: http2.ServerHttp2Session) => opened(session, socket);
      server.once("session", once); // emitted before the next line returns
      server.emit("connection", socket);
      server.off("session", once);
    },
    closeAll(): void {
      for (const close of sessions.values()) close();
    },
    destroyAll(): void {
      for (const session of sessions.keys()) session.destroy();
    },
    count: () => sessions.size,
  };
}

/** What `http.Server` does by `requestTimeout`: a request that does not end is answered with 408 and closed. */
function limitRequest(req: http2.Http2ServerRequest, res: http2.Http2ServerResponse, timeoutMs: number): void {
  if (req.stream.endAfterHeaders || STREAMED.test(req.headers["content-type"] ?? "")) return;
  const timer = setTimeout(() => {
    if (!res.headersSent) res.writeHead(408).end();
    req.stream.close(http2.constants.NGHTTP2_NO_ERROR);
  }, timeoutMs);
  const over = () => clearTimeout(timer);
  req.once("end", over);
  req.stream.once("close", over);
}
