import { Code, ConnectError } from "@connectrpc/connect";
import { expect, test } from "vitest";
import { Exit, failureOf, isPassing } from "../../src/cli/failure.ts";

test.each(["EPIPE", "ECONNABORTED", "EHOSTUNREACH", "ENETUNREACH"])(
  "a call that ends by %s may succeed again",
  (code) => {
    const error = ConnectError.from(new Error(`write ${code}`), Code.Internal);
    error.cause = Object.assign(new Error(`write ${code}`), { code });
    expect(failureOf(error)).toEqual({
      exitCode: Exit.UNAVAILABLE,
      description: expect.stringMatching(`out of reach: write ${code}.*MILLRACE_URL`),
    });
    expect(isPassing(error)).toBe(true);
  },
);

test("an internal failure stays one", () => {
  expect(failureOf(new ConnectError("odd", Code.Internal))).toEqual({ exitCode: Exit.FAILED, description: "odd" });
});
