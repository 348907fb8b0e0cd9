import { type ErrorDetail, invalidArguments, ServiceError } from "./errors.ts";
import { compileExpression } from "./expression.ts";

/** Members of a value, each a CEL expression over the value as it was: added to it, or all that the new one has. */
export interface Projection {
  readonly merge?: Readonly<Record<string, string>> | undefined;
  readonly replace?: Readonly<Record<string, string>> | undefined;
}

const MAX_MEMBERS = 64;
const MAX_NAME_BYTES = 128;

/**
 * What is wrong with a projection.
 *
 * @param prefix put before each field's path, such as `project.`.
 * @throws ServiceError INVALID_ARGUMENT naming each member at fault.
 */
export function checkProjection({ merge = {}, replace = {} }: Projection, prefix: string): void {
  const faults: ErrorDetail[] = [];
  const members = { merge: Object.entries(merge), replace: Object.entries(replace) };
  if ((members.merge.length === 0) === (members.replace.length === 0))
    throw invalidArguments([{ field: `${prefix}merge`, description: "give either merge or replace" }]);
  for (const [kind, list] of Object.entries(members)) {
    if (list.length > MAX_MEMBERS)
      faults.push({ field: prefix + kind, description: `must have at most ${MAX_MEMBERS} members` });
    for (const [name, text] of list) {
      const field = `${prefix}${kind}.${name.toWellFormed().slice(0, MAX_NAME_BYTES)}`;
      if (name === "" || Buffer.byteLength(name) > MAX_NAME_BYTES || !name.isWellFormed())
        faults.push({ field, description: `a name must be from 1 to ${MAX_NAME_BYTES} bytes` });
      try {
        compileExpression(text, field);
      } catch (error) {
        if (!(error instanceof ServiceError)) throw error;
        faults.push(...error.details);
      }
    }
  }
  if (faults.length > 0) throw invalidArguments(faults);
}
