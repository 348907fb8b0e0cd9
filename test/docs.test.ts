import { readFileSync, writeFileSync } from "node:fs";
import { expect, test } from "vitest";
import { ErrorCodeSchema } from "../gen/millrace/v1/errors_pb.js";
import { ERROR_RULES } from "../src/domain/errors.ts";

const FILE = new URL("../docs/errors.md", import.meta.url);
const PROTO = readFileSync(new URL("../proto/millrace/v1/errors.proto", import.meta.url), "utf8");
const GRPC = [
  "OK",
  "CANCELLED",
  "UNKNOWN",
  "INVALID_ARGUMENT",
  "DEADLINE_EXCEEDED",
  "NOT_FOUND",
  "ALREADY_EXISTS",
  "PERMISSION_DENIED",
  "RESOURCE_EXHAUSTED",
  "FAILED_PRECONDITION",
  "ABORTED",
  "OUT_OF_RANGE",
  "UNIMPLEMENTED",
  "INTERNAL",
  "UNAVAILABLE",
  "DATA_LOSS",
  "UNAUTHENTICATED",
];

/** The comment above a value in errors.proto. */
function meaningOf(name: string): string {
  const lines = PROTO.split("\n");
  const at = lines.findIndex((line) => line.trim().startsWith(`${name} =`));
  return lines[at - 1]!.replace(/^\s*\/\/\s*/, "");
}

function document(): string {
  const rows = ERROR_RULES.map(({ code, name, status, http, retryable, mayHaveEffect }) => {
    const full = ErrorCodeSchema.value[code]!.name;
    return `| ${code} | ${name} | ${http} | ${GRPC[status]} | ${retryable ? "yes" : "no"} | ${mayHaveEffect ? "perhaps" : "no"} | ${meaningOf(full)} |`;
  });
  return `# Error codes

Over REST: \`{"error":{"code":1001,"message":"STREAM_NOT_FOUND","description":"…","details":[…]}}\`. Over gRPC, gRPC-Web and Connect: the
status, with a \`google.rpc.ErrorInfo\` whose \`reason\` is the name and whose \`metadata.code\` is the number; INVALID_ARGUMENT also
carries a \`google.rpc.BadRequest\`, QUOTA_EXCEEDED a \`google.rpc.QuotaFailure\` that names whose quota it is; both QUOTA_EXCEEDED and UNAVAILABLE
carry a \`google.rpc.RetryInfo\` and the metadata \`retry-after\`, which is the header \`Retry-After\` over REST.

| Code | Name | HTTP | gRPC | Retry helps | Took effect | Meaning |
|---|---|---|---|---|---|---|
${rows.join("\n")}

SERIALIZATION_ERROR is also 413 (too large), 415 (content type or encoding) and 431 (headers too large). A failed \`expectedOffset\` names the actual end offset
in \`details[].endOffset\` and in \`metadata.endOffset\`. RESOURCE_NOT_FOUND has a code of its own because no other fits a row or a
window: PROCESSOR_NOT_FOUND names another thing, and NOT_FOUND, for paths and RPCs, is UNIMPLEMENTED over gRPC. This page is made from \`proto/millrace/v1/errors.proto\`:
\`UPDATE_DOCS=1 npx vitest run test/docs.test.ts\` writes it.
`;
}

test("docs/errors.md says what errors.proto says", () => {
  if (process.env.UPDATE_DOCS) writeFileSync(FILE, document());
  expect(readFileSync(FILE, "utf8")).toBe(document());
});
