import { trace } from "@opentelemetry/api";
import type { Logger } from "pino";
import { ErrorCode, errorRule, type ServiceError } from "../domain/errors.ts";

/** What the log says of calls; never values, keys or credentials. */
export interface CallLog {
  failed(call: string, requestId: string, error: ServiceError): void;
}

/** Bugs are errors with their cause; what the storage could not do are warnings; refusals are the caller's own affair. */
export function createCallLog(logger: Logger): CallLog {
  return {
    failed(call, requestId, error) {
      const traceId = trace.getActiveSpan()?.spanContext().traceId;
      const facts = {
        call,
        requestId,
        ...(traceId === undefined ? {} : { traceId }),
        code: errorRule(error.code).name,
      };
      if (error.code === ErrorCode.INTERNAL) logger.error({ ...facts, err: error.cause ?? error }, "call failed");
      else if (error.code === ErrorCode.UNAVAILABLE || error.code === ErrorCode.TIMEOUT)
        logger.warn(facts, error.message);
      else logger.debug(facts, error.message);
    },
  };
}
