import { invalidArgument } from "./errors.ts";
import { compileExpression, type Variables } from "./expression.ts";
import { VARIABLES } from "./expression-check.ts";

/** Why an operation could not be carried out on an event. */
export class OperationError extends Error {}

/** Takes something out of an event. @throws OperationError when it is not there. */
export type Getter = (variables: Variables) => unknown;

const PATH = /^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*$/;

/**
 * Compiles the text of `groupBy`, `field` or `timestampField`: a bare name or path is that member of `value`, anything else
 * is CEL. A path that begins with the name of a variable is CEL too, and `value.` may stand before a path.
 *
 * @throws ServiceError INVALID_ARGUMENT that names `field`.
 */
export function compileGetter(text: string, field: string): Getter {
  const path = memberPath(text);
  if (path) return memberGetter(path);
  if (text.trim() === "") throw invalidArgument(field, "must not be empty");
  const expression = compileExpression(text, field);
  return (variables) => {
    const result = expression.evaluateOn(variables);
    if (!result.ok) throw new OperationError(result.error);
    return result.value;
  };
}

/** The names that lead from `value` to a member, or undefined when the text is no such path. */
export function memberPath(text: string): readonly string[] | undefined {
  if (!PATH.test(text)) return undefined;
  const names = text.split(".");
  if (names[0] === "value" && names.length > 1) return names.slice(1);
  return VARIABLES.has(names[0]!) || RESERVED.has(text) ? undefined : names;
}

const RESERVED: ReadonlySet<string> = new Set(["true", "false", "null"]);

function memberGetter(path: readonly string[]): Getter {
  const [name] = path;
  if (path.length === 1)
    return ({ value }) => {
      const member = value instanceof Map ? value.get(name!) : undefined;
      return member === undefined ? missing(path) : member;
    };
  return ({ value }) => {
    let member: unknown = value;
    for (const each of path) {
      member = member instanceof Map ? member.get(each) : undefined;
      if (member === undefined) return missing(path);
    }
    return member;
  };
}

function missing(path: readonly string[]): never {
  const { stackTraceLimit } = Error;
  Error.stackTraceLimit = 0;
  try {
    throw new OperationError(`value has no member ${path.join(".")}`);
  } finally {
    Error.stackTraceLimit = stackTraceLimit;
  }
}
