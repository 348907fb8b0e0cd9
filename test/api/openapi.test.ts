import { isDeepStrictEqual } from "node:util";
import { describe, expect, test } from "vitest";
import { comments } from "../../gen/comments.js";
import { ErrorCodeSchema } from "../../gen/millrace/v1/errors_pb.js";
import type { OpenApiDocument } from "../../src/transport/openapi/document.ts";
import { EXAMPLES } from "../../src/transport/openapi/examples.ts";
import { rawRequest } from "../support/clients.ts";
import { freshName, startService, useService } from "../support/service.ts";
import { eventually } from "../support/wait.ts";

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
    // Ids and times are the service's choice: later examples go on with those of this run.
    const chosen: Record<string, string> = {};
    for (const [name, { path: params = {}, query = {}, body, answer }] of Object.entries(EXAMPLES)) {
      const { path, verb } = byId.get(name.split(".").at(-1)!.toLowerCase())!;
      const own = ([key, value]: [string, string | number | boolean]): [string, string] => [
        key,
        chosen[key] ?? String(value),
      ];
      const given = Object.fromEntries(Object.entries(params).map(own));
      const filled = path.replace(/\{(\w+)\}/g, (_, param: string) => encodeURIComponent(given[param]!));
      const where = `${filled}?${new URLSearchParams(Object.entries(query).map(own))}`;
      if (name.endsWith(".Subscribe")) {
        expect(shapeOf(await firstEvent(where)), name).toEqual(shapeOf(answer));
        continue;
      }
      const got = await eventually(`${name} answers as its example`, async () => {
        const each = await rawRequest(service.url, verb.toUpperCase(), where, body);
        expect(each.status, `${name}: ${each.text}`).toBeLessThan(300);
        // A processor takes a moment to get so far; what changes something is sent once.
        return verb === "get" && !isDeepStrictEqual(shapeOf(each.json()), shapeOf(answer)) ? undefined : each;
      });
      expect(shapeOf(got.json<unknown>()), name).toEqual(shapeOf(answer));
      Object.assign(chosen, chosenIn(got.json<Chosen>()));
    }
  });

  test("has an example of every operation of the API", async () => {
    const { paths } = await document();
    for (const [path, verbs] of Object.entries(paths))
      for (const [verb, { parameters = [], requestBody, responses }] of Object.entries(verbs)) {
        if (!path.startsWith("/api/")) continue;
        for (const { name, required, example } of parameters as {
          name: string;
          required: boolean;
          example?: unknown;
        }[])
          expect([verb, path, name, example !== undefined || !required]).toEqual([verb, path, name, true]);
        const contents = [requestBody, responses[200] ?? responses[201]].flatMap((each) =>
          Object.values((each?.content ?? {}) as Record<string, { example?: unknown }>),
        );
        const needed = requestBody?.required === false ? contents.slice(1) : contents;
        expect([verb, path, needed.every(({ example }) => example !== undefined)]).toEqual([verb, path, true]);
      }
  });

  test("names all that a call over REST can be given", async () => {
    const { paths } = await document();
    const parametersOf = (path: string, verb: string) =>
      (paths[path]![verb]!.parameters as { name: string; in: string }[]).map((each) => `${each.in} ${each.name}`);
    expect(parametersOf("/api/v1/streams/{streamName}/events/stream", "get")).toEqual(
      expect.arrayContaining(["query starts", "query resumeToken", "header Last-Event-ID"]),
    );
    for (const path of ["/api/v1/streams/{streamName}/events", "/api/v1/processors"])
      expect(paths[path]!.post!.parameters ?? [], path).toContainEqual(
        expect.objectContaining({ name: "Idempotency-Key", in: "header" }),
      );
  });

  test("describes the lines of a live reading as they come: an event each", async () => {
    const { paths, components } = await document();
    const { content } = paths["/api/v1/streams/{streamName}/events/stream"]!.get!.responses[200] as {
      content: Record<string, { schema: { anyOf: { $ref?: string }[] } }>;
    };
    const refs = content["application/x-ndjson"]!.schema.anyOf.map(({ $ref }) => $ref);
    expect(refs).toContain("#/components/schemas/Event");
    expect(components.schemas).not.toHaveProperty("SubscribeResponse");
  });

  test("lets a position in a body be a number, as its examples have it", async () => {
    const { components } = await document();
    for (const name of ["SeekRequest", "CreateConsumerGroupRequest", "DryRunSourceInput"]) {
      const { offset } = components.schemas[name]!.properties as Record<string, { type: unknown }>;
      expect([name, offset?.type]).toEqual([name, ["string", "integer"]]);
    }
    const stream = freshName();
    await rawRequest(service.url, "POST", "/api/v1/streams", { name: stream });
    const group = { consumerGroup: freshName(), stream, offset: 0 };
    expect((await rawRequest(service.url, "POST", "/api/v1/consumers", group)).status).toBe(201);
  });

  test("lists the failures that calls end with, and none that can't be", async () => {
    const { paths } = await document();
    const statusesOf = (path: string, verb: string) => Object.keys(paths[path]![verb]!.responses).map(Number);
    for (const [path, verb, without] of [
      ["/api/v1/streams", "post", 404],
      ["/api/v1/keys", "post", 404],
      ["/api/v1/tables/{table}/rows/{key}", "delete", 404],
      ["/api/v1/tables/{table}/rows/{key}", "put", 409],
      ["/api/v1/streams/{streamName}", "delete", 409],
    ] as const)
      expect([path, verb, statusesOf(path, verb).includes(without)]).toEqual([path, verb, false]);
    for (const [path, verb, body, status] of [
      ["/api/v1/streams", "post", { name: "orders", partitions: 0 }, 400],
      ["/api/v1/streams/{streamName}", "delete", undefined, 404],
      ["/api/v1/streams/{streamName}/events", "post", { value: "x".repeat(1_100_000) }, 413],
      ["/api/v1/streams/{streamName}/events", "post", { value: 1, partition: 0, expectedOffset: 7 }, 412],
      ["/api/v1/streams/{streamName}/events/stream", "get", undefined, 404],
      ["/api/v1/consumers/{consumerGroup}/leave", "post", { consumerId: "a" }, 404],
      ["/api/v1/processors/{processorId}/pause", "post", undefined, 404],
      ["/api/v1/processors:dryRun", "post", { processorId: "proc_0", events: [{ value: 1 }] }, 404],
      ["/api/v1/savepoints/{name}", "get", undefined, 404],
    ] as const) {
      const streamName = status === 404 ? "nothing" : freshName();
      if (status !== 404) await rawRequest(service.url, "POST", "/api/v1/streams", { name: streamName });
      const filled = path.replace("{streamName}", streamName).replace(/\{\w+\}/g, "nothing");
      const answer = await rawRequest(service.url, verb.toUpperCase(), filled, body);
      expect([path, verb, answer.status], answer.text).toEqual([path, verb, status]);
      expect(statusesOf(path, verb), `${verb} ${path}`).toContain(status);
    }
  });

  test("says of /metrics that it needs a right where callers are asked, and of the other such paths that they don't", async () => {
    const { paths } = await document();
    expect(Object.keys(paths["/metrics"]!.get!.responses)).toEqual(expect.arrayContaining(["401", "403"]));
    expect(paths["/metrics"]!.get).not.toHaveProperty("security");
    expect(paths["/healthz"]!.get!.security).toEqual([{}]);
    await using asking = await startService(service.nats.url, { MILLRACE_ADMIN_KEY: "a".repeat(32) });
    const answer = await rawRequest(asking.url, "GET", "/metrics");
    expect(answer.status).toBe(401);
    expect(answer.headers["www-authenticate"]).toBe("Bearer");
    expect((await rawRequest(asking.url, "GET", "/healthz")).status).toBe(200);
  });
});

/** What the service chose for an example, by the parameter that later ones name it with. */
interface Chosen {
  readonly processorId?: string;
  readonly key?: { readonly keyId: string } | string;
  readonly windows?: readonly { readonly windowStart: string }[];
}
function chosenIn({ processorId, key, windows }: Chosen): Record<string, string> {
  const keyId = typeof key === "object" ? key.keyId : undefined;
  const windowStart = windows?.[0]?.windowStart;
  return JSON.parse(JSON.stringify({ processorId, keyId, windowStart }));
}

/** The first event of a live reading over Server-Sent Events. */
async function firstEvent(path: string): Promise<unknown> {
  const reading = await fetch(service.url + path, { signal: AbortSignal.timeout(10_000) });
  const decoder = new TextDecoder();
  let text = "";
  for await (const piece of reading.body!) {
    text += decoder.decode(piece, { stream: true });
    const [, data] = /^data: (.*)\n/m.exec(text) ?? [];
    if (data) return JSON.parse(data);
  }
  throw new Error(`ended without an event: ${text}`);
}

test("the reference at /docs names every operation and every RPC and loads nothing", async () => {
  const page = await rawRequest(service.url, "GET", "/docs");
  expect(page.status).toBe(200);
  expect(page.headers["content-type"]).toBe("text/html; charset=utf-8");
  expect(page.headers["content-security-policy"]).toContain("default-src 'none'");
  for (const verbs of Object.values((await document()).paths))
    for (const { operationId } of Object.values(verbs)) expect(page.text).toContain(`id="${operationId}"`);
  expect(page.text).toContain("millrace.v1.EventService/PublishStream");
  expect(page.text).toContain('<a href="#schema-Event">Event</a>, or <code>{assignment}</code>');
  expect(page.text).not.toMatch(/<script|<link|\ssrc=|url\(/);
});

test("every link of the reference leads to a place in it, and what scrolls takes the focus", async () => {
  const { text } = await rawRequest(service.url, "GET", "/docs");
  const places = new Set([...text.matchAll(/ id="([^"]+)"/g)].map(([, id]) => `#${id}`));
  const links = [...text.matchAll(/ href="([^"]+)"/g)].map(([, href]) => href!);
  expect(links).toContain("#quick-start");
  expect(links.filter((href) => href !== "/openapi.json" && !places.has(href))).toEqual([]);
  for (const [, attributes, table] of text.matchAll(/<div class="wide"([^>]*)>(.*)/g))
    expect(attributes, table).toContain('tabindex="0"');
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
