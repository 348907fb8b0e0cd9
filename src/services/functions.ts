import type { MessageInitShape } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import type { ServiceImpl } from "@connectrpc/connect";
import {
  type FunctionService,
  MissingRow,
  type NamedFunctionSchema,
  FunctionOrigin as Origin,
  type PutFunctionRequest,
} from "../../gen/millrace/v1/functions_pb.js";
import type { FunctionOrigin, FunctionRegistry, KnownFunction } from "../processing/function-registry.ts";
import type { FunctionBody } from "../processing/functions.ts";
import { deadlineOf } from "./deadline.ts";
import { projectionFields } from "./operations.ts";

const DEFAULT_PAGE = 100;

/** Named functions. */
export function functionService(registry: FunctionRegistry): ServiceImpl<typeof FunctionService> {
  return {
    async putFunction(request, context) {
      return { function: functionMessage(await registry.install(request.name, bodyOf(request), deadlineOf(context))) };
    },
    async getFunction({ name }, context) {
      return { function: functionMessage(await registry.get(name, deadlineOf(context))) };
    },
    async listFunctions(request, context) {
      const size = request.pageSize ?? DEFAULT_PAGE;
      const after = request.pageToken ?? "";
      const all = [...(await registry.all(deadlineOf(context))).values()];
      const rest = all.filter(({ name }) => name > after).sort((a, b) => (a.name < b.name ? -1 : 1));
      const page = rest.slice(0, size);
      return {
        functions: page.map(functionMessage),
        ...(rest.length > size ? { nextPageToken: page.at(-1)!.name } : {}),
      };
    },
    async deleteFunction({ name }, context) {
      await registry.remove(name, deadlineOf(context));
      return {};
    },
  };
}

const ORIGINS: Record<FunctionOrigin, Origin> = {
  shipped: Origin.SHIPPED,
  installed: Origin.INSTALLED,
  module: Origin.MODULE,
};
const MISSING = {
  pass: MissingRow.PASS,
  null: MissingRow.NULL,
  drop: MissingRow.DROP,
  error: MissingRow.ERROR,
} as const;

function bodyOf({ body }: PutFunctionRequest): FunctionBody {
  if (body.case === "lookup") {
    const { table, key, into, onMissing } = body.value;
    const word = (Object.keys(MISSING) as (keyof typeof MISSING)[]).find((each) => MISSING[each] === onMissing);
    return { kind: "lookup", table, key, into, onMissing: word ?? "pass" };
  }
  // The schema's rules let nothing else through.
  if (body.case !== "cel") throw new Error("a function without a body");
  const project = projectionFields(body.value);
  return {
    kind: "cel",
    ...(body.value.expression === undefined ? {} : { expression: body.value.expression }),
    ...(Object.keys(project).length === 0 ? {} : { project }),
  };
}

function functionMessage(known: KnownFunction): MessageInitShape<typeof NamedFunctionSchema> {
  const { name, version, origin, installedAtMs } = known;
  return {
    name,
    version,
    origin: ORIGINS[origin],
    body: bodyMessage(known.body),
    ...(installedAtMs === undefined ? {} : { installedAt: timestampFromMs(installedAtMs) }),
  };
}

function bodyMessage(body: FunctionBody): NonNullable<MessageInitShape<typeof NamedFunctionSchema>["body"]> {
  switch (body.kind) {
    case "cel":
      return {
        case: "cel",
        value: {
          ...(body.expression === undefined ? {} : { expression: body.expression }),
          merge: { ...body.project?.merge },
          replace: { ...body.project?.replace },
        },
      };
    case "lookup": {
      const { table, key, into, onMissing } = body;
      return { case: "lookup", value: { table, key, into, onMissing: MISSING[onMissing] } };
    }
    case "module":
      return { case: "module", value: { file: body.file } };
  }
}
