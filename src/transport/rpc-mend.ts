import { Code, type ConnectError } from "@connectrpc/connect";
import type { UniversalServerResponse } from "@connectrpc/connect/protocol";
import { codeFromString, codeToHttpStatus, errorToJson } from "@connectrpc/connect/protocol-connect";
import { setTrailerStatus } from "@connectrpc/connect/protocol-grpc";

/** Gives a failure of Connect's own the service's form. */
export type Mend = (code: Code, message: string) => ConnectError;

/**
 * What Connect refuses before any interceptor sees it, such as a message that can't be decoded, has none of the details
 * that the service's errors have. Here they get them, in each protocol's place for errors: the body of a unary answer,
 * the last frame of a stream, the trailers of gRPC.
 */
export async function mended(answer: UniversalServerResponse, mend: Mend): Promise<UniversalServerResponse> {
  const type = answer.header?.get("content-type") ?? "";
  if (type.startsWith("application/grpc-web")) return withFrames(answer, 0x80, (text) => webTrailers(text, mend));
  if (type.startsWith("application/connect+")) return withFrames(answer, 0x02, (text) => endOfStream(text, mend));
  if (!type.startsWith("application/grpc")) return answer.status >= 400 ? withBody(answer, mend) : answer;
  return {
    ...answer,
    // Read after the body, which fills it.
    get trailer() {
      return grpcTrailers(answer.trailer, mend);
    },
  } as UniversalServerResponse;
}

function grpcTrailers(trailer: Headers | undefined, mend: Mend): Headers | undefined {
  const failure = trailer && ofTrailers(trailer, mend);
  if (trailer && failure) setTrailerStatus(trailer, failure);
  return trailer;
}

/** Trailers that say an error without details, as the service's error. */
function ofTrailers(trailer: Headers, mend: Mend): ConnectError | undefined {
  const status = Number(trailer.get("grpc-status") ?? 0);
  if (status === 0 || trailer.has("grpc-status-details-bin")) return undefined;
  return mend(status as Code, decodeURIComponent(trailer.get("grpc-message") ?? ""));
}

function webTrailers(text: string, mend: Mend): string | undefined {
  const trailer = new Headers();
  for (const line of text.split("\r\n")) {
    const colon = line.indexOf(":");
    if (colon > 0) trailer.append(line.slice(0, colon), line.slice(colon + 1).trim());
  }
  const failure = ofTrailers(trailer, mend);
  if (!failure) return undefined;
  setTrailerStatus(trailer, failure);
  return [...trailer].map(([name, value]) => `${name}: ${value}\r\n`).join("");
}

interface ErrorJson {
  code?: string;
  message?: string;
  details?: unknown[];
}

/** Connect's JSON form of an error without details, as the service's error; of a wrong method or type it knows no code. */
function ofJson(error: ErrorJson | undefined, mend: Mend): ConnectError | undefined {
  const code = error?.code === undefined ? undefined : codeFromString(error.code);
  return code === undefined || code === Code.Unknown || error?.details ? undefined : mend(code, error?.message ?? "");
}

function endOfStream(text: string, mend: Mend): string | undefined {
  const end = JSON.parse(text) as { error?: ErrorJson };
  const failure = ofJson(end.error, mend);
  return failure && JSON.stringify({ ...end, error: errorToJson(failure, undefined) });
}

async function withBody(answer: UniversalServerResponse, mend: Mend): Promise<UniversalServerResponse> {
  if (!answer.body || answer.header?.has("content-encoding")) return answer;
  const bytes = Buffer.concat(await Array.fromAsync(answer.body as AsyncIterable<Uint8Array>));
  const failure = ofJson(JSON.parse(bytes.toString("utf8")) as ErrorJson, mend);
  const body = failure ? Buffer.from(JSON.stringify(errorToJson(failure, undefined))) : bytes;
  answer.header?.set("content-length", String(body.length));
  return { ...answer, status: failure ? codeToHttpStatus(failure.code) : answer.status, body: only(body) };
}

async function* only(chunk: Uint8Array): AsyncGenerator<Uint8Array> {
  yield chunk;
}

const PREFIX_BYTES = 5;

/** Rewrites the frames that carry `flag` and no compression. */
function withFrames(
  answer: UniversalServerResponse,
  flag: number,
  rewrite: (text: string) => string | undefined,
): UniversalServerResponse {
  if (!answer.body) return answer;
  const { body } = answer;
  async function* frames() {
    for await (const chunk of body as AsyncIterable<Uint8Array>) {
      const text = chunk[0] === flag ? Buffer.from(chunk.subarray(PREFIX_BYTES)).toString("utf8") : undefined;
      const better = text === undefined ? undefined : rewrite(text);
      yield better === undefined ? chunk : frame(flag, better);
    }
  }
  return { ...answer, body: frames() };
}

function frame(flag: number, text: string): Uint8Array {
  const payload = Buffer.from(text, "utf8");
  const out = Buffer.alloc(PREFIX_BYTES + payload.length);
  out[0] = flag;
  out.writeUInt32BE(payload.length, 1);
  out.set(payload, PREFIX_BYTES);
  return out;
}
