import type { Deadline } from "../domain/deadline.ts";
import type { StoredEvent } from "../domain/event.ts";
import type { JetStream } from "../jetstream/connection.ts";
import { readMessages } from "../jetstream/direct.ts";
import { partitionStream } from "../jetstream/names.ts";
import { decodeEvent } from "./decode.ts";

/** One stored event, or undefined when retention has taken it. */
export async function readEvent(
  js: JetStream,
  stream: string,
  partition: number,
  offset: number,
  deadline: Deadline,
): Promise<StoredEvent | undefined> {
  const jsStream = partitionStream(stream, partition);
  const [message] = await readMessages(js, jsStream, { seq: offset + 1, batch: 1, maxBytes: 1 }, deadline);
  return message?.seq === offset + 1 ? decodeEvent(partition, message) : undefined;
}
