import { expect, onTestFinished, test } from "vitest";
import { type ApiFailure, protocols, rawRequest } from "../support/clients.ts";
import { freshName, useService } from "../support/service.ts";

const ADMIN = { authorization: "Bearer an-admin-key-of-more-than-32-characters" };
const service = useService({ MILLRACE_ADMIN_KEY: ADMIN.authorization.slice(7) });

async function callerWith(...rights: string[]) {
  const answer = await rawRequest(service.url, "POST", "/api/v1/keys", { name: "test", rights }, ADMIN);
  return { authorization: `Bearer ${answer.json<{ secret: string }>().secret}` };
}

const codeOf = (call: Promise<unknown>) =>
  call.then(
    () => 0,
    (failure: ApiFailure) => failure.code,
  );

test.each(protocols)(
  "a processor and its savepoints are for those who may use its streams, over $name",
  async (protocol) => {
    const open = (headers: Record<string, string>) => {
      const api = protocol.connect(service.url, headers);
      onTestFinished(() => api[Symbol.asyncDispose]());
      return api.processors;
    };
    await using operator = protocol.connect(service.url, ADMIN);
    const [source, sink, savepoint] = [freshName("a-in"), freshName("a-out"), freshName()];
    await operator.createStream({ name: source });
    const own = open(await callerWith("processors", "consume:a-*", "publish:a-*"));
    const other = open(await callerWith("processors", "consume:a-*", "publish:b-*"));
    const processor = { name: "p", source, sink, operations: [{ type: "filter" as const, predicate: "true" }] };
    const { processorId: id } = await own.create(processor);
    await own.createSavepoint(id, savepoint);

    const calls = (api: typeof own) => [
      api.get(id),
      api.metrics(id),
      api.sideEvents(id),
      api.getSavepoint(savepoint),
      api.dryRun({ processorId: id, events: [{ value: 1 }] }),
      api.dryRun({ processorId: id, source: {} }),
    ];
    expect(await Promise.all(calls(own).map(codeOf))).toEqual([0, 0, 0, 0, 0, 0]);
    expect(await Promise.all(calls(other).map(codeOf))).toEqual([1102, 1102, 1102, 1110, 1102, 1102]);
    expect((await own.listSavepoints()).savepoints.map(({ name }) => name)).toContain(savepoint);
    expect((await other.listSavepoints()).savepoints).toEqual([]);
    expect(await codeOf(other.createSavepoint(id, freshName()))).toBe(1102);
    expect(await codeOf(other.restore(id, savepoint))).toBe(1102);
    expect(await codeOf(other.create({ ...processor, sink: freshName("b"), savepoint }))).toBe(1110);
    expect(await codeOf(other.deleteSavepoint(savepoint))).toBe(1110);
    expect(await own.restore(id, savepoint)).toMatchObject({ processorId: id });
    await own.deleteSavepoint(savepoint);
    await own.delete(id);
  },
);
