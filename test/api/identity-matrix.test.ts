import type { JsonObject } from "@bufbuild/protobuf";
import { beforeAll, describe, expect, test } from "vitest";
import { mapLimit } from "../../src/domain/map-limit.ts";
import { anyCallers } from "../support/any-call.ts";
import { rawRequest } from "../support/clients.ts";
import { freshName, startService, useService } from "../support/service.ts";
import { allServices } from "../support/services.ts";
import { eventually } from "../support/wait.ts";

const ADMIN = "an-admin-key-of-more-than-32-characters";
const service = useService({ MILLRACE_ADMIN_KEY: ADMIN });
const services = await allServices();
const bearer = (key: string) => ({ authorization: `Bearer ${key}` });

/** Keys by what they are for. */
const RIGHTS = {
  nothing: ["group:nobody"],
  publish: ["publish:*"],
  "publish own": ["publish:own-*"],
  "consume own": ["consume:own-*", "group:mine-*"],
  manage: ["manage:*"],
  processors: ["processors"],
  "processors on all": ["processors", "consume:*", "publish:*"],
  metrics: ["metrics"],
  admin: ["admin"],
} as const;
type Who = keyof typeof RIGHTS;

const ALL = Object.keys(RIGHTS) as Who[];
const PUBLISH = [
  ["publish", "publish own", "processors on all"],
  ["publish", "processors on all"],
] as const;
const CONSUME = [["consume own", "processors on all"], ["processors on all"]] as const;
const GROUPS = [
  ["consume own", "manage", "processors on all"],
  ["manage", "processors on all"],
] as const;
const MANAGE = [["manage"], ["manage"]] as const;
const PROCESSORS = [
  ["processors", "processors on all"],
  ["processors", "processors on all"],
] as const;
const ON_ALL = [["processors on all"], ["processors on all"]] as const;
const ADMIN_ONLY = [[], []] as const;
const ANYONE = [ALL, ALL] as const;

/** Who may make a request, beside `admin`: for names of its own patterns, and for others. */
type Row = readonly [
  allowed: readonly [own: readonly Who[], other: readonly Who[]],
  request: (stream: string, group: string) => JsonObject,
];
const NONE = "0000000000000000";
const place = (stream: string) => ({ stream, partition: 0, offset: 0 });
const ofProcessor = () => ({ processorId: `proc_${NONE}` });

/** One row for each RPC. The requests are ones that change nothing when they are allowed: what they name does not exist, or they break a rule. */
const ROWS: Readonly<Record<string, Row>> = {
  CreateStream: [MANAGE, (name) => ({ name, partitions: 5000 })],
  GetStream: [
    [
      ["publish", "publish own", "consume own", "manage", "processors on all"],
      ["publish", "manage", "processors on all"],
    ],
    (streamName) => ({ streamName }),
  ],
  ListStreams: [ANYONE, () => ({})],
  UpdateStream: [MANAGE, (streamName) => ({ streamName })],
  DeleteStream: [MANAGE, (streamName) => ({ streamName })],
  Publish: [PUBLISH, (streamName) => ({ streamName, event: { value: 1 } })],
  PublishBatch: [PUBLISH, (streamName) => ({ streamName, events: [{ value: 1 }] })],
  PublishStream: [PUBLISH, (streamName) => ({ streamName })],
  Poll: [CONSUME, (streamName, consumerGroup) => ({ streamName, consumerGroup })],
  Subscribe: [CONSUME, (streamName, consumerGroup) => ({ streamName, consumerGroup })],
  ReadPartition: [CONSUME, (streamName) => ({ streamName, partition: 0 })],
  CreateConsumerGroup: [GROUPS, (stream, consumerGroup) => ({ stream, consumerGroup })],
  ListConsumerGroups: [ANYONE, () => ({})],
  GetConsumerGroup: [GROUPS, (stream, consumerGroup) => ({ stream, consumerGroup })],
  DeleteConsumerGroup: [GROUPS, (stream, consumerGroup) => ({ stream, consumerGroup })],
  Seek: [GROUPS, (stream, consumerGroup) => ({ stream, consumerGroup, offset: "earliest" })],
  Heartbeat: [CONSUME, (stream, consumerGroup) => ({ stream, consumerGroup, consumerId: "c" })],
  Leave: [CONSUME, (stream, consumerGroup) => ({ stream, consumerGroup, consumerId: "c" })],
  Commit: [CONSUME, (stream, consumerGroup) => ({ consumerGroup, offsets: [place(stream)] })],
  Nack: [CONSUME, (stream, consumerGroup) => ({ consumerGroup, events: [place(stream)] })],
  CreateProcessor: [ON_ALL, (source) => ({ name: "p", source, sink: `${source}-out` })],
  GetProcessor: [PROCESSORS, ofProcessor],
  ListProcessors: [PROCESSORS, () => ({})],
  UpdateProcessor: [PROCESSORS, ofProcessor],
  DeleteProcessor: [PROCESSORS, ofProcessor],
  PauseProcessor: [PROCESSORS, ofProcessor],
  ResumeProcessor: [PROCESSORS, ofProcessor],
  ResetProcessor: [PROCESSORS, ofProcessor],
  GetProcessorMetrics: [PROCESSORS, ofProcessor],
  WatchMetrics: [PROCESSORS, ofProcessor],
  GetWindow: [PROCESSORS, () => ({ ...ofProcessor(), windowStart: "0" })],
  DryRun: [ON_ALL, (stream) => ({ source: { stream } })],
  ListSideEvents: [PROCESSORS, ofProcessor],
  CreateSavepoint: [PROCESSORS, () => ({ ...ofProcessor(), name: "s" })],
  GetSavepoint: [PROCESSORS, () => ({ name: "s" })],
  ListSavepoints: [PROCESSORS, () => ({})],
  DeleteSavepoint: [PROCESSORS, () => ({ name: "s" })],
  RestoreProcessor: [PROCESSORS, () => ({ ...ofProcessor(), savepoint: "s" })],
  PutFunction: [ADMIN_ONLY, () => ({ name: "f" })],
  DeleteFunction: [ADMIN_ONLY, () => ({ name: "f" })],
  GetFunction: [PROCESSORS, () => ({ name: "f" })],
  ListFunctions: [PROCESSORS, () => ({})],
  PutRow: [PROCESSORS, () => ({ table: "?", key: "k", value: 1 })],
  PutRows: [PROCESSORS, () => ({ table: "?", rows: [] })],
  GetRow: [PROCESSORS, () => ({ table: "?", key: "k" })],
  ListRows: [PROCESSORS, () => ({ table: "?" })],
  DeleteRow: [PROCESSORS, () => ({ table: "?", key: "k" })],
  CreateApiKey: [ADMIN_ONLY, () => ({ name: "n", rights: [] })],
  ListApiKeys: [ADMIN_ONLY, () => ({})],
  GetApiKey: [ADMIN_ONLY, () => ({ keyId: NONE })],
  RevokeApiKey: [ADMIN_ONLY, () => ({ keyId: NONE })],
};

const UNAUTHENTICATED = 1105;
const PERMISSION_DENIED = 1106;
const INTERNAL = 1199;

async function newKey(rights: readonly string[], expiresIn?: number): Promise<{ id: string; secret: string }> {
  const answer = await rawRequest(
    service.url,
    "POST",
    "/api/v1/keys",
    { name: "test", rights, ...(expiresIn === undefined ? {} : { expiresIn }) },
    bearer(ADMIN),
  );
  const { key, secret } = answer.json<{ key: { keyId: string }; secret: string }>();
  return { id: key.keyId, secret };
}

const secrets = new Map<string, string>();
beforeAll(async () => {
  for (const who of ALL) secrets.set(who, (await newKey(RIGHTS[who])).secret);
  const revoked = await newKey(["admin"]);
  await rawRequest(service.url, "DELETE", `/api/v1/keys/${revoked.id}`, undefined, bearer(ADMIN));
  secrets.set("revoked", revoked.secret);
  const expired = await newKey(["admin"], 1);
  secrets.set("expired", expired.secret);
  await eventually("it has expired", async () => {
    const answer = await rawRequest(service.url, "GET", "/api/v1/keys", undefined, bearer(expired.secret));
    return answer.status === 401;
  });
});

test("every RPC has a row", () => {
  const names = services.flatMap(({ methods }) => methods.map(({ name }) => name));
  expect(names.sort()).toEqual(Object.keys(ROWS).sort());
});

describe.each(Object.keys(anyCallers))("rights over %s", (protocol) => {
  /** Calls every RPC with names of the callers' own patterns and with others. @returns what was not as expected. */
  async function mismatches(
    url: string,
    headers: Readonly<Record<string, string>>,
    expected: (allowed: readonly Who[]) => "allowed" | number,
  ): Promise<string[]> {
    using caller = anyCallers[protocol]!(url);
    const cases = services.flatMap(({ methods }) =>
      methods.flatMap((method) =>
        (["own", "other"] as const).map((names, place) => ({ method, names, allowed: ROWS[method.name]![0][place]! })),
      ),
    );
    const found = await mapLimit(cases, 8, async ({ method, names, allowed }) => {
      const group = names === "own" ? freshName("mine") : freshName("theirs");
      const request = ROWS[method.name]![1](freshName(names), group);
      const code = await caller.call(method, request, headers);
      if (code === undefined) return [];
      const wanted = expected(allowed);
      const isGood =
        wanted === "allowed" ? ![UNAUTHENTICATED, PERMISSION_DENIED, INTERNAL].includes(code) : code === wanted;
      return isGood ? [] : [`${method.name} of ${names} names: ${code}, not ${wanted}`];
    });
    return found.flat();
  }

  test.each(ALL)("of a key for %s", async (who) => {
    const of = (allowed: readonly Who[]) => (who === "admin" || allowed.includes(who) ? "allowed" : PERMISSION_DENIED);
    expect(await mismatches(service.url, bearer(secrets.get(who)!), of)).toEqual([]);
  });

  test("of the admin key", async () => {
    expect(await mismatches(service.url, bearer(ADMIN), () => "allowed")).toEqual([]);
  });

  test.each(["revoked", "expired"])("of a key that is %s", async (who) => {
    expect(await mismatches(service.url, bearer(secrets.get(who)!), () => UNAUTHENTICATED)).toEqual([]);
  });

  test("of a caller without credentials", async () => {
    expect(await mismatches(service.url, {}, () => UNAUTHENTICATED)).toEqual([]);
  });

  test("of anybody where nobody is asked", async () => {
    await using open = await startService(service.nats.url);
    expect(await mismatches(open.url, {}, () => "allowed")).toEqual([]);
  });
});
