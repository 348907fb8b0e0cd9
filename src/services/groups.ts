import type { ServiceImpl } from "@connectrpc/connect";
import { CommitStatus, type ConsumerGroupService } from "../../gen/millrace/v1/consumers_pb.js";
import { ErrorCode, invalidOffset, ServiceError } from "../domain/errors.ts";
import type { Consumer } from "./consumer.ts";
import { deadlineOf } from "./deadline.ts";

/** Keeps what consumer groups have processed. */
export function groupService(consumer: Consumer): ServiceImpl<typeof ConsumerGroupService> {
  return {
    async commit(request, context) {
      if (request.consumerId !== undefined)
        throw new ServiceError(
          ErrorCode.NOT_PARTITION_OWNER,
          `"${request.consumerId}" is no member of "${request.consumerGroup}"; a group without members commits without consumerId`,
        );
      const entries = request.offsets.map(({ stream, partition, offset }, index) => {
        const place = Number(offset);
        if (place < 0 || !Number.isSafeInteger(place))
          throw invalidOffset(`offsets[${index}].offset ${offset} is not a whole number from 0 below 2^53`);
        return { stream, partition, offset: place };
      });
      await consumer.commit(request.consumerGroup, entries, deadlineOf(context));
      return { status: CommitStatus.COMMITTED, committedOffsets: request.offsets };
    },
  };
}
