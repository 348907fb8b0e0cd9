import { create, fromJson, type JsonValue, toJson } from "@bufbuild/protobuf";
import { timestampFromMs, type Value, ValueSchema } from "@bufbuild/protobuf/wkt";
import type { ServiceImpl } from "@connectrpc/connect";
import type { TableService } from "../../gen/millrace/v1/tables_pb.js";
import type { Deadline } from "../domain/deadline.ts";
import { notSerializable, resourceNotFound } from "../domain/errors.ts";
import { toCompactJson } from "../domain/json.ts";
import { mapLimit } from "../domain/map-limit.ts";
import type { Bucket } from "../jetstream/kv.ts";
import { keyOfRow, rowKey } from "../processing/tables.ts";
import { deadlineOf } from "./deadline.ts";

/** A row as it is stored. */
export interface TableRow {
  readonly value: JsonValue;
  readonly updatedAtMs: number;
}

const DEFAULT_PAGE = 100;
const MAX_ROW_BYTES = 512 * 1024;
const PARALLEL = 64;
const MANY_MS = 60_000;

/** Tables: one bucket for the rows of all. */
export function tableService(bucket: Bucket<TableRow>): ServiceImpl<typeof TableService> {
  const put = async (table: string, key: string, value: JsonValue, deadline: Deadline) => {
    checkKey(key);
    const row: TableRow = { value, updatedAtMs: Date.now() };
    await bucket.set(rowKey(table, key), row, deadline);
    return { row: rowMessage(key, row) };
  };
  return {
    putRow: (request, context) => put(request.table, request.key, jsonOf(request.value!, "value"), deadlineOf(context)),
    async putRows(request, context) {
      const deadline = deadlineOf(context, MANY_MS);
      const rows = new Map(request.rows.map(({ key, value }, i) => [key, jsonOf(value!, `rows[${i}].value`)]));
      for (const key of rows.keys()) checkKey(key);
      await mapLimit([...rows], PARALLEL, ([key, value]) => put(request.table, key, value, deadline));
      return { rowCount: request.rows.length };
    },
    async getRow({ table, key }, context) {
      const { value } = await bucket.get(rowKey(table, checkKey(key)), deadlineOf(context));
      if (!value) throw resourceNotFound(`table "${table}" has no such row`);
      return { row: rowMessage(key, value) };
    },
    async listRows(request, context) {
      const deadline = deadlineOf(context);
      const size = request.pageSize ?? DEFAULT_PAGE;
      const after = request.pageToken ?? "";
      const found = await bucket.list(`${request.table}.>`, deadline);
      const keys = [...found.keys()].sort().filter((key) => key > after);
      const page = keys.slice(0, size);
      const rows = page.map((key) => rowMessage(keyOfRow(key), found.get(key)!));
      return { rows, ...(keys.length > size ? { nextPageToken: page.at(-1)! } : {}) };
    },
    async deleteRow({ table, key }, context) {
      await bucket.delete(rowKey(table, checkKey(key)), deadlineOf(context));
      return {};
    },
  };
}

function checkKey(key: string): string {
  if (!key.isWellFormed()) throw notSerializable("key: must be valid Unicode");
  return key;
}

function rowMessage(key: string, row: TableRow) {
  return {
    key,
    value: create(ValueSchema, fromJson(ValueSchema, row.value)),
    updatedAt: timestampFromMs(row.updatedAtMs),
  };
}

function jsonOf(value: Value, field: string): JsonValue {
  let bytes: Uint8Array;
  try {
    // Also checks the depth.
    bytes = toCompactJson(Buffer.from(JSON.stringify(toJson(ValueSchema, value))));
  } catch (error) {
    throw notSerializable(`${field}: ${(error as Error).message}`);
  }
  if (bytes.length > MAX_ROW_BYTES) throw notSerializable(`${field}: is larger than ${MAX_ROW_BYTES} bytes`, 413);
  return JSON.parse(Buffer.from(bytes).toString("utf8")) as JsonValue;
}
