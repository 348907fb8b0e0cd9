import { Code, ConnectError } from "@connectrpc/connect";
import { BadRequestSchema, ErrorInfoSchema } from "../../gen/google/rpc/error_details_pb.js";
import { ErrorCode } from "../../gen/millrace/v1/errors_pb.js";

/** What the process ends with; docs/cli.md has the table. */
export const Exit = {
  DONE: 0,
  FAILED: 1,
  USAGE: 2,
  NOT_FOUND: 3,
  REFUSED: 4,
  NOT_ALLOWED: 5,
  UNAVAILABLE: 6,
  PARTLY: 7,
  /** 128 and the number of the signal, as shells have it. */
  SIGINT: 130,
  SIGTERM: 143,
} as const;

/** A failure that is told to the user as it is. */
export class CliError extends Error {
  readonly exitCode: number;

  constructor(message: string, exitCode: number) {
    super(message);
    this.name = "CliError";
    this.exitCode = exitCode;
  }
}

export const usage = (message: string): CliError => new CliError(message, Exit.USAGE);

/** A failure as its user is told of it. */
export interface Failure {
  readonly exitCode: number;
  /** Number and name of the service's error code, when the service refused. */
  readonly code?: number;
  readonly message?: string;
  readonly description: string;
}

const EXIT_OF_CODE: Partial<Record<ErrorCode, number>> = {
  [ErrorCode.STREAM_NOT_FOUND]: Exit.NOT_FOUND,
  [ErrorCode.CONSUMER_GROUP_NOT_FOUND]: Exit.NOT_FOUND,
  [ErrorCode.PROCESSOR_NOT_FOUND]: Exit.NOT_FOUND,
  [ErrorCode.RESOURCE_NOT_FOUND]: Exit.NOT_FOUND,
  [ErrorCode.NOT_FOUND]: Exit.NOT_FOUND,
  [ErrorCode.INVALID_OFFSET]: Exit.REFUSED,
  [ErrorCode.SERIALIZATION_ERROR]: Exit.REFUSED,
  [ErrorCode.INVALID_ARGUMENT]: Exit.REFUSED,
  [ErrorCode.ALREADY_EXISTS]: Exit.REFUSED,
  [ErrorCode.NOT_PARTITION_OWNER]: Exit.REFUSED,
  [ErrorCode.PRECONDITION_FAILED]: Exit.REFUSED,
  [ErrorCode.UNAUTHENTICATED]: Exit.NOT_ALLOWED,
  [ErrorCode.PERMISSION_DENIED]: Exit.NOT_ALLOWED,
  [ErrorCode.QUOTA_EXCEEDED]: Exit.UNAVAILABLE,
  [ErrorCode.TIMEOUT]: Exit.UNAVAILABLE,
  [ErrorCode.UNAVAILABLE]: Exit.UNAVAILABLE,
};

const EXIT_OF_STATUS: Partial<Record<Code, number>> = {
  [Code.NotFound]: Exit.NOT_FOUND,
  [Code.Unimplemented]: Exit.NOT_FOUND,
  [Code.Unauthenticated]: Exit.NOT_ALLOWED,
  [Code.PermissionDenied]: Exit.NOT_ALLOWED,
  // A connection that broke.
  [Code.Aborted]: Exit.UNAVAILABLE,
  [Code.Unavailable]: Exit.UNAVAILABLE,
  [Code.DeadlineExceeded]: Exit.UNAVAILABLE,
  [Code.ResourceExhausted]: Exit.UNAVAILABLE,
};

/** What Connect does not know as a connection's failure, such as of one that the service closed since the call before. */
const LOST_CONNECTION = new Set(["EPIPE", "ECONNABORTED", "EHOSTUNREACH", "EHOSTDOWN", "ENETUNREACH"]);

const isLostConnection = ({ cause }: ConnectError): boolean =>
  cause instanceof Error && LOST_CONNECTION.has((cause as NodeJS.ErrnoException).code ?? "");

/** What a process ends with that failed by an error code of the service. */
export const exitOfCode = (code: number): number => EXIT_OF_CODE[code as ErrorCode] ?? Exit.FAILED;

/** Number of the service's error code; 0 when the failure is none of the service. */
export function errorCodeOf(error: unknown): number {
  if (!(error instanceof ConnectError)) return 0;
  const [info] = error.findDetails(ErrorInfoSchema);
  return Number(info?.metadata.code ?? 0);
}

/** Whether the same call may succeed a little later: the service is out of reach, busy or slow. */
export const isPassing = (error: unknown): boolean => failureOf(error).exitCode === Exit.UNAVAILABLE;

/** Whether a stream of answers may go on by another call: the failure is in passing, or the connection's and not the service's. */
export function isInterrupted(error: unknown): boolean {
  if (!(error instanceof ConnectError)) return false;
  const { code, exitCode } = failureOf(error);
  return exitCode === Exit.UNAVAILABLE || (code === undefined && exitCode === Exit.FAILED);
}

/** Any failure in words, with its exit code. */
export function failureOf(error: unknown): Failure {
  if (error instanceof CliError) return { exitCode: error.exitCode, description: error.message };
  // What was ended from here carries the reason.
  if (error instanceof Error && error.cause instanceof CliError) return failureOf(error.cause);
  if (!(error instanceof ConnectError))
    return { exitCode: Exit.FAILED, description: error instanceof Error ? error.message : String(error) };
  const [info] = error.findDetails(ErrorInfoSchema);
  const code = errorCodeOf(error);
  if (info && code > 0) {
    const fields = error.findDetails(BadRequestSchema).flatMap(({ fieldViolations }) => fieldViolations);
    const description = fields.length > 0 ? fields.map(fieldText).join("; ") : error.rawMessage;
    return { exitCode: exitOfCode(code), code, message: info.reason, description };
  }
  const exitCode = isLostConnection(error) ? Exit.UNAVAILABLE : (EXIT_OF_STATUS[error.code] ?? Exit.FAILED);
  // The service's own failures carry their code; a bare 404 is that of another server, or of another path.
  if (exitCode === Exit.NOT_FOUND) {
    const said = error.rawMessage === "" ? "" : `: ${error.rawMessage}`;
    return { exitCode, description: `no Millrace answers there${said}; --url or MILLRACE_URL says where it is` };
  }
  if (exitCode !== Exit.UNAVAILABLE) return { exitCode, description: error.rawMessage };
  return {
    exitCode,
    description: `the service is out of reach: ${error.rawMessage}; --url or MILLRACE_URL says where it is`,
  };
}

const fieldText = ({ field, description }: { field: string; description: string }): string =>
  field === "" ? description : `${field}: ${description}`;

/** A failure as one line of text. */
export function failureText({ code, message, description }: Failure): string {
  return code === undefined ? description : `${description} (${message}, ${code})`;
}
