import { once } from "node:events";
import { readFileSync } from "node:fs";
import * as http from "node:http";
import * as http2 from "node:http2";
import * as https from "node:https";
import { type AddressInfo, connect, type Socket } from "node:net";
import { Duplex } from "node:stream";
import { text } from "node:stream/consumers";
import * as tls from "node:tls";
import { afterEach, describe, expect, test } from "vitest";
import {
  createListener,
  type ListenerOptions,
  type OnePortServer,
  type RequestHandler,
} from "../../src/transport/listener.ts";

const pem = (name: string) => readFileSync(new URL(`./certs/${name}`, import.meta.url));
const ca = pem("ca.pem");
const certificate = (name: string) => ({ key: pem(`${name}.key`), cert: pem(`${name}.pem`) });
const PREFACE = Buffer.from("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
const EMPTY_SETTINGS = Buffer.from([0, 0, 0, 4, 0, 0, 0, 0, 0]);

/** What a request was seen as; the body is read to its end. */
const echo: RequestHandler = async (req, res) => {
  const body = await text(req).catch(() => "aborted");
  if (res.destroyed || res.headersSent) return;
  res.writeHead(200, { "content-type": "text/plain" });
  res.end(`${req.httpVersion} ${req.method} ${req.url} ${body}`);
};

const running: { end(): Promise<void> | void }[] = [];
afterEach(async () => {
  for (const one of running.splice(0).reverse()) await one.end();
});

async function start(options: ListenerOptions = {}, handler: RequestHandler = echo): Promise<[OnePortServer, number]> {
  const server = createListener(handler, options);
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  running.push({ end: () => server.drain(0) });
  return [server, (server.address() as AddressInfo).port];
}

async function dial(port: number): Promise<Socket> {
  const socket = connect(port, "127.0.0.1");
  socket.on("error", () => {});
  running.push({ end: () => void socket.destroy() });
  await once(socket, "connect");
  return socket;
}

function dialHttp2(url: string, options: http2.SecureClientSessionOptions = {}): http2.ClientHttp2Session {
  const session = http2.connect(url, options);
  session.on("error", () => {});
  running.push({ end: () => session.destroy() });
  return session;
}

async function askHttp2(session: http2.ClientHttp2Session, headers: http2.OutgoingHttpHeaders, body?: string) {
  const stream = session.request(headers);
  stream.end(body);
  const [answer] = (await once(stream, "response")) as [http2.IncomingHttpHeaders];
  return { status: answer[":status"], body: await text(stream) };
}

/** Waits for a condition, at most five seconds. */
async function until(condition: () => boolean): Promise<void> {
  const end = Date.now() + 5_000;
  while (!condition()) {
    if (Date.now() > end) throw new Error(`never became true: ${condition}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

const closed = async (socket: Socket) => {
  socket.resume();
  if (!socket.closed) await once(socket, "close");
};

describe("one port", () => {
  test("serves HTTP/1.1 and HTTP/2 in cleartext", async () => {
    const [, port] = await start();
    const answer = await fetch(`http://127.0.0.1:${port}/a`, { method: "POST", body: "x" });
    expect(await answer.text()).toBe("1.1 POST /a x");
    const session = dialHttp2(`http://127.0.0.1:${port}`);
    expect(await askHttp2(session, { ":path": "/b", ":method": "POST" }, "y")).toEqual({
      status: 200,
      body: "2.0 POST /b y",
    });
  });

  test("serves both when they come one byte at a time", async () => {
    const [, port] = await start();
    const h1 = await dial(port);
    for (const byte of Buffer.from("GET /slow HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")) {
      h1.write(Uint8Array.of(byte));
      await new Promise((resolve) => setImmediate(resolve));
    }
    expect(await text(h1)).toContain("1.1 GET /slow");

    // A real HTTP/2 client, whose bytes go through a socket that passes them on one by one.
    const target = await dial(port);
    const relay = (await import("node:net")).createServer((client) => {
      target.pipe(client).on("error", () => {});
      client.on("data", async (bytes) => {
        client.pause();
        for (const byte of bytes) {
          target.write(Uint8Array.of(byte as number));
          await new Promise((resolve) => setImmediate(resolve));
        }
        client.resume();
      });
    });
    relay.listen(0, "127.0.0.1");
    await once(relay, "listening");
    running.push({ end: () => void relay.close() });
    const session = dialHttp2(`http://127.0.0.1:${(relay.address() as AddressInfo).port}`);
    expect((await askHttp2(session, { ":path": "/bytes" })).body).toBe("2.0 GET /bytes ");
    session.destroy();
  });

  test("answers pipelined requests in order", async () => {
    const [, port] = await start();
    const socket = await dial(port);
    socket.write("GET /1 HTTP/1.1\r\nhost: a\r\n\r\nPOST /2 HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc");
    socket.write("GET /3 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    const bodies = [...(await text(socket)).matchAll(/1\.1 \w+ \/\d \w*/g)].map(([body]) => body.trim());
    expect(bodies).toEqual(["1.1 GET /1", "1.1 POST /2 abc", "1.1 GET /3"]);
  });

  test("refuses header sections above the limit in either version", async () => {
    const [, port] = await start({ maxHeaderBytes: 8 * 1024 });
    const headers = { "x-large": "x".repeat(10_000) };
    expect((await fetch(`http://127.0.0.1:${port}/`, { headers })).status).toBe(431);
    const session = dialHttp2(`http://127.0.0.1:${port}`);
    await once(session, "remoteSettings");
    await expect(askHttp2(session, { ":path": "/", ...headers })).rejects.toThrow();
    expect((await askHttp2(session, { ":path": "/" })).status).toBe(200);
  });

  test("closes connections beyond the cap", async () => {
    const [, port] = await start({ maxConnections: 1 });
    const first = await dial(port);
    first.write("GET /");
    const second = await dial(port);
    await closed(second);
    first.write("1 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    expect(await text(first)).toContain("1.1 GET /1");
  });

  test("announces its HTTP/2 limits and widens the connection's window", async () => {
    const [, port] = await start({ http2: { maxConcurrentStreams: 7, connectionWindowBytes: 2 ** 21 } });
    const session = dialHttp2(`http://127.0.0.1:${port}`);
    const [settings] = (await once(session, "remoteSettings")) as [http2.Settings];
    expect(settings).toMatchObject({ maxConcurrentStreams: 7, initialWindowSize: 2 ** 20, maxHeaderListSize: 16384 });
    await until(() => session.state.remoteWindowSize === 2 ** 21);
  });

  test.each([
    ["words that are no preface", "INVALID CONNECTION PREFACE\r\n\r\n"],
    ["another protocol", "SSH-2.0-OpenSSH_9.9\r\n"],
    ["a preface with an error in it", "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n"],
  ])("closes a connection that opens with %s, without a word over HTTP/1", async (_name, bytes) => {
    const [server, port] = await start();
    const socket = await dial(port);
    socket.write(bytes);
    expect(await text(socket)).not.toContain("HTTP/1");
    await until(() => server.http2SessionCount === 0);
  });

  test.each([
    ["a method that there is not", "BREW /pot HTTP/1.1\r\nhost: a\r\n\r\n"],
    ["a target that is none", "GET a b c\r\n\r\n"],
    ["a request without a version", "\r\nGET /\r\n\r\n"],
    ["a line that does not end", "x".repeat(9_000)],
  ])("answers %s over HTTP/1", async (_name, bytes) => {
    const [, port] = await start();
    const socket = await dial(port);
    socket.end(bytes);
    expect(await text(socket)).toMatch(/^HTTP\/1.1 [24]\d\d /);
  });

  test("forgets an HTTP/2 connection whose peer closes without a word", async () => {
    const [server, port] = await start();
    const socket = await dial(port);
    socket.write(Buffer.concat([PREFACE, EMPTY_SETTINGS]));
    await until(() => server.http2SessionCount === 1);
    socket.end();
    await until(() => server.http2SessionCount === 0);
    await closed(socket);
  });
});

test("an answer that its caller takes nothing of is let go of, in either version", async () => {
  const gone: string[] = [];
  const [, port] = await start({ headersTimeoutMs: 150, requestTimeoutMs: 300 }, (req, res) => {
    res.on("close", () => gone.push(req.httpVersion));
    res.writeHead(200);
    res.end(Buffer.alloc(32 * 1024 * 1024));
  });
  const h1 = await dial(port);
  h1.pause();
  h1.write("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
  const session = dialHttp2(`http://127.0.0.1:${port}`);
  const stream = session.request({ ":path": "/" });
  stream.on("error", () => {});
  await until(() => gone.length === 2);
  expect(gone.toSorted()).toEqual(["1.1", "2.0"]);
  expect(session.destroyed).toBe(false);
});

describe("slow callers are cut off", () => {
  const times = { headersTimeoutMs: 150, requestTimeoutMs: 300, keepAliveTimeoutMs: 150, http2IdleTimeoutMs: 200 };
  const h2 = (...rest: number[]) => Buffer.concat([PREFACE, EMPTY_SETTINGS, Buffer.from(rest)]);
  test.each<[string, Buffer | string]>([
    ["silent", ""],
    ["two bytes of a preface, which must not spin", "PR"],
    ["half a preface", PREFACE.subarray(0, 12)],
    ["half an HTTP/1.1 header", "GET / HTTP/1.1\r\nhost: a\r\nx-a"],
    ["half an HTTP/1.1 body", "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nabc"],
    ["an idle HTTP/1.1 connection", "GET / HTTP/1.1\r\nhost: a\r\n\r\n"],
    ["an HTTP/2 preface without settings", PREFACE],
    ["half an HTTP/2 header", h2(0, 0, 40, 1, 4, 0, 0, 0, 1, 0x82)],
    ["half an HTTP/2 body", h2(0, 0, 6, 1, 4, 0, 0, 0, 1, 0x83, 0x86, 0x84, 0x41, 1, 0x61)],
    ["an idle HTTP/2 connection", h2()],
  ])("%s", async (_name, bytes) => {
    const [server, port] = await start(times);
    const socket = await dial(port);
    socket.write(bytes);
    await closed(socket);
    await until(() => server.http2SessionCount === 0);
  });

  test("a TLS handshake that does not begin", async () => {
    const [, port] = await start({ ...times, tls: certificate("server") });
    await closed(await dial(port));
  });

  test("a half body gets 408 in either version", async () => {
    const [, port] = await start(times);
    const socket = await dial(port);
    socket.write("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nabc");
    expect(await text(socket)).toMatch(/^HTTP\/1.1 408 /);
    const stream = dialHttp2(`http://127.0.0.1:${port}`).request({ ":method": "POST", ":path": "/" });
    stream.on("error", () => {});
    stream.write("abc");
    const [headers] = (await once(stream, "response")) as [http2.IncomingHttpHeaders];
    expect(headers[":status"]).toBe(408);
    stream.resume();
    await once(stream, "close");
  });

  test("but not a stream of messages that pauses, nor the connection under it", async () => {
    const [server, port] = await start(times);
    const stream = dialHttp2(`http://127.0.0.1:${port}`).request({
      ":method": "POST",
      ":path": "/",
      "content-type": "application/grpc+proto",
    });
    stream.write("first ");
    const pauseEnds = Date.now() + 3 * times.requestTimeoutMs;
    await until(() => Date.now() > pauseEnds);
    stream.end("second");
    expect(await text(stream)).toBe("2.0 POST / first second");
    expect(server.http2SessionCount).toBe(1);
  });
});

describe("TLS", () => {
  const options = { ca, servername: "localhost" };
  const h1 = (port: number, more: https.RequestOptions = {}) =>
    new Promise<string>((resolve, reject) => {
      const req = https.get({ host: "127.0.0.1", port, agent: false, ...options, ...more }, (res) => {
        resolve(text(res));
      });
      req.on("error", reject);
    });

  test("serves both versions by ALPN", async () => {
    const [, port] = await start({ tls: certificate("server") });
    expect(await h1(port)).toBe("1.1 GET / ");
    const session = dialHttp2(`https://127.0.0.1:${port}`, options);
    expect((await askHttp2(session, { ":path": "/" })).body).toBe("2.0 GET / ");
    expect(session.alpnProtocol).toBe("h2");
  });

  test("takes requests of several records while an answer is not yet taken", async () => {
    const large = "x".repeat(8 * 1024 * 1024);
    const [server, port] = await start({ tls: certificate("server") }, (req, res) => {
      if (req.url === "/large") res.end(large);
      else echo(req, res);
    });
    const failures: unknown[] = [];
    server.on("clientError", (error) => failures.push(error));
    const socket = await dial(port);
    // What is written in one turn of `packet` goes out as one packet, however many records it is.
    let waiting: Buffer[] | undefined;
    const send = new Duplex({
      read: () => void socket.resume(),
      write: (chunk: Buffer, _encoding, done) => {
        if (waiting) waiting.push(chunk);
        else socket.write(chunk);
        done();
      },
    });
    socket.on("data", (chunk) => send.push(chunk) || socket.pause());
    socket.on("end", () => send.push(null));
    const client = tls.connect({ socket: send, ...options });
    await once(client, "secureConnect");
    const packet = async (...records: string[]) => {
      waiting = [];
      for (const record of records) await new Promise((done) => client.write(record, done));
      socket.write(Buffer.concat(waiting));
      waiting = undefined;
    };
    await packet("GET /large HTTP/1.1\r\nhost: a\r\n\r\n");
    await until(() => socket.bytesRead > 0 && socket.isPaused());
    await packet("POST /second HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\nconnection: close\r\n\r\n", "body");
    const answers = await text(client);
    expect(answers).toContain(large);
    expect(answers.slice(-40)).toContain("1.1 POST /second body");
    expect(failures).toEqual([]);
  });

  test("drops cleartext", async () => {
    const [, port] = await start({ tls: certificate("server") });
    const socket = await dial(port);
    socket.write("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    await closed(socket);
  });

  test("asks for client certificates and shows them to the handler", async () => {
    const [, port] = await start({ tls: { ...certificate("server"), clientCa: ca } }, (req, res) => {
      res.end((req.socket as tls.TLSSocket).getPeerCertificate().subject.CN);
    });
    await expect(h1(port)).rejects.toThrow();
    expect(await h1(port, certificate("client"))).toBe("alice");
    const session = dialHttp2(`https://127.0.0.1:${port}`, { ...options, ...certificate("client") });
    expect((await askHttp2(session, { ":path": "/" })).body).toBe("alice");
  });

  test("shows new connections a replaced certificate", async () => {
    const [server, port] = await start({ tls: certificate("server") });
    const subject = async () => {
      const socket = tls.connect({ host: "127.0.0.1", port, ...options });
      await once(socket, "secureConnect");
      const { CN } = socket.getPeerCertificate().subject;
      socket.destroy();
      return CN;
    };
    expect(await subject()).toBe("localhost");
    server.replaceCertificate(certificate("renewed"));
    expect(await subject()).toBe("renewed");
  });
});

describe("drain", () => {
  test("lets requests in flight finish and closes idle connections at once", async () => {
    const answer = Promise.withResolvers<void>();
    let asked = 0;
    const [server, port] = await start({ keepAliveTimeoutMs: 60_000 }, async (_req, res) => {
      asked++;
      if (asked > 1) await answer.promise;
      res.end("done");
    });
    const agent = new http.Agent({ keepAlive: true });
    running.push({ end: () => agent.destroy() });
    const ask = () =>
      new Promise<string>((resolve, reject) => {
        const request = http.get({ host: "127.0.0.1", port, agent }, async (res) =>
          resolve(`${await text(res)}, ${res.headers.connection}`),
        );
        request.on("error", reject);
      });
    expect(await ask()).toBe("done, keep-alive");
    const idle = await dial(port);
    const busy = ask();
    const stream = askHttp2(dialHttp2(`http://127.0.0.1:${port}`), { ":path": "/" });
    await until(() => asked === 3);
    const drained = server.drain(60_000);
    await closed(idle);
    await expect(fetch(`http://127.0.0.1:${port}/`)).rejects.toThrow();
    answer.resolve();
    expect(await busy).toBe("done, close");
    expect((await stream).body).toBe("done");
    await drained;
  });

  test("cuts what is left after the grace", async () => {
    let asked = 0;
    const [server, port] = await start({}, () => void asked++);
    const half = await dial(port);
    half.write("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nabc");
    const silent = await dial(port);
    const stream = dialHttp2(`http://127.0.0.1:${port}`).request({ ":path": "/" });
    stream.on("error", () => {});
    await until(() => asked === 2);
    await server.drain(50);
    await Promise.all([closed(half), closed(silent), stream.closed || once(stream, "close")]);
    expect(server.http2SessionCount).toBe(0);
  });

  test("may be called twice, before listening, and after close", async () => {
    await createListener(echo).drain(10);
    const [server, port] = await start();
    const half = await dial(port);
    half.write("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nabc");
    server.close();
    const slow = server.drain(60_000);
    await server.drain(0);
    await slow;
    await server.drain(0);
  });
});
