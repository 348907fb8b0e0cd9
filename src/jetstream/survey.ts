import type { Deadline } from "../domain/deadline.ts";
import type { JetStream } from "./connection.ts";
import { partitionPlace } from "./names.ts";

/** What the servers say of one partition's stored events. */
export interface SurveyedPartition {
  readonly stream: string;
  readonly partition: number;
  /** Events missing between the first and the last: none is ever deleted there, so the storage has lost them. */
  readonly lost: number;
  readonly hasLeader: boolean;
  readonly endOffset: number;
  readonly bytes: number;
}

/**
 * All partitions whose leaders answer, in one listing. One without a leader is missing from it, or says that it has none.
 *
 * @throws ServiceError UNAVAILABLE or TIMEOUT.
 */
export async function surveyPartitions(js: JetStream, deadline: Deadline): Promise<SurveyedPartition[]> {
  return js.call(deadline, async () => {
    const found: SurveyedPartition[] = [];
    for await (const info of js.jsm.streams.list("mr.ev.>")) {
      const place = partitionPlace(info.config.name);
      if (!place) continue;
      const { num_deleted: lost = 0, last_seq: endOffset, bytes } = info.state;
      found.push({ ...place, lost, endOffset, bytes, hasLeader: !info.cluster || Boolean(info.cluster.leader) });
    }
    return found;
  });
}
