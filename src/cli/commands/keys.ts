import { Command } from "commander";
import {
  type ApiKey,
  ApiKeySchema,
  CreateApiKeyResponseSchema,
  RevokeApiKeyResponseSchema,
} from "../../../gen/millrace/v1/keys_pb.js";
import { confirm } from "../confirm.ts";
import { allPages, contextOf } from "../context.ts";
import { time } from "../format.ts";
import { type Column, printable } from "../table.ts";
import { duration } from "../values.ts";

/** `millrace keys`: who may call. */
export function keysCommand(): Command {
  const keys = new Command("keys").description("create, list and revoke API keys (needs the right admin)");
  keys
    .command("create")
    .description("make a key; its secret is shown this once")
    .argument("<name>", "for people")
    .requiredOption(
      "--right <rights...>",
      "publish:, consume:, manage: or group: with a pattern, processors, metrics, admin",
    )
    .option("--expires <span>", "how long it is valid, such as 90d (default: for ever)", duration)
    .addHelpText(
      "after",
      `
Example:
  $ millrace keys create billing --right 'consume:orders-*' 'group:billing-*' --expires 90d
`,
    )
    .action(create);
  keys.command("list").description("all keys, by id").action(list);
  keys
    .command("revoke")
    .description("revoke a key for good; streams opened with it end")
    .argument("<id>")
    .option("-y, --yes", "do not ask")
    .action(revoke);
  return keys;
}

async function create(name: string, options: { right: string[]; expires?: number }, command: Command): Promise<void> {
  const { api, call, out } = contextOf(command);
  const { right: rights, expires } = options;
  const answer = await api.keys.createApiKey(
    { name, rights, ...(expires === undefined ? {} : { expiresIn: BigInt(expires) }) },
    call,
  );
  await out.one(
    CreateApiKeyResponseSchema,
    answer,
    ({ key, secret }) => `${secret}\nKey ${key!.keyId}. Its secret is not shown again.\n`,
  );
}

async function list(_options: object, command: Command): Promise<void> {
  const { api, call, out } = contextOf(command);
  const keys = await allPages(async (pageToken) => {
    const { keys: items, nextPageToken: next } = await api.keys.listApiKeys(
      { pageSize: 1000, ...(pageToken === undefined ? {} : { pageToken }) },
      call,
    );
    return { items, next };
  });
  await out.list(ApiKeySchema, keys, COLUMNS, "There are no keys.");
}

async function revoke(keyId: string, { yes }: { yes?: boolean }, command: Command): Promise<void> {
  const { api, call, out, interruption } = contextOf(command);
  const { key } = await api.keys.getApiKey({ keyId }, call);
  await confirm(`Revoke key ${keyId} "${printable(key!.name)}"?`, yes, interruption.signal);
  const answer = await api.keys.revokeApiKey({ keyId }, call);
  await out.one(RevokeApiKeyResponseSchema, answer, () => `Revoked key ${keyId}.\n`);
}

const COLUMNS: readonly Column<ApiKey>[] = [
  { title: "ID", of: ({ keyId }) => keyId },
  { title: "NAME", of: ({ name }) => name },
  { title: "RIGHTS", of: ({ rights }) => rights.join(" ") },
  { title: "CREATED", of: ({ createdAt }) => time(createdAt) },
  { title: "EXPIRES", of: ({ expiresAt }) => (expiresAt === undefined ? "never" : time(expiresAt)) },
];
