import type { DescMessage, Message } from "@bufbuild/protobuf";
import { createValidator, violationsToProto } from "@bufbuild/protovalidate";
import type { Interceptor } from "@connectrpc/connect";
import { createValidateInterceptor } from "@connectrpc/validate";
import type { FieldPath, Violations } from "../../gen/buf/validate/validate_pb.js";
import { invalidArguments, type ServiceError } from "../domain/errors.ts";

const validator = createValidator();

/** Checks every request message against the rules of its proto file. */
export const validateInterceptor: Interceptor = createValidateInterceptor({ validator });

/**
 * Checks one message, for paths that no interceptor sees.
 *
 * @throws ServiceError INVALID_ARGUMENT that names every field at fault.
 */
export function validate(schema: DescMessage, message: Message): void {
  const result = validator.validate(schema, message);
  if (result.kind === "error") throw result.error;
  if (result.kind === "invalid") throw violated(violationsToProto(result.violations)[0] as unknown as Violations);
}

/** The fields that broke their rules. */
export function violated({ violations }: Violations): ServiceError {
  return invalidArguments(violations.map(({ field, message }) => ({ field: pathOf(field), description: message })));
}

/** A violation's path in the API's own names: `offsets[2].partition`. */
function pathOf(path: FieldPath | undefined): string {
  let text = "";
  for (const { fieldName, subscript } of path?.elements ?? []) {
    text += `${text && "."}${camelCase(fieldName)}`;
    if (subscript.case === "index") text += `[${subscript.value}]`;
    else if (subscript.case === "stringKey") text += `.${subscript.value}`;
  }
  return text;
}

const camelCase = (name: string): string => name.replace(/_([a-z0-9])/g, (_, letter: string) => letter.toUpperCase());
