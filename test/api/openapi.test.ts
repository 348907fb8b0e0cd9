import { describe, expect, test } from "vitest";
import { comments } from "../../gen/comments.js";
import { ErrorCodeSchema } from "../../gen/millrace/v1/errors_pb.js";
import type { OpenApiDocument } from "../../src/transport/openapi/document.ts";
import { EXAMPLES } from "../../src/transport/openapi/examples.ts";
import { rawRequest } from "../support/clients.ts";
import { useService } from "../support/service.ts";

const service = useService();

const document = async (): Promise<OpenApiDocument> =>
  (await rawRequest(service.url, "GET", "/openapi.json")).json<OpenApiDocument>();

/** What an object holds, with types in place of values; of an array its first item's. */
function shapeOf(value: unknown): unknown {
  if (Array.isArray(value)) return value.slice(0, 1).map(shapeOf);
  if (typeof value !== "object" || value === null) return typeof value;
  return Object.fromEntries(Object.entries(value).map(([name, each]) => [name, shapeOf(each)]));
}

describe("the OpenAPI document", () => {
  test("is version 3.1 and has a path for every route, with the proto files' prose", async () => {
    const { openapi, paths } = await document();
    expect(openapi).toBe("3.1.0");
    expect(Object.keys(paths)).toEqual(
      expect.arrayContaining([
        "/api/v1/streams",
        "/api/v1/streams/{streamName}",
        "/api/v1/streams/{streamName}/events",
        "/api/v1/streams/{streamName}/events/batch",
        "/api/v1/consumers/{consumerGroup}/commit",
        "/healthz",
        "/readyz",
      ]),
    );
    const poll = paths["/api/v1/streams/{streamName}/events"]!.get!;
    expect(poll.description).toContain(comments["millrace.v1.EventService.Poll"]);
    const limit = (poll.parameters as { name: string; schema: object; description: string }[]).find(
      ({ name }) => name === "limit",
    );
    expect(limit).toMatchObject({
      description: comments["millrace.v1.PollRequest.limit"],
      required: false,
      schema: { type: "integer", minimum: 1, maximum: 10000 },
    });
  });

  test("says every error code with its status", async () => {
    const { info } = await document();
    for (const { number, localName } of ErrorCodeSchema.values)
      if (number !== 0)
        expect(info.description).toMatch(new RegExp(`\\| ${number} \\| ${localName} \\| [45]\\d\\d \\|`));
  });

  test("refers to nothing that is not there", async () => {
    const text = JSON.stringify(await document());
    const all = JSON.parse(text) as Record<string, Record<string, Record<string, unknown>>>;
    const refs = [...text.matchAll(/"\$ref":"#\/components\/(\w+)\/(\w+)"/g)];
    expect(refs.length).toBeGreaterThan(50);
    for (const [ref, kind, name] of refs) expect(all.components![kind!]?.[name!], ref).toBeDefined();
  });

  test("has examples that work as they stand and are answered in the form they show", async () => {
    const { paths } = await document();
    const byId = new Map(
      Object.entries(paths).flatMap(([path, verbs]) =>
        Object.entries(verbs).map(([verb, { operationId }]) => [operationId.toLowerCase(), { path, verb }] as const),
      ),
    );
    let processorId = "";
    for (const [name, { path: params = {}, query = {}, body, answer }] of Object.entries(EXAMPLES)) {
      const { path, verb } = byId.get(name.split(".").at(-1)!.toLowerCase())!;
      // An id is the service's choice.
      const given: Record<string, string | number> = { ...params, ...(processorId === "" ? {} : { processorId }) };
      const filled = path.replace(/\{(\w+)\}/g, (_, param: string) => String(given[param]));
      const search = new URLSearchParams(
        Object.entries(query).map(([key, value]): [string, string] => [key, String(value)]),
      );
      const got = await rawRequest(service.url, verb.toUpperCase(), `${filled}?${search}`, body);
      expect(got.status, `${name}: ${got.text}`).toBeLessThan(300);
      expect(shapeOf(got.json<unknown>()), name).toEqual(shapeOf(answer));
      ({ processorId = processorId } = got.json<{ processorId?: string }>());
    }
  });
});

test("the reference at /docs names every operation and every RPC and loads nothing", async () => {
  const page = await rawRequest(service.url, "GET", "/docs");
  expect(page.status).toBe(200);
  expect(page.headers["content-type"]).toBe("text/html; charset=utf-8");
  expect(page.headers["content-security-policy"]).toContain("default-src 'none'");
  for (const verbs of Object.values((await document()).paths))
    for (const { operationId } of Object.values(verbs)) expect(page.text).toContain(`id="${operationId}"`);
  expect(page.text).toContain("millrace.v1.EventService/PublishStream");
  expect(page.text).not.toMatch(/<script|<link|\ssrc=|url\(/);
});

test.each([
  ["POST", "/openapi.json", 405],
  ["DELETE", "/docs", 405],
  ["QUERY", "/healthz", 405],
  ["HEAD", "/healthz", 200],
])("%s %s is answered with %d", async (method, path, status) => {
  const answer = await rawRequest(service.url, method, path);
  expect(answer.status).toBe(status);
  if (status === 405) expect(answer.headers.allow).toBe("GET, HEAD");
});

test("headers that are too large are refused in the API's own form", async () => {
  const answer = await rawRequest(service.url, "GET", "/healthz", undefined, { "x-large": "x".repeat(20_000) });
  expect(answer.status).toBe(431);
  expect(answer.json().error).toMatchObject({ code: 1004, message: "SERIALIZATION_ERROR" });
});
