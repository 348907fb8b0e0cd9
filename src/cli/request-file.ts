import { readFile } from "node:fs/promises";
import { text } from "node:stream/consumers";
import type { DescMessage, JsonObject, JsonValue, MessageShape } from "@bufbuild/protobuf";
import { fromRestJson } from "../transport/json.ts";
import { usage } from "./failure.ts";

/**
 * A request in the form that the HTTP API has, from a file or, with `-`, from standard input.
 *
 * @param more members beside those of the file.
 * @throws CliError when it can't be read or is no such request.
 */
export async function requestFrom<D extends DescMessage>(
  desc: D,
  file: string,
  more: JsonObject = {},
): Promise<MessageShape<D>> {
  try {
    const json = JSON.parse(file === "-" ? await text(process.stdin) : await readFile(file, "utf8")) as JsonValue;
    if (json === null || typeof json !== "object" || Array.isArray(json)) throw new Error("it is no JSON object");
    return fromRestJson(desc, { ...(json as JsonObject), ...more }) as MessageShape<D>;
  } catch (error) {
    throw usage(`${file === "-" ? "standard input" : file}: ${(error as Error).message}`);
  }
}
