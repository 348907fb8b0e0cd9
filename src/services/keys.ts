import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import type { ServiceImpl } from "@connectrpc/connect";
import { type KeyService, RevokeStatus } from "../../gen/millrace/v1/keys_pb.js";
import { invalidArgument, invalidArguments } from "../domain/errors.ts";
import { groupNameFault } from "../domain/names.ts";
import { rightFault } from "../domain/rights.ts";
import type { ApiKeyRecord, ApiKeys } from "../log/api-keys.ts";
import { deadlineOf } from "./deadline.ts";
import { createdKey } from "./streams.ts";

const DEFAULT_PAGE = 100;

/** Makes, shows and revokes API keys. */
export function keyService(keys: ApiKeys): ServiceImpl<typeof KeyService> {
  return {
    async createApiKey({ name, rights, expiresIn }, context) {
      const fault = groupNameFault(name);
      if (fault) throw invalidArgument("name", fault);
      const faults = rights.flatMap((text, i) => {
        const description = rightFault(text);
        return description === undefined ? [] : [{ field: `rights[${i}]`, description }];
      });
      if (faults.length > 0) throw invalidArguments(faults);
      const { record, text } = await keys.create(
        { name, rights, ...(expiresIn === undefined ? {} : { expiresAtMs: Date.now() + Number(expiresIn) }) },
        deadlineOf(context),
      );
      context.values.set(createdKey, true);
      return { key: keyMessage(record), secret: text };
    },
    listApiKeys({ pageSize = DEFAULT_PAGE, pageToken = "" }) {
      const found = keys.list(pageToken, pageSize + 1);
      const page = found.slice(0, pageSize);
      return { keys: page.map(keyMessage), ...(found.length > pageSize ? { nextPageToken: page.at(-1)!.id } : {}) };
    },
    async getApiKey({ keyId }, context) {
      return { key: keyMessage(await keys.get(keyId, deadlineOf(context))) };
    },
    async revokeApiKey({ keyId }, context) {
      await keys.revoke(keyId, deadlineOf(context));
      return { status: RevokeStatus.REVOKED, keyId };
    },
  };
}

function keyMessage({ id, name, rights, createdAtMs, expiresAtMs }: ApiKeyRecord) {
  return {
    keyId: id,
    name,
    rights: [...rights],
    createdAt: timestampFromMs(createdAtMs),
    ...(expiresAtMs === undefined ? {} : { expiresAt: timestampFromMs(expiresAtMs) }),
  };
}
